//! How a sink stands, as operators see it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::sink::{Cursors, EventSource};

/// What a sink is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkState {
    /// It takes events.
    Running,
    /// The far side failed, and is being tried again.
    Retrying,
    /// It needs a person. It is tried again all the same, so that it goes on once that person was there.
    Blocked,
    /// It was told to wait.
    Paused,
}

/// How a sink stands.
#[derive(Debug, Clone, Serialize)]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its `type` in the configuration.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it is doing.
    pub state: SinkState,
    /// How far it is behind.
    #[serde(flatten)]
    pub lag: Lag,
    /// Events that the far side has confirmed since the start.
    pub written: u64,
    /// Failed attempts since the start.
    pub failed: u64,
    /// Events that the far side will never take, put aside since the start.
    pub dead_letters: u64,
    /// Events that were no longer there when it came to read them.
    pub missed: u64,
    /// The last failure, in words; absent once it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// By shard, the first offset that it does not have.
    pub cursors: Cursors,
}

impl SinkStatus {
    pub(crate) fn new(name: &str, kind: &'static str) -> Self {
        SinkStatus {
            name: name.to_owned(),
            kind,
            state: SinkState::Running,
            lag: Lag::default(),
            written: 0,
            failed: 0,
            dead_letters: 0,
            missed: 0,
            last_error: None,
            cursors: Cursors::new(),
        }
    }
}

/// How far a sink is behind the event logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lag {
    /// Records of the logs that it has not passed yet.
    #[serde(rename = "lag_events")]
    pub events: u64,
    /// Age of the oldest of them, seconds; 0 if there is none.
    #[serde(rename = "lag_seconds")]
    pub seconds: f64,
}

impl Lag {
    pub(crate) fn of<E: EventSource>(source: &E, cursors: &Cursors) -> Self {
        let mut events = 0;
        let mut oldest_ms: Option<i64> = None;
        for shard in source.shards() {
            let (first, head) = source.bounds(&shard);
            let cursor = cursors.get(&shard).copied().unwrap_or(0).max(first);
            if cursor < head {
                events += head - cursor;
                let taken_ms = source.taken_at_ms(&shard, cursor);
                oldest_ms = [oldest_ms, taken_ms].into_iter().flatten().min();
            }
        }
        let age_ms = oldest_ms.map_or(0, |oldest_ms| (wall_ms() - oldest_ms).max(0));
        Lag {
            events,
            seconds: age_ms as f64 / 1000.0,
        }
    }
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
