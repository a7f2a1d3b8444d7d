//! The whole broker with sinks: what was acknowledged stands at the far side, whoever is killed or frozen meanwhile.

#[path = "../../sinks/tests/support/kafka.rs"]
mod kafka;
#[path = "../../sinks/tests/support/postgres.rs"]
mod postgres;
#[path = "../../sinks/tests/support/process.rs"]
mod process;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka::Kafka;
use postgres::Postgres;
use serde_json::Value;
use support::{Broker, Cluster, publish_trace, read_trace};

fn config(url: &str) -> String {
    format!(
        "[sharding]\nregions = [\"hel\"]\n[geo]\nmax_silence = \"off\"\n\
         [sinks.history]\ntype = \"timescale\"\nurl = \"{url}\"\ntimeout = \"2s\"\n\
         [sinks.audit]\ntype = \"file\"\npath = \"events.ndjson\"\n"
    )
}

fn wait_for_sinks(broker: &Broker, names: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let sinks = broker.get("sinks");
        let done = |name: &&str| {
            let sink = sinks["data"].as_array().unwrap().iter();
            let sink = sink.clone().find(|sink| sink["name"] == *name).unwrap();
            sink["lag_events"] == 0 && sink["state"] == "running"
        };
        if names.iter().all(done) {
            return;
        }
        assert!(Instant::now() < deadline, "{sinks:#} {}", broker.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The file sink's events by id; it has its own tests.
fn events_of_file(broker: &Broker) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(broker.folder.path().join("events.ndjson")).unwrap();
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        (event["event_id"].as_str().unwrap().to_owned(), event)
    };
    text.lines().map(event).collect()
}

