//! The Kafka sink against Apache Kafka itself, read back by Kafka's own consumer.

#[path = "support/kafka.rs"]
mod server;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use meridian_proto::v1::EnrichedPosition;
use meridian_sinks::kafka::{Format, KafkaOptions, KafkaSink};
use meridian_sinks::{
    Cursors, DeadLetters, Event, EventRecord, Pipeline, Sink, SinkError, SinkState,
};
use prost::Message as _;
use serde_json::Value;
use server::{Consumed, Kafka};
use support::{Logs, TS_MS, process, quick, record, records, until};

/// One server for the tests that leave it alone; each has topics of its own.
fn shared() -> Arc<Kafka> {
    static SERVER: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
    let mut server = SERVER.lock().unwrap_or_else(|held| held.into_inner());
    if let Some(running) = server.upgrade() {
        return running;
    }
    let started = Arc::new(Kafka::start());
    *server = Arc::downgrade(&started);
    started
}

fn options(kafka: &Kafka, prefix: &str) -> KafkaOptions {
    let mut options = KafkaOptions::new("lake", &kafka.servers());
    options.topic_prefix = format!("{prefix}.");
    options.timeout = Duration::from_secs(10);
    options
}

fn transactional(kafka: &Kafka, prefix: &str) -> KafkaOptions {
    let mut options = options(kafka, prefix);
    options.transactional = true;
    options
}

fn sink(options: KafkaOptions) -> KafkaSink {
    KafkaSink::new(options, DeadLetters::new("/nonexistent/dead-letters"))
}

fn shards() -> Vec<String> {
    vec!["s".to_owned()]
}

fn cursors(next: u64) -> Cursors {
    Cursors::from([("s".to_owned(), next)])
}

async fn write(sink: &mut KafkaSink, from: u64, to: u64) -> Result<u64, SinkError> {
    let confirmed = sink.write(&records("s", from, to), &cursors(to)).await?;
    Ok(confirmed.dead_letters)
}

/// Both topics of events.
fn consume(kafka: &Kafka, prefix: &str, at_least: u64) -> Vec<Consumed> {
    let at_least = usize::try_from(at_least).unwrap();
    kafka.consume(
        &format!("{prefix}\\.(positions|alerts)"),
        "read_committed",
        at_least,
    )
}

fn ids(consumed: &[Consumed]) -> Vec<&str> {
    let mut ids: Vec<_> = consumed
        .iter()
        .map(|record| record.header("event-id"))
        .collect();
    ids.sort_by_key(|id| {
        let (shard, offset) = id.rsplit_once('-').unwrap();
        (shard, offset.parse::<u64>().unwrap())
    });
    ids
}

fn expected(shard: &str, count: u64) -> Vec<String> {
    (0..count)
        .map(|offset| format!("{shard}-{offset}"))
        .collect()
}

