//! Real GPS traces over MQTT QoS 1, judged by an independent oracle: what a subscriber and the file sink get.
//!
//! `MERIDIAN_TRACES=austin_bus,austin_dups` replays others than the small ones; `make bench-traces` replays all.
#![allow(clippy::print_stdout, reason = "figures for who runs it by hand")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, Packet, QoS};
use serde_json::Value;
use support::{
    Broker, Cluster, Events, add_alert, differences, mqtt_options, publish_trace, read_trace,
};

/// Trace to its region and its fences.
fn fences_of(trace: &str) -> (&'static str, Vec<&'static str>) {
    match trace {
        "helsinki_quick" => ("hel", vec!["helsinki"]),
        "liverpool_bus" => ("liv", vec!["liverpool"]),
        "edge_synthetic" => ("syn", vec!["world"]),
        _ => (
            "atx",
            vec!["austin_neighborhoods", "texas", "austin_custom"],
        ),
    }
}

fn config(sink: bool) -> String {
    let sink = if sink {
        "[sinks.events]\ntype = \"file\"\npath = \"events.ndjson\"\nrotate_size = \"1MB\"\n"
    } else {
        ""
    };
    format!(
        "[sharding]\nregions = [\"hel\", \"liv\", \"syn\", \"atx\"]\n[limits]\nmax_queued = 60000\n\
         [geo]\nmax_silence = \"off\"\nmax_speed = \"off\"\n{sink}"
    )
}

/// Collects alerts by event id until told that there are no more to come, and then until it is quiet.
async fn subscribe(
    port: u16,
    done: Arc<AtomicBool>,
    subscribed: tokio::sync::oneshot::Sender<()>,
) -> BTreeMap<String, Value> {
    let (client, mut events) = AsyncClient::new(mqtt_options("subscriber", port), 100);
    client
        .subscribe("geo/+/+/alert/#", QoS::AtLeastOnce)
        .await
        .unwrap();
    let mut subscribed = Some(subscribed);
    let mut alerts = BTreeMap::new();
    let mut quiet_since = Instant::now();
    loop {
        match tokio::time::timeout(Duration::from_millis(100), events.poll()).await {
            Ok(Ok(Event::Incoming(Packet::SubAck(_)))) => {
                if let Some(subscribed) = subscribed.take() {
                    subscribed.send(()).unwrap();
                }
            }
            Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                let alert: Value = serde_json::from_slice(&publish.payload).unwrap();
                let id = alert["event_id"].as_str().unwrap().to_owned();
                if let Some(before) = alerts.insert(id, alert.clone()) {
                    assert_eq!(before, alert, "an event id names one event for ever");
                }
                quiet_since = Instant::now();
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) => {
                quiet_since = Instant::now();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(_)
                if done.load(Ordering::Relaxed)
                    && quiet_since.elapsed() > Duration::from_secs(3) =>
            {
                return alerts;
            }
            Err(_) => {}
        }
    }
}

/// What the file sink wrote, every line once.
fn sink_alerts(broker: &Broker) -> BTreeMap<String, Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline && broker.get("sinks")["data"][0]["lag_events"] != 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut seen = BTreeSet::new();
    let mut alerts = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(broker.folder.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("events.ndjson") && !name.contains("cursor")
    });
    assert!(!files.is_empty(), "the sink wrote a file");
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "no line is torn");
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let id = event["event_id"].as_str().unwrap().to_owned();
            assert!(seen.insert(id.clone()), "{id} stands in the file twice");
            if event["schema"] == "meridian.alert.v1" {
                alerts.insert(id, event);
            }
        }
    }
    alerts
}

fn judged(trace: &str, alerts: &BTreeMap<String, Value>, by: &str) -> usize {
    let mut events = Events::new();
    let mut count = 0;
    for alert in alerts.values() {
        let geofence = alert["type"].as_str().unwrap().starts_with("geofence");
        count += usize::from(geofence);
        assert_eq!(
            add_alert(&mut events, alert),
            geofence,
            "{by} of {trace}: the same crossing twice: {alert}"
        );
    }
    let wrong = differences(trace, &events);
    assert!(
        wrong.is_empty(),
        "{by} of {trace}: {} differences, such as {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(8)]
    );
    count
}

