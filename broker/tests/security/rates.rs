//! Who publishes too fast is slowed down, and loses nothing.

use std::time::{Duration, Instant};

use meridian_mqtt::packet::{QoS, Version};
use meridian_mqtt::reason::ReasonCode;

use crate::support::Broker;
use crate::support::client::{Client, Heard, Login};

fn connected(broker: &Broker, id: &str, keep_alive_s: u16) -> Client {
    let mut client = Client::tcp(broker.mqtt, Version::V5);
    let login = Login {
        keep_alive_s,
        ..Login::new(id)
    };
    assert_eq!(client.login(login).reason, ReasonCode::Success);
    client
}

/// S47: 100 at once and 50 a second, so 250 take 3 seconds; that the broker is no slower is not looked at.
#[test]
fn s47_a_publisher_above_its_rate_is_slowed_and_nothing_of_it_is_lost() {
    let broker = Broker::start("[limits]\npublish_rate = \"50/s\"\n");
    let mut reader = connected(&broker, "reader", 60);
    reader.subscribe(&["#"], QoS::AtLeastOnce);
    let mut fast = connected(&broker, "fast", 60);
    let began = Instant::now();
    for number in 0..250 {
        fast.send("flood", &number.to_string()).unwrap();
    }
    // A neighbour has a bucket of its own, and does not wait behind the flood.
    let mut neighbour = connected(&broker, "neighbour", 60);
    assert_eq!(
        neighbour.publish("calm", "", QoS::AtLeastOnce),
        ReasonCode::Success
    );
    let got = reader.messages(Duration::from_secs(3));
    let calm = got.iter().position(|(topic, _)| topic == "calm").unwrap();
    assert!(calm < 200, "it came as number {calm}");
    let flood: Vec<&str> = got
        .iter()
        .filter(|(topic, _)| topic == "flood")
        .map(|(_, payload)| payload.as_str())
        .collect();
    let all: Vec<String> = (0..250).map(|number| number.to_string()).collect();
    assert_eq!(flood, all);
    assert!(
        began.elapsed() >= Duration::from_millis(2900 + 3000 - 100),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn s47_a_rate_of_bytes_counts_whole_packets_and_each_is_acknowledged() {
    let broker = Broker::start("[limits]\npublish_bytes_rate = \"64KB/s\"\n");
    let mut fast = connected(&broker, "fast", 60);
    let payload = "x".repeat(65_536);
    let began = Instant::now();
    for _ in 0..5 {
        assert!(!fast.publish("t", &payload, QoS::AtLeastOnce).is_error());
    }
    assert!(
        began.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        began.elapsed()
    );
}

/// What the broker does not read, it does not count as silence: keep alive is 1 s here, and the hold is 6 s.
#[test]
fn s47_a_client_that_is_held_back_is_not_taken_for_silent() {
    let broker = Broker::start("[limits]\npublish_bytes_rate = \"8KB/s\"\n");
    let mut held = connected(&broker, "held", 1);
    held.send("t", &"x".repeat(65_536)).unwrap();
    assert_eq!(held.hear(Duration::from_secs(4)), Heard::Nothing);
    assert!(!held.publish("t", "after", QoS::AtLeastOnce).is_error());
    // From now on it is silent by itself.
    assert_eq!(
        held.farewell(Duration::from_secs(5)),
        Some(Some(ReasonCode::KeepAliveTimeout))
    );
}
