//! The codec against two that are not ours: rmqtt-codec and mqttbytes read what we write, and we read what they write
//! of it. Where they differ from us on purpose, the frame and the statement that decides it stand in a list below; each
//! entry is a test that fails as soon as the disagreement is gone.

mod frame;
mod packets;

use bytes::BytesMut;
use frame::Reader::{Client, Fresh, Server};
use frame::{Reader, bytes, decode, decode_byte_by_byte};
use meridian_mqtt::codec::{PACKET_BYTES_MAX, encode};
use meridian_mqtt::packet::Version::{V5, V311};
use meridian_mqtt::packet::{Packet, Version};
use proptest::prelude::*;
use tokio_util::codec::{Decoder as _, Encoder as _};

type Disagreement = (Reader, &'static str, &'static str);

/// Illegal frames that rmqtt-codec 0.3.1 accepts. What is in here is refused by us for no other rules than these.
const RMQTT_ACCEPTS: &[Disagreement] = &[
    (
        Server(V5),
        "f0 01 00",
        "a reason of AUTH needs a property length [§3.15.2.1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 22 003c 00 'c'",
        "will retain without a will [MQTT-3.1.2-13]",
    ),
    (Server(V311), "38 L 'a'", "dup with qos 0 [MQTT-3.3.1-2]"),
    (Server(V5), "c0 80 00", "a padded length [MQTT-1.5.5-1]"),
    (
        Server(V5),
        "10 L 'MQTT' 05 02 003c 00 'c'",
        "there is no second connect [MQTT-3.1.0-2]",
    ),
    (
        Server(V5),
        "20 03 00 00 00",
        "a client sends no connack [table 2.1]",
    ),
    (
        Server(V311),
        "90 03 0001 00",
        "a client sends no suback [table 2.1]",
    ),
    (
        Server(V311),
        "b0 02 0001",
        "a client sends no unsuback [table 2.1]",
    ),
    (
        Server(V5),
        "d0 00",
        "a client sends no pingresp [table 2.1]",
    ),
    (
        Fresh,
        "40 02 00 01",
        "a client does not open with connack [table 2.1]",
    ),
    (
        Client(V5),
        "82 L 0001 00 'a' 00",
        "a server sends no subscribe [table 2.1]",
    ),
    (
        Client(V311),
        "e0 00",
        "a v311 server sends no disconnect [table 2.1]",
    ),
    (
        Fresh,
        "10 L 'MQIsdp' 03 02 003c 'c'",
        "mqtt 3 1 is not served [MQTT-3.1.2-2]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 0a 003c 00 'c'",
        "will qos without a will [MQTT-3.1.2-11]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 04 42 003c 'c' 'p'",
        "a password without a user name [MQTT-3.1.2-22 v3.1.1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 00 0002 6100",
        "a client identifier with u0000 [MQTT-1.5.4-2]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 06 003c 00 'c' 00 'w/#' 'p'",
        "a wildcard in the will topic [MQTT-4.7.1-1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 06 003c 00 'c' 00 '' 'p'",
        "an empty will topic [MQTT-4.7.3-1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 00 'c' 00",
        "bytes behind connect [§2.1.4]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 04 16 'd' 'c'",
        "authentication data without a method [§3.1.2.11.10]",
    ),
    (
        Client(V5),
        "20 03 01 87 00",
        "session present on a refusal [MQTT-3.2.2-6]",
    ),
    (
        Client(V311),
        "20 02 00 06",
        "a reserved return code v311 [table 3.1]",
    ),
    (
        Client(V5),
        "20 05 00 00 02 24 02",
        "a maximum qos of two [§3.2.2.3.4]",
    ),
    (
        Server(V5),
        "30 L '' 00 70",
        "an empty topic without an alias [§3.3.2.1]",
    ),
    (
        Server(V5),
        "30 L 'a/#' 00",
        "a wildcard in a topic [MQTT-3.3.2-2]",
    ),
    (
        Server(V311),
        "30 L 0003 610062",
        "u0000 in a topic [MQTT-1.5.4-2]",
    ),
    (
        Server(V5),
        "30 L 'a' 8000",
        "a padded property length [MQTT-1.5.5-1]",
    ),
    (
        Server(V5),
        "30 L 'a' 02 0b 01",
        "a subscription identifier from a client [MQTT-3.3.4-6]",
    ),
    (
        Server(V5),
        "30 L 'a' 06 08 'r/+'",
        "a wildcard in the response topic [MQTT-3.3.2-14]",
    ),
    (
        Server(V311),
        "82 L 0001 'a' 04",
        "reserved option bits [MQTT-3.8.3-4 v3.1.1]",
    ),
    (
        Server(V5),
        "82 L 0001 00 '$share/g/a' 04",
        "no local on a shared subscription [MQTT-3.8.3-4]",
    ),
    (
        Server(V5),
        "82 L 0001 00 0003 610062 00",
        "u0000 in a filter [MQTT-1.5.4-2]",
    ),
    (
        Client(V311),
        "90 02 0001",
        "a suback without a code [MQTT-3.8.4-5]",
    ),
    (Server(V5), "c0 01 00", "a pingreq with a body [§3.12]"),
    (
        Server(V311),
        "e0 01 00",
        "a disconnect v311 with a body [§3.14]",
    ),
    (
        Server(V5),
        "e0 01 8b",
        "a disconnect reason of servers [MQTT-3.14.2-1]",
    ),
    (
        Client(V5),
        "e0 07 00 05 11 00000000",
        "a session expiry from the server [MQTT-3.14.2-2]",
    ),
    (
        Server(V5),
        "e0 L 00 04 1c 's'",
        "a server reference from a client [§3.14.2.2.5]",
    ),
    (
        Server(V5),
        "f0 02 18 00",
        "an auth without a method [§3.15.2.2.2]",
    ),
];

