//! What a group answers to its members on other nodes.

use std::sync::Arc;

use futures::future::BoxFuture;
use meridian_proto::raft::v1;
use meridian_proto::raft::v1::group_request::Body as Request;
use meridian_proto::raft::v1::group_response::Body as Response;
use openraft::{Raft, Snapshot, SnapshotMeta};
use tokio::sync::Mutex;

use crate::codec::{self, Types, messages};
use crate::machine::Machine;
use crate::snapshot::{Incoming, SnapshotData};
use crate::state_machine::StateMachine;
use crate::storage::Storage;
use crate::transport::Inbound;

/// See the module.
pub(crate) struct Answering<S: StateMachine + Sync> {
    inner: Arc<Inner<S>>,
}

struct Inner<S: StateMachine + Sync> {
    group: String,
    storage: Storage,
    raft: Raft<Types, Machine<S>>,
    /// The snapshot that is arriving. Who waits for it is served in turn, so chunks keep their order.
    incoming: Mutex<Option<Incoming>>,
}

impl<S: StateMachine + Sync> Answering<S> {
    pub(crate) fn new(group: &str, storage: Storage, raft: Raft<Types, Machine<S>>) -> Self {
        let inner = Inner {
            group: group.to_owned(),
            storage,
            raft,
            incoming: Mutex::new(None),
        };
        Answering {
            inner: Arc::new(inner),
        }
    }
}

impl<S: StateMachine + Sync> Inbound for Answering<S> {
    fn handle(&self, _from: u64, request: Request) -> BoxFuture<'static, v1::GroupResponse> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let body = inner
                .answer(request)
                .await
                .unwrap_or_else(|reason| Response::Failed(reason.to_string()));
            v1::GroupResponse { body: Some(body) }
        })
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl<S: StateMachine + Sync> Inner<S> {
    async fn answer(&self, request: Request) -> Result<Response, Failure> {
        let raft = &self.raft;
        match request {
            Request::Append(append) => {
                let appended = raft
                    .append_entries(messages::append_from_wire(append)?)
                    .await?;
                Ok(messages::appended_to_wire(&appended))
            }
            Request::Vote(ballot) => {
                let answer = raft.vote(messages::ballot_from_wire(&ballot)?).await?;
                Ok(Response::Ballot(messages::ballot_answer_to_wire(&answer)))
            }
            Request::PreVote(ballot) => {
                let answer = raft.pre_vote(messages::ballot_from_wire(&ballot)?).await?;
                Ok(Response::Ballot(messages::ballot_answer_to_wire(&answer)))
            }
            Request::TransferLeader(transfer) => {
                let taken = raft
                    .handle_transfer_leader(messages::transfer_from_wire(&transfer)?)
                    .await?;
                if let Err(reason) = &taken {
                    tracing::info!(group = self.group, %reason, "The leadership cannot be taken over now.");
                }
                Ok(Response::Transferred(taken.is_ok()))
            }
            Request::SnapshotBegin(begin) => self.begin(begin).await,
            Request::SnapshotChunk(chunk) => self.chunk(chunk).await,
            Request::SnapshotEnd(end) => self.end(end).await,
        }
    }

    async fn begin(&self, begin: v1::SnapshotBegin) -> Result<Response, Failure> {
        let mut incoming = self.incoming.lock().await;
        *incoming = None;
        let last = begin.applied.as_ref().and_then(|applied| applied.last);
        let (Some(last), Some(vote)) = (last, &begin.vote) else {
            return Err("a snapshot lacks its header".into());
        };
        // A leader's state holds nothing from after its own election.
        if (last.term, last.node) > (vote.term, vote.node) {
            return Err("a snapshot is newer than the leader who sends it".into());
        }
        tracing::info!(
            group = self.group,
            index = last.index,
            "A snapshot is arriving."
        );
        let (path, group) = (self.storage.inner.path.clone(), self.group.clone());
        let created = move || Incoming::create(&path, &group, begin);
        *incoming = Some(tokio::task::spawn_blocking(created).await??);
        Ok(Response::SnapshotReady(true))
    }

    async fn chunk(&self, chunk: v1::SnapshotChunk) -> Result<Response, Failure> {
        let mut incoming = self.incoming.lock().await;
        let mut arriving = take(&mut incoming, chunk.snapshot)?;
        let written = tokio::task::spawn_blocking(move || {
            arriving.chunk(&chunk)?;
            std::io::Result::Ok(arriving)
        });
        *incoming = Some(written.await??);
        Ok(Response::SnapshotReady(true))
    }

    async fn end(&self, end: v1::SnapshotEnd) -> Result<Response, Failure> {
        let mut incoming = self.incoming.lock().await;
        let arriving = take(&mut incoming, end.snapshot)?;
        let vote = codec::vote_from_disk(&arriving.vote);
        let (last_log_id, last_membership) = codec::applied_from_disk(&arriving.applied)?;
        let received = tokio::task::spawn_blocking(move || arriving.finish(&end)).await??;
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: SnapshotData::Received(received),
        };
        // Whether it is newer than what is here, and from a leader, is for the group to say.
        let installed = self.raft.install_full_snapshot(vote, snapshot).await?;
        Ok(Response::SnapshotInstalled(codec::vote_to_disk(
            &installed.vote,
        )))
    }
}

fn take(incoming: &mut Option<Incoming>, snapshot: u64) -> Result<Incoming, Failure> {
    incoming
        .take_if(|arriving| arriving.snapshot == snapshot)
        .ok_or_else(|| "this snapshot is not the one that is arriving".into())
}