/// Repeats left out, each device's records stand in the order of the log, in each topic.
fn assert_order(consumed: &[Consumed]) {
    let mut last: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in consumed {
        if !seen.insert(record.header("event-id")) {
            continue;
        }
        let offset = record.header("offset").parse().unwrap();
        let of = (
            record.header("schema"),
            record.header("shard"),
            &*record.key,
        );
        if let Some(before) = last.insert(of, offset) {
            assert!(before < offset, "{before} before {offset} of {of:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_have_the_key_time_headers_and_value_that_were_promised() {
    let kafka = shared();
    let mut sink = sink(options(&kafka, "promised"));
    assert_eq!(sink.open(&shards()).await.unwrap(), Cursors::new());
    assert_eq!(write(&mut sink, 0, 30).await.unwrap(), 0);
    let positions = kafka.consume("promised.positions", "read_uncommitted", 20);
    let alerts = kafka.consume("promised.alerts", "read_uncommitted", 10);
    assert_eq!((positions.len(), alerts.len()), (20, 10));
    let one = positions
        .iter()
        .find(|r| r.header("offset") == "1")
        .unwrap();
    assert_eq!(one.key, "truck-1");
    assert_eq!(one.time, format!("CreateTime:{}", TS_MS + 1));
    assert_eq!(
        one.headers,
        "event-id:s-1,region:us-east,shard:s,offset:1,schema:meridian.position.v1,content-type:application/json"
    );
    let value: Value = serde_json::from_str(&one.value).unwrap();
    assert_eq!(value["fences"], serde_json::json!(["depot-3", "town"]));
    let alert: Value = serde_json::from_str(&alerts[0].value).unwrap();
    assert_eq!(alert["fence"]["id"], "depot-3");
    assert_eq!(alerts[0].header("schema"), "meridian.alert.v1");
    assert_order(&[positions.clone(), alerts].concat());
    let mut places: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for record in &positions {
        places
            .entry(&record.key)
            .or_default()
            .insert(record.partition);
    }
    assert!(places.values().all(|partitions| partitions.len() == 1));
    assert!(
        places.values().flatten().collect::<BTreeSet<_>>().len() > 1,
        "devices spread over partitions"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_is_kept_in_kafka_and_read_back() {
    let kafka = shared();
    for (prefix, options) in [
        ("kept", options(&kafka, "kept")),
        ("kept-tx", transactional(&kafka, "kept-tx")),
    ] {
        let mut first = sink(options.clone());
        first.open(&shards()).await.unwrap();
        write(&mut first, 0, 12).await.unwrap();
        first.write(&[], &cursors(400)).await.unwrap();
        drop(first);
        let mut second = sink(options.clone());
        assert_eq!(
            second.open(&shards()).await.unwrap(),
            cursors(400),
            "{prefix}"
        );
        let mut other = options;
        other.sink = "other".into();
        assert_eq!(sink(other).open(&shards()).await.unwrap(), Cursors::new());
        assert_eq!(ids(&consume(&kafka, prefix, 12)), expected("s", 12));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_writer_is_fenced_off() {
    let kafka = shared();
    let mut old = sink(transactional(&kafka, "fenced"));
    old.open(&shards()).await.unwrap();
    write(&mut old, 0, 6).await.unwrap();
    let mut new = sink(transactional(&kafka, "fenced"));
    assert_eq!(new.open(&shards()).await.unwrap(), cursors(6));
    let refused = write(&mut old, 6, 30).await;
    assert!(matches!(refused, Err(SinkError::Retry(_))), "{refused:?}");
    write(&mut new, 6, 12).await.unwrap();
    assert_eq!(ids(&consume(&kafka, "fenced", 12)), expected("s", 12));
    assert_eq!(old.open(&shards()).await.unwrap(), cursors(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_calls_itself_chooses_no_topic() {
    let kafka = shared();
    let names = [
        "a:b",
        "/etc/passwd",
        "..",
        "__consumer_offsets",
        "'; --",
        "ünï😀",
    ];
    let long = "x".repeat(300);
    let names = [&names[..], &[&long]].concat();
    let batch: Vec<EventRecord> = (0..)
        .zip(&names)
        .map(|(offset, name)| {
            let mut record = record("s", offset * 3);
            if let Event::Position(position) = &mut record.event {
                position.device = (*name).to_owned();
            }
            record
        })
        .collect();
    let mut sink = sink(options(&kafka, "names"));
    sink.open(&shards()).await.unwrap();
    sink.write(&batch, &cursors(30)).await.unwrap();
    let keys: BTreeSet<String> = kafka
        .consume("names.positions", "read_committed", 7)
        .into_iter()
        .map(|record| record.key)
        .collect();
    assert_eq!(keys, names.iter().map(|&name| name.to_owned()).collect());
    let topics = kafka.java(
        "org.apache.kafka.tools.TopicCommand",
        &["--bootstrap-server", &kafka.servers(), "--list"],
    );
    let ours: Vec<&str> = topics
        .lines()
        .filter(|topic| topic.starts_with("names"))
        .collect();
    assert_eq!(ours, ["names.alerts", "names.cursors", "names.positions"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_topic_refuses_is_put_aside_and_holds_up_no_other() {
    let kafka = shared();
    for (prefix, options) in [
        ("dead", options(&kafka, "dead")),
        ("dead-tx", transactional(&kafka, "dead-tx")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sinks/lake.dead-letters.ndjson");
        let mut sink = KafkaSink::new(options, DeadLetters::new(&file));
        let mut batch = records("s", 0, 20);
        if let Event::Position(position) = &mut batch[4].event {
            let attrs = format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20));
            position.position.as_mut().unwrap().attrs_json = Some(attrs);
        }
        if let Event::Alert(alert) = &mut batch[8].event {
            alert.ts_ms = i64::MAX / 2;
        }
        if let Event::Alert(alert) = &mut batch[11].event {
            alert.ts_ms = -5;
        }
        sink.open(&shards()).await.unwrap();
        let confirmed = sink.write(&batch, &cursors(20)).await.unwrap();
        assert_eq!(confirmed.dead_letters, 3);
        let mut rest = expected("s", 20);
        rest.retain(|id| !["s-4", "s-8", "s-11"].contains(&&**id));
        assert_eq!(ids(&consume(&kafka, prefix, 17)), rest);
        let dead = std::fs::read_to_string(&file).unwrap();
        let dead: Vec<Value> = dead
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let offsets: Vec<u64> = dead.iter().map(|d| d["offset"].as_u64().unwrap()).collect();
        assert_eq!(offsets, [4, 8, 11]);
        assert_eq!(dead[1]["event"]["event_id"], "s-8");
        assert!(dead[0]["reason"].as_str().unwrap().contains("bytes"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_cursors_that_forgets_is_refused_with_words() {
    let kafka = shared();
    let servers = kafka.servers();
    kafka.java(
        "org.apache.kafka.tools.TopicCommand",
        &[
            "--bootstrap-server",
            &servers,
            "--create",
            "--topic",
            "forgets.cursors",
        ],
    );
    let Err(SinkError::Blocked(why)) = sink(options(&kafka, "forgets")).open(&shards()).await
    else {
        panic!("it was taken")
    };
    assert!(
        why.contains("forgets.cursors") && why.contains("cleanup.policy"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_values_read_back() {
    let kafka = shared();
    let mut options = options(&kafka, "protobuf");
    options.format = Format::Protobuf;
    let mut sink = sink(options);
    sink.open(&shards()).await.unwrap();
    write(&mut sink, 0, 1).await.unwrap();
    let consumed = kafka.consume_as(
        "protobuf.positions",
        "read_committed",
        1,
        "BytesDeserializer",
    );
    assert_eq!(consumed[0].header("content-type"), "application/x-protobuf");
    let mut bytes = Vec::new();
    let mut text = &*consumed[0].value;
    while let Some((plain, rest)) = text.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
        text = &rest[2..];
    }
    bytes.extend_from_slice(text.as_bytes());
    let Event::Position(position) = record("s", 0).event else {
        panic!("an alert stands here")
    };
    assert_eq!(EnrichedPosition::decode(&*bytes).unwrap(), position);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_yet_is_waited_for() {
    let mut kafka = tokio::task::block_in_place(Kafka::prepare);
    let logs = Logs::of([("s", 120)]);
    let mut options = options(&kafka, "late");
    options.timeout = Duration::from_secs(2);
    let pipeline = Pipeline::start("lake", sink(options), logs, quick());
    until(|| pipeline.status().state == SinkState::Retrying).await;
    assert!(pipeline.status().last_error.is_some());
    tokio::task::block_in_place(|| kafka.run());
    until(|| pipeline.status().lag.events == 0).await;
    assert_eq!(ids(&consume(&kafka, "late", 120)), expected("s", 120));
    pipeline.stop().await;
}

/// Kills and freezes the cluster while events flow; what a consumer has got in the end, and how many it should be.
async fn over_faults(prefix: &str, transactional: bool) -> (Vec<Consumed>, u64) {
    let mut kafka = tokio::task::block_in_place(Kafka::start);
    let mut options = options(&kafka, prefix);
    options.transactional = transactional;
    options.timeout = Duration::from_secs(4);
    let logs = Logs::of([("a", 0), ("b", 0)]);
    let mut patience = quick();
    patience.write_timeout = Duration::from_secs(5);
    let pipeline = Pipeline::start("lake", sink(options), Arc::clone(&logs), patience);
    let over = Arc::new(AtomicBool::new(false));
    let feeder = tokio::spawn({
        let (logs, over) = (Arc::clone(&logs), Arc::clone(&over));
        async move {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                logs.grow("a", 3);
                logs.grow("b", 2);
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            rounds
        }
    });
    until(|| pipeline.status().written > 100).await;
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(700 + 37 * round)).await;
        if round % 2 == 0 {
            tokio::task::block_in_place(|| {
                kafka.kill();
                kafka.run();
            });
        } else {
            // Longer than the sink's patience: what it gave up may still be carried out when the broker wakes.
            kafka.freeze();
            let failed = pipeline.status().failed;
            until(|| pipeline.status().failed > failed).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            kafka.thaw();
        }
        let written = pipeline.status().written;
        until(|| pipeline.status().written > written).await;
    }
    over.store(true, Ordering::Relaxed);
    let rounds: u64 = feeder.await.unwrap();
    until(|| pipeline.status().lag.events == 0).await;
    pipeline.stop().await;
    (consume(&kafka, prefix, 5 * rounds), rounds)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_transactions_every_event_is_there_once_and_in_order_over_kills_and_hangs() {
    let (consumed, rounds) = over_faults("once", true).await;
    let all = [expected("a", 3 * rounds), expected("b", 2 * rounds)].concat();
    assert_eq!(ids(&consumed), all);
    assert_order(&consumed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_no_event_is_missing_and_first_arrivals_are_in_order() {
    let (consumed, rounds) = over_faults("least", false).await;
    let mut there = ids(&consumed);
    there.dedup();
    let all = [expected("a", 3 * rounds), expected("b", 2 * rounds)].concat();
    assert_eq!(there, all);
    assert_order(&consumed);
}
