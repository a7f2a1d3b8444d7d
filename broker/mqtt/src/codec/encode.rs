//! Packets to bytes, in either version and direction.
//!
//! What 3.1.1 has no field for is left out there. Before anything is written its size is known: where a packet would
//! exceed the receiver's maximum, user properties and the reason string go first [MQTT-3.2.2-19], [MQTT-3.2.2-20],
//! [MQTT-3.4.2-2], [MQTT-3.4.2-3] and their like, and what is then still too large is refused [MQTT-3.1.2-24].

use std::num::NonZeroU16;

use bytes::BytesMut;

use super::frame::{PacketType, VARINT_MAX, varint_bytes};
use super::property::Property;
use super::writer::{Counter, Properties, Sink, properties};
use crate::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, MessageProperties, Packet, PacketId, Publish,
    PublishProperties, QoS, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe, Version, Will,
};
use crate::reason::ReasonCode;
use crate::text::Text;
use crate::topic::{TopicFilter, TopicName};

/// Why a packet was not written. The buffer is then as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Larger than the receiver allows; for PUBLISH this means: act as if it had been sent [MQTT-3.1.2-25].
    #[error("a packet of {bytes} bytes exceeds the receiver's maximum of {bytes_max}")]
    TooLarge {
        /// Its least size, fixed header included.
        bytes: usize,
        /// What was allowed.
        bytes_max: u32,
    },
    /// Binary data of more than 65,535 bytes.
    #[error("a field of binary data exceeds 65,535 bytes")]
    FieldTooLong,
    /// 3.1.1 cannot say this: AUTH, or a CONNACK whose reason has no return code. Close without it.
    #[error("MQTT 3.1.1 has no words for this packet")]
    NotInVersion,
}

/// What is written of the fields that may be dropped, from most to least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    All,
    NoUserProperties,
    Bare,
}

/// Appends `packet` to `to`, in at most `packet_bytes_max` bytes ([`super::PACKET_BYTES_MAX`] for no limit).
///
/// # Panics
/// When the packet contradicts itself: a PUBLISH of 3.1.1 without a topic, or whose packet identifier does not fit
/// its QoS. Such a packet was never decoded, so the mistake is ours.
pub fn encode(
    packet: &Packet,
    version: Version,
    packet_bytes_max: u32,
    to: &mut BytesMut,
) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        encode_publish_header(&PublishHeader::from(publish), version, packet_bytes_max, to)?;
        to.extend_from_slice(&publish.payload);
        return Ok(());
    }
    check_expressible(packet, version)?;
    let mut least = 0;
    for detail in [Detail::All, Detail::NoUserProperties, Detail::Bare] {
        let mut counter = Counter::default();
        write_body(packet, version, detail, &mut counter);
        if counter.field_too_long {
            return Err(EncodeError::FieldTooLong);
        }
        least = packet_bytes(counter.bytes);
        if least <= packet_bytes_max as usize && counter.bytes <= VARINT_MAX as usize {
            to.reserve(least);
            let packet_type = packet_type(packet);
            to.u8((packet_type as u8) << 4 | packet_type.fixed_flags());
            to.varint(counter.bytes as u32);
            write_body(packet, version, detail, to);
            return Ok(());
        }
    }
    Err(EncodeError::TooLarge {
        bytes: least,
        bytes_max: packet_bytes_max,
    })
}

/// A PUBLISH without its payload, borrowed: one message for many subscribers needs one of these each, and no clone.
#[derive(Debug, Clone, Copy)]
pub struct PublishHeader<'a> {
    /// A repetition after a reconnect [MQTT-3.3.1-1].
    pub dup: bool,
    /// The smaller of the message's and the subscription's.
    pub qos: QoS,
    /// See Retain As Published (5.0 §3.8.3.1).
    pub retain: bool,
    /// `None` where `topic_alias` stands for it.
    pub topic: Option<&'a TopicName>,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// The receiver's alias for the topic; 5.0 only.
    pub topic_alias: Option<NonZeroU16>,
    /// Of the subscriptions that matched; 5.0 only.
    pub subscription_ids: &'a [u32],
    /// What is left of the message's expiry, seconds [MQTT-3.3.2-6]; stands instead of the one in `properties`.
    pub message_expiry_s: Option<u32>,
    /// As they came [MQTT-3.3.2-4], [MQTT-3.3.2-15] …; 5.0 only.
    pub properties: &'a PublishProperties,
    /// Length of the payload that the caller sends behind the header, bytes.
    pub payload_bytes: usize,
}

