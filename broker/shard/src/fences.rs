//! The fences by which this shard judges positions, and the index that shards of a node share.
//!
//! The meta group decides what fences there are; each change reaches a shard as an entry of its own log, so that all
//! replicas judge a position by the same fences.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use meridian_geo_engine::{Fence, FenceIndex};
use prost::Message as _;

use crate::keys;
use crate::log;
use crate::store::{Reads, Writes};

/// Indexes by the revision that they were built for. The content is a function of the revision, so shards share them.
#[derive(Debug, Clone, Default)]
pub struct FenceCatalog(Arc<Mutex<HashMap<u64, Weak<FenceIndex>>>>);

impl FenceCatalog {
    fn index(&self, revision: u64, fences: &BTreeMap<String, Stored>) -> Arc<FenceIndex> {
        let mut indexes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = indexes.get(&revision).and_then(Weak::upgrade) {
            return index;
        }
        indexes.retain(|_, index| index.strong_count() > 0);
        let fences: Vec<Arc<Fence>> = fences.values().map(|stored| stored.fence.clone()).collect();
        let index = Arc::new(FenceIndex::new(fences));
        indexes.insert(revision, Arc::downgrade(&index));
        index
    }
}

#[derive(Debug)]
struct Stored {
    record: log::FenceRecord,
    fence: Arc<Fence>,
}

/// All fences of one revision.
#[derive(Debug, Default)]
pub struct FenceStore {
    fences: BTreeMap<String, Stored>,
    /// The meta group's revision that these are.
    pub revision: u64,
}

impl FenceStore {
    pub(crate) fn restore(store: &dyn Reads, revision: u64) -> Self {
        let mut fences = FenceStore {
            fences: BTreeMap::new(),
            revision,
        };
        store.scan(keys::FENCE, &mut |_, value| {
            if let Ok(record) = log::FenceRecord::decode(value) {
                fences.insert(record);
            }
        });
        fences
    }

    /// Applies a change. One that is not newer than what is here changes nothing, nor does one that misses a revision
    /// between: the shard is then given everything.
    pub(crate) fn put(&mut self, put: &log::PutFences, writes: &mut dyn Writes) -> bool {
        let follows = put.replace_all || put.revision == self.revision + 1;
        if put.revision <= self.revision || !follows {
            return false;
        }
        self.revision = put.revision;
        let removes: Vec<String> = if put.replace_all {
            self.fences.keys().cloned().collect()
        } else {
            put.removes.clone()
        };
        for id in removes {
            if self.fences.remove(&id).is_some() {
                writes.delete(&keys::named(keys::FENCE, &id));
            }
        }
        for record in &put.upserts {
            writes.put(
                &keys::named(keys::FENCE, &record.id),
                &record.encode_to_vec(),
            );
            self.insert(record.clone());
        }
        true
    }

    fn insert(&mut self, record: log::FenceRecord) {
        // Validated before it was proposed; a record that cannot be read is no fence on any replica.
        if let Ok(fence) = Fence::from_geojson(&record.feature_json, record.rev) {
            self.fences.insert(
                record.id.clone(),
                Stored {
                    fence: Arc::new(fence),
                    record,
                },
            );
        }
    }

    pub(crate) fn index(&self, catalog: &FenceCatalog) -> Arc<FenceIndex> {
        catalog.index(self.revision, &self.fences)
    }

    /// The fence `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<(&log::FenceRecord, &Arc<Fence>)> {
        self.fences
            .get(id)
            .map(|stored| (&stored.record, &stored.fence))
    }

    /// All fences by id.
    pub fn records(&self) -> impl Iterator<Item = &log::FenceRecord> {
        self.fences.values().map(|stored| &stored.record)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fences.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }
}
