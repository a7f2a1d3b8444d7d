//! One Raft group on this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, RaftError};
use openraft::impls::BasicNode;
use openraft::{Config, Raft, ReadPolicy, SnapshotPolicy};

use crate::codec::{Payload, Types};
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::network::NoNetwork;
use crate::state_machine::StateMachine;
use crate::storage::Storage;

/// How often a group looks whether its log has grown enough to be purged.
const UPKEEP: Duration = Duration::from_secs(5);

/// How a group is opened.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// This node, for life.
    pub node: u64,
    /// Entries since the last flush of the states, as many as which cause one and let the log be purged.
    pub flush_after_entries: u64,
    /// The same in bytes of the log.
    pub flush_after_bytes: u64,
    /// Entries that stay behind the flush.
    pub keep_entries: u64,
}

impl GroupOptions {
    /// Defaults for node `node`: a restart replays at most 20,000 entries or 256 MiB of a group's log.
    #[must_use]
    pub fn new(node: u64) -> Self {
        GroupOptions {
            node,
            flush_after_entries: 20_000,
            flush_after_bytes: 256 << 20,
            keep_entries: 1000,
        }
    }
}

/// Why a group could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenGroupError {
    /// The store could not be read, or is not what it should be.
    #[error("the log of {group} could not be read")]
    Storage {
        /// The group.
        group: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The consensus did not start.
    #[error("{group} could not be started: {message}")]
    Start {
        /// The group.
        group: String,
        /// In the library's words.
        message: String,
    },
}

/// Why a command was not applied, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was not: this node does not lead the group.
    #[error("the group is led by {leader:?}, not by this node")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<u64>,
    },
    /// It was not: the group has stopped.
    #[error("the group has stopped")]
    Stopped,
    /// Nobody knows: it may still be applied.
    #[error("the outcome of the command is unknown")]
    Unknown,
}

/// How a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The last entry of this node's log.
    pub last_index: u64,
    /// The last entry that was applied.
    pub applied_index: u64,
    /// The last entry that the log no longer holds.
    pub purged_index: u64,
}

/// See the module. Cheap to clone.
pub struct Group<S: StateMachine + Sync> {
    name: Arc<str>,
    raft: Raft<Types, Machine<S>>,
}

impl<S: StateMachine + Sync> Clone for Group<S> {
    fn clone(&self) -> Self {
        Group {
            name: Arc::clone(&self.name),
            raft: self.raft.clone(),
        }
    }
}

impl<S: StateMachine + Sync> Group<S> {
    /// Opens the group `name`, or makes it with this node as its only voter. The state is as it was last flushed, with
    /// the log replayed on top of it as far as it is known to be committed; [`Group::wait_until_leader`] waits for all.
    ///
    /// # Errors
    /// [`OpenGroupError`].
    pub async fn open(
        storage: &Storage,
        name: &str,
        options: &GroupOptions,
        machine: S,
    ) -> Result<Self, OpenGroupError> {
        let unreadable = |source| OpenGroupError::Storage {
            group: name.to_owned(),
            source,
        };
        let failed = |error: &dyn ToString| OpenGroupError::Start {
            group: name.to_owned(),
            message: error.to_string(),
        };
        let config = Config {
            cluster_name: name.to_owned(),
            // Ten times and more what a flush takes on a slow disk.
            heartbeat_interval: 250,
            election_timeout_min: 1000,
            election_timeout_max: 2000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(options.flush_after_entries),
            max_in_snapshot_log_to_keep: options.keep_entries,
            max_payload_entries: 256,
            enable_pre_vote: Some(true),
            ..Default::default()
        };
        let config = Arc::new(config.validate().map_err(|error| failed(&error))?);
        let log = LogStore::open(storage, name).map_err(unreadable)?;
        let machine =
            Machine::open(machine, storage.clone(), name, log.clone()).map_err(unreadable)?;
        let raft = Raft::new(options.node, config, NoNetwork, log.clone(), machine)
            .await
            .map_err(|error| failed(&error))?;
        if !raft
            .is_initialized()
            .await
            .map_err(|error| failed(&error))?
        {
            let members = BTreeMap::from([(options.node, BasicNode::default())]);
            raft.initialize(members)
                .await
                .map_err(|error| failed(&error))?;
        } else if raft.voter_ids().eq([options.node]) {
            // Alone, it need not wait for others to campaign first.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| failed(&error))?;
        }
        tokio::spawn(upkeep(raft.clone(), log, options.flush_after_bytes));
        Ok(Group {
            name: name.into(),
            raft,
        })
    }

    /// Proposes a command; comes back when it is applied on this node.
    ///
    /// # Errors
    /// [`ProposeError`]; only after `Unknown` may the command still be applied.
    pub async fn propose(&self, command: Bytes) -> Result<S::Reply, ProposeError> {
        let written =
            self.raft
                .client_write(Payload(command))
                .await
                .map_err(|error| match error {
                    RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                        ProposeError::NotLeader {
                            leader: forward.leader_id,
                        }
                    }
                    RaftError::APIError(_) => ProposeError::Unknown,
                    // Whether the entry had been written before the group stopped, nobody says.
                    RaftError::Fatal(_) => ProposeError::Unknown,
                })?;
        let answer = written
            .data
            .0
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let reply = answer.and_then(|answer| answer.downcast::<S::Reply>().ok());
        reply.map(|reply| *reply).ok_or(ProposeError::Unknown)
    }

    /// Waits until this node leads the group and has applied all that was committed before.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`], or [`ProposeError::NotLeader`] after `timeout`.
    pub async fn wait_until_leader(&self, timeout: Duration) -> Result<(), ProposeError> {
        let own = *self.raft.node_id();
        let waited = self
            .raft
            .wait(Some(timeout))
            .current_leader(own, "until this node leads")
            .await;
        waited.map_err(|_| ProposeError::NotLeader {
            leader: self.status().leader,
        })?;
        // And the log replayed: a leader that has not caught up would show an old state.
        let current = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        let current = tokio::time::timeout(timeout, current).await;
        current
            .map_err(|_| ProposeError::Unknown)?
            .map(|_| ())
            .map_err(|_| ProposeError::Unknown)
    }

    /// Whether this node leads the group, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the group stands on this node.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        GroupStatus {
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or_default(),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            purged_index: metrics.purged.map_or(0, |id| id.index()),
        }
    }

    /// Stops the group. What was not acknowledged may or may not survive.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.name, %error, "The group did not stop in order.");
        }
    }
}

/// Flushes the states when the log has grown by bytes rather than by entries.
async fn upkeep<S: StateMachine + Sync>(
    raft: Raft<Types, Machine<S>>,
    log: LogStore,
    flush_after_bytes: u64,
) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        if log.bytes_since_snapshot() >= flush_after_bytes
            && raft.trigger().snapshot().await.is_err()
        {
            return;
        }
        if raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
    }
}
