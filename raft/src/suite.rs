//! openraft's own tests of a log store and a state machine, run against ours.

use std::io;

use futures::Stream;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, Snapshot, StorageError};
use tempfile::TempDir;

use crate::codec::{Id, Types};
use crate::log_store::LogStore;
use crate::machine::{Flusher, Machine};
use crate::snapshot::{Incoming, Piece, Received, SnapshotData, produce};
use crate::state_machine::{Committed, StateMachine};
use crate::storage::{StateReader, StateWrites, Storage, StorageOptions};
use meridian_proto::raft::v1;

const GROUP: &str = "g";

struct Nothing;

impl StateMachine for Nothing {
    type Reply = ();

    fn apply(&mut self, entries: &[Committed], _writes: &mut StateWrites) -> Vec<()> {
        vec![(); entries.len()]
    }

    fn restore(&mut self, _reader: &StateReader) {}
}

/// The suite hands a node's current snapshot to another one itself, so it has to be whole: it goes the way over the wire
/// up to the file, as between nodes.
struct Travelling {
    machine: Machine<Nothing>,
    storage: Storage,
}

/// What a transfer makes of a state, without the transport.
fn transferred(storage: &Storage) -> io::Result<Received> {
    let (sender, mut pieces) = tokio::sync::mpsc::channel(64);
    produce(storage, GROUP, &sender)?;
    let mut incoming = None;
    while let Ok(piece) = pieces.try_recv() {
        match piece {
            Piece::Begin(applied) => {
                let begin = v1::SnapshotBegin {
                    snapshot: 1,
                    vote: Some(v1::Vote::default()),
                    applied: Some(applied),
                };
                incoming = Some(Incoming::create(&storage.inner.path, GROUP, begin)?);
            }
            Piece::Chunk { number, rows } => {
                let chunk = v1::SnapshotChunk {
                    snapshot: 1,
                    number,
                    rows,
                };
                incoming.as_mut().expect("begun").chunk(&chunk)?;
            }
            Piece::End { chunks, checksum } => {
                let end = v1::SnapshotEnd {
                    snapshot: 1,
                    chunks,
                    checksum,
                };
                return incoming.expect("begun").finish(&end);
            }
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

impl RaftStateMachine<Types> for Travelling {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Flusher;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<Id>, StoredMembershipOf<Types>), io::Error> {
        self.machine.applied_state().await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        self.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Flusher {
        self.machine.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        self.machine.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, SnapshotData>>, io::Error> {
        let Some(own) = self.machine.get_current_snapshot().await? else {
            return Ok(None);
        };
        let storage = self.storage.clone();
        let received = tokio::task::spawn_blocking(move || transferred(&storage))
            .await
            .map_err(io::Error::other)??;
        Ok(Some(Snapshot {
            meta: own.meta,
            snapshot: SnapshotData::Received(received),
        }))
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, Travelling, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Travelling), StorageError<Types>> {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::open(folder.path(), StorageOptions::default()).expect("opens");
        let log = LogStore::open(&storage, GROUP).expect("opens");
        let machine =
            Machine::open(Nothing, storage.clone(), GROUP, log.clone()).expect("restored");
        Ok((folder, log, Travelling { machine, storage }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_to_what_openraft_demands() {
    Suite::test_all(Builder).await.expect("all of it");
}
