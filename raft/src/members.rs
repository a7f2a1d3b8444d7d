//! Changing who is in a group, one safe step at a time.
//!
//! New members learn first and vote once they have caught up; voters change by joint consensus; whoever leaves, leaves
//! last. A leader that is to leave hands over before, and its successor goes on. Nothing here is remembered: every call
//! looks at how the group stands and does what can be done now, so it does not matter who calls and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::impls::BasicNode;
use openraft::{ChangeMembers, Raft, RaftMetrics};

use crate::codec::Types;
use crate::group::ProposeError;
use crate::machine::Machine;
use crate::state_machine::StateMachine;

/// A learner may vote once it is at most so many entries behind: the new majority then waits for nobody for long.
const PROMOTION_LAG_MAX: u64 = 256;
/// How long a single change is waited for; a later call finds it made, or goes on with it.
const CHANGE_MAX: Duration = Duration::from_secs(5);

/// How far [`crate::Group::set_members`] has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembersProgress {
    /// The group has exactly these members.
    Done,
    /// Not yet; call again. In words, what is waited for.
    Pending(String),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Done,
    Wait(String),
    /// Leave the joint configuration that an ended leader left behind.
    Settle,
    Change(ChangeMembers<u64, BasicNode>),
    HandOver(u64),
}

/// Who should be in the group.
pub(crate) struct Goal<'a> {
    pub(crate) voters: &'a BTreeMap<u64, String>,
    pub(crate) learners: &'a BTreeMap<u64, String>,
}

/// How things stand, as far as the next step needs it.
struct Standing<'a> {
    own: u64,
    joint: bool,
    voters: BTreeSet<u64>,
    nodes: BTreeMap<u64, &'a str>,
    last_index: u64,
    matched: BTreeMap<u64, u64>,
}

impl<'a> Standing<'a> {
    fn of(metrics: &'a RaftMetrics<Types>) -> Self {
        let membership = metrics.membership_config.membership();
        let matched = metrics.replication.iter().flatten();
        Standing {
            own: metrics.id,
            joint: membership.get_joint_config().len() > 1,
            voters: membership.voter_ids().collect(),
            nodes: membership
                .nodes()
                .map(|(id, node)| (*id, node.addr.as_str()))
                .collect(),
            last_index: metrics.last_log_index.unwrap_or_default(),
            matched: matched
                .filter_map(|(id, matched)| Some((*id, (*matched)?.index())))
                .collect(),
        }
    }

    fn has_caught_up(&self, node: u64) -> bool {
        node == self.own
            || self
                .matched
                .get(&node)
                .is_some_and(|matched| matched + PROMOTION_LAG_MAX >= self.last_index)
    }
}

impl Goal<'_> {
    fn next(&self, standing: &Standing<'_>) -> Step {
        if standing.joint {
            return Step::Settle;
        }
        let wanted: BTreeMap<u64, &str> = self
            .learners
            .iter()
            .chain(self.voters)
            .map(|(id, addr)| (*id, addr.as_str()))
            .collect();
        let unknown_or_moved: BTreeMap<u64, BasicNode> = wanted
            .iter()
            .filter(|(id, addr)| standing.nodes.get(id) != Some(addr))
            .map(|(id, addr)| (*id, BasicNode::new(addr)))
            .collect();
        if !unknown_or_moved.is_empty() {
            return Step::Change(ChangeMembers::SetNodes(unknown_or_moved));
        }
        let voters: BTreeSet<u64> = self.voters.keys().copied().collect();
        let (ready, behind): (BTreeSet<u64>, BTreeSet<u64>) = voters
            .difference(&standing.voters)
            .copied()
            .partition(|node| standing.has_caught_up(*node));
        // Nobody leaves before all who come have come; and a leader never votes itself out.
        let leaves = !standing.voters.is_subset(&voters);
        if !ready.is_empty() && (!behind.is_empty() || leaves && !voters.contains(&standing.own)) {
            return Step::Change(ChangeMembers::AddVoterIds(ready));
        }
        if !behind.is_empty() {
            let behind: Vec<_> = behind
                .iter()
                .map(|node| {
                    let matched = standing.matched.get(node).copied().unwrap_or_default();
                    format!(
                        "node {node} has {matched} of {} entries",
                        standing.last_index
                    )
                })
                .collect();
            return Step::Wait(behind.join(", "));
        }
        if leaves && !voters.contains(&standing.own) {
            let successor = voters
                .intersection(&standing.voters)
                .copied()
                .max_by_key(|node| standing.matched.get(node));
            return successor.map_or_else(
                || Step::Wait("no voter would be left".to_owned()),
                Step::HandOver,
            );
        }
        if voters != standing.voters {
            return Step::Change(ChangeMembers::ReplaceAllVoters(voters));
        }
        let gone: BTreeSet<u64> = standing
            .nodes
            .keys()
            .filter(|node| !wanted.contains_key(node))
            .copied()
            .collect();
        if gone.is_empty() {
            Step::Done
        } else {
            Step::Change(ChangeMembers::RemoveNodes(gone))
        }
    }
}