async fn replay(trace: &str, kills: usize) {
    let (region, fences) = fences_of(trace);
    let mut broker = Broker::start(&config(true));
    broker.put_fences(&fences);
    let done = Arc::new(AtomicBool::new(false));
    let (subscribed, in_place) = tokio::sync::oneshot::channel();
    let subscriber = tokio::spawn(subscribe(broker.mqtt, Arc::clone(&done), subscribed));
    in_place.await.unwrap();
    let begun = Instant::now();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let total = read_trace(trace).len();
    let publisher = tokio::spawn({
        let (trace, port, acknowledged) =
            (trace.to_owned(), broker.mqtt, Arc::clone(&acknowledged));
        async move { publish_trace(&trace, region, port, acknowledged).await }
    });
    for kill in 1..=kills {
        // Spread over the trace, not over time: fast machines are killed as often as slow ones.
        while acknowledged.load(Ordering::Relaxed) < total * kill / (kills + 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| broker.kill_and_restart());
    }
    publisher.await.unwrap();
    let took = begun.elapsed();
    done.store(true, Ordering::Relaxed);
    let received = subscriber.await.unwrap();
    let count = judged(trace, &received, "the subscriber's events");
    let written = tokio::task::block_in_place(|| sink_alerts(&broker));
    judged(trace, &written, "the sink's events");
    assert_eq!(
        received, written,
        "subscriber and sink have the same events"
    );
    println!(
        "{trace}: {total} fixes in {took:.1?} with {kills} kills, {count} geofence events: none missing, none unexpected"
    );
}

/// The same on three nodes, of which one after the other is killed: leaders, followers, and the one that the clients are
/// connected to.
async fn replay_in_cluster(trace: &str, kills: usize) {
    let (region, fences) = fences_of(trace);
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(3, &config(true)));
    cluster.nodes[2].put_fences(&fences);
    let done = Arc::new(AtomicBool::new(false));
    let (subscribed, in_place) = tokio::sync::oneshot::channel();
    let port = cluster.nodes[0].mqtt;
    let subscriber = tokio::spawn(subscribe(port, Arc::clone(&done), subscribed));
    in_place.await.unwrap();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let total = read_trace(trace).len();
    let publisher = tokio::spawn({
        let (trace, port, acknowledged) = (
            trace.to_owned(),
            cluster.nodes[1].mqtt,
            Arc::clone(&acknowledged),
        );
        async move { publish_trace(&trace, region, port, acknowledged).await }
    });
    for kill in 1..=kills {
        while acknowledged.load(Ordering::Relaxed) < total * kill / (kills + 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| {
            let of = kill % 3;
            let leader = cluster.leader_of(region, of);
            // Every other time whoever leads the shard of the trace.
            let victim = leader.filter(|_| kill % 2 == 0).unwrap_or(of);
            cluster.nodes[victim].kill();
            std::thread::sleep(Duration::from_millis(500));
            cluster.nodes[victim].restart();
            cluster.wait_until_whole();
        });
    }
    publisher.await.unwrap();
    done.store(true, Ordering::Relaxed);
    let received = subscriber.await.unwrap();
    let count = judged(trace, &received, "the subscriber's events");
    for (at, node) in cluster.nodes.iter().enumerate() {
        let written = tokio::task::block_in_place(|| sink_alerts(node));
        judged(
            trace,
            &written,
            &format!("the events of node {}'s sink", at + 1),
        );
        assert_eq!(
            received, written,
            "subscriber and sinks have the same events"
        );
    }
    println!(
        "{trace} on three nodes with {kills} kills, {count} geofence events: exactly the expected"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_nodes_during_a_replay_in_a_cluster_lose_and_repeat_no_event() {
    replay_in_cluster("helsinki_quick", 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_trace_gives_exactly_the_oracles_events() {
    let traces = std::env::var("MERIDIAN_TRACES")
        .unwrap_or_else(|_| "liverpool_bus,helsinki_quick,edge_synthetic".into());
    for trace in traces.split(',') {
        replay(trace, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_during_a_replay_lose_and_repeat_no_event() {
    replay("helsinki_quick", 10).await;
}
