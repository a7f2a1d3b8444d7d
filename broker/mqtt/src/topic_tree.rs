//! Who wants a message: topic filters as a tree of levels.
//!
//! `topic name ─► **topic tree** ─► subscribers`. The fast form of [`TopicFilter::matches`]. A match walks only nodes
//! whose filters agree with the topic so far, allocates nothing, and meets each node at most once, so that its cost is
//! bounded by the filters that share a beginning with the topic. Shares are the caller's: the tree looks at
//! [`TopicFilter::pattern`] alone. For the reverse question (a filter, which topics?) see [`crate::topic_map`].

mod entries;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::ControlFlow;

use crate::topic::{TopicFilter, TopicName};
use entries::Entries;

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;
const BUCKETS_MIN: usize = 16;

/// Topic filters, each with values by key (a subscriber). Values of one filter are visited by ascending key.
///
/// Nodes lie in one vector; a node finds a child by a chained hash table over all nodes, which costs 8 bytes a node
/// where a map in each node would cost hundreds. Up to 2³² − 2 nodes.
#[derive(Debug, Clone)]
pub struct TopicTree<K, V> {
    nodes: Vec<Node<K, V>>,
    free: Vec<u32>,
    /// Heads of the chains of literal children, by hash of parent and label.
    buckets: Vec<u32>,
    hasher: RandomState,
    entries: usize,
}

#[derive(Debug, Clone)]
struct Node<K, V> {
    /// The level; empty for `+` nodes and the root, which are in no chain.
    label: Box<str>,
    parent: u32,
    next_in_bucket: u32,
    plus: u32,
    /// Literal children and `+`.
    children: u32,
    /// Filters that end at this level.
    here: Entries<K, V>,
    /// Filters that end with `#` behind this level.
    below: Entries<K, V>,
}

impl<K, V> Node<K, V> {
    fn new(label: &str, parent: u32) -> Self {
        Self {
            label: label.into(),
            parent,
            next_in_bucket: NONE,
            plus: NONE,
            children: 0,
            here: Entries::None,
            below: Entries::None,
        }
    }

    fn is_unused(&self) -> bool {
        self.children == 0 && self.here.is_empty() && self.below.is_empty()
    }
}

