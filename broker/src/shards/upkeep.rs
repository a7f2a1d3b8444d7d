//! What a shard needs now and then though nobody asks: the passing of time, the end of old events, signs of life.
//!
//! `clock ─► **upkeep** ─► proposer`. An idle shard gets no entries: a `Tick` is proposed only where something waits for
//! the time, or where the event log has outgrown its bound.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meridian_shard::log;
use tokio::sync::watch;

use super::{Proposal, Shard, Shards, Waiter};
use crate::clock::wall_ms;
use crate::router::ShardIndex;

/// How often time passes in a shard where something waits for it.
const TICK_INTERVAL: Duration = Duration::from_millis(250);
/// How often suppressed fixes are noted, so that `last seen` survives.
const SEEN_INTERVAL: Duration = Duration::from_secs(30);
/// Devices of one such note.
const SEEN_MAX: usize = 1000;

/// Runs for shard `index` until `stop` says so. `events_kept` events stay in its event log.
pub(crate) async fn run(
    shards: Arc<Shards>,
    index: ShardIndex,
    events_kept: u64,
    mut stop: watch::Receiver<bool>,
) {
    let shard = shards.get(index);
    let mut seen_at = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK_INTERVAL) => {}
            _ = stop.changed() => return,
        }
        if !shard.leading.leads() {
            continue;
        }
        if let Some(tick) = tick(shard, events_kept, wall_ms()) {
            shard.submit(log::command::Body::Tick(tick)).await;
        }
        if seen_at.elapsed() >= SEEN_INTERVAL {
            seen_at = Instant::now();
            note_seen(shard).await;
        }
    }
}

/// What time is to bring, if it is to bring anything.
fn tick(shard: &Shard, events_kept: u64, now_ms: i64) -> Option<log::Tick> {
    let (due, first, next) = {
        let state = shard.state.lock();
        let due = state.next_due_ms().is_some_and(|due| due <= now_ms);
        (due, state.first_offset(), state.next_offset())
    };
    // Nobody's messages are let go before they have been handed over.
    let handed_over = shard.handed_over.load(Ordering::Acquire);
    let keep_from = next.saturating_sub(events_kept).min(handed_over);
    let purge = keep_from > first + events_kept / 8;
    (due || purge).then_some(log::Tick {
        purge_events_below: if purge { keep_from } else { 0 },
    })
}

async fn note_seen(shard: &Shard) {
    loop {
        let Some(seen) = shard.admission.lock().take_seen(SEEN_MAX) else {
            return;
        };
        let devices = seen.devices.iter();
        let waiter = Waiter::Seen(devices.map(|device| device.device.clone()).collect());
        let command = log::command::Body::LastSeen(seen);
        shard
            .submit_with(Box::new(Proposal { command, waiter }))
            .await;
    }
}