/// Steps of one call: settle, add, promote, replace, remove, and one for each that turns out to be needed again.
const STEPS_MAX: usize = 8;

pub(crate) async fn pursue<S: StateMachine + Sync>(
    raft: &Raft<Types, Machine<S>>,
    goal: &Goal<'_>,
) -> Result<MembersProgress, ProposeError> {
    if goal.voters.is_empty() {
        return Ok(MembersProgress::Pending("a group needs a voter".to_owned()));
    }
    for _ in 0..STEPS_MAX {
        let metrics = raft.metrics().borrow_watched().clone();
        if !metrics.state.is_leader() {
            return Err(ProposeError::NotLeader {
                leader: metrics
                    .current_leader
                    .filter(|leader| *leader != metrics.id),
            });
        }
        if metrics.membership_config.log_id() != metrics.committed_membership_config.log_id() {
            return Ok(MembersProgress::Pending(
                "a change is not yet held by a majority".to_owned(),
            ));
        }
        let change = match goal.next(&Standing::of(&metrics)) {
            Step::Done => return Ok(MembersProgress::Done),
            Step::Wait(reason) => return Ok(MembersProgress::Pending(reason)),
            Step::HandOver(successor) => {
                return hand_over(raft, successor).await.map(|()| {
                    MembersProgress::Pending(format!("node {successor} leads and goes on"))
                });
            }
            Step::Settle => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Step::Change(change) => change,
        };
        tracing::info!(group = %raft.config().cluster_name, ?change, "The members of a group change.");
        let retain_as_learners = true;
        let changed = raft.change_membership(change, retain_as_learners);
        match tokio::time::timeout(CHANGE_MAX, changed).await {
            Err(_) => {
                return Ok(MembersProgress::Pending(
                    "a change waits for a majority".to_owned(),
                ));
            }
            Ok(Ok(_)) => {}
            Ok(Err(RaftError::Fatal(_))) => return Err(ProposeError::Stopped),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                return Err(ProposeError::NotLeader {
                    leader: forward.leader_id,
                });
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                error @ (ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_)),
            )))) => return Ok(MembersProgress::Pending(error.to_string())),
            Ok(Err(RaftError::APIError(error))) => {
                tracing::warn!(%error, "The members of a group could not be changed.");
                return Err(ProposeError::Unknown);
            }
        }
        // The metrics follow the change a little later.
        let seen = metrics.membership_config.log_id().map(|id| id.index());
        let wait = raft.wait(Some(CHANGE_MAX));
        let changed = wait.metrics(
            |now| {
                now.membership_config.log_id().map(|id| id.index()) > seen
                    && now.membership_config.log_id() == now.committed_membership_config.log_id()
                    || !now.state.is_leader()
            },
            "until the change of the members shows",
        );
        if changed.await.is_err() {
            break;
        }
    }
    Ok(MembersProgress::Pending("more steps are needed".to_owned()))
}

/// How long a successor may take to be elected.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// How long it is waited for before it is asked once more.
const HAND_OVER_ROUND: Duration = Duration::from_millis(1500);

pub(crate) async fn hand_over<S: StateMachine + Sync>(
    raft: &Raft<Types, Machine<S>>,
    successor: u64,
) -> Result<(), ProposeError> {
    let own = *raft.node_id();
    let until = tokio::time::Instant::now() + HAND_OVER_MAX;
    if successor == own {
        return if raft.is_leader() {
            Ok(())
        } else {
            Err(ProposeError::NotLeader {
                leader: raft.metrics().borrow_watched().current_leader,
            })
        };
    }
    let mut asked = false;
    loop {
        let votes = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            if !metrics.state.is_leader() && asked {
                return Ok(());
            }
            if !metrics.state.is_leader() {
                return Err(ProposeError::NotLeader {
                    leader: metrics.current_leader.filter(|leader| *leader != own),
                });
            }
            metrics
                .membership_config
                .membership()
                .voter_ids()
                .any(|id| id == successor)
        };
        if !votes || tokio::time::Instant::now() >= until {
            return Err(ProposeError::Unknown);
        }
        raft.trigger()
            .transfer_leader(successor)
            .await
            .map_err(|_| ProposeError::Stopped)?;
        asked = true;
        let wait = raft.wait(Some(HAND_OVER_ROUND));
        let led = wait.metrics(
            |now| now.current_leader.is_some_and(|leader| leader != own),
            "until another node leads",
        );
        if led.await.is_ok() {
            return Ok(());
        }
    }
}