impl<K: Ord, V> Default for TopicTree<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord, V> TopicTree<K, V> {
    /// A tree without filters.
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::new("", NONE)],
            free: Vec::new(),
            buckets: vec![NONE; BUCKETS_MIN],
            hasher: RandomState::new(),
            entries: 0,
        }
    }

    /// How many (filter, key) pairs are in it.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Heap memory without what keys and values own themselves, bytes; walks all nodes.
    pub fn heap_bytes(&self) -> usize {
        let labels = self
            .nodes
            .iter()
            .map(|node| node.label.len())
            .sum::<usize>();
        let maps = self
            .nodes
            .iter()
            .map(|node| node.here.heap_bytes() + node.below.heap_bytes())
            .sum::<usize>();
        self.nodes.capacity() * size_of::<Node<K, V>>()
            + (self.buckets.capacity() + self.free.capacity()) * size_of::<u32>()
            + labels
            + maps
    }

    /// Sets the value of `key` under `filter`; returns the one before.
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let (node, below) = self.walk_or_create(filter.pattern());
        let previous = self.entries_mut(node, below).insert(key, value);
        self.entries += usize::from(previous.is_none());
        previous
    }

    /// Takes the value of `key` under `filter` out, and forgets levels that nothing needs any more.
    pub fn remove(&mut self, filter: &TopicFilter, key: &K) -> Option<V> {
        let (node, below) = self.walk(filter.pattern())?;
        let value = self.entries_mut(node, below).remove(key)?;
        self.entries -= 1;
        self.prune(node);
        Some(value)
    }

    /// The value of `key` under exactly this `filter`.
    pub fn get(&self, filter: &TopicFilter, key: &K) -> Option<&V> {
        let (node, below) = self.walk(filter.pattern())?;
        let node = &self.nodes[node as usize];
        if below {
            node.below.get(key)
        } else {
            node.here.get(key)
        }
    }

    /// Calls `visit` for every value whose filter matches `topic`. A key with several such filters is visited for each.
    pub fn for_each_match(&self, topic: &TopicName, mut visit: impl FnMut(&K, &V)) {
        let all = self.try_for_each_match(topic, |key, value| {
            visit(key, value);
            ControlFlow::<()>::Continue(())
        });
        debug_assert_eq!(all, ControlFlow::Continue(()));
    }

    /// As [`Self::for_each_match`], until `visit` breaks.
    pub fn try_for_each_match<B>(
        &self,
        topic: &TopicName,
        mut visit: impl FnMut(&K, &V) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let topic = topic.as_str();
        if topic.starts_with('$') {
            // Wildcards at the front do not see `$SYS/…` [MQTT-4.7.2-1].
            let (level, rest) = split(topic);
            return match self.child(ROOT, level) {
                Some(child) => self.visit(child, rest, &mut visit),
                None => ControlFlow::Continue(()),
            };
        }
        self.visit(ROOT, Some(topic), &mut visit)
    }

    /// Whether any filter matches `topic`.
    pub fn has_match(&self, topic: &TopicName) -> bool {
        self.try_for_each_match(topic, |_, _| ControlFlow::Break(()))
            .is_break()
    }

    /// At most 129 calls deep: a topic has at most 128 levels.
    fn visit<B>(
        &self,
        node: u32,
        rest: Option<&str>,
        visit: &mut impl FnMut(&K, &V) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let at = &self.nodes[node as usize];
        at.below.try_for_each(visit)?; // `a/#` matches `a` too, §4.7.1.2
        let Some(rest) = rest else {
            return at.here.try_for_each(visit);
        };
        if at.children == 0 {
            return ControlFlow::Continue(());
        }
        let (level, rest) = split(rest);
        if let Some(child) = self.child(node, level) {
            self.visit(child, rest, visit)?;
        }
        if at.plus != NONE {
            self.visit(at.plus, rest, visit)?;
        }
        ControlFlow::Continue(())
    }

    fn entries_mut(&mut self, node: u32, below: bool) -> &mut Entries<K, V> {
        let node = &mut self.nodes[node as usize];
        if below {
            &mut node.below
        } else {
            &mut node.here
        }
    }

    /// The node of a pattern, and whether it ends with `#` behind that node.
    fn walk(&self, pattern: &str) -> Option<(u32, bool)> {
        let mut node = ROOT;
        for level in pattern.split('/') {
            node = match level {
                "#" => return Some((node, true)),
                "+" => Some(self.nodes[node as usize].plus).filter(|plus| *plus != NONE)?,
                level => self.child(node, level)?,
            };
        }
        Some((node, false))
    }

    fn walk_or_create(&mut self, pattern: &str) -> (u32, bool) {
        let mut node = ROOT;
        for level in pattern.split('/') {
            node = match level {
                "#" => return (node, true),
                "+" if self.nodes[node as usize].plus == NONE => {
                    let plus = self.add("", node);
                    self.nodes[node as usize].plus = plus;
                    plus
                }
                "+" => self.nodes[node as usize].plus,
                level => self.child(node, level).unwrap_or_else(|| {
                    let child = self.add(level, node);
                    self.link(child);
                    child
                }),
            };
        }
        (node, false)
    }

    fn add(&mut self, label: &str, parent: u32) -> u32 {
        self.nodes[parent as usize].children += 1;
        let node = Node::new(label, parent);
        if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            return id;
        }
        let id = u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes");
        assert!(id < NONE, "a topic tree has at most 2^32 - 2 nodes");
        self.nodes.push(node);
        if self.nodes.len() > self.buckets.len() {
            self.rehash();
        }
        id
    }

    /// Removes `node` and its ancestors as far as nothing uses them.
    fn prune(&mut self, mut node: u32) {
        while node != ROOT && self.nodes[node as usize].is_unused() {
            let parent = self.nodes[node as usize].parent;
            if self.nodes[parent as usize].plus == node {
                self.nodes[parent as usize].plus = NONE;
            } else {
                self.unlink(node);
            }
            self.nodes[parent as usize].children -= 1;
            self.nodes[node as usize] = Node::new("", NONE);
            self.free.push(node);
            node = parent;
        }
        if self.entries == 0 {
            debug_assert_eq!(
                self.free.len() + 1,
                self.nodes.len(),
                "an empty tree has only its root"
            );
            *self = Self {
                hasher: self.hasher.clone(),
                ..Self::new()
            };
        }
    }

    fn bucket(&self, parent: u32, label: &str) -> usize {
        self.hasher.hash_one((parent, label)) as usize & (self.buckets.len() - 1)
    }

    fn child(&self, parent: u32, label: &str) -> Option<u32> {
        let mut id = self.buckets[self.bucket(parent, label)];
        while id != NONE {
            let node = &self.nodes[id as usize];
            if node.parent == parent && *node.label == *label {
                return Some(id);
            }
            id = node.next_in_bucket;
        }
        None
    }

    fn link(&mut self, id: u32) {
        let node = &self.nodes[id as usize];
        let bucket = self.bucket(node.parent, &node.label);
        self.nodes[id as usize].next_in_bucket = std::mem::replace(&mut self.buckets[bucket], id);
    }

    fn unlink(&mut self, id: u32) {
        let node = &self.nodes[id as usize];
        let bucket = self.bucket(node.parent, &node.label);
        let next = node.next_in_bucket;
        if self.buckets[bucket] == id {
            self.buckets[bucket] = next;
            return;
        }
        let mut at = self.buckets[bucket];
        while self.nodes[at as usize].next_in_bucket != id {
            at = self.nodes[at as usize].next_in_bucket;
        }
        self.nodes[at as usize].next_in_bucket = next;
    }

    /// Doubles the buckets. Called before the newest node is linked.
    fn rehash(&mut self) {
        let old = std::mem::take(&mut self.buckets);
        self.buckets = vec![NONE; old.len() * 2];
        for head in old {
            let mut id = head;
            while id != NONE {
                let next = self.nodes[id as usize].next_in_bucket;
                self.link(id);
                id = next;
            }
        }
    }
}

/// The first level, and what follows it.
fn split(topic: &str) -> (&str, Option<&str>) {
    match topic.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (topic, None),
    }
}

#[cfg(test)]
mod tests;
