//! A node's store: one RocksDB with the logs, votes and states of all groups.
//!
//! Keys are prefixed by the group's name. The log and the votes go through the write-ahead log and are flushed before
//! anybody is told; state and events are written without one, and flushed together with the applied index (atomic
//! flush): what a crash takes from them, the log brings back. So the log is purged only below what was flushed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rocksdb::{
    ColumnFamilyDescriptor, ColumnFamilyRef, DB, DBCompressionType, DBRecoveryMode, Direction,
    FlushOptions, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::writer::{self, Change, Done, Queue, Submission};

/// The format of what is on disk. A node refuses any other and leaves it untouched.
const FORMAT: &[u8] = b"meridian-store-1";
const FORMAT_KEY: &[u8] = b"\0format";
/// The number of the last run.
const BOOT_KEY: &[u8] = b"\0boot";

/// The column families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Entries, by group and index.
    Log,
    /// Votes, commit and purge marks, by group.
    Meta,
    /// Applied states, by group.
    State,
    /// Event logs, by group and offset.
    Events,
}

/// Those that make up a group's state, and that travel in a snapshot in this order.
pub(crate) const STATE_COLUMNS: [Column; 2] = [Column::State, Column::Events];

const COLUMNS: [&str; 4] = ["raft_log", "raft_meta", "state", "events"];

/// How a store is opened.
#[derive(Clone)]
pub struct StorageOptions {
    /// Flush to disk before anything is acknowledged. Off only for tests and for data that may be lost.
    pub fsync: bool,
    /// Called once when a write or a flush has failed. Nothing is acknowledged from then on; it should end the process.
    pub on_failure: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for StorageOptions {
    fn default() -> Self {
        StorageOptions {
            fsync: true,
            on_failure: Arc::new(|reason| {
                tracing::error!(reason, "The store failed, so this process ends.");
                std::process::exit(74);
            }),
        }
    }
}

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by another process: each node needs a data directory of its own")]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// A newer or foreign format.
    #[error(
        "{path} holds data of format {found:?}, and this version reads {FORMAT_NAME:?} only: it was left untouched"
    )]
    Format {
        /// The data directory.
        path: PathBuf,
        /// What it says that it is.
        found: String,
    },
    /// RocksDB or the file system refused.
    #[error("{path} could not be opened: {message}")]
    Engine {
        /// The data directory.
        path: PathBuf,
        /// In the engine's words.
        message: String,
    },
}

const FORMAT_NAME: &str = "meridian-store-1";

pub(crate) struct Inner {
    pub(crate) db: DB,
    /// The data directory.
    pub(crate) path: PathBuf,
    /// Behind the engine, so that it is closed when this goes.
    _open: OpenStore,
}

/// Stores of this process that are open.
static OPEN_STORES: AtomicUsize = AtomicUsize::new(0);

struct OpenStore;

