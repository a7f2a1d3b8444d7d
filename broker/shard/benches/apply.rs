//! What one command costs in `apply`.
#![allow(missing_docs, reason = "the macro makes a public function")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use meridian_shard::log::{self, command::Body};
use meridian_shard::{FenceCatalog, ShardState, Writes};

/// Takes the writes and keeps nothing, so that only `apply` is measured.
struct Nowhere;
impl Writes for Nowhere {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        black_box((key, value));
    }
    fn delete(&mut self, key: &[u8]) {
        black_box(key);
    }
    fn append_event(&mut self, offset: u64, record: &[u8]) {
        black_box((offset, record));
    }
    fn purge_events_below(&mut self, _offset: u64) {}
}

fn shard(fences: u32) -> ShardState {
    let mut state = ShardState::restore(
        "s",
        FenceCatalog::default(),
        &meridian_shard::MemoryStore::default(),
    );
    let fence = |number: u32| log::FenceRecord {
        id: format!("f{number}"),
        feature_json: format!(
            r#"{{"type":"Feature","id":"f{number}","properties":{{"radius_m":300}},"geometry":{{"type":"Point","coordinates":[{},{}]}}}}"#,
            24.0 + f64::from(number % 100) * 0.02,
            60.0 + f64::from(number / 100) * 0.02
        ),
        rev: 1,
    };
    let put = log::PutFences {
        revision: 1,
        upserts: (0..fences).map(fence).collect(),
        removes: vec![],
        replace_all: true,
    };
    state.apply(
        entry(1, vec![Body::PutFences(put)]),
        &mut Nowhere,
        &mut Vec::new(),
    );
    state
}

fn entry(at_ms: i64, bodies: Vec<Body>) -> log::Entry {
    log::Entry {
        proposed_at_ms: at_ms,
        commands: bodies
            .into_iter()
            .map(|body| log::Command { body: Some(body) })
            .collect(),
        ..Default::default()
    }
}

/// A fix that the filter passes: each device moves 100 m a step, through the fences.
fn fixes(step: i64, device: i64) -> Body {
    let fix = log::Fix {
        ts_ms: 10_000 * step,
        lat_e7: i32::try_from(600_000_000 + device * 20_000).unwrap(),
        lon_e7: i32::try_from(240_000_000 + (step % 1000) * 18_000).unwrap(),
        ..Default::default()
    };
    let raw = log::Message {
        topic: format!("gps/s/d{device}/position"),
        payload: Bytes::from_static(&[b'x'; 100]),
        qos: 1,
        ..Default::default()
    };
    Body::Fixes(log::Fixes {
        device: format!("d{device}"),
        region: "s".into(),
        fixes: vec![fix],
        raw: Some(raw),
        ..Default::default()
    })
}

fn publish() -> Body {
    let message = log::Message {
        topic: "a/b/c".into(),
        payload: Bytes::from_static(&[b'x'; 100]),
        qos: 1,
        ..Default::default()
    };
    Body::Publish(log::Publish {
        message: Some(message),
        once: None,
    })
}

fn apply(criterion: &mut Criterion) {
    const BATCH: i64 = 256;
    let mut group = criterion.benchmark_group("apply, 256 commands an entry");
    group.throughput(criterion::Throughput::Elements(256));
    let mut state = shard(0);
    group.bench_function("publish of 100 bytes", |bencher| {
        bencher.iter_batched(
            || entry(1, (0..BATCH).map(|_| publish()).collect()),
            |entry| state.apply(entry, &mut Nowhere, &mut Vec::new()),
            BatchSize::SmallInput,
        );
    });
    let mut state = shard(1000);
    let mut step = 0;
    group.bench_function("moving fix, 1,000 fences", |bencher| {
        bencher.iter_batched(
            || {
                step += 1;
                entry(
                    10_000 * step,
                    (0..BATCH).map(|device| fixes(step, device)).collect(),
                )
            },
            |entry| state.apply(entry, &mut Nowhere, &mut Vec::new()),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
