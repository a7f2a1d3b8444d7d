//! One group's log on the node's store.
//!
//! `openraft ─► **log store** ─► writer`. Entries can be read as soon as they are submitted, from a cache that holds
//! at least what is not yet on disk; they count as stored only once the writer has flushed them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use meridian_proto::raft::v1;
use openraft::alias::VoteOf;
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use prost::Message as _;
use rocksdb::{Direction, IteratorMode};
use tokio::sync::oneshot;

use crate::codec::{self, Entry, Id, Types};
use crate::storage::{Column, Storage, numbered, prefix};
use crate::writer::{Change, Done, Submission};

/// Entries kept in memory for those who read soon after they are written.
const CACHED_MAX: usize = 2048;
const CACHED_BYTES_MAX: usize = 32 << 20;

/// Commands of one message to a follower, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// See the module.
#[derive(Clone)]
pub(crate) struct LogStore {
    storage: Storage,
    prefix: Vec<u8>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    cache: BTreeMap<u64, Entry>,
    cached_bytes: usize,
    last: Option<Id>,
    /// Not yet written.
    committed: Option<Id>,
    purged: Option<Id>,
    /// Bytes appended since the last snapshot, for those who decide when to purge.
    bytes_since_snapshot: u64,
}

impl LogStore {
    pub(crate) fn open(storage: &Storage, group: &str) -> io::Result<Self> {
        let store = LogStore {
            storage: storage.clone(),
            prefix: prefix(group),
            shared: Arc::new(Mutex::new(Shared::default())),
        };
        let purged = store
            .meta(PURGED)?
            .map(v1::LogId::decode)
            .transpose()
            .map_err(io::Error::other)?;
        let purged = purged.as_ref().map(codec::id_from_disk);
        let column = storage.inner.column(Column::Log);
        let behind = numbered(&store.prefix, u64::MAX);
        let mut rows = storage
            .inner
            .db
            .iterator_cf(&column, IteratorMode::From(&behind, Direction::Reverse));
        let last = match rows.next().transpose().map_err(io::Error::other)? {
            Some((key, value)) if key.starts_with(&store.prefix) => Some(decode(&value)?.log_id()),
            _ => None,
        };
        {
            let mut shared = store.shared();
            shared.last = last.max(purged);
            shared.purged = purged;
        }
        Ok(store)
    }

    /// The last entry that it no longer holds.
    pub(crate) fn purged(&self) -> Option<Id> {
        self.shared().purged
    }

    pub(crate) fn take_bytes_since_snapshot(&self) -> u64 {
        std::mem::take(&mut self.shared().bytes_since_snapshot)
    }

