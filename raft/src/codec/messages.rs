//! The same for what groups say to each other (`node.proto`).

use std::io;

use meridian_proto::raft::v1;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::{
    Types, entry_from_disk, entry_to_disk, id_from_disk, id_to_disk, vote_from_disk, vote_to_disk,
};

fn lacking() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a message between nodes lacks its vote",
    )
}

pub(crate) fn append_to_wire(request: &AppendEntriesRequest<Types>) -> v1::Append {
    v1::Append {
        vote: Some(vote_to_disk(&request.vote)),
        previous: request.prev_log_id.as_ref().map(id_to_disk),
        entries: request.entries.iter().map(entry_to_disk).collect(),
        committed: request.leader_commit.as_ref().map(id_to_disk),
    }
}

pub(crate) fn append_from_wire(append: v1::Append) -> io::Result<AppendEntriesRequest<Types>> {
    let entries: Vec<_> = append
        .entries
        .into_iter()
        .map(entry_from_disk)
        .collect::<io::Result<_>>()?;
    let mut next = append.previous.as_ref().map(|id| id.index + 1);
    for entry in &entries {
        let index = entry.log_id.index();
        if next.is_some_and(|next| next != index) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the entries of a message do not follow each other",
            ));
        }
        next = Some(index + 1);
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_disk(append.vote.as_ref().ok_or_else(lacking)?),
        prev_log_id: append.previous.as_ref().map(id_from_disk),
        entries,
        leader_commit: append.committed.as_ref().map(id_from_disk),
    })
}

pub(crate) fn appended_to_wire(
    response: &AppendEntriesResponse<Types>,
) -> v1::group_response::Body {
    match response {
        AppendEntriesResponse::Success => v1::group_response::Body::Appended(true),
        // Only a network makes these, and ours does not.
        AppendEntriesResponse::PartialSuccess(_) => {
            v1::group_response::Body::Failed("a part of the entries was appended".to_owned())
        }
        AppendEntriesResponse::Conflict => v1::group_response::Body::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => {
            v1::group_response::Body::HigherVote(vote_to_disk(vote))
        }
    }
}

/// `None` for an answer to something else.
pub(crate) fn appended_from_wire(
    body: &v1::group_response::Body,
) -> Option<AppendEntriesResponse<Types>> {
    match body {
        v1::group_response::Body::Appended(_) => Some(AppendEntriesResponse::Success),
        v1::group_response::Body::Conflict(_) => Some(AppendEntriesResponse::Conflict),
        v1::group_response::Body::HigherVote(vote) => {
            Some(AppendEntriesResponse::HigherVote(vote_from_disk(vote)))
        }
        _ => None,
    }
}

pub(crate) fn ballot_to_wire(request: &VoteRequest<Types>) -> v1::Ballot {
    v1::Ballot {
        vote: Some(vote_to_disk(&request.vote)),
        last: request.last_log_id.as_ref().map(id_to_disk),
        transfer: request.leadership_transfer,
    }
}

pub(crate) fn ballot_from_wire(ballot: &v1::Ballot) -> io::Result<VoteRequest<Types>> {
    Ok(VoteRequest {
        vote: vote_from_disk(ballot.vote.as_ref().ok_or_else(lacking)?),
        last_log_id: ballot.last.as_ref().map(id_from_disk),
        leadership_transfer: ballot.transfer,
    })
}

pub(crate) fn ballot_answer_to_wire(response: &VoteResponse<Types>) -> v1::BallotAnswer {
    v1::BallotAnswer {
        vote: Some(vote_to_disk(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(id_to_disk),
    }
}

pub(crate) fn ballot_answer_from_wire(
    answer: &v1::BallotAnswer,
) -> io::Result<VoteResponse<Types>> {
    Ok(VoteResponse {
        vote: vote_from_disk(answer.vote.as_ref().ok_or_else(lacking)?),
        vote_granted: answer.granted,
        last_log_id: answer.last.as_ref().map(id_from_disk),
    })
}

pub(crate) fn transfer_to_wire(request: &TransferLeaderRequest<Types>) -> v1::TransferLeader {
    v1::TransferLeader {
        from: Some(vote_to_disk(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(id_to_disk),
    }
}

pub(crate) fn transfer_from_wire(
    transfer: &v1::TransferLeader,
) -> io::Result<TransferLeaderRequest<Types>> {
    let from = vote_from_disk(transfer.from.as_ref().ok_or_else(lacking)?);
    let last = transfer.last.as_ref().map(id_from_disk);
    Ok(TransferLeaderRequest::new(from, transfer.to, last))
}
