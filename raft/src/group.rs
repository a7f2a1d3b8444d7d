//! One Raft group on this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::impls::BasicNode;
use openraft::{Config, Raft, ReadPolicy, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::codec::{Payload, Types};
use crate::inbound::Answering;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::members::{self, Goal, MembersProgress};
use crate::network::Network;
use crate::state_machine::StateMachine;
use crate::status::GroupStatus;
use crate::storage::Storage;
use crate::transport::Transport;

/// How often a group looks whether its log has grown enough to be purged.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often a leader says that it is there.
const HEARTBEAT_MS: u64 = 150;
/// A follower campaigns when it has not heard of its leader for the longest of these times, which is the leader's lease, and
/// then for one drawn between the two: after 1.4 s to 1.8 s. Ten times and more what a flush takes on a slow disk.
const ELECTION_MIN_MS: u64 = 500;
/// See [`ELECTION_MIN_MS`].
const ELECTION_MAX_MS: u64 = 900;

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

/// What a group is on a node that has no data of it yet. Data that is there goes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// A new group, with this node as its only voter. Only one node may ever do this for a group's name.
    Alone,
    /// A member to be, which waits until a leader adds it.
    Join,
}

/// See the module. Cheap to clone.
pub struct Group<S: StateMachine + Sync> {
    shared: Arc<Shared<S>>,
}

struct Shared<S: StateMachine + Sync> {
    name: Arc<str>,
    raft: Raft<Types, Machine<S>>,
    transport: Transport,
    leader: watch::Receiver<Option<u64>>,
    /// One change of the members at a time.
    members: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    ended: CancellationToken,
}

