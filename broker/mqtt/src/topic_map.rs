//! What is kept under topic names, found by topic filter: retained messages, last positions.
//!
//! `topic filter ─► **topic map** ─► values`, the reverse of [`crate::topic_tree`]. A B-tree ordered by levels, so that
//! everything below a level lies together; a wildcard in the middle is a scan that jumps over what cannot match. Order and
//! results depend on the content alone, so every replica of a shard sees the same.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use crate::topic::{TopicFilter, TopicName};

/// Values by topic name.
#[derive(Debug, Clone)]
pub struct TopicMap<V> {
    map: BTreeMap<Key, V>,
}

/// Where a scan goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

/// A name whose order puts `/` before every other character.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(TopicName);

/// What keys are compared by; a trait object, so that a plain string can ask for a key.
trait ByLevel {
    fn as_bytes(&self) -> &[u8];
}

impl ByLevel for Key {
    fn as_bytes(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

impl ByLevel for &str {
    fn as_bytes(&self) -> &[u8] {
        str::as_bytes(self)
    }
}

impl<'a> Borrow<dyn ByLevel + 'a> for Key {
    fn borrow(&self) -> &(dyn ByLevel + 'a) {
        self
    }
}

impl Ord for dyn ByLevel + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right) = (self.as_bytes(), other.as_bytes());
        match left.iter().zip(right).find(|(left, right)| left != right) {
            None => left.len().cmp(&right.len()),
            Some((left, right)) => rank(*left).cmp(&rank(*right)),
        }
    }
}

impl PartialOrd for dyn ByLevel + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn ByLevel + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for dyn ByLevel + '_ {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right): (&dyn ByLevel, &dyn ByLevel) = (self, other);
        left.cmp(right)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// U+0000 is in no topic, so 0 is free for the separator and [`AFTER`] is behind everything below a level.
const fn rank(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

/// Sorts behind `/`, before every other character of a topic or as the first of them.
const AFTER: char = '\u{1}';

impl<V> Default for TopicMap<V> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
        }
    }
}

impl<V> TopicMap<V> {
    /// A map without topics.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many topics have a value.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Sets the value of `topic`; returns the one before. The name is stored as it is: detach it first where it is a
    /// slice of a read buffer.
    pub fn insert(&mut self, topic: TopicName, value: V) -> Option<V> {
        self.map.insert(Key(topic), value)
    }

    /// Takes the value of `topic` out.
    pub fn remove(&mut self, topic: &TopicName) -> Option<V> {
        self.map.remove(&topic.as_str() as &dyn ByLevel)
    }

    /// The value of `topic`.
    pub fn get(&self, topic: &TopicName) -> Option<&V> {
        self.map.get(&topic.as_str() as &dyn ByLevel)
    }

    /// The value of `topic`, to change.
    pub fn get_mut(&mut self, topic: &TopicName) -> Option<&mut V> {
        self.map.get_mut(&topic.as_str() as &dyn ByLevel)
    }

