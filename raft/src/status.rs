//! How a group stands on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{Instant as _, RaftMetrics};

use crate::codec::Types;

/// How a group stands on this node, as far as it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The last entry of this node's log.
    pub last_index: u64,
    /// The last entry that is known here to be held by a majority.
    pub committed_index: u64,
    /// The last entry that was applied.
    pub applied_index: u64,
    /// The last entry that the log no longer holds.
    pub purged_index: u64,
    /// Who votes, with where they are reached. In a joint configuration, those of both.
    pub voters: BTreeMap<u64, String>,
    /// Who gets the log and does not vote.
    pub learners: BTreeMap<u64, String>,
    /// Whether the members are being changed and two majorities are needed.
    pub joint: bool,
    /// On the leader: how long ago a majority last answered. `None` elsewhere, and before one has.
    pub quorum_acked: Option<Duration>,
    /// On the leader: the last entry that each member is known to have on disk; `None` for one that has not said yet.
    pub matched: BTreeMap<u64, Option<u64>>,
}

impl GroupStatus {
    pub(crate) fn of(metrics: &RaftMetrics<Types>) -> GroupStatus {
        let membership = metrics.membership_config.membership();
        let voting: BTreeSet<u64> = membership.voter_ids().collect();
        let mut voters = BTreeMap::new();
        let mut learners = BTreeMap::new();
        for (id, node) in membership.nodes() {
            let role = if voting.contains(id) {
                &mut voters
            } else {
                &mut learners
            };
            role.insert(*id, node.addr.clone());
        }
        let leads = metrics.state.is_leader();
        let quorum_acked = metrics.last_quorum_acked.filter(|_| leads);
        let matched = metrics.replication.as_ref().map(|members| {
            members
                .iter()
                .map(|(id, matched)| (*id, matched.map(|matched| matched.index())))
                .collect()
        });
        GroupStatus {
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or_default(),
            committed_index: metrics.local_committed.map_or(0, |id| id.index()),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            purged_index: metrics.purged.map_or(0, |id| id.index()),
            voters,
            learners,
            joint: membership.get_joint_config().len() > 1,
            // Alone, the majority is this node itself.
            quorum_acked: if leads && voting.len() == 1 && voting.contains(&metrics.id) {
                Some(Duration::ZERO)
            } else {
                quorum_acked.map(|at| at.elapsed())
            },
            matched: matched.unwrap_or_default(),
        }
    }
}
