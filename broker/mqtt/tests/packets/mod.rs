//! Any legal packet, for property tests. Values that equal a default are left absent, since other implementations do
//! not tell the two apart.

use std::num::NonZeroU16;

use bytes::Bytes;
use meridian_mqtt::packet::*;
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::TopicName;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

type User = Vec<(Text, Text)>;

/// A packet, the version it belongs to, and whether a client sends it.
pub(crate) fn any_packet() -> impl Strategy<Value = (Packet, Version, bool)> {
    prop_oneof![
        1 => connect(Version::V311).prop_map(|packet| (packet, Version::V311, true)),
        2 => connect(Version::V5).prop_map(|packet| (packet, Version::V5, true)),
        2 => connack().prop_map(|packet| (packet, Version::V5, false)),
        3 => publish(Version::V311).prop_map(|packet| (packet, Version::V311, true)),
        3 => publish(Version::V5).prop_map(|packet| (packet, Version::V5, true)),
        2 => acks(),
        2 => subscribe(Version::V311).prop_map(|packet| (packet, Version::V311, true)),
        2 => subscribe(Version::V5).prop_map(|packet| (packet, Version::V5, true)),
        2 => suback(),
        1 => disconnect(),
        1 => auth().prop_map(|packet| (packet, Version::V5, true)),
        1 => select(vec![
            (Packet::PingReq, Version::V311, true),
            (Packet::PingResp, Version::V5, false),
        ]),
    ]
}

fn text() -> impl Strategy<Value = Text> {
    "[a-z/é ]{0,6}".prop_map(|text| Text::try_from(text).expect("no U+0000"))
}

fn topic() -> impl Strategy<Value = TopicName> {
    "[a-zé$]{0,3}(/[a-z]{0,3}){0,3}".prop_filter_map("not empty", |topic| topic.parse().ok())
}

fn binary() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from)
}

fn user() -> impl Strategy<Value = User> {
    prop::collection::vec((text(), text()), 0..3)
}

fn id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>().prop_map(PacketId)
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn reason(codes: &[u8]) -> impl Strategy<Value = ReasonCode> + use<> {
    select(
        codes
            .iter()
            .map(|code| ReasonCode::from_u8(*code).expect("a code"))
            .collect::<Vec<_>>(),
    )
}

fn message() -> impl Strategy<Value = PublishProperties> {
    (
        of(Just(true)),
        of(1_u32..),
        of(text()),
        of(topic()),
        of(binary()),
        user(),
    )
        .prop_map(
            |(
                payload_is_utf8,
                message_expiry_s,
                content_type,
                response_topic,
                correlation_data,
                user,
            )| {
                let message = MessageProperties {
                    payload_is_utf8,
                    message_expiry_s,
                    content_type,
                    response_topic,
                    correlation_data,
                    user,
                };
                PublishProperties(
                    (message != MessageProperties::default()).then(|| Box::new(message)),
                )
            },
        )
}

fn connect(version: Version) -> impl Strategy<Value = Packet> {
    let v5 = version == Version::V5;
    let will = (topic(), binary(), qos(), any::<bool>(), 0_u32..3, message()).prop_map(
        move |(topic, payload, qos, retain, delay_s, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_s: if v5 { delay_s } else { 0 },
            properties: if v5 {
                properties
            } else {
                PublishProperties::default()
            },
        },
    );
    let properties = (
        of(1_u32..),
        of(1_u16..65_535),
        of(1_u32..),
        of(1_u16..),
        of(Just(true)),
        of(Just(false)),
        user(),
        of((text(), of(binary()))),
    )
        .prop_map(
            |(session, receive, packet, alias, response, problem, user, authentication)| {
                ConnectProperties {
                    session_expiry_s: session,
                    receive_maximum: receive.and_then(NonZeroU16::new),
                    maximum_packet_size: packet,
                    topic_alias_maximum: alias,
                    request_response_information: response,
                    request_problem_information: problem,
                    user,
                    authentication_method: authentication
                        .as_ref()
                        .map(|(method, _)| method.clone()),
                    authentication_data: authentication.and_then(|(_, data)| data),
                }
            },
        );
    (
        "[a-z]{1,5}",
        any::<u16>(),
        of(will),
        of(text()),
        of(binary()),
        any::<bool>(),
        properties,
    )
        .prop_map(
            move |(client_id, keep_alive_s, will, username, password, clean_start, properties)| {
                Packet::Connect(Box::new(Connect {
                    version,
                    clean_start,
                    keep_alive_s,
                    client_id: client_id.try_into().expect("a text"),
                    will,
                    password: password.filter(|_| v5 || username.is_some()),
                    username,
                    properties: if v5 {
                        properties
                    } else {
                        ConnectProperties::default()
                    },
                }))
            },
        )
}