impl<'a> From<&'a Publish> for PublishHeader<'a> {
    fn from(publish: &'a Publish) -> Self {
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.as_ref(),
            packet_id: publish.packet_id,
            topic_alias: publish.topic_alias,
            subscription_ids: &publish.subscription_ids,
            message_expiry_s: publish
                .properties
                .0
                .as_ref()
                .and_then(|message| message.message_expiry_s),
            properties: &publish.properties,
            payload_bytes: publish.payload.len(),
        }
    }
}

/// Appends everything of a PUBLISH but its payload; the caller writes the shared payload behind it (vectored).
///
/// # Panics
/// As [`encode`].
pub fn encode_publish_header(
    header: &PublishHeader<'_>,
    version: Version,
    packet_bytes_max: u32,
    to: &mut BytesMut,
) -> Result<(), EncodeError> {
    assert_eq!(
        header.packet_id.is_some(),
        header.qos > QoS::AtMostOnce,
        "a packet identifier belongs to QoS 1 and 2"
    );
    assert!(
        header.topic.is_some() || version == Version::V5,
        "3.1.1 has no topic aliases"
    );
    assert!(
        header.topic.is_some() || header.topic_alias.is_some(),
        "a topic or its alias is sent"
    );
    let topic = header.topic.map_or("", TopicName::as_str);
    let property_bytes = match version {
        Version::V311 => 0,
        Version::V5 if header.has_no_properties() => 0,
        Version::V5 => header.count_properties()?,
    };
    let id_bytes = if header.packet_id.is_some() { 2 } else { 0 };
    let length_bytes = if version == Version::V5 {
        varint_bytes(property_bytes as u32)
    } else {
        0
    };
    let remaining =
        2 + topic.len() + id_bytes + length_bytes + property_bytes + header.payload_bytes;
    let bytes = packet_bytes(remaining);
    if bytes > packet_bytes_max as usize || remaining > VARINT_MAX as usize {
        return Err(EncodeError::TooLarge {
            bytes,
            bytes_max: packet_bytes_max,
        });
    }
    to.reserve(bytes - header.payload_bytes);
    let flags = u8::from(header.dup) << 3 | (header.qos as u8) << 1 | u8::from(header.retain);
    to.u8((PacketType::Publish as u8) << 4 | flags);
    to.varint(remaining as u32);
    to.binary(topic.as_bytes());
    if let Some(id) = header.packet_id {
        to.u16(id.get());
    }
    if version == Version::V5 {
        to.varint(property_bytes as u32);
        if property_bytes > 0 {
            header.write_properties(&mut Properties(to));
        }
    }
    Ok(())
}

impl PublishHeader<'_> {
    fn has_no_properties(&self) -> bool {
        self.properties.0.is_none()
            && self.topic_alias.is_none()
            && self.message_expiry_s.is_none()
            && self.subscription_ids.is_empty()
    }

    fn count_properties(&self) -> Result<usize, EncodeError> {
        let mut counter = Counter::default();
        self.write_properties(&mut Properties(&mut counter));
        if counter.field_too_long {
            Err(EncodeError::FieldTooLong)
        } else {
            Ok(counter.bytes)
        }
    }

    fn write_properties(&self, to: &mut Properties<'_>) {
        to.number(Property::TopicAlias, self.topic_alias.map(NonZeroU16::get));
        for &id in self.subscription_ids {
            to.number(Property::SubscriptionIdentifier, Some(id));
        }
        to.number(Property::MessageExpiry, self.message_expiry_s);
        if let Some(message) = &self.properties.0 {
            write_message_properties(message, to);
        }
    }
}

