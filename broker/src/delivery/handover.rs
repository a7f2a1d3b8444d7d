//! Hands a shard's events over to the queues of persistent sessions, which live in their own home shards.
//!
//! `event log ─► **handover** ─► the log of each session's home`. The receiver owns its cursor: each home shard keeps,
//! with the messages and in the same entry, up to which offset of this shard it has them. So after a crash the
//! handover asks every home where to go on, and nothing arrives twice or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_shard::log;
use tokio::sync::watch;

use crate::router::{Audience, ShardIndex, Source};
use crate::shards::Shards;

/// Events of one round.
const EVENTS_MAX: usize = 512;
/// A home without messages learns how far the handover is after so many events, so that a restart need not read them.
const SILENT_MAX: u64 = 4096;
/// Between two attempts while a home shard cannot take commands.
const RETRY: Duration = Duration::from_millis(200);

/// Runs for shard `source` until `stop` says so.
pub async fn run(source: ShardIndex, shards: Arc<Shards>, mut stop: watch::Receiver<bool>) {
    let shard = shards.get(source);
    let mut head = shard.tail.watch();
    // By home: the first offset that it does not have.
    let mut homes: BTreeMap<ShardIndex, u64> = shards
        .map
        .all()
        .map(|home| (home, shards.get(home).state.lock().handed(&shard.name)))
        .collect();
    let mut next = start(&shards, &homes, shard.tail.head());
    while !*stop.borrow() {
        shard.handed_over.store(next, Ordering::Release);
        // Read before the subscriptions are looked at: one that is added later sees nothing below it.
        let latest = shard.tail.head();
        if next >= latest {
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                _ = stop.changed() => {}
            }
            continue;
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
            collect(&shards, source, *offset, event, &homes, &mut items);
        }
        for (home, handed) in &mut homes {
            let items = items.remove(home).unwrap_or_default();
            if *handed >= upto || items.is_empty() && upto - *handed < SILENT_MAX {
                continue;
            }
            let enqueue = log::Enqueue {
                source: shard.name.clone(),
                upto,
                items,
            };
            while shards
                .get(*home)
                .propose(log::command::Body::Enqueue(enqueue.clone()))
                .await
                .is_err()
            {
                // Unknown counts as refused: an entry that did arrive makes the repetition change nothing.
                if *stop.borrow() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
            *handed = upto;
        }
        next = upto;
    }
}

/// Where the slowest home with sessions is; homes without sessions want nothing older than what is to come.
fn start(shards: &Shards, homes: &BTreeMap<ShardIndex, u64>, head: u64) -> u64 {
    let waiting = homes
        .iter()
        .filter(|(home, _)| shards.get(**home).state.lock().sessions().next().is_some());
    waiting.map(|(_, handed)| *handed).min().unwrap_or(head)
}

fn collect(
    shards: &Shards,
    source: ShardIndex,
    offset: u64,
    event: &log::Event,
    homes: &BTreeMap<ShardIndex, u64>,
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
            match to.session.persistent {
                Some(persistent) => {
                    if homes
                        .get(&persistent.home)
                        .is_some_and(|handed| *handed > offset)
                    {
                        return;
                    }
                    items
                        .entry(persistent.home)
                        .or_default()
                        .push(log::EnqueueItem {
                            client_id: to.session.client_id.to_string(),
                            session_epoch: persistent.epoch,
                            queued: Some(log::QueuedMessage {
                                message: Some(message.to_message()),
                                qos: to.qos as u32,
                                retain: to.retain,
                                subscription_ids: to.subscription_ids,
                            }),
                        });
                }
                // A live member of a shared subscription, whose turn it was.
                None => shards.dispatch.send(&message, to),
            }
        });
}
