//! Hands a shard's events over to the queues of persistent sessions, which live in their own home shards.
//!
//! `event log ─► **handover** ─► the log of each session's home`. Runs where the source shard is led. The receiver owns its
//! cursor: each home shard keeps, with the messages and in the same entry, up to which offset of this shard it has
//! them, and takes only what begins there. And it says so if a subscription that it knows was not yet known here. So
//! after a crash, or with another leader, the handover asks every home where to go on, and nothing arrives twice or not
//! at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_shard::{Reply, log};
use tokio::sync::watch;

use crate::router::{Audience, Outgoing, ShardIndex, Source};
use crate::shards::{Shard, Shards};

/// Events of one round.
const EVENTS_MAX: usize = 512;
/// A home without messages learns how far the handover is after so many events, so that a restart need not read them.
const SILENT_MAX: u64 = 4096;
/// Between two attempts while a home shard cannot take commands.
const RETRY: Duration = Duration::from_millis(200);
/// Between two looks at whether this replica of a home shard has caught up.
const CATCH_UP: Duration = Duration::from_millis(5);

/// How far one home shard is.
#[derive(Debug, Clone, Copy)]
struct Home {
    /// The first offset that it does not have.
    handed: u64,
    /// The subscriptions by which the events from there on were looked at.
    revision: u64,
}

/// Runs for shard `source` until `stop` says so; at work while this node leads it.
pub async fn run(source: ShardIndex, shards: Arc<Shards>, mut stop: watch::Receiver<bool>) {
    let mut leads = shards.get(source).leading.watch();
    while !*stop.borrow() {
        if *leads.borrow_and_update() {
            hand_over(source, &shards, &mut stop).await;
        }
        tokio::select! {
            changed = leads.changed() => if changed.is_err() { return },
            _ = stop.changed() => return,
        }
    }
}

async fn hand_over(source: ShardIndex, shards: &Shards, stop: &mut watch::Receiver<bool>) {
    let shard = shards.get(source);
    let mut head = shard.tail.watch();
    let mut leads = shard.leading.watch();
    let mut homes: BTreeMap<ShardIndex, Home> = shards
        .map
        .all()
        .map(|home| (home, stands(shard, shards.get(home))))
        .collect();
    let mut next = start(shards, &homes, shard.tail.head());
    while !*stop.borrow() && *leads.borrow_and_update() {
        shard.handed_over.store(next, Ordering::Release);
        // Read before the subscriptions are looked at: one that is added later sees nothing below it.
        let latest = shard.tail.head();
        if next >= latest {
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                _ = leads.changed() => {}
                _ = stop.changed() => {}
            }
            continue;
        }
        // What a home has not got yet is looked at by the subscriptions of the earliest look.
        for (home, at) in &mut homes {
            let now = shards.get(*home).state.lock().subscriptions_revision();
            at.revision = if at.handed >= next {
                now
            } else {
                at.revision.min(now)
            };
        }
        if !shards.dispatch.subscriptions.any_queued() {
            next = latest;
            continue;
        }
        let events = match shard.events(next, EVENTS_MAX) {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(shard = shard.name, %error, "The event log cannot be read.");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let Some(upto) = events.last().map(|(offset, _)| offset + 1) else {
            // Purged, or not yet readable on disk.
            next = next.max(shard.state.lock().first_offset());
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let mut items: BTreeMap<ShardIndex, Vec<log::EnqueueItem>> = BTreeMap::new();
        for (offset, event) in &events {
            collect(shards, source, *offset, event, &homes, &mut items);
        }
        next = upto;
        for (home, at) in &mut homes {
            let items = items.remove(home).unwrap_or_default();
            if at.handed >= upto || items.is_empty() && upto - at.handed < SILENT_MAX {
                continue;
            }
            let enqueue = log::Enqueue {
                source: shard.name.clone(),
                upto,
                items,
                from: at.handed,
                revision: at.revision,
            };
            match propose(shards.get(*home), enqueue, stop).await {
                Some(Reply::Stale) => {
                    *at = catch_up(shard, shards.get(*home), at, stop).await;
                    next = next.min(at.handed);
                }
                Some(_) => {
                    at.handed = upto;
                    at.revision = u64::MAX;
                }
                None => return,
            }
        }
    }
}

fn stands(source: &Shard, home: &Shard) -> Home {
    let home = home.state.lock();
    Home {
        handed: home.handed(&source.name),
        revision: home.subscriptions_revision(),
    }
}

/// The home knows more than this replica of it did: waits until that has moved, and says where it stands then.
async fn catch_up(
    source: &Shard,
    home: &Shard,
    before: &Home,
    stop: &mut watch::Receiver<bool>,
) -> Home {
    loop {
        let now = stands(source, home);
        if now.handed != before.handed || now.revision > before.revision || *stop.borrow() {
            return now;
        }
        tokio::select! {
            () = tokio::time::sleep(CATCH_UP) => {}
            _ = stop.changed() => {}
        }
    }
}

/// The home's answer; `None` if this node stops.
async fn propose(
    home: &Shard,
    enqueue: log::Enqueue,
    stop: &mut watch::Receiver<bool>,
) -> Option<Reply> {
    loop {
        match home
            .propose(log::command::Body::Enqueue(enqueue.clone()))
            .await
        {
            Ok(reply) => return Some(reply),
            // Unknown counts as refused: an entry that did arrive makes the repetition change nothing.
            Err(_) if *stop.borrow() => return None,
            Err(_) => tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = stop.changed() => {}
            },
        }
    }
}

/// Where the slowest home with sessions is; homes without sessions want nothing older than what is to come.
fn start(shards: &Shards, homes: &BTreeMap<ShardIndex, Home>, head: u64) -> u64 {
    let waiting = homes
        .iter()
        .filter(|(home, _)| shards.get(**home).state.lock().sessions().next().is_some());
    waiting.map(|(_, at)| at.handed).min().unwrap_or(head)
}

fn collect(
    shards: &Shards,
    source: ShardIndex,
    offset: u64,
    event: &log::Event,
    homes: &BTreeMap<ShardIndex, Home>,
    items: &mut BTreeMap<ShardIndex, Vec<log::EnqueueItem>>,
) {
    let Some(message) = shards.dispatch.subscriptions.wanted(event) else {
        return;
    };
    let from = Source::Event {
        shard: source,
        offset,
    };
    shards
        .dispatch
        .subscriptions
        .recipients(&message, from, Audience::Queued, |to| {
            let queued = |message: &Outgoing| log::QueuedMessage {
                message: Some(message.to_message()),
                qos: to.qos as u32,
                retain: to.retain,
                subscription_ids: to.subscription_ids.clone(),
            };
            match to.session.persistent {
                Some(persistent) => {
                    if homes
                        .get(&persistent.home)
                        .is_some_and(|at| at.handed > offset)
                    {
                        return;
                    }
                    items
                        .entry(persistent.home)
                        .or_default()
                        .push(log::EnqueueItem {
                            client_id: to.session.client_id.to_string(),
                            session_epoch: persistent.epoch,
                            queued: Some(queued(&message)),
                        });
                }
                // A live member of a shared subscription, whose turn it was.
                None if to.session.away() != 0 => {
                    shards.dispatch.peers.deliver(
                        to.session.away(),
                        &to.session.client_id,
                        queued(&message),
                    );
                }
                None => shards.dispatch.send(&message, to),
            }
        });
}