fn write_message_properties(message: &MessageProperties, to: &mut Properties<'_>) {
    to.number(Property::PayloadFormat, message.payload_is_utf8);
    to.text(Property::ContentType, message.content_type.as_ref());
    to.text(
        Property::ResponseTopic,
        message.response_topic.as_ref().map(TopicName::text),
    );
    to.bytes(Property::CorrelationData, message.correlation_data.as_ref());
    to.user(&message.user);
}

const fn packet_bytes(remaining: usize) -> usize {
    1 + varint_bytes(remaining as u32) + remaining
}

fn check_expressible(packet: &Packet, version: Version) -> Result<(), EncodeError> {
    match (packet, version) {
        (Packet::Auth(_), Version::V311) => Err(EncodeError::NotInVersion),
        (Packet::ConnAck(connack), Version::V311) if connack.reason.connack_v311().is_none() => {
            Err(EncodeError::NotInVersion)
        }
        _ => Ok(()),
    }
}

fn packet_type(packet: &Packet) -> PacketType {
    match packet {
        Packet::Connect(_) => PacketType::Connect,
        Packet::ConnAck(_) => PacketType::ConnAck,
        Packet::Publish(_) => PacketType::Publish,
        Packet::PubAck(_) => PacketType::PubAck,
        Packet::PubRec(_) => PacketType::PubRec,
        Packet::PubRel(_) => PacketType::PubRel,
        Packet::PubComp(_) => PacketType::PubComp,
        Packet::Subscribe(_) => PacketType::Subscribe,
        Packet::SubAck(_) => PacketType::SubAck,
        Packet::Unsubscribe(_) => PacketType::Unsubscribe,
        Packet::UnsubAck(_) => PacketType::UnsubAck,
        Packet::PingReq => PacketType::PingReq,
        Packet::PingResp => PacketType::PingResp,
        Packet::Disconnect(_) => PacketType::Disconnect,
        Packet::Auth(_) => PacketType::Auth,
    }
}

fn write_body(packet: &Packet, version: Version, detail: Detail, to: &mut dyn Sink) {
    match packet {
        Packet::Connect(connect) => write_connect(connect, to),
        Packet::ConnAck(connack) => write_connack(connack, version, detail, to),
        Packet::Publish(_) => unreachable!("PUBLISH has its own way out"),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            write_ack(ack, version, detail, to);
        }
        Packet::Subscribe(subscribe) => write_subscribe(subscribe, version, to),
        Packet::SubAck(suback) => write_suback(suback, version, detail, to),
        Packet::Unsubscribe(unsubscribe) => write_unsubscribe(unsubscribe, version, to),
        Packet::UnsubAck(unsuback) => write_unsuback(unsuback, version, detail, to),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(disconnect) => write_disconnect(disconnect, version, detail, to),
        Packet::Auth(auth) => write_auth(auth, detail, to),
    }
}

fn write_connect(connect: &Connect, to: &mut dyn Sink) {
    to.binary(b"MQTT");
    to.u8(match connect.version {
        Version::V311 => 4,
        Version::V5 => 5,
    });
    let will_flags = connect.will.as_ref().map_or(0, |will| {
        1 << 2 | (will.qos as u8) << 3 | u8::from(will.retain) << 5
    });
    let password = u8::from(connect.password.is_some()) << 6;
    let username = u8::from(connect.username.is_some()) << 7;
    to.u8(u8::from(connect.clean_start) << 1 | will_flags | password | username);
    to.u16(connect.keep_alive_s);
    if connect.version == Version::V5 {
        let from = &connect.properties;
        properties(to, |to| {
            to.number(Property::SessionExpiry, from.session_expiry_s);
            to.number(
                Property::ReceiveMaximum,
                from.receive_maximum.map(NonZeroU16::get),
            );
            to.number(Property::MaximumPacketSize, from.maximum_packet_size);
            to.number(Property::TopicAliasMaximum, from.topic_alias_maximum);
            to.number(
                Property::RequestResponseInformation,
                from.request_response_information,
            );
            to.number(
                Property::RequestProblemInformation,
                from.request_problem_information,
            );
            to.text(
                Property::AuthenticationMethod,
                from.authentication_method.as_ref(),
            );
            to.bytes(
                Property::AuthenticationData,
                from.authentication_data.as_ref(),
            );
            to.user(&from.user);
        });
    }
    to.binary(connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        write_will(will, connect.version, to);
    }
    if let Some(username) = &connect.username {
        to.binary(username.as_bytes());
    }
    if let Some(password) = &connect.password {
        to.binary(password);
    }
}

