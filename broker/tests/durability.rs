//! What `kill -9` may not do to a promise, on the real binary.

mod support;
mod wire;

use rumqttc::QoS;
use rumqttc::mqttbytes::v4::Packet;
use support::Broker;
use wire::{Receiver, Wire};

/// Where in the flow of one QoS 2 message the broker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Publish,
    PubRec,
    PubRel,
    PubComp,
}

#[test]
fn a_qos_2_message_comes_once_wherever_in_its_flow_the_broker_is_killed_mqtt_4_3_3_1() {
    // PUBREL more often than the others: with it the client forgets the identifier that would tell it of a repetition.
    let moments = [
        Moment::PubRel,
        Moment::Publish,
        Moment::PubRel,
        Moment::PubRec,
        Moment::PubRel,
        Moment::PubComp,
        Moment::PubRel,
    ];
    let mut broker = Broker::start("");
    let mut receiver = Receiver::default();
    let mut subscriber = Wire::connect(broker.mqtt, "subscriber", false);
    subscriber.subscribe("t/#");
    let rounds = 2 * moments.len();
    for (round, moment) in moments.iter().cycle().take(rounds).enumerate() {
        let mut publisher = Wire::connect(broker.mqtt, "publisher", true);
        publisher.publish("t/1", QoS::ExactlyOnce, &round.to_string());
        let mut id = None;
        loop {
            let packet = subscriber.receive();
            let answer = receiver.take(&packet);
            let of_round = match &packet {
                Packet::Publish(publish) if publish.payload == round.to_string() => {
                    id = Some(publish.pkid);
                    true
                }
                Packet::PubRel(pubrel) => id == Some(pubrel.pkid),
                _ => false,
            };
            let is_publish = matches!(packet, Packet::Publish(_));
            let before = if is_publish {
                Moment::Publish
            } else {
                Moment::PubRel
            };
            let after = if is_publish {
                Moment::PubRec
            } else {
                Moment::PubComp
            };
            if of_round && *moment == before {
                break;
            }
            subscriber.send(&answer);
            if of_round && *moment == after {
                break;
            }
        }
        broker.kill_and_restart();
        subscriber = Wire::connect(broker.mqtt, "subscriber", false);
        assert!(subscriber.session_present, "the session survives");
    }
    let mut publisher = Wire::connect(broker.mqtt, "publisher", true);
    publisher.publish("t/1", QoS::ExactlyOnce, "end");
    receiver.take_until(&mut subscriber, |got| got.iter().any(|word| word == "end"));
    let numbers = (0..rounds).map(|round| round.to_string());
    let wanted: Vec<String> = numbers.chain(["end".to_owned()]).collect();
    assert_eq!(receiver.got, wanted, "each once, in order");
}

/// Wills of a round, in as many topics, so that they go to several shards.
const WILLS: usize = 8;

/// Everything that the wills' topics bring, each message as often as it comes.
struct Observer {
    receiver: Receiver,
    wire: Wire,
}

impl Observer {
    fn new(broker: &Broker) -> Observer {
        let mut wire = Wire::connect(broker.mqtt, "observer", false);
        wire.subscribe("will/#");
        Observer {
            receiver: Receiver::default(),
            wire,
        }
    }

    fn reconnect(&mut self, broker: &Broker) {
        self.wire = Wire::connect(broker.mqtt, "observer", false);
        assert!(self.wire.session_present, "the session survives");
    }

    fn wait_for_round(&mut self, round: usize) {
        for number in 0..WILLS {
            let wanted = will(round, number);
            self.receiver
                .take_until(&mut self.wire, |got| got.contains(&wanted));
        }
    }

    /// All that came before now, once everything that was still under way has come as well.
    fn finish(mut self, broker: &Broker) -> Vec<String> {
        // Wills go one after the other: behind this one there is none from before.
        drop(Wire::with_will(broker.mqtt, "last", "will/last", "last"));
        self.receiver
            .take_until(&mut self.wire, |got| got.iter().any(|word| word == "last"));
        // And each shard's messages come in their order.
        let mut publisher = Wire::connect(broker.mqtt, "publisher", true);
        for number in 0..WILLS {
            let end = format!("end {number}");
            publisher.publish(&format!("will/{number}"), QoS::ExactlyOnce, &end);
            self.receiver
                .take_until(&mut self.wire, |got| got.contains(&end));
        }
        let mut got = self.receiver.got;
        got.retain(|word| word.starts_with("will"));
        got.sort();
        got
    }
}

fn will(round: usize, number: usize) -> String {
    format!("will {round} {number}")
}

