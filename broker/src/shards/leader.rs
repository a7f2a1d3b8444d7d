//! Whoever leads a shard's log: this node or another.
//!
//! `pipeline ─► **leader** ─► log`. Stamps what this node appends as leader; sends everything else to the node that
//! leads. And says what this node may decide by itself as leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use meridian_proto::cluster::v1;
use meridian_raft::{Group, ProposeError, Transport};
use meridian_shard::{Admission, log};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

use super::machine::ShardMachine;
use crate::clock::LeaderClock;

/// How long the log may take for an entry, before the outcome counts as unknown.
const APPEND_MAX: Duration = Duration::from_secs(2);
/// How long a reader waits for its replica to catch up.
const READ_MAX: Duration = Duration::from_secs(1);
/// How often a leader looks whether it still has a majority.
const LOOK: Duration = Duration::from_millis(100);
/// A leader that a majority answered so recently may decide alone: nobody else can lead yet.
const LEASE: Duration = Duration::from_millis(700);

/// Why an entry is not known to be in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// It may be, or not; try again.
    NotNow,
    /// This node stops.
    Stopped,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Leader {
    shard: Arc<str>,
    group: Group<ShardMachine>,
    clock: Arc<Mutex<LeaderClock>>,
    transport: Transport,
    watch: watch::Receiver<Option<u64>>,
}

impl Leader {
    pub(crate) fn new(
        shard: &str,
        group: Group<ShardMachine>,
        clock: Arc<Mutex<LeaderClock>>,
        transport: Transport,
    ) -> Self {
        Leader {
            shard: shard.into(),
            watch: group.leader_watch(),
            group,
            clock,
            transport,
        }
    }

    /// Comes back when the entry is committed.
    pub(crate) async fn append(&self, entry: Bytes) -> Result<(), AppendError> {
        let leader = *self.watch.borrow();
        match leader {
            Some(leader) if leader == self.transport.node() => self.append_here(entry).await,
            Some(leader) => self.append_at(leader, entry).await,
            None => Err(AppendError::NotNow),
        }
    }