/// Illegal frames that mqttbytes 0.6.0 accepts.
const MQTTBYTES_ACCEPTS: &[Disagreement] = &[
    (
        Fresh,
        "11 L 'MQTT' 04 02 003c 'c'",
        "flags of connect are zero [MQTT-2.1.3-1]",
    ),
    (
        Server(V5),
        "41 02 0001",
        "flags of puback are zero [MQTT-2.1.3-1]",
    ),
    (
        Server(V5),
        "60 02 0001",
        "flags of pubrel are two [MQTT-3.6.1-1]",
    ),
    (
        Server(V5),
        "80 L 0001 00 'a' 00",
        "flags of subscribe are two [MQTT-3.8.1-1]",
    ),
    (
        Server(V311),
        "a0 L 0001 'a'",
        "flags of unsubscribe are two [MQTT-3.10.1-1]",
    ),
    (
        Server(V311),
        "c1 00",
        "flags of pingreq are zero [MQTT-2.1.3-1]",
    ),
    (Server(V311), "38 L 'a'", "dup with qos 0 [MQTT-3.3.1-2]"),
    (Server(V5), "c0 80 00", "a padded length [MQTT-1.5.5-1]"),
    (
        Fresh,
        "10 8e 00 'MQTT' 05 02 003c 00 'c'",
        "a padded length of a v5 connect [MQTT-1.5.5-1]",
    ),
    (
        Server(V5),
        "10 L 'MQTT' 05 02 003c 00 'c'",
        "there is no second connect [MQTT-3.1.0-2]",
    ),
    (
        Server(V5),
        "20 03 00 00 00",
        "a client sends no connack [table 2.1]",
    ),
    (
        Server(V311),
        "90 03 0001 00",
        "a client sends no suback [table 2.1]",
    ),
    (
        Server(V311),
        "b0 02 0001",
        "a client sends no unsuback [table 2.1]",
    ),
    (
        Server(V5),
        "d0 00",
        "a client sends no pingresp [table 2.1]",
    ),
    (
        Fresh,
        "40 02 00 01",
        "a client does not open with connack [table 2.1]",
    ),
    (
        Client(V5),
        "82 L 0001 00 'a' 00",
        "a server sends no subscribe [table 2.1]",
    ),
    (
        Client(V311),
        "e0 00",
        "a v311 server sends no disconnect [table 2.1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 03 003c 00 'c'",
        "the reserved connect flag is zero [MQTT-3.1.2-3]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 04 42 003c 'c' 'p'",
        "a password without a user name [MQTT-3.1.2-22 v3.1.1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 04 00 003c ''",
        "an empty client identifier keeps no session [MQTT-3.1.3-8 v3.1.1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 00 0002 6100",
        "a client identifier with u0000 [MQTT-1.5.4-2]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 06 003c 00 'c' 00 'w/#' 'p'",
        "a wildcard in the will topic [MQTT-4.7.1-1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 06 003c 00 'c' 00 '' 'p'",
        "an empty will topic [MQTT-4.7.3-1]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 00 'c' 00",
        "bytes behind connect [§2.1.4]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 03 21 0000 'c'",
        "a receive maximum of zero [§3.1.2.11.3]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 05 27 00000000 'c'",
        "a maximum packet size of zero [§3.1.2.11.4]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 02 17 02 'c'",
        "request problem information above one [§3.1.2.11.7]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 02 19 02 'c'",
        "request response information above one [§3.1.2.11.6]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 0a 11 00000001 11 00000001 'c'",
        "session expiry twice [§3.1.2.11.2]",
    ),
    (
        Fresh,
        "10 L 'MQTT' 05 02 003c 04 16 'd' 'c'",
        "authentication data without a method [§3.1.2.11.10]",
    ),
    (
        Client(V311),
        "20 02 02 00",
        "reserved acknowledge flags [MQTT-3.2.2-1]",
    ),
    (
        Client(V5),
        "20 03 01 87 00",
        "session present on a refusal [MQTT-3.2.2-6]",
    ),
    (
        Client(V5),
        "20 05 00 00 02 24 02",
        "a maximum qos of two [§3.2.2.3.4]",
    ),
    (
        Server(V5),
        "30 L '' 00 70",
        "an empty topic without an alias [§3.3.2.1]",
    ),
    (
        Server(V311),
        "30 L '' 70",
        "an empty topic [MQTT-4.7.3-1 v3.1.1]",
    ),
    (
        Server(V5),
        "30 L 'a/#' 00",
        "a wildcard in a topic [MQTT-3.3.2-2]",
    ),
    (
        Server(V311),
        "30 L 0003 610062",
        "u0000 in a topic [MQTT-1.5.4-2]",
    ),
    (
        Server(V5),
        "30 L 'a' 02 03 'abc'",
        "a property past the property length [§2.2.2.1]",
    ),
    (
        Server(V5),
        "30 L 'a' 8000",
        "a padded property length [MQTT-1.5.5-1]",
    ),
    (
        Server(V5),
        "30 L 'a' 02 01 02",
        "a payload format above one [§3.3.2.3.2]",
    ),
    (
        Server(V5),
        "30 L 'a' 03 23 0000",
        "a topic alias of zero [MQTT-3.3.2-8]",
    ),
    (
        Server(V5),
        "30 L 'a' 06 23 0001 23 0001",
        "a topic alias twice [§3.3.2.3.4]",
    ),
    (
        Server(V5),
        "30 L 'a' 02 0b 01",
        "a subscription identifier from a client [MQTT-3.3.4-6]",
    ),
    (
        Client(V5),
        "30 L 'a' 02 0b 00",
        "a subscription identifier of zero [§3.3.2.3.8]",
    ),
    (
        Server(V5),
        "30 L 'a' 06 08 'r/+'",
        "a wildcard in the response topic [MQTT-3.3.2-14]",
    ),
    (
        Server(V5),
        "40 02 0000",
        "a puback of packet zero [MQTT-2.2.1-3]",
    ),
    (
        Server(V311),
        "40 03 0001 00",
        "a puback v311 with a reason [§3.4.2]",
    ),
    (
        Server(V5),
        "40 L 0001 00 08 1f 'a' 1f 'b'",
        "a reason string twice [§3.4.2.2.2]",
    ),
    (
        Server(V5),
        "82 L 0001 00",
        "a subscribe without a filter [MQTT-3.8.3-2]",
    ),
    (
        Server(V5),
        "82 L 0000 00 'a' 00",
        "a subscribe of packet zero [MQTT-2.2.1-3]",
    ),
    (
        Server(V5),
        "82 L 0001 00 'a' 40",
        "reserved option bits [MQTT-3.8.3-5]",
    ),
    (
        Server(V311),
        "82 L 0001 'a' 04",
        "reserved option bits [MQTT-3.8.3-4 v3.1.1]",
    ),
    (
        Server(V5),
        "82 L 0001 00 '$share/g/a' 04",
        "no local on a shared subscription [MQTT-3.8.3-4]",
    ),
    (
        Server(V5),
        "82 L 0001 02 0b 00 'a' 00",
        "subscription identifier zero [§3.8.2.1.2]",
    ),
    (
        Server(V5),
        "82 L 0001 04 0b 01 0b 02 'a' 00",
        "subscription identifier twice [§3.8.2.1.2]",
    ),
    (
        Server(V5),
        "82 L 0001 00 0003 610062 00",
        "u0000 in a filter [MQTT-1.5.4-2]",
    ),
    (
        Server(V311),
        "a2 02 0001",
        "an unsubscribe without a filter [MQTT-3.10.3-2]",
    ),
    (Server(V5), "c0 01 00", "a pingreq with a body [§3.12]"),
    (
        Server(V311),
        "e0 01 00",
        "a disconnect v311 with a body [§3.14]",
    ),
    (
        Client(V5),
        "e0 07 00 05 11 00000000",
        "a session expiry from the server [MQTT-3.14.2-2]",
    ),
    (
        Server(V5),
        "e0 L 00 04 1c 's'",
        "a server reference from a client [§3.14.2.2.5]",
    ),
];