/// Both tables hold exactly `events`, each once, and nothing was put aside.
fn assert_rows_are(postgres: &Postgres, events: &BTreeMap<String, Value>) {
    let rows = |table: &str, columns: &str| {
        let rows = postgres.query(&format!(
            "select event_id, device, (extract(epoch from time) * 1000)::bigint, {columns} \
                 from {table} order by event_id collate \"C\""
        ));
        rows.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = |schema: &str, columns: fn(&Value) -> String| {
        let of_schema = events.values().filter(|event| event["schema"] == schema);
        let row = |event: &Value| {
            let text = |key: &str| event[key].as_str().unwrap().to_owned();
            let (id, device) = (text("event_id"), text("device"));
            format!("{id}|{device}|{}|{}", event["ts"], columns(event))
        };
        of_schema.map(row).collect::<Vec<_>>()
    };
    let positions = rows("positions", "lat, lon");
    assert_eq!(
        positions,
        expected("meridian.position.v1", |event| format!(
            "{}|{}",
            event["lat"], event["lon"]
        ))
    );
    let alerts = rows("alerts", "type, coalesce(fence_id, '')");
    assert_eq!(
        alerts,
        expected("meridian.alert.v1", |event| {
            let fence = event["fence"]["id"].as_str().unwrap_or_default();
            format!("{}|{fence}", event["type"].as_str().unwrap())
        })
    );
    assert!(
        positions.len() > 100 && alerts.len() > 10,
        "{} positions, {} alerts",
        positions.len(),
        alerts.len()
    );
    assert_eq!(postgres.count("meridian_dead_letters"), 0);
}

/// Has `node` publish a fix of a device of its own, and waits for its row.
fn publish_until_written(node: &Broker, postgres: &Postgres, device: &str) {
    let fix = "{\"ts\":1700000000000,\"lat\":60.17,\"lon\":24.94}";
    let topic = format!("gps/hel/{device}/position");
    let body = serde_json::json!({ "topic": topic, "payload": fix, "qos": 1 }).to_string();
    let deadline = Instant::now() + Duration::from_secs(60);
    // Refused while nobody leads; then it is sent again.
    while let Err(error) = ureq::post(node.api("publish"))
        .header("Content-Type", "application/json")
        .send(&body)
    {
        assert!(Instant::now() < deadline, "{error}: {}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let row = format!("select count(*) from positions where device = '{device}'");
    while postgres.query(&row).trim() != "1" {
        assert!(
            Instant::now() < deadline,
            "{:#} {}",
            node.get("sinks"),
            node.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_of_a_shard_writes_it_to_a_shared_database() {
    let postgres = Postgres::start();
    let cluster = tokio::task::block_in_place(|| Cluster::start(3, &config(&postgres.url())));
    let standing = || {
        let history = cluster.nodes.iter().map(|node| {
            let history = node.get("sinks")["data"][1].clone();
            assert_eq!(history["name"], "history");
            (
                history["written"].as_u64().unwrap(),
                history["failed"].clone(),
            )
        });
        (cluster.leader_of("hel", 0), history.collect::<Vec<_>>())
    };
    tokio::task::block_in_place(|| {
        // Leads may still be spread at first; what counts is a round in which the lead stayed.
        for round in 0..10 {
            let (leader, before) = standing();
            for fix in 0..20 {
                let device = format!("device-{round}-{fix}");
                publish_until_written(&cluster.nodes[fix % 3], &postgres, &device);
            }
            let (still, after) = standing();
            let Some(leader) = leader.filter(|_| leader == still) else {
                continue;
            };
            for (node, (before, after)) in before.iter().zip(&after).enumerate() {
                if node == leader {
                    assert!(after.0 > before.0, "the leader writes: {after:?}");
                } else {
                    assert_eq!(before, after, "node {} does not even try", node + 1);
                }
            }
            return;
        }
        panic!("the lead changed in every round");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_event_log_exactly_while_the_leader_of_three_nodes_is_killed() {
    let postgres = Postgres::start();
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(3, &config(&postgres.url())));
    cluster.nodes[0].put_fences(&["helsinki"]);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let total = read_trace("helsinki_quick").len();
    let publisher = tokio::spawn({
        let (port, acknowledged) = (cluster.nodes[0].mqtt, Arc::clone(&acknowledged));
        async move { publish_trace("helsinki_quick", "hel", port, acknowledged).await }
    });
    for kill in 1..=2 {
        while acknowledged.load(Ordering::Relaxed) < total * kill / 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| {
            cluster.until("a leader", |cluster| cluster.leader_of("hel", 0).is_some());
            let victim = cluster.leader_of("hel", 0).unwrap();
            let other = (victim + 1) % 3;
            cluster.nodes[victim].kill();
            cluster.until("another leader", |cluster| {
                let leader = cluster.leader_of("hel", other);
                leader.is_some_and(|leader| leader != victim)
            });
            // Whoever leads now writes, while its predecessor is still away.
            let device = format!("after-kill-{kill}");
            publish_until_written(&cluster.nodes[other], &postgres, &device);
            cluster.nodes[victim].restart();
            cluster.wait_until_whole();
        });
    }
    publisher.await.unwrap();
    tokio::task::block_in_place(|| {
        cluster.until("all replicas in all files", |cluster| {
            let sinks = cluster.nodes.iter().map(|node| node.get("sinks"));
            let files: Vec<Value> = sinks.map(|sinks| sinks["data"][0].clone()).collect();
            assert!(files.iter().all(|sink| sink["name"] == "audit"));
            let done =
                |sink: &Value| sink["lag_events"] == 0 && sink["cursors"] == files[0]["cursors"];
            files.iter().all(done)
        });
        let events = events_of_file(&cluster.nodes[0]);
        for node in &cluster.nodes[1..] {
            assert_eq!(
                events_of_file(node),
                events,
                "replicas have the same events"
            );
        }
        cluster.until("as many rows as events", |_| {
            let rows = postgres.count("positions") + postgres.count("alerts");
            rows >= events.len() as u64
        });
        assert_rows_are(&postgres, &events);
        for node in &cluster.nodes {
            let history = node.get("sinks")["data"][1].clone();
            assert_eq!(history["name"], "history");
            assert_eq!(history["missed"], 0, "{history}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_event_log_exactly_while_broker_and_database_are_killed_and_frozen() {
    let mut postgres = Postgres::start();
    let mut broker = Broker::start(&config(&postgres.url()));
    broker.put_fences(&["helsinki"]);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let total = read_trace("helsinki_quick").len();
    let publisher = tokio::spawn({
        let (port, acknowledged) = (broker.mqtt, Arc::clone(&acknowledged));
        async move { publish_trace("helsinki_quick", "hel", port, acknowledged).await }
    });
    for fault in 1..=6 {
        while acknowledged.load(Ordering::Relaxed) < total * fault / 7 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| match fault % 3 {
            0 => broker.kill_and_restart(),
            1 => {
                postgres.kill();
                postgres.run();
            }
            _ => {
                postgres.freeze();
                // A database that hangs delays nobody who publishes.
                let before = acknowledged.load(Ordering::Relaxed);
                let deadline = Instant::now() + Duration::from_secs(30);
                while acknowledged.load(Ordering::Relaxed) < (before + 100).min(total) {
                    assert!(
                        Instant::now() < deadline,
                        "acknowledgements wait for a sink"
                    );
                    std::thread::sleep(Duration::from_millis(5));
                }
                broker.kill_and_restart();
                postgres.thaw();
            }
        });
    }
    publisher.await.unwrap();
    tokio::task::block_in_place(|| {
        wait_for_sinks(&broker, &["history", "audit"]);
        assert_rows_are(&postgres, &events_of_file(&broker));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sink_stays_paused_over_a_restart_and_goes_on_when_told() {
    let mut broker = Broker::start("[sinks.audit]\ntype = \"file\"\npath = \"events.ndjson\"\n");
    let meridian = |arguments: &[&str], broker: &Broker| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_meridian"))
            .args(arguments)
            .args(["--api", &format!("http://127.0.0.1:{}", broker.http)])
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let publish = |broker: &Broker, ts: u64, lon: f64| {
        let fix = format!("{{\"ts\":{ts},\"lat\":60.17,\"lon\":{lon}}}");
        let body = serde_json::json!({ "topic": "gps/hel/d/position", "payload": fix, "qos": 1 });
        ureq::post(broker.api("publish"))
            .header("Content-Type", "application/json")
            .send(body.to_string())
            .unwrap();
    };
    tokio::task::block_in_place(|| {
        assert_eq!(meridian(&["sink", "pause", "audit"], &broker).0, Some(0));
        let (refused, _, why) = meridian(&["sink", "pause", "nobody"], &broker);
        assert!(refused == Some(1) && why.contains("nobody"), "{why}");
        publish(&broker, 1_700_000_000_000, 24.0);
        broker.kill_and_restart();
        publish(&broker, 1_700_100_000_000, 24.5);
        let sink = broker.get("sinks")["data"][0].clone();
        assert_eq!(
            (&sink["state"], &sink["type"], &sink["written"]),
            (&"paused".into(), &"file".into(), &0.into()),
            "{sink}"
        );
        assert!(
            sink["lag_events"].as_u64().unwrap() >= 2
                && sink["lag_seconds"].as_f64().unwrap() > 0.0,
            "{sink}"
        );
        let (_, list, _) = meridian(&["sink", "list"], &broker);
        assert!(list.contains("audit\tfile\tpaused"), "{list}");
        assert_eq!(meridian(&["sink", "resume", "audit"], &broker).0, Some(0));
        wait_for_sinks(&broker, &["audit"]);
        assert_eq!(events_of_file(&broker).len(), 2);
        // The gauge is set each second.
        let deadline = Instant::now() + Duration::from_secs(20);
        let wanted = [
            "meridian_sink_lag_events{sink=\"audit\"} 0",
            "meridian_sink_written_total{sink=\"audit\"} 2",
        ];
        loop {
            let metrics = ureq::get(format!("http://127.0.0.1:{}/metrics", broker.http)).call();
            let metrics = metrics.unwrap().body_mut().read_to_string().unwrap();
            if wanted.iter().all(|line| metrics.contains(line)) {
                break;
            }
            assert!(Instant::now() < deadline, "{metrics}");
            std::thread::sleep(Duration::from_millis(100));
        }
        broker.kill_and_restart();
        assert_eq!(broker.get("sinks")["data"][0]["state"], "running");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_keeps_no_broker_from_starting() {
    let mut postgres = Postgres::prepare();
    let mut broker = Broker::start(&config(&postgres.url()));
    tokio::task::block_in_place(|| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let sinks = broker.get("sinks");
            let sink = &sinks["data"][1];
            if sink["state"] == "retrying" && sink["last_error"].is_string() {
                break;
            }
            assert!(Instant::now() < deadline, "{sinks:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        postgres.run();
        broker.kill_and_restart();
        wait_for_sinks(&broker, &["history", "audit"]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transactional_topic_is_the_event_log_exactly_while_the_broker_is_killed() {
    let kafka = tokio::task::block_in_place(Kafka::start);
    let mut broker = Broker::start(&format!(
        "[sharding]\nregions = [\"hel\"]\n[geo]\nmax_silence = \"off\"\n\
         [sinks.lake]\ntype = \"kafka\"\nbootstrap_servers = \"{}\"\ntransactional = true\nbatch_max = 50\n\
         [sinks.audit]\ntype = \"file\"\npath = \"events.ndjson\"\n",
        kafka.servers()
    ));
    broker.put_fences(&["helsinki"]);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let total = read_trace("helsinki_quick").len();
    let publisher = tokio::spawn({
        let (port, acknowledged) = (broker.mqtt, Arc::clone(&acknowledged));
        async move { publish_trace("helsinki_quick", "hel", port, acknowledged).await }
    });
    for kill in 1..=4 {
        while acknowledged.load(Ordering::Relaxed) < total * kill / 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| broker.kill_and_restart());
    }
    publisher.await.unwrap();
    tokio::task::block_in_place(|| {
        wait_for_sinks(&broker, &["lake", "audit"]);
        let mut events: Vec<String> = events_of_file(&broker).into_keys().collect();
        let mut consumed: Vec<String> = Vec::new();
        for record in kafka.consume(
            "meridian\\.(positions|alerts)",
            "read_committed",
            events.len(),
        ) {
            let value: Value = serde_json::from_str(&record.value).unwrap();
            assert_eq!(value["event_id"], record.header("event-id"));
            assert_eq!(record.time, format!("CreateTime:{}", value["ts"]));
            consumed.push(record.header("event-id").to_owned());
        }
        events.sort();
        consumed.sort();
        assert_eq!(consumed, events);
        assert!(events.len() > 100);
    });
}