impl OpenStore {
    fn new() -> Self {
        OPEN_STORES.fetch_add(1, Ordering::AcqRel);
        OpenStore
    }
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        OPEN_STORES.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits until no store of this process is open any more, `patience` at most. Whether none is. A process must not end
/// before: the engine's threads would run on while what they use is torn down.
#[must_use]
pub fn all_closed(patience: Duration) -> bool {
    let begun = Instant::now();
    while OPEN_STORES.load(Ordering::Acquire) > 0 {
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

impl Inner {
    pub(crate) fn column(&self, column: Column) -> ColumnFamilyRef<'_> {
        self.db
            .cf_handle(COLUMNS[column as usize])
            .expect("opened with all its column families")
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    pub(crate) inner: Arc<Inner>,
    pub(crate) queue: Queue,
    pub(crate) on_failure: Arc<dyn Fn(&str) + Send + Sync>,
    boot: u64,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Storage {
    /// Opens the store in `path`, or makes it.
    ///
    /// # Errors
    /// [`OpenError`]; what was there is left as it was.
    pub fn open(path: &Path, options: StorageOptions) -> Result<Storage, OpenError> {
        let engine = |error: &dyn ToString| {
            let message = error.to_string();
            if message.contains("lock") && (message.contains("LOCK") || message.contains("hold")) {
                return OpenError::InUse {
                    path: path.to_owned(),
                };
            }
            OpenError::Engine {
                path: path.to_owned(),
                message,
            }
        };
        std::fs::create_dir_all(path).map_err(|error| engine(&error))?;
        let fresh = !path.join("CURRENT").exists();
        if !fresh {
            let known = DB::list_cf(&Options::default(), path).map_err(|error| engine(&error))?;
            if let Some(unknown) = known
                .iter()
                .find(|name| *name != "default" && !COLUMNS.contains(&name.as_str()))
            {
                return Err(OpenError::Format {
                    path: path.to_owned(),
                    found: format!("column family {unknown}"),
                });
            }
        }
        let columns = COLUMNS.map(|name| ColumnFamilyDescriptor::new(name, column_options(name)));
        let db = DB::open_cf_descriptors(&database_options(), path, columns)
            .map_err(|error| engine(&error))?;
        let inner = Arc::new(Inner {
            db,
            path: path.to_owned(),
            _open: OpenStore::new(),
        });
        let found = inner.db.get(FORMAT_KEY).map_err(|error| engine(&error))?;
        match found {
            // New, or killed before this record was written: then nothing else was either.
            None if fresh || is_empty(&inner).map_err(|error| engine(&error))? => {
                let mut synced = WriteOptions::default();
                synced.set_sync(options.fsync);
                inner
                    .db
                    .put_opt(FORMAT_KEY, FORMAT, &synced)
                    .map_err(|error| engine(&error))?;
            }
            Some(format) if format == FORMAT => {}
            other => {
                let found = other.map_or_else(String::new, |found| {
                    String::from_utf8_lossy(&found).into_owned()
                });
                return Err(OpenError::Format {
                    path: path.to_owned(),
                    found,
                });
            }
        }
        let boot = next_boot(&inner).map_err(|error| engine(&error))?;
        let (queue, thread) = writer::start(
            Arc::clone(&inner),
            options.fsync,
            Arc::clone(&options.on_failure),
        )
        .map_err(|error| engine(&error))?;
        let writer = Arc::new(Mutex::new(Some(thread)));
        Ok(Storage {
            inner,
            queue,
            on_failure: options.on_failure,
            boot,
            writer,
        })
    }

    /// Names this run of the node: higher than in all runs before, and on disk before anybody saw it.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Has the writer write `changes`, and waits until they are on disk. Not in async code.
    pub(crate) fn write_blocking(&self, changes: Vec<Change>) -> std::io::Result<()> {
        let failed = || std::io::Error::other("the store has failed and takes no more writes");
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = Done::Told(sender);
        self.queue
            .blocking_send(Submission { changes, done })
            .map_err(|_| failed())?;
        receiver.blocking_recv().map_err(|_| failed())
    }

    /// Reads the state and the events of `group`.
    #[must_use]
    pub fn reader(&self, group: &str) -> StateReader {
        StateReader {
            inner: Arc::clone(&self.inner),
            prefix: prefix(group),
        }
    }

    /// Makes all states durable as they are, each with its applied index.
    pub(crate) fn flush_states(&self) -> Result<(), rocksdb::Error> {
        let columns = [Column::Log, Column::Meta, Column::State, Column::Events]
            .map(|column| self.inner.column(column));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.inner
            .db
            .flush_cfs_opt(&columns.iter().collect::<Vec<_>>(), &options)
    }

    /// Flushes everything, so that the next start has nothing to replay. Call after the groups are shut down.
    pub fn close(self) {
        if let Err(error) = self.flush_states() {
            tracing::warn!(%error, "The last flush failed; the log brings back what is missing.");
        }
        // The writer ends when the last group has let go of its queue; it writes nothing after what it was given.
        let _writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

fn next_boot(inner: &Inner) -> Result<u64, String> {
    let last = match inner.db.get(BOOT_KEY).map_err(|error| error.to_string())? {
        None => 0,
        Some(last) => u64::from_be_bytes(
            last.try_into()
                .map_err(|_| "the number of its last run is damaged".to_owned())?,
        ),
    };
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    inner
        .db
        .put_opt(BOOT_KEY, (last + 1).to_be_bytes(), &synced)
        .map_err(|error| error.to_string())?;
    Ok(last + 1)
}

fn is_empty(inner: &Inner) -> Result<bool, rocksdb::Error> {
    for column in [Column::Log, Column::Meta, Column::State, Column::Events] {
        if inner
            .db
            .iterator_cf(&inner.column(column), IteratorMode::Start)
            .next()
            .transpose()?
            .is_some()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_paranoid_checks(true);
    // A torn record at the very end was acknowledged to nobody; damage before it is found and not skipped.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(512 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_keep_log_file_num(4);
    options.set_bytes_per_sync(1 << 20);
    options.set_wal_bytes_per_sync(0);
    options
}

fn column_options(name: &str) -> Options {
    let mut options = Options::default();
    options.set_compression_type(if name == COLUMNS[Column::Log as usize] {
        DBCompressionType::None
    } else {
        DBCompressionType::Lz4
    });
    options.set_write_buffer_size(if name == COLUMNS[Column::Meta as usize] {
        4 << 20
    } else {
        64 << 20
    });
    options.set_max_write_buffer_number(4);
    options
}

/// Ends a group's name in keys, so that no name is the beginning of another.
pub(crate) fn prefix(group: &str) -> Vec<u8> {
    assert!(
        !group.contains('\0') && !group.is_empty(),
        "a group's name ends where a NUL stands"
    );
    [group.as_bytes(), &[0]].concat()
}

/// Where the keys of a group end: behind them all, before another group's.
pub(crate) fn prefix_end(group: &str) -> Vec<u8> {
    [group.as_bytes(), &[1]].concat()
}

/// Where a group's state says how far it has come.
pub(crate) fn applied_key(group: &str) -> Vec<u8> {
    [&prefix(group), &[APPLIED][..]].concat()
}

/// A group's name and a number that sorts as a number.
pub(crate) fn numbered(prefix: &[u8], number: u64) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

/// The changes that one batch of commands makes to a group's state and events.
pub struct StateWrites {
    inner: Arc<Inner>,
    prefix: Vec<u8>,
    pub(crate) batch: WriteBatch,
}

/// Before a user's keys, so that the group's own ones cannot be hit.
const USER: u8 = b'u';
const APPLIED: u8 = b'a';

impl StateWrites {
    pub(crate) fn new(storage: &Storage, group: &str) -> Self {
        StateWrites {
            inner: Arc::clone(&storage.inner),
            prefix: prefix(group),
            batch: WriteBatch::default(),
        }
    }

    /// Sets `key`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let key = [&self.prefix, &[USER][..], key].concat();
        self.batch
            .put_cf(&self.inner.column(Column::State), key, value);
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: &[u8]) {
        let key = [&self.prefix, &[USER][..], key].concat();
        self.batch.delete_cf(&self.inner.column(Column::State), key);
    }

    /// Adds a record to the event log.
    pub fn append_event(&mut self, offset: u64, record: &[u8]) {
        self.batch.put_cf(
            &self.inner.column(Column::Events),
            numbered(&self.prefix, offset),
            record,
        );
    }

    /// Lets go of the events below `offset`.
    pub fn purge_events_below(&mut self, offset: u64) {
        let (from, to) = (numbered(&self.prefix, 0), numbered(&self.prefix, offset));
        self.batch
            .delete_range_cf(&self.inner.column(Column::Events), from, to);
    }

    pub(crate) fn commit(mut self, applied: &[u8]) -> Result<(), rocksdb::Error> {
        let key = [&self.prefix, &[APPLIED][..]].concat();
        self.batch
            .put_cf(&self.inner.column(Column::State), key, applied);
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.inner.db.write_opt(self.batch, &options)
    }
}

/// Reads the state and the events of one group, from any thread.
#[derive(Clone)]
pub struct StateReader {
    inner: Arc<Inner>,
    prefix: Vec<u8>,
}

impl StateReader {
    /// Calls `visit` with each key that starts with `prefix`, in order, and its value.
    ///
    /// # Panics
    /// If the store cannot be read: a state with holes in it must not be used.
    pub fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        let own = self.prefix.len() + 1;
        let from = [&self.prefix, &[USER][..], prefix].concat();
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let rows = self.inner.db.iterator_cf_opt(
            &self.inner.column(Column::State),
            options,
            IteratorMode::From(&from, Direction::Forward),
        );
        for row in rows {
            let (key, value) =
                row.unwrap_or_else(|error| panic!("the store cannot be read: {error}"));
            if !key.starts_with(&from) {
                break;
            }
            visit(&key[own..], &value);
        }
    }

    /// Up to `max` events from offset `from` on.
    ///
    /// # Errors
    /// The engine's, if the store cannot be read.
    pub fn events(&self, from: u64, max: usize) -> std::io::Result<Vec<(u64, Bytes)>> {
        let start = numbered(&self.prefix, from);
        let rows = self.inner.db.iterator_cf(
            &self.inner.column(Column::Events),
            IteratorMode::From(&start, Direction::Forward),
        );
        let mut events = Vec::new();
        for row in rows.take(max) {
            let (key, value) = row.map_err(std::io::Error::other)?;
            let Some(offset) = key
                .strip_prefix(&self.prefix[..])
                .and_then(|rest| rest.try_into().ok())
            else {
                break;
            };
            events.push((u64::from_be_bytes(offset), Bytes::from(value.into_vec())));
        }
        Ok(events)
    }

    pub(crate) fn applied(&self) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        self.inner.db.get_cf(
            &self.inner.column(Column::State),
            [&self.prefix, &[APPLIED][..]].concat(),
        )
    }
}