    /// Appends as leader. An entry of another node comes here too.
    pub(crate) async fn append_here(&self, entry: Bytes) -> Result<(), AppendError> {
        let stamped = stamp(entry, self.clock.lock().stamp());
        metrics::counter!("meridian_shard_entries_total").increment(1);
        match tokio::time::timeout(APPEND_MAX, self.group.propose(stamped)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ProposeError::Stopped)) => Err(AppendError::Stopped),
            Ok(Err(_)) | Err(_) => Err(AppendError::NotNow),
        }
    }

    async fn append_at(&self, leader: u64, entry: Bytes) -> Result<(), AppendError> {
        let request = v1::Request {
            body: Some(v1::request::Body::Append(v1::Append {
                shard: self.shard.to_string(),
                entry,
            })),
        };
        let request = Bytes::from(request.encode_to_vec());
        let reply = self
            .transport
            .request(leader, request, APPEND_MAX)
            .await
            .map_err(|_| AppendError::NotNow)?;
        match v1::Reply::decode(reply).map(|reply| reply.body) {
            Ok(Some(v1::reply::Body::Done(true))) => Ok(()),
            _ => Err(AppendError::NotNow),
        }
    }

    /// As the leader that surely still is one: how far the log is.
    pub(crate) async fn read_index(&self, leading: &Leading) -> Option<u64> {
        if !leading.has_lease() && self.group.linearize(READ_MAX).await.is_err() {
            return None;
        }
        Some(self.group.status().committed_index)
    }

    /// Waits until this node's replica shows all that was acknowledged before, anywhere. Whether it does.
    pub(crate) async fn catch_up(&self, leading: &Leading) -> bool {
        let leader = *self.watch.borrow();
        let index = match leader {
            Some(leader) if leader == self.transport.node() => self.read_index(leading).await,
            Some(leader) => self.ask_index(leader).await,
            None => None,
        };
        let Some(index) = index else { return false };
        let deadline = Instant::now() + READ_MAX;
        while self.group.status().applied_index < index {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    async fn ask_index(&self, leader: u64) -> Option<u64> {
        let request = v1::Request {
            body: Some(v1::request::Body::ReadIndex(self.shard.to_string())),
        };
        let request = Bytes::from(request.encode_to_vec());
        let reply = self.transport.request(leader, request, READ_MAX).await;
        match v1::Reply::decode(reply.ok()?).ok()?.body? {
            v1::reply::Body::Index(index) => Some(index),
            _ => None,
        }
    }

    /// Comes back when somebody else leads than before.
    pub(crate) async fn changed(&self) {
        let mut watch = self.watch.clone();
        watch.mark_unchanged();
        if watch.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Sets when an entry was proposed, without taking it apart: a field that comes last counts.
fn stamp(entry: Bytes, proposed_at_ms: i64) -> Bytes {
    let time = log::Entry {
        proposed_at_ms,
        ..Default::default()
    };
    let mut stamped = BytesMut::with_capacity(entry.len() + 16);
    stamped.extend_from_slice(&entry);
    stamped.extend_from_slice(&time.encode_to_vec());
    stamped.freeze()
}

/// What this node may do because it leads a shard.
#[derive(Debug)]
pub(crate) struct Leading {
    /// It leads, and has applied all that was committed before.
    leads: AtomicBool,
    /// Until when it may decide without asking anybody, milliseconds after `since`.
    lease_ms: AtomicI64,
    since: Instant,
    changed: watch::Sender<bool>,
    /// This replica has caught up with a leader since the start.
    caught_up: AtomicBool,
}

impl Leading {
    pub(crate) fn new() -> Self {
        Leading {
            leads: AtomicBool::new(false),
            lease_ms: AtomicI64::new(-1),
            since: Instant::now(),
            changed: watch::channel(false).0,
            caught_up: AtomicBool::new(false),
        }
    }

    /// Whether this node leads and has caught up.
    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// Whether what this node knows as leader is surely the newest: nobody else can have committed since.
    pub(crate) fn has_lease(&self) -> bool {
        let now = i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.leads() && now <= self.lease_ms.load(Ordering::Acquire)
    }

    /// Whether this replica has caught up with a leader since the start.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    /// Follows [`Leading::leads`].
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }

    fn set(&self, leads: bool) {
        if self.leads.swap(leads, Ordering::AcqRel) != leads {
            self.changed.send_replace(leads);
        }
    }

    fn renew(&self, acked: Option<Duration>) {
        let until = acked.map_or(-1, |ago| {
            let now = i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX);
            let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
            now.saturating_sub(ago)
                .saturating_add(i64::try_from(LEASE.as_millis()).unwrap_or(0))
        });
        self.lease_ms.store(until, Ordering::Release);
    }
}

/// Keeps `leading` true to the group, until `stop` says so.
pub(crate) async fn follow(
    leader: Leader,
    leading: Arc<Leading>,
    admission: Arc<Mutex<Admission>>,
    clock: Arc<Mutex<LeaderClock>>,
    mut stop: watch::Receiver<bool>,
) {
    let (group, node) = (leader.group.clone(), leader.transport.node());
    let mut watch = group.leader_watch();
    while !*stop.borrow() {
        let leads = *watch.borrow_and_update() == Some(node);
        if !leads && leading.leads() {
            leading.set(false);
            // What was suppressed here, the next leader does not know; it measures from what is committed.
            admission.lock().forget_pending();
        }
        if !leads && watch.borrow().is_some() {
            let status = group.status();
            if status.applied_index >= status.committed_index {
                clock.lock().follow();
            }
        }
        if leads && !leading.leads() && group.linearize(APPEND_MAX).await.is_ok() {
            admission.lock().forget_pending();
            leading.renew(group.status().quorum_acked);
            leading.set(true);
        }
        if leads {
            leading.renew(group.status().quorum_acked);
        }
        if !leading.has_caught_up() && leader.catch_up(&leading).await {
            leading.caught_up.store(true, Ordering::Release);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = watch.changed() => if changed.is_err() { return },
            _ = stop.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_counts_though_the_entry_had_one() {
        let entry = log::Entry {
            proposed_at_ms: 5,
            node: 3,
            first: 9,
            commands: vec![log::Command::default(); 2],
            ..Default::default()
        };
        let stamped = stamp(Bytes::from(entry.encode_to_vec()), 77);
        let read = log::Entry::decode(stamped).expect("an entry");
        assert_eq!(read.proposed_at_ms, 77);
        assert_eq!((read.node, read.first, read.commands.len()), (3, 9, 2));
    }
}
