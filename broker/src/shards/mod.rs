//! The shards of this node: state, log, and the way in.

mod fixes;
mod leader;
mod machine;
mod pipeline;
mod tail;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use meridian_raft::{Group, StateReader};
use meridian_shard::{Admission, Reply, ShardState, log};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

pub use fixes::FixesItem;
pub(crate) use fixes::{FixesPublish, FixesWaiter, run as run_fixes};
pub(crate) use leader::{Leader, Leading, follow as follow_leader};
pub use machine::{EffectSink, MetaMachine, ShardMachine};
pub use pipeline::Refused;
pub(crate) use pipeline::{Proposal, QUEUE_MAX, Unapplied, Waiter, run as run_pipeline};
pub use tail::EventTail;
pub(crate) use upkeep::run as run_upkeep;

use crate::delivery::Dispatch;
use crate::router::{ShardIndex, ShardMap};

/// How long somebody waits for an answer before the outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long somebody waits for room among the commands of a shard, before it is told that there is none.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// One shard on this node.
pub struct Shard {
    /// Its place in the shard map.
    pub index: ShardIndex,
    /// Its name.
    pub name: String,
    /// Its state on this replica. Held for moments only.
    pub state: Arc<Mutex<ShardState>>,
    /// The leader's side before the log. Locked before `state`.
    pub admission: Arc<Mutex<Admission>>,
    /// Its newest events.
    pub tail: Arc<EventTail>,
    /// Its Raft group.
    pub group: Group<ShardMachine>,
    /// Every event below is in the queues of all persistent sessions that want it. Starts at 0 with the process.
    pub handed_over: AtomicU64,
    /// The way into its log.
    pub(crate) leader: Leader,
    /// What this node may do because it leads it.
    pub(crate) leading: Arc<Leading>,
    pub(crate) reader: StateReader,
    /// Commands, each with its time of arrival.
    pub(crate) proposals: mpsc::Sender<(Instant, Box<Proposal>)>,
    pub(crate) fixes: mpsc::Sender<Box<FixesPublish>>,
    pub(crate) fixes_under_way: AtomicUsize,
}

impl Shard {
    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn propose(&self, command: log::command::Body) -> Result<Reply, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.submit_with(Box::new(Proposal {
            command,
            waiter: Waiter::Reply(sender),
        }))
        .await;
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(Refused::Unavailable),
            Err(_) => Err(Refused::Unknown),
        }
    }

    /// Proposes a command that nobody waits for.
    pub async fn submit(&self, command: log::command::Body) {
        self.submit_with(Box::new(Proposal {
            command,
            waiter: Waiter::Nobody,
        }))
        .await;
    }

    /// Hands a command over if there is room for it.
    pub(crate) fn try_submit(&self, proposal: Box<Proposal>) -> Result<(), Box<Proposal>> {
        match self.proposals.try_send((Instant::now(), proposal)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full((_, proposal))) => Err(proposal),
            // The receiver goes only when the node stops; whoever waits then finds its sender gone.
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Waits while the shard has all the commands that it can hold: back-pressure, down to the socket. If it holds them
    /// for long, because nobody leads it, whoever waits is told that there is no room.
    pub(crate) async fn submit_with(&self, proposal: Box<Proposal>) {
        match tokio::time::timeout(ROOM_PATIENCE, self.proposals.reserve()).await {
            Ok(Ok(room)) => room.send((Instant::now(), proposal)),
            // The receiver goes only when the node stops; whoever waits then finds its sender gone.
            Ok(Err(_)) => {}
            Err(_) => proposal
                .waiter
                .answer(Err(Refused::Unavailable), &self.admission),
        }
    }

    /// Whether this node may judge fixes itself: it leads, and none of its own is still on its way elsewhere.
    pub(crate) fn judges_here(&self) -> bool {
        self.leading.leads() && self.fixes_under_way.load(Ordering::Acquire) == 0
    }

    /// Hands fixes to whoever leads the shard, in the order of this call.
    pub(crate) async fn submit_fixes(&self, fixes: Box<FixesPublish>) {
        match tokio::time::timeout(ROOM_PATIENCE, self.fixes.reserve()).await {
            Ok(Ok(room)) => {
                self.fixes_under_way.fetch_add(1, Ordering::AcqRel);
                room.send(fixes);
            }
            Ok(Err(_)) => {}
            Err(_) => fixes.tell(Err(Refused::Unavailable)),
        }
    }

    /// Up to `max` events from offset `from` on: from memory, or from disk where memory does not reach.
    ///
    /// # Errors
    /// The store's.
    pub fn events(&self, from: u64, max: usize) -> std::io::Result<Vec<(u64, Arc<log::Event>)>> {
        if let Some(events) = self.tail.read(from, max) {
            return Ok(events);
        }
        let records = self.reader.events(from, max)?;
        let decode = |(offset, record): (u64, bytes::Bytes)| {
            let event = log::Event::decode(record).map_err(std::io::Error::other)?;
            Ok((offset, Arc::new(event)))
        };
        records.into_iter().map(decode).collect()
    }
}

/// All shards of this node.
pub struct Shards {
    /// Which topic belongs to which.
    pub map: Arc<ShardMap>,
    /// Live delivery.
    pub dispatch: Arc<Dispatch>,
    list: Vec<Shard>,
}

impl Shards {
    pub(crate) fn new(map: Arc<ShardMap>, dispatch: Arc<Dispatch>, list: Vec<Shard>) -> Self {
        assert_eq!(
            map.names().len(),
            list.len(),
            "every shard of the map is on this node"
        );
        Shards {
            map,
            dispatch,
            list,
        }
    }

    /// One shard.
    #[must_use]
    pub fn get(&self, index: ShardIndex) -> &Shard {
        &self.list[index.at()]
    }

    /// The shard `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Shard> {
        self.map.named(name).map(|index| self.get(index))
    }

    /// All, in the order of the map.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.list.iter()
    }
}
