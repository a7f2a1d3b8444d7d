//! Between openraft's values and the messages of `meridian.raft.v1`. The only place that knows both.

pub(crate) mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Mutex;

use bytes::Bytes;
use meridian_proto::raft::v1;
use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::impls::BasicNode;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{LogId, Membership, StoredMembership, Vote};

/// A command, opaque.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The state machine's answer, on the node that proposed only; `None` for entries that are no command.
pub(crate) struct Answer(pub(crate) Mutex<Option<Box<dyn std::any::Any + Send>>>);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer")
    }
}

openraft::declare_raft_types!(
    /// How openraft is used here.
    pub(crate) Types:
        D = Payload,
        R = Answer,
        NodeId = u64,
        Node = BasicNode,
);

pub(crate) type Entry = EntryOf<Types>;
pub(crate) type Id = LogIdOf<Types>;

pub(crate) fn id_to_disk(id: &Id) -> v1::LogId {
    let leader = id.committed_leader_id();
    v1::LogId {
        term: leader.term,
        node: leader.node_id,
        index: id.index(),
    }
}

pub(crate) fn id_from_disk(id: &v1::LogId) -> Id {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.node,
        },
        id.index,
    )
}

pub(crate) fn vote_to_disk(vote: &VoteOf<Types>) -> v1::Vote {
    v1::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_disk(vote: &v1::Vote) -> VoteOf<Types> {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    }
}

fn membership_to_disk(membership: &Membership<u64, BasicNode>) -> v1::Membership {
    v1::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|config| v1::Voters {
                nodes: config.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| (*id, node.addr.clone()))
            .collect(),
    }
}

fn membership_from_disk(membership: &v1::Membership) -> io::Result<Membership<u64, BasicNode>> {
    let configs = membership
        .configs
        .iter()
        .map(|config| config.nodes.iter().copied().collect::<BTreeSet<u64>>());
    let nodes: BTreeMap<u64, BasicNode> = membership
        .nodes
        .iter()
        .map(|(id, addr)| (*id, BasicNode { addr: addr.clone() }))
        .collect();
    Membership::new(configs.collect(), nodes).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a membership of the Raft log is damaged: {error}"),
        )
    })
}

pub(crate) fn entry_to_disk(entry: &Entry) -> v1::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => v1::entry::Payload::Blank(true),
        EntryPayload::Normal(Payload(command)) => v1::entry::Payload::Command(command.clone()),
        EntryPayload::Membership(membership) => {
            v1::entry::Payload::Membership(membership_to_disk(membership))
        }
    };
    v1::Entry {
        log_id: Some(id_to_disk(&entry.log_id())),
        payload: Some(payload),
    }
}

pub(crate) fn entry_from_disk(entry: v1::Entry) -> io::Result<Entry> {
    let damaged = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "an entry of the Raft log lacks its id or payload",
        )
    };
    let id = entry
        .log_id
        .as_ref()
        .map(id_from_disk)
        .ok_or_else(damaged)?;
    let payload = match entry.payload.ok_or_else(damaged)? {
        v1::entry::Payload::Blank(_) => EntryPayload::Blank,
        v1::entry::Payload::Command(command) => EntryPayload::Normal(Payload(command)),
        v1::entry::Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_disk(&membership)?)
        }
    };
    Ok(Entry::new(id, payload))
}

pub(crate) fn applied_to_disk(
    last: Option<&Id>,
    membership: &StoredMembershipOf<Types>,
) -> v1::Applied {
    v1::Applied {
        last: last.map(id_to_disk),
        membership_log_id: membership.log_id().as_ref().map(id_to_disk),
        membership: Some(membership_to_disk(membership.membership())),
    }
}

pub(crate) fn applied_from_disk(
    applied: &v1::Applied,
) -> io::Result<(Option<Id>, StoredMembershipOf<Types>)> {
    let last = applied.last.as_ref().map(id_from_disk);
    // Before its first membership entry a group has none.
    let Some(log_id) = &applied.membership_log_id else {
        return Ok((last, StoredMembership::default()));
    };
    let lacking = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "an applied state lacks its membership",
        )
    };
    let membership = membership_from_disk(applied.membership.as_ref().ok_or_else(lacking)?)?;
    Ok((
        last,
        StoredMembership::new(Some(id_from_disk(log_id)), membership),
    ))
}