fn connack() -> impl Strategy<Value = Packet> {
    let numbers = (
        of(any::<u32>()),
        of(1_u16..65_535),
        of(select(vec![QoS::AtMostOnce, QoS::AtLeastOnce])),
        of(1_u32..),
        of(1_u16..),
        of(any::<u16>()),
    );
    let flags = (
        of(Just(false)),
        of(Just(false)),
        of(Just(false)),
        of(Just(false)),
    );
    let texts = (
        of(text()),
        of(text()),
        of(text()),
        of(text()),
        of((text(), of(binary()))),
        user(),
    );
    (
        reason(&[0x00, 0x80, 0x81, 0x87, 0x95, 0x9f]),
        any::<bool>(),
        numbers,
        flags,
        texts,
    )
        .prop_map(|(reason, present, numbers, flags, texts)| {
            let properties = ConnAckProperties {
                session_expiry_s: numbers.0,
                receive_maximum: numbers.1.and_then(NonZeroU16::new),
                maximum_qos: numbers.2,
                maximum_packet_size: numbers.3,
                topic_alias_maximum: numbers.4,
                server_keep_alive_s: numbers.5,
                retain_available: flags.0,
                wildcard_subscription_available: flags.1,
                subscription_identifiers_available: flags.2,
                shared_subscription_available: flags.3,
                assigned_client_id: texts.0,
                reason_string: texts.1,
                response_information: texts.2,
                server_reference: texts.3,
                authentication_method: texts.4.as_ref().map(|(method, _)| method.clone()),
                authentication_data: texts.4.and_then(|(_, data)| data),
                user: texts.5,
            };
            let session_present = present && reason == ReasonCode::Success;
            Packet::ConnAck(Box::new(ConnAck {
                session_present,
                reason,
                properties,
            }))
        })
}

fn publish(version: Version) -> impl Strategy<Value = Packet> {
    let v5 = version == Version::V5;
    (
        any::<bool>(),
        qos(),
        any::<bool>(),
        topic(),
        id(),
        of(any::<NonZeroU16>()),
        message(),
        binary(),
    )
        .prop_map(
            move |(dup, qos, retain, topic, id, alias, properties, payload)| {
                Packet::Publish(Publish {
                    dup: dup && qos > QoS::AtMostOnce,
                    qos,
                    retain,
                    topic: Some(topic),
                    packet_id: (qos > QoS::AtMostOnce).then_some(id),
                    topic_alias: alias.filter(|_| v5),
                    subscription_ids: Vec::new(),
                    properties: if v5 {
                        properties
                    } else {
                        PublishProperties::default()
                    },
                    payload,
                })
            },
        )
}

fn acks() -> impl Strategy<Value = (Packet, Version, bool)> {
    let received = (id(), reason(&[0x00, 0x10, 0x87, 0x97]), of(text()), user());
    let released = (id(), reason(&[0x00, 0x92]), of(text()), user());
    let ack = |(packet_id, reason, reason_string, user)| Ack {
        packet_id,
        reason,
        reason_string,
        user,
    };
    (
        received.prop_map(ack),
        released.prop_map(ack),
        0..4,
        any::<bool>(),
    )
        .prop_map(|(received, released, which, v5)| {
            let plain = |ack: Ack| match v5 {
                true => ack,
                false => Ack {
                    reason: ReasonCode::Success,
                    reason_string: None,
                    user: Vec::new(),
                    ..ack
                },
            };
            let packet = match which {
                0 => Packet::PubAck(plain(received)),
                1 => Packet::PubRec(plain(received)),
                2 => Packet::PubRel(plain(released)),
                _ => Packet::PubComp(plain(released)),
            };
            (packet, if v5 { Version::V5 } else { Version::V311 }, true)
        })
}