fn write_will(will: &Will, version: Version, to: &mut dyn Sink) {
    if version == Version::V5 {
        properties(to, |to| {
            to.number(
                Property::WillDelay,
                (will.delay_s > 0).then_some(will.delay_s),
            );
            if let Some(message) = &will.properties.0 {
                to.number(Property::MessageExpiry, message.message_expiry_s);
                write_message_properties(message, to);
            }
        });
    }
    to.binary(will.topic.as_str().as_bytes());
    to.binary(&will.payload);
}

fn write_connack(connack: &ConnAck, version: Version, detail: Detail, to: &mut dyn Sink) {
    to.u8(u8::from(connack.session_present));
    if version == Version::V311 {
        to.u8(connack
            .reason
            .connack_v311()
            .expect("check_expressible saw a return code"));
        return;
    }
    to.u8(connack.reason.as_u8());
    let from = &connack.properties;
    properties(to, |to| {
        to.number(Property::SessionExpiry, from.session_expiry_s);
        to.number(
            Property::ReceiveMaximum,
            from.receive_maximum.map(NonZeroU16::get),
        );
        let limited = from.maximum_qos.filter(|qos| *qos < QoS::ExactlyOnce);
        to.number(Property::MaximumQoS, limited.map(|qos| qos as u8));
        to.number(Property::RetainAvailable, from.retain_available);
        to.number(Property::MaximumPacketSize, from.maximum_packet_size);
        to.text(
            Property::AssignedClientIdentifier,
            from.assigned_client_id.as_ref(),
        );
        to.number(Property::TopicAliasMaximum, from.topic_alias_maximum);
        to.number(
            Property::WildcardSubscriptionAvailable,
            from.wildcard_subscription_available,
        );
        to.number(
            Property::SubscriptionIdentifiersAvailable,
            from.subscription_identifiers_available,
        );
        to.number(
            Property::SharedSubscriptionAvailable,
            from.shared_subscription_available,
        );
        to.number(Property::ServerKeepAlive, from.server_keep_alive_s);
        to.text(
            Property::ResponseInformation,
            from.response_information.as_ref(),
        );
        to.text(Property::ServerReference, from.server_reference.as_ref());
        to.text(
            Property::AuthenticationMethod,
            from.authentication_method.as_ref(),
        );
        to.bytes(
            Property::AuthenticationData,
            from.authentication_data.as_ref(),
        );
        write_explanation(from.reason_string.as_ref(), &from.user, detail, to);
    });
}

fn write_explanation(
    reason: Option<&Text>,
    user: &[(Text, Text)],
    detail: Detail,
    to: &mut Properties<'_>,
) {
    if detail != Detail::Bare {
        to.text(Property::ReasonString, reason);
    }
    if detail == Detail::All {
        to.user(user);
    }
}

/// Whether [`write_explanation`] would write nothing.
fn explains_nothing(reason: Option<&Text>, user: &[(Text, Text)], detail: Detail) -> bool {
    let no_reason = reason.is_none() || detail == Detail::Bare;
    no_reason && (user.is_empty() || detail != Detail::All)
}

fn write_ack(ack: &Ack, version: Version, detail: Detail, to: &mut dyn Sink) {
    to.u16(ack.packet_id.get());
    let reason_string = ack.reason_string.as_ref();
    let short = explains_nothing(reason_string, &ack.user, detail);
    if version == Version::V311 || (short && ack.reason == ReasonCode::Success) {
        return; // §3.4.2.1
    }
    to.u8(ack.reason.as_u8());
    if !short {
        properties(to, |to| {
            write_explanation(reason_string, &ack.user, detail, to)
        });
    }
}

