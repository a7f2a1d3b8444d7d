//! What a group answers to its members on other nodes.

use futures::future::BoxFuture;
use meridian_proto::raft::v1;
use meridian_proto::raft::v1::group_request::Body as Request;
use meridian_proto::raft::v1::group_response::Body as Response;
use openraft::Raft;

use crate::codec::{Types, messages};
use crate::machine::Machine;
use crate::state_machine::StateMachine;
use crate::transport::Inbound;

/// See the module.
pub(crate) struct Answering<S: StateMachine + Sync> {
    pub(crate) raft: Raft<Types, Machine<S>>,
}

impl<S: StateMachine + Sync> Inbound for Answering<S> {
    fn handle(&self, _from: u64, request: Request) -> BoxFuture<'static, v1::GroupResponse> {
        let raft = self.raft.clone();
        Box::pin(async move {
            let body = answer(&raft, request)
                .await
                .unwrap_or_else(|reason| Response::Failed(reason.to_string()));
            v1::GroupResponse { body: Some(body) }
        })
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn answer<S: StateMachine + Sync>(
    raft: &Raft<Types, Machine<S>>,
    request: Request,
) -> Result<Response, Failure> {
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
                tracing::info!(%reason, "The leadership cannot be taken over now.");
            }
            Ok(Response::Transferred(taken.is_ok()))
        }
        Request::SnapshotBegin(_) | Request::SnapshotChunk(_) | Request::SnapshotEnd(_) => {
            Err("snapshots do not travel between nodes in this version".into())
        }
    }
}