    pub(crate) fn bytes_since_snapshot(&self) -> u64 {
        self.shared().bytes_since_snapshot
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meta(&self, name: &[u8]) -> io::Result<Option<Bytes>> {
        let key = [&self.prefix, name].concat();
        let found = self
            .storage
            .inner
            .db
            .get_cf(&self.storage.inner.column(Column::Meta), key);
        Ok(found.map_err(io::Error::other)?.map(Bytes::from))
    }

    async fn submit(&self, changes: Vec<Change>, done: Done) -> io::Result<()> {
        self.storage
            .queue
            .send(Submission { changes, done })
            .await
            .map_err(|_| io::Error::other("the store has failed and takes no more writes"))
    }

    async fn submit_and_wait(&self, changes: Vec<Change>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(changes, Done::Told(sender)).await?;
        receiver
            .await
            .map_err(|_| io::Error::other("the store has failed"))
    }

    fn put_meta(&self, name: &[u8], value: Vec<u8>) -> Change {
        Change::Put(Column::Meta, [&self.prefix, name].concat(), value)
    }

    fn delete_entries(&self, from: u64, before: u64) -> Change {
        Change::DeleteRange(
            Column::Log,
            numbered(&self.prefix, from),
            numbered(&self.prefix, before),
        )
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let (mut entries, first_cached, end) = {
            let shared = self.shared();
            let last = shared.last.map_or(0, |last| last.index() + 1);
            let end = last.min(match range.end_bound() {
                Bound::Included(end) => end + 1,
                Bound::Excluded(end) => *end,
                Bound::Unbounded => u64::MAX,
            });
            if start >= end {
                return Ok(Vec::new());
            }
            let cached: Vec<Entry> = shared
                .cache
                .range(start..end)
                .map(|(_, entry)| entry.clone())
                .collect();
            (
                cached,
                shared
                    .cache
                    .range(start..end)
                    .next()
                    .map(|(index, _)| *index),
                end,
            )
        };
        let on_disk_end = first_cached.unwrap_or(end);
        if start < on_disk_end {
            let column = self.storage.inner.column(Column::Log);
            let from = numbered(&self.prefix, start);
            let rows = self
                .storage
                .inner
                .db
                .iterator_cf(&column, IteratorMode::From(&from, Direction::Forward));
            let mut older = Vec::new();
            for row in rows {
                let (key, value) = row.map_err(io::Error::other)?;
                let Some(Ok(index)) = key.strip_prefix(&self.prefix[..]).map(<[u8; 8]>::try_from)
                else {
                    break;
                };
                if u64::from_be_bytes(index) >= on_disk_end {
                    break;
                }
                older.push(decode(&value)?);
            }
            older.append(&mut entries);
            entries = older;
        }
        Ok(entries)
    }

    /// No more than make a message of a reasonable size, but at least one.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut entries = self.try_get_log_entries(start..end).await?;
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            bytes += payload_bytes(entry);
            bytes <= MESSAGE_BYTES_MAX
        });
        let fitting = fitting.count().max(1);
        entries.truncate(fitting);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        let vote = self
            .meta(VOTE)?
            .map(v1::Vote::decode)
            .transpose()
            .map_err(io::Error::other)?;
        Ok(vote.as_ref().map(codec::vote_from_disk))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let shared = self.shared();
        Ok(LogState {
            last_purged_log_id: shared.purged,
            last_log_id: shared.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.submit_and_wait(vec![
            self.put_meta(VOTE, codec::vote_to_disk(vote).encode_to_vec()),
        ])
        .await
    }

    /// Goes along with the next append: the mark is a hint for the next start, and not worth a write of its own.
    async fn save_committed(&mut self, committed: Option<Id>) -> Result<(), io::Error> {
        self.shared().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<Id>, io::Error> {
        let committed = self
            .meta(COMMITTED)?
            .map(v1::LogId::decode)
            .transpose()
            .map_err(io::Error::other)?;
        let last = self.shared().last;
        // The mark may have reached the disk in another flush than the entries, never before them.
        Ok(committed.as_ref().map(codec::id_from_disk).min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        let committed = {
            let mut shared = self.shared();
            for entry in entries {
                let id = entry.log_id();
                let value = codec::entry_to_disk(&entry).encode_to_vec();
                shared.cached_bytes += payload_bytes(&entry);
                shared.bytes_since_snapshot += value.len() as u64;
                changes.push(Change::Put(
                    Column::Log,
                    numbered(&self.prefix, id.index()),
                    value,
                ));
                shared.cache.insert(id.index(), entry);
                shared.last = Some(id);
            }
            shared.committed.take()
        };
        if let Some(committed) = committed {
            let mark = codec::id_to_disk(&committed).encode_to_vec();
            changes.push(self.put_meta(COMMITTED, mark));
        }
        let done = Done::Flushed(callback);
        self.submit(changes, done).await
    }

    async fn truncate_after(&mut self, last: Option<Id>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index() + 1);
        {
            let mut shared = self.shared();
            shared.cache.split_off(&from);
            shared.cached_bytes = shared.cache.values().map(payload_bytes).sum();
            // What is behind the end is not brought into being by truncating there.
            shared.last = shared.last.min(last);
        }
        self.submit_and_wait(vec![self.delete_entries(from, u64::MAX)])
            .await
    }

    async fn purge(&mut self, upto: Id) -> Result<(), io::Error> {
        {
            let mut shared = self.shared();
            shared.purged = shared.purged.max(Some(upto));
            shared.last = shared.last.max(Some(upto));
            shared.cache = shared.cache.split_off(&(upto.index() + 1));
            shared.cached_bytes = shared.cache.values().map(payload_bytes).sum();
        }
        let mark = self.put_meta(PURGED, codec::id_to_disk(&upto).encode_to_vec());
        self.submit_and_wait(vec![mark, self.delete_entries(0, upto.index() + 1)])
            .await
    }
}

impl LogStore {
    /// Lets go of cached entries up to `applied`, which are on disk and which nobody reads soon.
    pub(crate) fn trim_cache(&self, applied: u64) {
        let mut shared = self.shared();
        if shared.cached_bytes <= CACHED_BYTES_MAX && shared.cache.len() <= CACHED_MAX {
            return;
        }
        shared.cache = shared.cache.split_off(&(applied + 1));
        shared.cached_bytes = shared.cache.values().map(payload_bytes).sum();
    }
}

fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(payload) => payload.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn decode(value: &[u8]) -> io::Result<Entry> {
    let entry = v1::Entry::decode(Bytes::copy_from_slice(value)).map_err(io::Error::other)?;
    codec::entry_from_disk(entry)
}