/// Legal frames that rmqtt-codec 0.3.1 refuses.
const RMQTT_REFUSES: &[Disagreement] = &[(
    Server(V5),
    "30 L 'a' {02 00000000} 70",
    "a message expiry of 0 is no error [§3.3.2.3.3]",
)];

/// Legal frames that mqttbytes 0.6.0 refuses, or waits for more of.
const MQTTBYTES_REFUSES: &[Disagreement] = &[
    (
        Server(V5),
        "e0 00",
        "a DISCONNECT of 5.0 may be empty [§3.14.2.1]",
    ),
    (
        Server(V5),
        "e0 01 04",
        "a DISCONNECT may leave its property length out [§3.14.2.2.1]",
    ),
    (Server(V5), "f0 L 18 {15 'm'}", "AUTH exists [§3.15]"),
    (
        Fresh,
        "10 L 'MQTT' 04 c2 003c 'c' 'u' 0002 fffe",
        "a password is binary data [MQTT-3.1.3-5 v3.1.1]",
    ),
];

const SIZE_MAX: usize = 1 << 20;

/// What rmqtt-codec writes for what it read in `frame`; `None` where it refuses the frame.
fn by_rmqtt(version: Version, frame: &[u8]) -> Option<Vec<u8>> {
    let (mut input, mut output) = (BytesMut::from(frame), BytesMut::new());
    match version {
        Version::V311 => {
            let mut codec = rmqtt_codec::v3::Codec::new(0);
            let (packet, _) = codec.decode(&mut input).ok()??;
            codec
                .encode(packet, &mut output)
                .expect("it writes what it read");
        }
        Version::V5 => {
            let (packet, _) = rmqtt_codec::v5::Codec::new(0, 0)
                .decode(&mut input)
                .ok()??;
            rmqtt_codec::v5::Codec::new(0, 0)
                .encode(packet, &mut output)
                .expect("it writes what it read");
        }
    }
    Some(output.to_vec())
}

