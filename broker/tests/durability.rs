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
