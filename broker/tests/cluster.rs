//! Three real nodes on loopback, with kills: what a client may rely on wherever it is connected.

mod support;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::v4::Packet as WirePacket;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use support::{Broker, Cluster};
use wire::{Receiver, Wire};

const CONFIG: &str = "[sharding]\nregions = [\"hel\"]\ndefault_shards = 2\n";

/// The payloads of what comes until `last`.
fn take_until(wire: &mut Wire, last: &str) -> Vec<String> {
    let mut got = Vec::new();
    while got.last().is_none_or(|word| word != last) {
        if let WirePacket::Publish(publish) = wire.receive() {
            if publish.qos == QoS::AtLeastOnce {
                let ack = rumqttc::mqttbytes::v4::PubAck::new(publish.pkid);
                wire.send(&WirePacket::PubAck(ack));
            }
            got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
        }
    }
    got
}

#[test]
fn a_message_reaches_the_subscribers_of_every_node_once() {
    let cluster = Cluster::start(3, CONFIG);
    let mut receivers: Vec<(Wire, Receiver)> = cluster
        .nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let mut wire = Wire::connect(node.mqtt, &format!("subscriber-{at}"), true);
            wire.subscribe("t/#");
            (wire, Receiver::default())
        })
        .collect();
    let mut sent = Vec::new();
    for (at, node) in cluster.nodes.iter().enumerate() {
        let mut publisher = Wire::connect(node.mqtt, &format!("publisher-{at}"), true);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for topic in 0..8 {
                let payload = format!("{at} {qos:?} {topic}");
                publisher.publish(&format!("t/{topic}"), qos, &payload);
                sent.push(payload);
            }
        }
    }
    sent.sort();
    for (wire, receiver) in &mut receivers {
        receiver.take_until(wire, |got| got.len() >= sent.len());
        let mut got = receiver.got.clone();
        got.sort();
        assert_eq!(got, sent);
    }
    // At QoS 0 as well, though nothing of it stands in a log.
    let mut publisher = Wire::connect(cluster.nodes[1].mqtt, "publisher", true);
    let mut publish = rumqttc::mqttbytes::v4::Publish::new("t/0", QoS::AtMostOnce, "zero");
    publish.pkid = 0;
    publisher.send(&WirePacket::Publish(publish));
    for (wire, _) in &mut receivers {
        assert_eq!(take_until(wire, "zero"), ["zero"]);
    }
}

#[test]
fn a_client_id_has_one_connection_in_the_whole_cluster_mqtt_3_1_4_3() {
    let cluster = Cluster::start(3, CONFIG);
    for clean in [true, false] {
        let mut first = Wire::connect(cluster.nodes[0].mqtt, "the-one", clean);
        let second = Wire::connect(cluster.nodes[2].mqtt, "the-one", clean);
        assert!(first.is_closed(), "clean session: {clean}");
        if !clean {
            cluster.until("node 2 to know that the client is on node 3", |cluster| {
                let clients = cluster.nodes[1].get("clients");
                let clients = clients["data"].as_array().unwrap();
                let of_it = clients
                    .iter()
                    .filter(|client| client["client_id"] == "the-one");
                of_it.map(|client| client["node"].as_u64()).eq([Some(3)])
            });
        }
        drop(second);
    }
}

#[test]
fn a_persistent_session_survives_its_node_with_all_that_was_queued() {
    let mut cluster = Cluster::start(3, CONFIG);
    let mut subscriber = Wire::connect(cluster.nodes[0].mqtt, "subscriber", false);
    subscriber.subscribe("q/#");
    drop(subscriber);
    let mut publisher = Wire::connect(cluster.nodes[1].mqtt, "publisher", true);
    let words = |from: usize, to: usize| (from..to).map(|number| number.to_string());
    publisher.publish_all("q/a", QoS::ExactlyOnce, words(0, 200));
    cluster.nodes[0].kill();
    publisher.publish_all("q/a", QoS::ExactlyOnce, words(200, 400));
    let mut subscriber = Wire::connect(cluster.nodes[2].mqtt, "subscriber", false);
    assert!(subscriber.session_present);
    let mut receiver = Receiver::default();
    publisher.publish_all("q/a", QoS::ExactlyOnce, words(400, 450));
    receiver.take_until(&mut subscriber, |got| got.len() >= 450);
    let wanted: Vec<String> = words(0, 450).collect();
    assert_eq!(receiver.got, wanted, "each once, in order");
    // And the node comes back to what it missed.
    cluster.nodes[0].restart();
    cluster.wait_until_whole();
    let back = Wire::connect(cluster.nodes[0].mqtt, "subscriber", false);
    assert!(back.session_present);
    assert!(subscriber.is_closed());
}