/// The same for mqttbytes.
fn by_mqttbytes(version: Version, frame: &[u8]) -> Option<Vec<u8>> {
    use mqttbytes::{v4, v5};
    let (mut input, mut to) = (BytesMut::from(frame), BytesMut::new());
    let written = match version {
        Version::V311 => match v4::read(&mut input, SIZE_MAX).ok()? {
            v4::Packet::Connect(packet) => packet.write(&mut to),
            v4::Packet::ConnAck(packet) => packet.write(&mut to),
            v4::Packet::Publish(packet) => packet.write(&mut to),
            v4::Packet::PubAck(packet) => packet.write(&mut to),
            v4::Packet::PubRec(packet) => packet.write(&mut to),
            v4::Packet::PubRel(packet) => packet.write(&mut to),
            v4::Packet::PubComp(packet) => packet.write(&mut to),
            v4::Packet::Subscribe(packet) => packet.write(&mut to),
            v4::Packet::SubAck(packet) => packet.write(&mut to),
            v4::Packet::Unsubscribe(packet) => packet.write(&mut to),
            v4::Packet::UnsubAck(packet) => packet.write(&mut to),
            v4::Packet::PingReq => v4::PingReq.write(&mut to),
            v4::Packet::PingResp => v4::PingResp.write(&mut to),
            v4::Packet::Disconnect => v4::Disconnect.write(&mut to),
        },
        Version::V5 => match v5::read(&mut input, SIZE_MAX).ok()? {
            v5::Packet::Connect(packet) => packet.write(&mut to),
            v5::Packet::ConnAck(packet) => packet.write(&mut to),
            v5::Packet::Publish(packet) => packet.write(&mut to),
            v5::Packet::PubAck(packet) => packet.write(&mut to),
            v5::Packet::PubRec(packet) => packet.write(&mut to),
            v5::Packet::PubRel(packet) => packet.write(&mut to),
            v5::Packet::PubComp(packet) => packet.write(&mut to),
            v5::Packet::Subscribe(packet) => packet.write(&mut to),
            v5::Packet::SubAck(packet) => packet.write(&mut to),
            v5::Packet::Unsubscribe(packet) => packet.write(&mut to),
            v5::Packet::UnsubAck(packet) => packet.write(&mut to),
            v5::Packet::PingReq => v5::PingReq.write(&mut to),
            v5::Packet::PingResp => v5::PingResp.write(&mut to),
            v5::Packet::Disconnect(packet) => packet.write(&mut to),
        },
    };
    written.expect("it writes what it read");
    Some(to.to_vec())
}