impl<S: StateMachine + Sync> Clone for Group<S> {
    fn clone(&self) -> Self {
        Group {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: StateMachine + Sync> Group<S> {
    /// Opens the group `name`, which others reach over `transport`; if there is no data of it, `birth` says what it is.
    /// The state is as it was last flushed, with the log replayed on top of it as far as it is known to be committed;
    /// [`Group::wait_until_leader`] and [`Group::linearize`] wait for all.
    ///
    /// # Errors
    /// [`OpenGroupError`].
    pub async fn open(
        storage: &Storage,
        name: &str,
        options: &GroupOptions,
        machine: S,
        transport: &Transport,
        birth: Birth,
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
            heartbeat_interval: HEARTBEAT_MS,
            election_timeout_min: ELECTION_MIN_MS,
            election_timeout_max: ELECTION_MAX_MS,
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
        let name: Arc<str> = name.into();
        let network = Network {
            group: Arc::clone(&name),
            storage: storage.clone(),
            transport: transport.clone(),
        };
        let raft = Raft::new(options.node, config, network, log.clone(), machine)
            .await
            .map_err(|error| failed(&error))?;
        // From here on others are answered.
        let answering = Answering::new(&name, storage.clone(), raft.clone());
        transport.register(&name, Arc::new(answering));
        let initialized = raft
            .is_initialized()
            .await
            .map_err(|error| failed(&error))?;
        if !initialized && birth == Birth::Alone {
            let own = BasicNode::new(transport.advertise());
            raft.initialize(BTreeMap::from([(options.node, own)]))
                .await
                .map_err(|error| failed(&error))?;
        } else if initialized && raft.voter_ids().eq([options.node]) {
            // Alone, it need not wait for others to campaign first.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| failed(&error))?;
        }
        let (told, leader) = watch::channel(None);
        let tasks = TaskTracker::new();
        let ended = CancellationToken::new();
        let upkeep = upkeep(raft.clone(), log, options.flush_after_bytes);
        let watching = watch_leader(raft.clone(), told);
        tasks.spawn(ended.clone().run_until_cancelled_owned(upkeep));
        tasks.spawn(ended.clone().run_until_cancelled_owned(watching));
        tasks.close();
        Ok(Group {
            shared: Arc::new(Shared {
                name,
                raft,
                transport: transport.clone(),
                leader,
                members: tokio::sync::Mutex::new(()),
                tasks,
                ended,
            }),
        })
    }

    /// Proposes a command; comes back when it is applied on this node.
    ///
    /// # Errors
    /// [`ProposeError`]; only after `Unknown` may the command still be applied.
    pub async fn propose(&self, command: Bytes) -> Result<S::Reply, ProposeError> {
        let written = self.shared.raft.client_write(Payload(command)).await;
        let written = written.map_err(|error| match error {
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
        let until = tokio::time::Instant::now() + timeout;
        let own = *self.shared.raft.node_id();
        let waited = self
            .shared
            .raft
            .wait(Some(timeout))
            .current_leader(own, "until this node leads")
            .await;
        waited.map_err(|_| ProposeError::NotLeader {
            leader: self.status().leader,
        })?;
        // And the log replayed: a leader that has not caught up would show an old state.
        self.linearize(until - tokio::time::Instant::now()).await
    }

    /// Makes sure that this node leads and that its state holds all that was acknowledged before the call: asks a majority
    /// (ReadIndex, Raft §6.4), then waits until what was committed is applied here.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`]; [`ProposeError::Stopped`]; [`ProposeError::Unknown`] if no majority answers within
    /// `timeout`.
    pub async fn linearize(&self, timeout: Duration) -> Result<(), ProposeError> {
        let current = self.shared.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(timeout, current).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ProposeError::NotLeader {
                    leader: forward.leader_id,
                })
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                Err(ProposeError::Unknown)
            }
        }
    }

    /// Whether this node leads the group, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.shared.raft.is_leader()
    }

    /// The leader as this node knows it, whenever it changes; `None` while there is none, and once the group has stopped.
    #[must_use]
    pub fn leader_watch(&self) -> watch::Receiver<Option<u64>> {
        self.shared.leader.clone()
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How the group stands on this node.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        GroupStatus::of(&self.shared.raft.metrics().borrow_watched())
    }

    /// Does what can be done now to make `voters` and `learners` (id and address) the group's members: adds who is missing,
    /// lets vote who has caught up, removes who is in neither, corrects addresses. On the leader only, and again until it
    /// is [`MembersProgress::Done`]; if this node leads and is to leave, it hands over first, and the successor goes on.
    ///
    /// # Errors
    /// [`ProposeError`]; whatever was done or not, it may be called again.
    pub async fn set_members(
        &self,
        voters: &BTreeMap<u64, String>,
        learners: &BTreeMap<u64, String>,
    ) -> Result<MembersProgress, ProposeError> {
        let _one_at_a_time = self.shared.members.lock().await;
        members::pursue(&self.shared.raft, &Goal { voters, learners }).await
    }

    /// Lets voter `to` lead instead of this node; comes back when another node leads.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`]; [`ProposeError::Unknown`] if it does not vote, or has not taken over within seconds.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), ProposeError> {
        members::hand_over(&self.shared.raft, to).await
    }

    /// Has the state flushed now, so that the log below it can be purged. Comes back before that is done.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`].
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        let triggered = self.shared.raft.trigger().snapshot().await;
        triggered.map_err(|_| ProposeError::Stopped)
    }

    /// Stops the group. What was not acknowledged may or may not survive.
    pub async fn shutdown(&self) {
        self.shared.transport.unregister(&self.shared.name);
        self.shared.ended.cancel();
        if let Err(error) = self.shared.raft.shutdown().await {
            tracing::warn!(group = %self.shared.name, %error, "The group did not stop in order.");
        }
        self.shared.tasks.wait().await;
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

async fn watch_leader<S: StateMachine + Sync>(
    raft: Raft<Types, Machine<S>>,
    told: watch::Sender<Option<u64>>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let leader = metrics.borrow_watched().current_leader;
        told.send_if_modified(|known| std::mem::replace(known, leader) != leader);
        if metrics.changed().await.is_err() {
            told.send_replace(None);
            return;
        }
    }
}
