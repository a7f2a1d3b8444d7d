//! Events, and logs of them that grow, for the tests of the sinks.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by several test binaries, each of which uses a part"
)]

pub mod postgres;
pub mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_proto::v1::{Alert, EnrichedPosition, FenceRef, Position};
use meridian_sinks::{Event, EventRecord, EventSource, Growth, PipelineOptions, ReadError};
use tokio::sync::watch;

/// 2025-11-24T16:00:00.123Z.
pub const TS_MS: i64 = 1_764_000_000_123;

/// The event at a place: every third one an alert, five devices.
pub fn record(shard: &str, offset: u64) -> EventRecord {
    let (event_id, device) = (format!("{shard}-{offset}"), format!("truck-{}", offset % 5));
    let fix = Position {
        ts_ms: TS_MS + i64::try_from(offset).unwrap(),
        lat_deg: 40.7128,
        lon_deg: -74.006,
        speed_mps: Some(12.4),
        attrs_json: Some(r#"{"driver":"ann","load":[1,2.5]}"#.into()),
        ..Position::default()
    };
    let event = if offset % 3 == 2 {
        Event::Alert(Alert {
            event_id,
            r#type: "geofenceEnter".into(),
            ts_ms: fix.ts_ms,
            device,
            region: "us-east".into(),
            shard: shard.into(),
            offset,
            fence: Some(FenceRef {
                id: "depot-3".into(),
                name: "Depot 3".into(),
                rev: 7,
            }),
            previous: Some(fix.clone()),
            position: Some(fix),
            received_ts_ms: TS_MS + 9,
            ..Alert::default()
        })
    } else {
        Event::Position(EnrichedPosition {
            position: Some(fix),
            event_id,
            device,
            region: "us-east".into(),
            shard: shard.into(),
            offset,
            received_ts_ms: TS_MS + 9,
            distance_m: Some(51.5),
            odometer_calc_m: 1e6,
            fences: vec!["depot-3".into(), "town".into()],
            suppressed: 3,
            ..EnrichedPosition::default()
        })
    };
    EventRecord {
        shard: shard.into(),
        offset,
        at_ms: TS_MS + 9,
        event,
    }
}

pub fn records(shard: &str, from: u64, to: u64) -> Vec<EventRecord> {
    (from..to).map(|offset| record(shard, offset)).collect()
}

/// Logs of so many events each, by shard.
pub struct Logs(watch::Sender<BTreeMap<&'static str, u64>>);

impl Logs {
    pub fn of<const N: usize>(logs: [(&'static str, u64); N]) -> Arc<Self> {
        Arc::new(Logs(watch::channel(BTreeMap::from(logs)).0))
    }

    pub fn grow(&self, shard: &'static str, by: u64) {
        self.0
            .send_modify(|logs| *logs.entry(shard).or_default() += by);
    }
}

pub struct LogsGrowth(watch::Receiver<BTreeMap<&'static str, u64>>);

impl Growth for LogsGrowth {
    fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }
    async fn changed(&mut self) {
        self.0.changed().await.unwrap();
    }
}

impl EventSource for Logs {
    type Growth = LogsGrowth;

    fn shards(&self) -> Vec<String> {
        let logs = self.0.borrow();
        logs.keys().map(|&shard| shard.to_owned()).collect()
    }
    fn bounds(&self, shard: &str) -> (u64, u64) {
        (0, self.0.borrow()[shard])
    }
    fn read(
        &self,
        shard: &str,
        from: u64,
        max: usize,
    ) -> Result<(Vec<EventRecord>, u64), ReadError> {
        let to = self.bounds(shard).1.min(from + max as u64);
        Ok((records(shard, from, to), to))
    }
    fn taken_at_ms(&self, shard: &str, offset: u64) -> Option<i64> {
        (offset < self.bounds(shard).1).then_some(TS_MS + 9)
    }
    fn growth(&self) -> LogsGrowth {
        LogsGrowth(self.0.subscribe())
    }
}

/// Small batches, short pauses.
pub fn quick() -> PipelineOptions {
    PipelineOptions {
        batch_max: 50,
        write_timeout: Duration::from_secs(2),
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        ..PipelineOptions::default()
    }
}

pub async fn until(what: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to pass");
}
