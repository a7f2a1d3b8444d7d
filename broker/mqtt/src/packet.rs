//! The fifteen control packets of MQTT 5.0 and 3.1.1 as values.
//!
//! `bytes ─► codec ─► **packet** ─► session`. One set of types for both versions: a 3.1.1 packet has empty
//! properties. What is in here was checked by the codec; nobody downstream checks it twice.
#![allow(
    missing_docs,
    reason = "fields without a comment are named by the specification's section"
)]

use std::num::NonZeroU16;

use bytes::Bytes;

use crate::reason::ReasonCode;
use crate::text::Text;
use crate::topic::{TopicFilter, TopicName};

/// A packet identifier: never zero [MQTT-2.2.1-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// The identifier of this number, unless it is 0.
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// The protocol version that a client asked for in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Quality of service: how hard the two sides try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

/// Any control packet.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    SubAck(SubAck),
    Unsubscribe(Unsubscribe),
    UnsubAck(UnsubAck),
    PingReq,
    PingResp,
    Disconnect(Disconnect),
    Auth(Auth),
}

/// CONNECT [MQTT-3.1].
#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    pub version: Version,
    /// Clean Start (5.0) or Clean Session (3.1.1).
    pub clean_start: bool,
    /// Seconds; 0 turns the mechanism off [MQTT-3.1.2-22].
    pub keep_alive_s: u16,
    /// May be empty: the server then assigns one [MQTT-3.1.3-6].
    pub client_id: Text,
    pub will: Option<Will>,
    pub username: Option<Text>,
    /// Binary data in both versions.
    pub password: Option<Bytes>,
    pub properties: ConnectProperties,
}

/// Properties of CONNECT (5.0 §3.1.2.11). Absent values are the protocol's defaults.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnectProperties {
    pub session_expiry_s: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    /// Bytes; never 0 [MQTT-3.1.2-24].
    pub maximum_packet_size: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub user: Vec<(Text, Text)>,
    pub authentication_method: Option<Text>,
    pub authentication_data: Option<Bytes>,
}

/// What to publish when the client is gone without a DISCONNECT.
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// Seconds between the loss of the connection and the publication.
    pub delay_s: u32,
    pub properties: PublishProperties,
}

/// CONNACK [MQTT-3.2].
#[derive(Debug, Clone, PartialEq)]
pub struct ConnAck {
    pub session_present: bool,
    /// A 5.0 code; the codec maps it to the return codes of 3.1.1.
    pub reason: ReasonCode,
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK (5.0 §3.2.2.3).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnAckProperties {
    pub session_expiry_s: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    /// `None` means 2; only 0 or 1 are ever written.
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<Text>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<Text>,
    pub user: Vec<(Text, Text)>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive_s: Option<u16>,
    pub response_information: Option<Text>,
    pub server_reference: Option<Text>,
    pub authentication_method: Option<Text>,
    pub authentication_data: Option<Bytes>,
}

/// PUBLISH [MQTT-3.3].
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// `None` only where a topic alias stands for it (5.0).
    pub topic: Option<TopicName>,
    /// Present exactly when `qos` is above 0 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// 1…65,535.
    pub topic_alias: Option<NonZeroU16>,
    /// Server to client only: the identifiers of the subscriptions that matched.
    pub subscription_ids: Vec<u32>,
    pub properties: PublishProperties,
    pub payload: Bytes,
}

/// The properties of a message that travel with it unaltered, plus its expiry (5.0 §3.3.2.3).
///
/// Boxed inside, so that the common message without any costs one word.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PublishProperties(pub Option<Box<MessageProperties>>);

/// See [`PublishProperties`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MessageProperties {
    /// `Some(true)`: the payload is UTF-8 text.
    pub payload_is_utf8: Option<bool>,
    /// Seconds that the message may still live.
    pub message_expiry_s: Option<u32>,
    pub content_type: Option<Text>,
    pub response_topic: Option<TopicName>,
    pub correlation_data: Option<Bytes>,
    /// In the order of arrival [MQTT-3.3.2-18].
    pub user: Vec<(Text, Text)>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP: [MQTT-3.4] to [MQTT-3.7].
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    pub packet_id: PacketId,
    /// Success in 3.1.1, which has no other.
    pub reason: ReasonCode,
    pub reason_string: Option<Text>,
    pub user: Vec<(Text, Text)>,
}

/// SUBSCRIBE [MQTT-3.8]: at least one filter [MQTT-3.8.3-2].
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    pub packet_id: PacketId,
    /// 1…268,435,455.
    pub subscription_id: Option<u32>,
    pub user: Vec<(Text, Text)>,
    pub filters: Vec<Subscription>,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// `Err` holds what the client sent where it is no valid filter but the packet is well formed: its place in
    /// SUBACK is 0x8F (0x80 in 3.1.1), and the other filters are unharmed.
    pub filter: Result<TopicFilter, Text>,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When a subscription sends retained messages (5.0 §3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send = 0,
    /// Only where the subscription did not exist before.
    SendIfNew = 1,
    /// Never.
    Never = 2,
}

/// SUBACK [MQTT-3.9]: one code a filter, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct SubAck {
    pub packet_id: PacketId,
    pub reason_string: Option<Text>,
    pub user: Vec<(Text, Text)>,
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE [MQTT-3.10]: at least one filter [MQTT-3.10.3-2].
#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe {
    pub packet_id: PacketId,
    pub user: Vec<(Text, Text)>,
    /// As in [`Subscription::filter`].
    pub filters: Vec<Result<TopicFilter, Text>>,
}

/// UNSUBACK [MQTT-3.11]; 3.1.1 has no codes.
#[derive(Debug, Clone, PartialEq)]
pub struct UnsubAck {
    pub packet_id: PacketId,
    pub reason_string: Option<Text>,
    pub user: Vec<(Text, Text)>,
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT [MQTT-3.14]; from the server only in 5.0.
#[derive(Debug, Clone, PartialEq)]
pub struct Disconnect {
    pub reason: ReasonCode,
    pub session_expiry_s: Option<u32>,
    pub reason_string: Option<Text>,
    pub user: Vec<(Text, Text)>,
    pub server_reference: Option<Text>,
}

/// AUTH (5.0 §3.15).
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    pub reason: ReasonCode,
    pub authentication_method: Option<Text>,
    pub authentication_data: Option<Bytes>,
    pub reason_string: Option<Text>,
    pub user: Vec<(Text, Text)>,
}