#[test]
fn the_last_retained_message_is_read_on_every_node_and_after_a_kill() {
    let mut cluster = Cluster::start(3, CONFIG);
    let mut publisher = Wire::connect(cluster.nodes[1].mqtt, "publisher", true);
    for topic in 0..10 {
        for value in ["old", "new"] {
            let mut publish =
                rumqttc::mqttbytes::v4::Publish::new(format!("r/{topic}"), QoS::AtLeastOnce, value);
            publish.retain = true;
            publish.pkid = 1;
            publisher.send(&WirePacket::Publish(publish));
            assert!(matches!(publisher.receive(), WirePacket::PubAck(_)));
        }
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    cluster.wait_until_whole();
    for node in &cluster.nodes {
        let mut reader = Wire::connect(node.mqtt, "reader", true);
        reader.subscribe("r/#");
        let mut receiver = Receiver::default();
        receiver.take_until(&mut reader, |got| got.len() >= 10);
        assert_eq!(receiver.got, vec!["new"; 10]);
    }
}

#[test]
fn the_will_of_a_client_whose_node_was_killed_comes_once_mqtt_3_1_2_8() {
    let mut cluster = Cluster::start(3, CONFIG);
    let mut observer = Wire::connect(cluster.nodes[2].mqtt, "observer", false);
    observer.subscribe("will/#");
    let mortals: Vec<Wire> = (0..5)
        .map(|number| {
            let (id, topic) = (format!("mortal-{number}"), format!("will/{number}"));
            Wire::with_will(
                cluster.nodes[0].mqtt,
                &id,
                &topic,
                &format!("will {number}"),
            )
        })
        .collect();
    cluster.nodes[0].kill();
    drop(mortals);
    let mut receiver = Receiver::default();
    receiver.take_until(&mut observer, |got| got.len() >= 5);
    cluster.nodes[0].restart();
    cluster.wait_until_whole();
    let mut publisher = Wire::connect(cluster.nodes[0].mqtt, "publisher", true);
    for number in 0..5 {
        publisher.publish(&format!("will/{number}"), QoS::ExactlyOnce, "end");
    }
    receiver.take_until(&mut observer, |got| got.len() >= 10);
    let mut got = receiver.got;
    got.retain(|word| word != "end");
    got.sort();
    assert_eq!(got, ["will 0", "will 1", "will 2", "will 3", "will 4"]);
}

#[test]
fn one_member_of_a_shared_subscription_gets_a_message_wherever_they_are_connected() {
    let cluster = Cluster::start(3, CONFIG);
    let mut members: Vec<Wire> = cluster
        .nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let mut wire = Wire::connect(node.mqtt, &format!("member-{at}"), true);
            wire.subscribe("$share/g/s/#");
            wire
        })
        .collect();
    // Everybody must know of everybody.
    std::thread::sleep(Duration::from_millis(500));
    let mut publisher = Wire::connect(cluster.nodes[1].mqtt, "publisher", true);
    let words = (0..300).map(|number| number.to_string());
    publisher.publish_all("s/a", QoS::AtLeastOnce, words);
    let mut got: BTreeMap<String, usize> = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while got.len() < 300 && Instant::now() < deadline {
        for (at, member) in members.iter_mut().enumerate() {
            for word in member.take_ready() {
                assert_eq!(got.insert(word.clone(), at), None, "{word} came twice");
            }
        }
    }
    assert_eq!(got.len(), 300);
    for at in 0..3 {
        let count = got.values().filter(|member| **member == at).count();
        assert!(count > 50, "member {at} got {count} of 300");
    }
}

