//! A topic against many filters, and a filter against many topics.

#![allow(missing_docs, reason = "criterion generates undocumented functions")]

use std::hint::black_box;
use std::ops::ControlFlow;

use criterion::{Criterion, criterion_group, criterion_main};
use meridian_mqtt::topic::{TopicFilter, TopicName};
use meridian_mqtt::topic_map::TopicMap;
use meridian_mqtt::topic_tree::TopicTree;

fn tree(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topic tree");
    let mut devices = TopicTree::<u64, u8>::new();
    for key in 0..100_000 {
        devices.insert(&filter(&format!("cmd/us-east/truck-{key:06}/#")), key, 0);
    }
    for (key, text) in ["gps/us-east/#", "gps/+/+/position", "#"]
        .iter()
        .enumerate()
    {
        devices.insert(&filter(text), key as u64, 0);
    }
    let command = TopicName::from_static("cmd/us-east/truck-050000/reboot");
    group.bench_function("2 of 100,003 filters match", |bencher| {
        bencher.iter(|| count(&devices, black_box(&command)))
    });
    let position = TopicName::from_static("gps/us-east/truck-050000/position");
    group.bench_function("3 of 100,003 filters match", |bencher| {
        bencher.iter(|| count(&devices, black_box(&position)))
    });

    let mut overlapping = TopicTree::<u64, u8>::new();
    for key in 0..2048_u64 {
        let levels = (0..11)
            .map(|bit| if key & (1 << bit) == 0 { "a" } else { "+" })
            .collect::<Vec<_>>();
        overlapping.insert(&filter(&levels.join("/")), key, 0);
    }
    let deep = TopicName::from_static("a/a/a/a/a/a/a/a/a/a/a");
    group.bench_function("2,048 overlapping wildcard filters all match", |bencher| {
        bencher.iter(|| count(&overlapping, black_box(&deep)));
    });
    group.finish();
}

fn map(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topic map");
    let mut retained = TopicMap::new();
    for region in 0..100 {
        for device in 0..1000 {
            retained.insert(
                format!("geo/r-{region:02}/t-{device:04}/position")
                    .parse()
                    .expect("a topic"),
                (),
            );
        }
    }
    for (name, text) in [
        ("1,000 topics of one region", "geo/r-50/+/position"),
        ("one device in each of 100 regions", "geo/+/t-0500/position"),
        ("a name without wildcards", "geo/r-50/t-0500/position"),
    ] {
        let filter = filter(text);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut found = 0;
                let end = retained.try_for_each_match(black_box(&filter), |_, ()| {
                    found += 1;
                    ControlFlow::<()>::Continue(())
                });
                (found, end)
            });
        });
    }
    group.finish();
}

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a valid filter")
}

fn count(tree: &TopicTree<u64, u8>, topic: &TopicName) -> usize {
    let mut found = 0;
    tree.for_each_match(topic, |_, _| found += 1);
    found
}

criterion_group!(benches, tree, map);
criterion_main!(benches);