fn all_wills(rounds: usize) -> Vec<String> {
    let of_round = |round| (0..WILLS).map(move |number| will(round, number));
    let mut all: Vec<String> = (0..rounds).flat_map(of_round).collect();
    all.sort();
    all
}

/// Clients of which each leaves a will.
fn mortals(broker: &Broker, round: usize) -> Vec<Wire> {
    let mortal = |number| {
        let client_id = format!("mortal-{number}");
        let topic = format!("will/{number}");
        Wire::with_will(broker.mqtt, &client_id, &topic, &will(round, number))
    };
    (0..WILLS).map(mortal).collect()
}

#[test]
fn the_will_of_a_client_that_was_connected_when_the_broker_was_killed_comes_once_mqtt_3_1_2_8() {
    let mut broker = Broker::start("");
    let mut observer = Observer::new(&broker);
    let rounds = 5;
    for round in 0..rounds {
        let mortals = mortals(&broker, round);
        broker.kill_and_restart();
        drop(mortals);
        // Killed again while the wills are on their way, earlier and later.
        for again in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis((round * 3 + again) as u64));
            broker.kill_and_restart();
        }
        observer.reconnect(&broker);
        observer.wait_for_round(round);
    }
    assert_eq!(observer.finish(&broker), all_wills(rounds));
}

#[test]
fn a_will_that_was_published_does_not_come_again_after_a_kill_mqtt_3_1_2_8() {
    let mut broker = Broker::start("");
    let mut observer = Observer::new(&broker);
    let rounds = 5;
    for round in 0..rounds {
        drop(mortals(&broker, round));
        // Killed with all wills published, and earlier.
        if round % 2 == 0 {
            observer.wait_for_round(round);
        } else {
            std::thread::sleep(std::time::Duration::from_millis(round as u64));
        }
        broker.kill_and_restart();
        observer.reconnect(&broker);
        observer.wait_for_round(round);
    }
    assert_eq!(observer.finish(&broker), all_wills(rounds));
}

/// (oldest, next) offset of the event log that is longest.
fn events(broker: &Broker) -> (u64, u64) {
    let shards = broker.get("shards");
    let of_shard = |shard: &serde_json::Value| {
        let number = |name: &str| shard[name].as_u64().unwrap();
        (number("events_first"), number("events_next"))
    };
    let all = shards["data"].as_array().unwrap().iter().map(of_shard);
    all.max_by_key(|(_, next)| *next).unwrap()
}

/// Publishes `count` messages to one topic, and waits until the last one is owned by the broker.
fn fill(broker: &Broker, count: u16) {
    let mut publisher = Wire::connect(broker.mqtt, "publisher", true);
    publisher.publish_all("t/1", QoS::AtLeastOnce, (0..count).map(|_| "x".to_owned()));
}

/// Waits until an event log that has grown beyond `kept` is cut. Whether it was.
fn is_cut(broker: &Broker, kept: u64) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while std::time::Instant::now() < deadline {
        let (first, next) = events(broker);
        if next - first <= kept + kept / 8 {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    false
}

#[test]
fn the_event_log_is_bounded_though_a_persistent_session_wants_nothing_of_it() {
    let kept = 1000;
    let mut broker = Broker::start("[limits]\nmax_events = 1000\n");
    drop(Wire::connect(broker.mqtt, "wants nothing", false));
    fill(&broker, 1500);
    assert!(is_cut(&broker, kept), "{:?}", events(&broker));
    // A queue that wants something of another topic.
    let mut other = Wire::connect(broker.mqtt, "wants another topic", false);
    other.subscribe("other/#");
    fill(&broker, 1500);
    assert!(is_cut(&broker, kept), "{:?}", events(&broker));
    broker.kill_and_restart();
    fill(&broker, 1500);
    assert!(is_cut(&broker, kept), "{:?}", events(&broker));
}

#[test]
fn the_event_log_is_cut_only_behind_what_a_session_has_in_its_queue() {
    let mut broker = Broker::start("[limits]\nmax_events = 1000\nmax_queued = 5000\n");
    let mut receiver = Receiver::default();
    let mut subscriber = Wire::connect(broker.mqtt, "subscriber", false);
    subscriber.subscribe("t/#");
    drop(subscriber);
    let mut publisher = Wire::connect(broker.mqtt, "publisher", true);
    let wanted: Vec<String> = (0..1500).map(|number| number.to_string()).collect();
    publisher.publish_all("t/1", QoS::ExactlyOnce, wanted.clone());
    assert!(is_cut(&broker, 1000), "{:?}", events(&broker));
    broker.kill_and_restart();
    let mut subscriber = Wire::connect(broker.mqtt, "subscriber", false);
    receiver.take_until(&mut subscriber, |got| got.len() == 1500);
    assert_eq!(receiver.got, wanted);
}
