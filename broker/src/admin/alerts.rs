//! Past alerts, out of the shards' event logs.
//!
//! A page is read where the one before ended, so no answer costs more than [`SCAN_MAX`] events, however long the logs
//! are. Pages follow the broker's clock over all shards; within a page, alerts are in the order of their own time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use meridian_proto::v1;
use meridian_shard::log;
use meridian_sinks::json as event_json;
use serde_json::{Value, json};

use super::Shared;
use super::problem::Problem;
use super::request::{LIMIT_MAX, Parameters, wrong_cursor};
use crate::config::MAX_FUTURE_MAX;
use crate::node::Node;
use crate::shards::Shard;

/// Events that one answer looks at. An answer that ends here has a cursor, and may have few alerts or none.
const SCAN_MAX: usize = 500_000;
/// Events read from one shard at a time.
const CHUNK: usize = 512;

/// `since=` epoch milliseconds, `limit`, `cursor`.
pub(super) async fn list(State(api): Shared, uri: Uri) -> Result<Json<Value>, Problem> {
    let parameters = Parameters::read(&uri, &["since", "limit", "cursor"])?;
    let limit = parameters.limit(LIMIT_MAX)?;
    let since: i64 = match parameters.get("since") {
        None => i64::MIN,
        Some(since) => since
            .parse()
            .map_err(|_| Problem::invalid("since", "must be epoch milliseconds"))?,
    };
    let shards = api.node.shards.iter().count();
    let from = match parameters.get("cursor") {
        None => None,
        Some(cursor) => Some(read_cursor(cursor, shards).ok_or_else(wrong_cursor)?),
    };
    let node = Arc::clone(&api.node);
    // Reads from disk, so not on a thread that serves connections.
    let page = tokio::task::spawn_blocking(move || page(&node, since, from, limit)).await;
    let page = page
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| Problem::unavailable(error.to_string()))?;
    Ok(Json(page))
}

/// The next offset of each shard, in the order of the shard map.
fn read_cursor(cursor: &str, shards: usize) -> Option<Vec<u64>> {
    let offsets: Result<Vec<u64>, _> = cursor.split('.').map(str::parse).collect();
    offsets.ok().filter(|offsets| offsets.len() == shards)
}

fn page(node: &Node, since_ms: i64, from: Option<Vec<u64>>, limit: usize) -> io::Result<Value> {
    // The log's time is the broker's; a fix can be later than that by so much, and no more.
    let margin_ms = i64::try_from(MAX_FUTURE_MAX.as_millis()).unwrap_or(i64::MAX);
    let logged_since_ms = since_ms.saturating_sub(margin_ms);
    let mut readers = Vec::new();
    for (at, shard) in node.shards.iter().enumerate() {
        let next = match &from {
            Some(offsets) => offsets[at],
            None => first_logged_since(shard, logged_since_ms)?,
        };
        readers.push(Reader {
            shard,
            next,
            read: VecDeque::new(),
        });
    }
    let mut found: Vec<Arc<log::Event>> = Vec::new();
    let mut seen = 0;
    let more = loop {
        let Some(event) = next_by_time(&mut readers)? else {
            break false;
        };
        seen += 1;
        if alert(&event).is_some_and(|alert| alert.ts_ms >= since_ms) {
            found.push(event);
        }
        if found.len() >= limit || seen >= SCAN_MAX {
            break true;
        }
    };
    let mut alerts: Vec<&v1::Alert> = found.iter().filter_map(|event| alert(event)).collect();
    alerts.sort_by_key(|alert| alert.ts_ms);
    let data: Result<Vec<Value>, _> = alerts.into_iter().map(as_json).collect();
    let offsets: Vec<String> = readers
        .iter()
        .map(|reader| reader.next.to_string())
        .collect();
    let cursor = more.then(|| offsets.join("."));
    Ok(json!({ "data": data?, "meta": { "cursor": cursor } }))
}

fn alert(event: &log::Event) -> Option<&v1::Alert> {
    match &event.body {
        Some(log::event::Body::Alert(alert)) => Some(alert),
        _ => None,
    }
}

fn as_json(alert: &v1::Alert) -> serde_json::Result<Value> {
    let mut text = Vec::new();
    event_json::write_alert(&mut text, alert);
    serde_json::from_slice(&text)
}

/// One shard's events from `next` on, a chunk in memory at a time.
struct Reader<'a> {
    shard: &'a Shard,
    next: u64,
    read: VecDeque<(u64, Arc<log::Event>)>,
}

impl Reader<'_> {
    /// When the next event was logged; `None` at the end.
    fn peek_ms(&mut self) -> io::Result<Option<i64>> {
        if self.read.is_empty() {
            self.read = self.shard.events(self.next, CHUNK)?.into();
        }
        Ok(self.read.front().map(|(_, event)| event.at_ms))
    }
}

/// Takes the event that was logged first of all that come next.
fn next_by_time(readers: &mut [Reader<'_>]) -> io::Result<Option<Arc<log::Event>>> {
    let mut first: Option<(i64, usize)> = None;
    for (at, reader) in readers.iter_mut().enumerate() {
        let Some(at_ms) = reader.peek_ms()? else {
            continue;
        };
        if first.is_none_or(|(earliest_ms, _)| at_ms < earliest_ms) {
            first = Some((at_ms, at));
        }
    }
    let Some((_, at)) = first else {
        return Ok(None);
    };
    let reader = &mut readers[at];
    let taken = reader.read.pop_front();
    Ok(taken.map(|(offset, event)| {
        reader.next = offset + 1;
        event
    }))
}

/// The offset of the first event that was logged at `at_ms` or later: a log's time never runs back.
fn first_logged_since(shard: &Shard, at_ms: i64) -> io::Result<u64> {
    let (mut low, mut high) = {
        let state = shard.state.lock();
        (state.first_offset(), state.next_offset())
    };
    while low < high {
        let middle = low + (high - low) / 2;
        match shard.events(middle, 1)?.first() {
            Some((_, event)) if event.at_ms < at_ms => low = middle + 1,
            Some(_) => high = middle,
            // Purged meanwhile, or not yet in the log.
            None => high = middle,
        }
    }
    Ok(low)
}
