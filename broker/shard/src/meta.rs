//! The meta group's state: what fences there are, and their revisions.
//!
//! `HTTP, CLI ─► **meta log** ─► the log of each shard`. A shard that missed a change, because its node died between
//! the two, is given all fences of the current revision.

use prost::Message as _;

use crate::fences::FenceStore;
use crate::keys;
use crate::log;
use crate::store::{Reads, Writes};

/// What the meta group made of an entry: the change as the shards are to apply it.
#[derive(Debug, Clone, PartialEq)]
pub struct MetaReply {
    /// With the revision that the change got, and each fence's.
    pub put_fences: log::PutFences,
}

/// The meta group's state on one replica.
#[derive(Debug, Default)]
pub struct MetaState {
    fences: FenceStore,
}

impl MetaState {
    /// The state that `store` holds.
    #[must_use]
    pub fn restore(store: &dyn Reads) -> Self {
        let mut revision = 0;
        store.scan(keys::META, &mut |_, value| {
            revision = log::ShardMeta::decode(value).map_or(revision, |meta| meta.fences_revision);
        });
        MetaState {
            fences: FenceStore::restore(store, revision),
        }
    }

    /// Applies one entry of the meta log. Pure: every replica gives the same answer.
    pub fn apply(&mut self, entry: &log::MetaEntry, writes: &mut dyn Writes) -> MetaReply {
        let mut put = entry.put_fences.clone().unwrap_or_default();
        put.revision = self.fences.revision + 1;
        for record in &mut put.upserts {
            record.rev = put.revision;
        }
        self.fences.put(&put, writes);
        let meta = log::ShardMeta {
            fences_revision: self.fences.revision,
            ..Default::default()
        };
        writes.put(keys::META, &meta.encode_to_vec());
        MetaReply { put_fences: put }
    }

    /// The fences that there are.
    #[must_use]
    pub fn fences(&self) -> &FenceStore {
        &self.fences
    }

    /// All of it as one change, for a shard that missed some.
    #[must_use]
    pub fn everything(&self) -> log::PutFences {
        log::PutFences {
            revision: self.fences.revision,
            upserts: self.fences.records().cloned().collect(),
            removes: Vec::new(),
            replace_all: true,
        }
    }
}