fn reader(packet: &Packet, version: Version, from_client: bool) -> Reader {
    match (packet, from_client) {
        (Packet::Connect(_), _) => Reader::Fresh,
        (_, true) => Reader::Server(version),
        (_, false) => Reader::Client(version),
    }
}

fn written(packet: &Packet, version: Version) -> BytesMut {
    let mut frame = BytesMut::new();
    encode(packet, version, PACKET_BYTES_MAX, &mut frame).expect("a legal packet can be written");
    frame
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_we_write_we_read((packet, version, from_client) in packets::any_packet()) {
        let frame = written(&packet, version);
        prop_assert_eq!(decode(reader(&packet, version, from_client), &frame), Ok(Some(packet)));
    }

    #[test]
    fn what_we_write_rmqtt_reads_and_writes_back((packet, version, from_client) in packets::any_packet()) {
        let frame = written(&packet, version);
        let back = by_rmqtt(version, &frame);
        prop_assert!(back.is_some(), "rmqtt-codec refuses {:02x?}", &frame[..]);
        prop_assert_eq!(decode(reader(&packet, version, from_client), &back.unwrap_or_default()), Ok(Some(packet)));
    }

    #[test]
    fn what_we_write_mqttbytes_reads_and_writes_back((packet, version, from_client) in packets::any_packet()) {
        if !mqttbytes_can(&packet) {
            return Ok(());
        }
        let frame = written(&packet, version);
        let back = by_mqttbytes(version, &frame);
        prop_assert!(back.is_some(), "mqttbytes refuses {:02x?}", &frame[..]);
        let mut back = back.unwrap_or_default();
        if mqttbytes_forgets_the_property_length(&packet, version) {
            prop_assert_eq!(&back[..2], [0x20, 2], "the other side has learnt: a CONNACK has a property length");
            back[1] += 1;
            back.push(0);
        }
        prop_assert_eq!(decode(reader(&packet, version, from_client), &back), Ok(Some(packet)));
    }

    #[test]
    fn a_damaged_frame_gives_one_verdict_however_it_is_cut(
        (packet, version, from_client) in packets::any_packet(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4), 1..4),
        repaired in any::<bool>(),
    ) {
        let frame = damaged(&written(&packet, version), &damage, repaired);
        let reader = reader(&packet, version, from_client);
        let whole = decode(reader, &frame);
        prop_assert_eq!(&whole, &decode_byte_by_byte(reader, &frame));
        if let Ok(Some(read)) = &whole {
            let version = if let Packet::Connect(connect) = read { connect.version } else { version };
            prop_assert_eq!(decode(reader, &written(read, version)), Ok(Some(read.clone())));
        }
        if let Ok(None) = whole {
            // Incomplete: the announced length is not there yet.
            prop_assert!(by_rmqtt(version, &frame).is_none(), "rmqtt-codec finds {:02x?} complete", frame);
        }
        if let (Err(error), Some(_)) = (&whole, by_rmqtt(version, &frame)) {
            let listed = RMQTT_ACCEPTS.iter().any(|(reader, text, _)| {
                decode(*reader, &bytes(text)).expect_err(text).rule == error.rule
            });
            prop_assert!(listed, "only rmqtt-codec accepts {:02x?}: {}", frame, error);
        }
        if let (Ok(Some(read)), None) = (&whole, by_rmqtt(version, &frame)) {
            prop_assert!(rmqtt_is_wrong(read, &frame), "only we accept {:02x?}: {:?}", frame, read);
        }
    }
}

/// Four thousand cases, or more where `PROPTEST_CASES` asks for them.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.max(4000),
        ..asked
    }
}

