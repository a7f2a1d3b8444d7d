//! The meta group's state: what fences there are and their revisions, and which nodes are in the cluster.
//!
//! `HTTP, CLI ─► **meta log** ─► the log of each shard`. A shard that missed a change, because its node died between
//! the two, is given all fences of the current revision. Each group's members follow from the nodes.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use crate::fences::FenceStore;
use crate::keys;
use crate::log;
use crate::store::{Reads, Writes};

/// What the meta group made of an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaReply {
    /// The change of the fences as the shards are to apply it: with the revision that it got, and each fence's.
    Fences(log::PutFences),
    /// The nodes were changed.
    Done,
    /// The node was removed before, and its number names nobody any more.
    Removed,
}

/// The meta group's state on one replica.
#[derive(Debug, Default)]
pub struct MetaState {
    fences: FenceStore,
    nodes: BTreeMap<u64, log::ClusterNode>,
    removed: BTreeSet<u64>,
    /// The last change of the fences, which spares a shard that misses only that one the rest.
    last: Option<log::PutFences>,
}

impl MetaState {
    /// The state that `store` holds.
    #[must_use]
    pub fn restore(store: &dyn Reads) -> Self {
        let mut record = log::MetaRecord::default();
        store.scan(keys::META, &mut |_, value| {
            if let Ok(found) = log::MetaRecord::decode(value) {
                record = found;
            }
        });
        MetaState {
            fences: FenceStore::restore(store, record.fences_revision),
            nodes: record
                .nodes
                .into_iter()
                .map(|node| (node.id, node))
                .collect(),
            removed: record.removed.into_iter().collect(),
            last: None,
        }
    }

    /// Applies one entry of the meta log. Pure: every replica gives the same answer.
    pub fn apply(&mut self, entry: &log::MetaEntry, writes: &mut dyn Writes) -> MetaReply {
        let reply = match entry {
            log::MetaEntry {
                put_node: Some(log::PutNode { node: Some(node) }),
                ..
            } => self.put_node(node),
            log::MetaEntry { remove_node, .. } if *remove_node != 0 => {
                self.nodes.remove(remove_node);
                self.removed.insert(*remove_node);
                MetaReply::Done
            }
            _ => self.put_fences(entry.put_fences.clone().unwrap_or_default(), writes),
        };
        let record = log::MetaRecord {
            fences_revision: self.fences.revision,
            nodes: self.nodes.values().cloned().collect(),
            removed: self.removed.iter().copied().collect(),
        };
        writes.put(keys::META, &record.encode_to_vec());
        reply
    }

    fn put_fences(&mut self, mut put: log::PutFences, writes: &mut dyn Writes) -> MetaReply {
        put.revision = self.fences.revision + 1;
        for record in &mut put.upserts {
            record.rev = put.revision;
        }
        self.fences.put(&put, writes);
        self.last = Some(put.clone());
        MetaReply::Fences(put)
    }

    fn put_node(&mut self, node: &log::ClusterNode) -> MetaReply {
        if self.removed.contains(&node.id) {
            return MetaReply::Removed;
        }
        self.nodes.insert(node.id, node.clone());
        MetaReply::Done
    }

    /// The fences that there are.
    #[must_use]
    pub fn fences(&self) -> &FenceStore {
        &self.fences
    }

    /// The nodes of the cluster, by number.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<u64, log::ClusterNode> {
        &self.nodes
    }

    /// Whether the number named a node that was removed.
    #[must_use]
    pub fn is_removed(&self, node: u64) -> bool {
        self.removed.contains(&node)
    }

    /// What a shard misses that is at `revision`.
    #[must_use]
    pub fn since(&self, revision: u64) -> log::PutFences {
        let next = self
            .last
            .as_ref()
            .filter(|last| last.revision == revision + 1);
        next.cloned().unwrap_or_else(|| self.everything())
    }

    /// All of it as one change.
    fn everything(&self) -> log::PutFences {
        log::PutFences {
            revision: self.fences.revision,
            upserts: self.fences.records().cloned().collect(),
            removes: Vec::new(),
            replace_all: true,
        }
    }
}