fn write_subscribe(subscribe: &Subscribe, version: Version, to: &mut dyn Sink) {
    to.u16(subscribe.packet_id.get());
    if version == Version::V5 {
        properties(to, |to| {
            to.number(Property::SubscriptionIdentifier, subscribe.subscription_id);
            to.user(&subscribe.user);
        });
    }
    for subscription in &subscribe.filters {
        to.binary(filter_text(&subscription.filter).as_bytes());
        to.u8(options(subscription, version));
    }
}

fn options(subscription: &Subscription, version: Version) -> u8 {
    let qos = subscription.qos as u8;
    match version {
        Version::V311 => qos,
        Version::V5 => {
            let retain_as_published = u8::from(subscription.retain_as_published) << 3;
            qos | u8::from(subscription.no_local) << 2
                | retain_as_published
                | (subscription.retain_handling as u8) << 4
        }
    }
}

fn filter_text(filter: &Result<TopicFilter, Text>) -> &str {
    match filter {
        Ok(filter) => filter.as_str(),
        Err(text) => text,
    }
}

fn write_unsubscribe(unsubscribe: &Unsubscribe, version: Version, to: &mut dyn Sink) {
    to.u16(unsubscribe.packet_id.get());
    if version == Version::V5 {
        properties(to, |to| to.user(&unsubscribe.user));
    }
    for filter in &unsubscribe.filters {
        to.binary(filter_text(filter).as_bytes());
    }
}

fn write_suback(suback: &SubAck, version: Version, detail: Detail, to: &mut dyn Sink) {
    to.u16(suback.packet_id.get());
    if version == Version::V5 {
        properties(to, |to| {
            write_explanation(suback.reason_string.as_ref(), &suback.user, detail, to)
        });
    }
    for reason in &suback.reasons {
        to.u8(match version {
            Version::V311 => reason.suback_v311(),
            Version::V5 => reason.as_u8(),
        });
    }
}

fn write_unsuback(unsuback: &UnsubAck, version: Version, detail: Detail, to: &mut dyn Sink) {
    to.u16(unsuback.packet_id.get());
    if version == Version::V5 {
        properties(to, |to| {
            write_explanation(unsuback.reason_string.as_ref(), &unsuback.user, detail, to)
        });
        for reason in &unsuback.reasons {
            to.u8(reason.as_u8());
        }
    }
}

fn write_disconnect(disconnect: &Disconnect, version: Version, detail: Detail, to: &mut dyn Sink) {
    let reason_string = disconnect.reason_string.as_ref();
    let short = explains_nothing(reason_string, &disconnect.user, detail)
        && disconnect.session_expiry_s.is_none()
        && disconnect.server_reference.is_none();
    if version == Version::V311 || (short && disconnect.reason == ReasonCode::Success) {
        return; // §3.14.2.1
    }
    to.u8(disconnect.reason.as_u8());
    if !short {
        properties(to, |to| {
            to.number(Property::SessionExpiry, disconnect.session_expiry_s);
            to.text(
                Property::ServerReference,
                disconnect.server_reference.as_ref(),
            );
            write_explanation(reason_string, &disconnect.user, detail, to);
        });
    }
}

fn write_auth(auth: &Auth, detail: Detail, to: &mut dyn Sink) {
    let reason_string = auth.reason_string.as_ref();
    let short = explains_nothing(reason_string, &auth.user, detail)
        && auth.authentication_method.is_none()
        && auth.authentication_data.is_none();
    if short && auth.reason == ReasonCode::Success {
        return; // §3.15.2.1
    }
    to.u8(auth.reason.as_u8());
    properties(to, |to| {
        to.text(
            Property::AuthenticationMethod,
            auth.authentication_method.as_ref(),
        );
        to.bytes(
            Property::AuthenticationData,
            auth.authentication_data.as_ref(),
        );
        write_explanation(reason_string, &auth.user, detail, to);
    });
}