/// Changes single bytes, inserts, deletes and cuts; half of the time the length is then made right again.
fn damaged(frame: &[u8], damage: &[(prop::sample::Index, u8, i32)], repaired: bool) -> Vec<u8> {
    let header = 1
        + frame[1..]
            .iter()
            .take_while(|byte| **byte & 0x80 != 0)
            .count()
        + 1;
    let mut bytes = if repaired {
        [&frame[..1], &frame[header..]].concat()
    } else {
        frame.to_vec()
    };
    for (index, byte, kind) in damage {
        let at = index
            .index(bytes.len().max(1))
            .min(bytes.len().saturating_sub(1));
        match kind {
            _ if bytes.is_empty() => bytes.push(*byte),
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            2 => drop(bytes.remove(at)),
            _ => bytes[at] ^= 1 << (byte % 8),
        }
    }
    if repaired && !bytes.is_empty() {
        let length = bytes.len() - 1;
        let prefix = if length < 128 {
            vec![length as u8]
        } else {
            vec![length as u8 | 0x80, (length >> 7) as u8]
        };
        bytes.splice(1..1, prefix);
    }
    bytes
}

/// What mqttbytes 0.6.0 gets right: see the list of disagreements.
fn mqttbytes_can(packet: &Packet) -> bool {
    match packet {
        Packet::Auth(_) | Packet::Disconnect(_) => false,
        Packet::Connect(connect) => {
            connect
                .password
                .as_ref()
                .is_none_or(|password| std::str::from_utf8(password).is_ok())
                && connect
                    .username
                    .as_ref()
                    .is_none_or(|name| !name.is_empty())
                && connect
                    .password
                    .as_ref()
                    .is_none_or(|password| !password.is_empty())
        }
        _ => true,
    }
}

/// Where mqttbytes 0.6.0 reads our frame, and writes one without the property length that every CONNACK of 5.0 has
/// [§3.2.2.3.1].
fn mqttbytes_forgets_the_property_length(packet: &Packet, version: Version) -> bool {
    matches!(packet, Packet::ConnAck(connack) if version == V5 && connack.properties == Default::default())
}

/// Frames that rmqtt-codec 0.3.1 refuses although they are legal: see the list of disagreements.
fn rmqtt_is_wrong(packet: &Packet, _frame: &[u8]) -> bool {
    match packet {
        Packet::Publish(publish) => publish
            .properties
            .0
            .as_ref()
            .is_some_and(|message| message.message_expiry_s == Some(0)),
        Packet::Connect(connect) => {
            let will = connect
                .will
                .as_ref()
                .and_then(|will| will.properties.0.as_ref());
            will.is_some_and(|message| message.message_expiry_s == Some(0))
        }
        _ => false,
    }
}

fn peer_version(reader: Reader, frame: &[u8]) -> Version {
    match reader {
        Server(version) | Client(version) => version,
        Fresh if frame.get(8) == Some(&5) => V5,
        Fresh => V311,
    }
}

/// Whether a peer takes the frame; that it could not write it back is its own trouble.
fn accepts(by: fn(Version, &[u8]) -> Option<Vec<u8>>, reader: Reader, frame: &[u8]) -> bool {
    by(peer_version(reader, frame), frame).is_some()
}

#[test]
fn each_listed_disagreement_with_rmqtt_still_exists() {
    check_disagreements(RMQTT_ACCEPTS, RMQTT_REFUSES, by_rmqtt);
}

#[test]
fn each_listed_disagreement_with_mqttbytes_still_exists() {
    check_disagreements(MQTTBYTES_ACCEPTS, MQTTBYTES_REFUSES, by_mqttbytes);
}

fn check_disagreements(
    accepted: &[Disagreement],
    refused: &[Disagreement],
    by: fn(Version, &[u8]) -> Option<Vec<u8>>,
) {
    for (reader, text, statement) in accepted {
        let frame = bytes(text);
        assert!(
            decode(*reader, &frame).is_err(),
            "we refuse {text}: {statement}"
        );
        assert!(
            accepts(by, *reader, &frame),
            "the other side has learnt: {text}: {statement}"
        );
    }
    for (reader, text, statement) in refused {
        let frame = bytes(text);
        assert!(
            matches!(decode(*reader, &frame), Ok(Some(_))),
            "we read {text}: {statement}"
        );
        assert!(
            !accepts(by, *reader, &frame),
            "the other side has learnt: {text}: {statement}"
        );
    }
}