/// Publishes numbers in order until told to stop; what was acknowledged counts.
async fn publish_numbers(port: u16, upto: usize, acknowledged: Arc<AtomicUsize>) {
    let mut options = MqttOptions::new("numbers", "127.0.0.1", port);
    options
        .set_clean_session(false)
        .set_inflight(20)
        .set_keep_alive(Duration::from_secs(20));
    let (client, mut events) = AsyncClient::new(options, 20);
    let feeder = tokio::spawn(async move {
        for number in 0..upto {
            let published = client.publish("n/a", QoS::AtLeastOnce, false, number.to_string());
            published.await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client
    });
    let mut done = 0;
    while done < upto {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                done += 1;
                acknowledged.store(done, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    feeder.await.unwrap();
}

#[test]
fn kills_of_the_leader_lose_and_repeat_nothing_for_a_live_subscriber_elsewhere() {
    let mut cluster = Cluster::start(3, CONFIG);
    let shards = cluster.nodes[0].get("shards");
    assert!(shards["data"].as_array().unwrap().len() == 3);
    let mut subscriber = Wire::connect(cluster.nodes[0].mqtt, "subscriber", true);
    subscriber.subscribe("n/#");
    let upto = 3000;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let port = cluster.nodes[0].mqtt;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let publisher = runtime.spawn(publish_numbers(port, upto, Arc::clone(&acknowledged)));
    let killer = std::thread::spawn({
        let acknowledged = Arc::clone(&acknowledged);
        move || {
            for kill in 1..=4 {
                while acknowledged.load(Ordering::Relaxed) < upto * kill / 5 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // Node 1 stays, for the clients are connected to it; of the others, the one that leads most.
                let victim = 1 + kill % 2;
                cluster.nodes[victim].kill();
                std::thread::sleep(Duration::from_millis(300));
                cluster.nodes[victim].restart();
                cluster.wait_until_whole();
            }
            cluster
        }
    });
    let mut receiver = Receiver::default();
    receiver.take_until(&mut subscriber, |got| {
        got.last()
            .is_some_and(|last| *last == (upto - 1).to_string())
    });
    let cluster = killer.join().unwrap();
    runtime.block_on(publisher).unwrap();
    let got: Vec<usize> = receiver
        .got
        .iter()
        .map(|word| word.parse().unwrap())
        .collect();
    let known: BTreeSet<usize> = got.iter().copied().collect();
    assert_eq!(known.len(), upto, "nothing acknowledged is lost");
    assert_eq!(
        got.len(),
        upto,
        "and nothing comes twice to who stayed connected"
    );
    assert!(got.is_sorted(), "in order");
    drop(cluster);
}

#[test]
fn a_minority_acknowledges_nothing_and_says_that_it_is_not_ready() {
    let mut cluster = Cluster::start(3, CONFIG);
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let alone = &cluster.nodes[0];
    let deadline = Instant::now() + Duration::from_secs(20);
    while ureq::get(format!("http://127.0.0.1:{}/readyz", alone.http))
        .call()
        .is_ok()
    {
        assert!(Instant::now() < deadline, "it should know by now");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        ureq::get(format!("http://127.0.0.1:{}/healthz", alone.http))
            .call()
            .is_ok()
    );
    cluster.nodes[1].restart();
    alone_again(&cluster.nodes[0]);
    let mut publisher = Wire::connect(cluster.nodes[0].mqtt, "publisher", true);
    publisher.publish("t", QoS::AtLeastOnce, "served again");
}

fn alone_again(node: &Broker) {
    node.wait_until_ready();
}

#[test]
fn a_node_is_drained_leaves_and_its_number_is_not_used_again() {
    let mut cluster = Cluster::start(4, CONFIG);
    assert_eq!(cluster.nodes[1].post("nodes/4/drain"), 202);
    cluster.until("node 4 to lead nothing", |cluster| {
        cluster.leads(0).values().all(|leader| *leader != 4)
    });
    assert_eq!(cluster.nodes[1].post("nodes/4/leave"), 202);
    cluster.until("node 4 to be out", |cluster| {
        let nodes = cluster.nodes[0].get("nodes");
        nodes["data"]
            .as_array()
            .unwrap()
            .iter()
            .all(|node| node["id"] != 4)
    });
    cluster.nodes[3].kill();
    cluster.nodes.pop();
    cluster.wait_until_whole();
    // A dead node is struck out, and the rest serves on.
    cluster.nodes[2].kill();
    cluster.until("node 3 to be missed", |cluster| {
        cluster.nodes[0].post("nodes/3/evict") == 202
    });
    cluster.until("node 3 to be out", |cluster| {
        let nodes = cluster.nodes[1].get("nodes");
        nodes["data"].as_array().unwrap().len() == 2
    });
    cluster.nodes.pop();
    cluster.wait_until_whole();
    let mut publisher = Wire::connect(cluster.nodes[1].mqtt, "publisher", true);
    publisher.publish("t", QoS::AtLeastOnce, "served");
}
