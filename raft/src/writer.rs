//! The one thread that writes the Raft logs of all groups: many appends, one batch, one flush.
//!
//! `append, vote, truncate, purge ─► **writer** ─► disk ─► done`. Completes in the order of submission. What is
//! submitted while a flush runs shares the next one, so a lone append waits for nobody and a busy node flushes no
//! more often than its disk can. The first failure ends it all: after a failed flush nobody knows what the disk holds,
//! so the process ends and comes back from disk, never from hope.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::storage::IOFlushed;
use rocksdb::{ColumnFamilyRef, WriteBatch, WriteOptions};
use tokio::sync::{mpsc, oneshot};

use crate::codec::Types;
use crate::storage::{Column, Inner};

/// Submissions that wait for the writer. More wait to be submitted.
const WAITING_MAX: usize = 4096;
/// Submissions of one flush.
const BATCH_MAX: usize = 1024;
/// How long a flush waits for more where the one before was already waited for: many groups at work share it, and a lone
/// append never waits.
const LINGER: Duration = Duration::from_micros(200);
/// Bytes of one flush, as soon as which it is closed.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// A change of one column.
pub(crate) enum Change {
    Put(Column, Vec<u8>, Vec<u8>),
    Delete(Column, Vec<u8>),
    /// From the first key to before the second.
    DeleteRange(Column, Vec<u8>, Vec<u8>),
}

/// Who waits for the flush.
pub(crate) enum Done {
    Flushed(IOFlushed<Types>),
    Told(oneshot::Sender<()>),
}

pub(crate) struct Submission {
    pub(crate) changes: Vec<Change>,
    pub(crate) done: Done,
}

pub(crate) type Queue = mpsc::Sender<Submission>;

/// Starts the thread. It ends when all senders are gone.
pub(crate) fn start(
    store: Arc<Inner>,
    fsync: bool,
    on_failure: Arc<dyn Fn(&str) + Send + Sync>,
) -> io::Result<(Queue, JoinHandle<()>)> {
    let (queue, mut submissions) = mpsc::channel::<Submission>(WAITING_MAX);
    let thread = std::thread::Builder::new()
        .name("raft-writer".into())
        .spawn(move || {
            let mut busy = false;
            while let Some(first) = submissions.blocking_recv() {
                let mut round = vec![first];
                let mut bytes = size(&round[0]);
                if busy {
                    std::thread::sleep(LINGER);
                }
                while round.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                    let Ok(next) = submissions.try_recv() else {
                        break;
                    };
                    bytes += size(&next);
                    round.push(next);
                }
                busy = round.len() > 1;
                if let Err(error) = write(&store, &round, fsync) {
                    on_failure(&format!("the Raft log could not be written: {error}"));
                    let failed = |done: Done| {
                        if let Done::Flushed(callback) = done {
                            callback.io_completed(Err(io::Error::other(error.to_string())));
                        }
                    };
                    round
                        .into_iter()
                        .for_each(|submission| failed(submission.done));
                    return;
                }
                metrics::counter!("meridian_raft_flushes_total").increment(1);
                for submission in round {
                    match submission.done {
                        Done::Flushed(callback) => callback.io_completed(Ok(())),
                        Done::Told(sender) => {
                            // Whoever waited may be gone; the change stands.
                            let _gone = sender.send(());
                        }
                    }
                }
            }
        })?;
    Ok((queue, thread))
}

fn write(store: &Inner, round: &[Submission], fsync: bool) -> Result<(), rocksdb::Error> {
    let mut batch = WriteBatch::default();
    for change in round.iter().flat_map(|submission| &submission.changes) {
        match change {
            Change::Put(column, key, value) => batch.put_cf(&column_of(store, *column), key, value),
            Change::Delete(column, key) => batch.delete_cf(&column_of(store, *column), key),
            Change::DeleteRange(column, from, to) => {
                batch.delete_range_cf(&column_of(store, *column), from, to)
            }
        }
    }
    let mut options = WriteOptions::default();
    options.set_sync(fsync);
    store.db.write_opt(batch, &options)
}

fn column_of(store: &Inner, column: Column) -> ColumnFamilyRef<'_> {
    store.column(column)
}

fn size(submission: &Submission) -> usize {
    let change = |change: &Change| match change {
        Change::Put(_, key, value) => key.len() + value.len(),
        Change::Delete(_, key) => key.len(),
        Change::DeleteRange(_, from, to) => from.len() + to.len(),
    };
    submission.changes.iter().map(change).sum()
}