    /// All topics and values, in the order of levels.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicName, &V)> {
        self.map.iter().map(|(key, value)| (&key.0, value))
    }

    /// Calls `visit` for every topic that `filter` matches, in the order of levels, until it breaks.
    pub fn try_for_each_match<B>(
        &self,
        filter: &TopicFilter,
        mut visit: impl FnMut(&TopicName, &V) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut broken = None;
        self.scan(filter, None, usize::MAX, |topic, value| {
            match visit(topic, value) {
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
                ControlFlow::Break(with) => {
                    broken = Some(with);
                    ControlFlow::Break(())
                }
            }
        });
        broken.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    /// A part of that work: looks at no more than `visits_max` topics, matching or not, from `cursor` on. What it
    /// returns continues behind the last topic that was looked at; `None` when there is no more. When `visit` breaks, the
    /// topic that it broke at counts as visited.
    pub fn scan(
        &self,
        filter: &TopicFilter,
        cursor: Option<Cursor>,
        visits_max: usize,
        mut visit: impl FnMut(&TopicName, &V) -> ControlFlow<()>,
    ) -> Option<Cursor> {
        let pattern = filter.pattern();
        let mut seek = cursor.map_or_else(|| literal_prefix(pattern).to_owned(), |cursor| cursor.0);
        let mut at = self.from(&seek);
        for _ in 0..visits_max {
            let (key, value) = at.next()?;
            let topic = key.0.as_str();
            match step(pattern, topic) {
                Step::Match if visit(&key.0, value).is_break() => {
                    return Some(Cursor::behind(topic));
                }
                Step::Match | Step::Next => {}
                Step::Seek { keep, then } => {
                    seek.clear();
                    seek.push_str(&topic[..keep]);
                    match then {
                        Then::Level(level) => seek.push_str(level),
                        Then::After => seek.push(AFTER),
                    }
                    at = self.from(&seek);
                }
                Step::End => return None,
            }
        }
        at.next().map(|(key, _)| Cursor(key.0.as_str().to_owned()))
    }

    fn from(&self, seek: &str) -> std::collections::btree_map::Range<'_, Key, V> {
        self.map
            .range::<dyn ByLevel, _>((Bound::Included(&seek as &dyn ByLevel), Bound::Unbounded))
    }
}

impl Cursor {
    /// The next possible name: `topic/`.
    fn behind(topic: &str) -> Self {
        Self(format!("{topic}/"))
    }
}

/// The levels before the first wildcard: where the first match can be.
fn literal_prefix(pattern: &str) -> &str {
    match pattern.find(['+', '#']) {
        Some(wildcard) => pattern[..wildcard].strip_suffix('/').unwrap_or(""),
        None => pattern,
    }
}

/// What a scan does after it looked at one topic.
enum Step<'a> {
    Match,
    /// Only the next topic can tell.
    Next,
    /// Nothing before `topic[..keep]` + `then` can match.
    Seek {
        keep: usize,
        then: Then<'a>,
    },
    End,
}

enum Then<'a> {
    Level(&'a str),
    /// Behind everything below the kept levels.
    After,
}

fn step<'a>(pattern: &'a str, topic: &str) -> Step<'a> {
    let hidden = topic.starts_with('$') && pattern.starts_with(['+', '#']); // [MQTT-4.7.2-1]
    if hidden {
        return Step::Seek {
            keep: topic.find('/').unwrap_or(topic.len()),
            then: Then::After,
        };
    }
    let mut start = 0; // of the topic's current level
    let mut last_plus_end = None; // behind the last level that a `+` took
    let mut levels = pattern.split('/').peekable();
    while let Some(level) = levels.next() {
        if level == "#" {
            return Step::Match;
        }
        let end = topic[start..]
            .find('/')
            .map_or(topic.len(), |at| start + at);
        let is_last = end == topic.len();
        if level != "+" {
            match topic[start..end].cmp(level) {
                Ordering::Equal => {}
                Ordering::Less => {
                    return Step::Seek {
                        keep: start,
                        then: Then::Level(level),
                    };
                }
                Ordering::Greater => return behind(last_plus_end),
            }
        } else {
            last_plus_end = Some(end);
        }
        match (is_last, levels.peek()) {
            (true, None | Some(&"#")) => return Step::Match,
            (true, Some(_)) => return Step::Next, // too short: its children come next
            // Below one name there is nothing for a pattern without `+`, and nothing behind it either.
            (false, None) if last_plus_end.is_none() => return Step::End,
            (false, None) => {
                return Step::Seek {
                    keep: end,
                    then: Then::After,
                };
            }
            (false, Some(_)) => start = end + 1,
        }
    }
    unreachable!("the last level of a pattern decides")
}

/// Nothing more below the last `+`'s level; without one nothing more at all.
fn behind<'a>(last_plus_end: Option<usize>) -> Step<'a> {
    last_plus_end.map_or(Step::End, |keep| Step::Seek {
        keep,
        then: Then::After,
    })
}

#[cfg(test)]
mod tests;