fn subscribe(version: Version) -> impl Strategy<Value = Packet> {
    let v5 = version == Version::V5;
    let handling = select(vec![
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::Never,
    ]);
    let filter = (
        "[a-z]{1,3}(/[a-z+]){0,2}(/#)?",
        qos(),
        any::<bool>(),
        any::<bool>(),
        handling,
    )
        .prop_map(
            move |(filter, qos, no_local, retain_as_published, handling)| Subscription {
                filter: Ok(filter.parse().expect("a filter")),
                qos,
                no_local: no_local && v5,
                retain_as_published: retain_as_published && v5,
                retain_handling: if v5 { handling } else { RetainHandling::Send },
            },
        );
    (
        id(),
        of(1_u32..268_435_456),
        user(),
        prop::collection::vec(filter, 1..4),
        any::<bool>(),
    )
        .prop_map(
            move |(packet_id, subscription_id, user, filters, subscribe)| {
                let user = if v5 { user } else { Vec::new() };
                if subscribe {
                    let subscription_id = subscription_id.filter(|_| v5);
                    return Packet::Subscribe(Subscribe {
                        packet_id,
                        subscription_id,
                        user,
                        filters,
                    });
                }
                let filters = filters
                    .into_iter()
                    .map(|subscription| subscription.filter)
                    .collect();
                Packet::Unsubscribe(Unsubscribe {
                    packet_id,
                    user,
                    filters,
                })
            },
        )
}

fn suback() -> impl Strategy<Value = (Packet, Version, bool)> {
    let granted = prop::collection::vec(reason(&[0x00, 0x01, 0x02, 0x80, 0x87, 0x8f]), 1..4);
    let gone = prop::collection::vec(reason(&[0x00, 0x11, 0x87]), 1..4);
    (id(), of(text()), user(), granted, gone, any::<bool>()).prop_map(
        |(packet_id, reason_string, user, granted, gone, subscribe)| {
            let packet = match subscribe {
                true => Packet::SubAck(SubAck {
                    packet_id,
                    reason_string,
                    user,
                    reasons: granted,
                }),
                false => Packet::UnsubAck(UnsubAck {
                    packet_id,
                    reason_string,
                    user,
                    reasons: gone,
                }),
            };
            (packet, Version::V5, false)
        },
    )
}

fn disconnect() -> impl Strategy<Value = (Packet, Version, bool)> {
    let codes = reason(&[0x00, 0x04, 0x81, 0x93]);
    (
        codes,
        of(any::<u32>()),
        of(text()),
        user(),
        of(text()),
        any::<bool>(),
    )
        .prop_map(
            |(reason, expiry, reason_string, user, server_reference, from_client)| {
                let reason = if from_client || reason != ReasonCode::DisconnectWithWill {
                    reason
                } else {
                    ReasonCode::ServerBusy
                };
                let packet = Packet::Disconnect(Disconnect {
                    reason,
                    session_expiry_s: expiry.filter(|_| from_client),
                    reason_string,
                    user,
                    server_reference: server_reference.filter(|_| !from_client),
                });
                (packet, Version::V5, from_client)
            },
        )
}

fn auth() -> impl Strategy<Value = Packet> {
    (
        reason(&[0x00, 0x18, 0x19]),
        text(),
        of(binary()),
        of(text()),
        user(),
    )
        .prop_map(
            |(reason, method, authentication_data, reason_string, user)| {
                let authentication_method = Some(method);
                Packet::Auth(Auth {
                    reason,
                    authentication_method,
                    authentication_data,
                    reason_string,
                    user,
                })
            },
        )
}
