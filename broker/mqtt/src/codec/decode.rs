//! The bodies of all packets but CONNECT and CONNACK (§3.3 to §3.15).

use std::num::NonZeroU16;

use super::Role;
use super::connect::{read_connack, set_message_property};
use super::error::CodecError;
use super::frame::PacketType;
use super::property::{self, Carrier, Property, Value};
use super::reader::Reader;
use crate::packet::{
    Ack, Auth, Disconnect, Packet, Publish, PublishProperties, QoS, RetainHandling, SubAck,
    Subscribe, Subscription, UnsubAck, Unsubscribe, Version,
};
use crate::reason::ReasonCode;
use crate::text::Text;
use crate::topic::{TopicError, TopicFilter, TopicName};

const WRONG_REASON: CodecError = CodecError::protocol(
    "a reason code that its packet cannot have [MQTT-3.4.2-1], [MQTT-3.9.3-2], [MQTT-3.14.2-1]",
);

// Inlined, so that a PUBLISH is built where it is returned instead of being copied through three results.
#[inline(always)]
pub(super) fn read_body(
    packet_type: PacketType,
    flags: u8,
    body: Reader,
    version: Version,
    role: Role,
) -> Result<Packet, CodecError> {
    match packet_type {
        PacketType::Connect => unreachable!("CONNECT settles the version and is read on its own"),
        PacketType::ConnAck => {
            read_connack(body, version).map(|connack| Packet::ConnAck(Box::new(connack)))
        }
        PacketType::Publish => read_publish(flags, body, version, role).map(Packet::Publish),
        PacketType::PubAck => read_ack(body, version, is_received).map(Packet::PubAck),
        PacketType::PubRec => read_ack(body, version, is_received).map(Packet::PubRec),
        PacketType::PubRel => read_ack(body, version, is_released).map(Packet::PubRel),
        PacketType::PubComp => read_ack(body, version, is_released).map(Packet::PubComp),
        PacketType::Subscribe => read_subscribe(body, version).map(Packet::Subscribe),
        PacketType::SubAck => read_suback(body, version).map(Packet::SubAck),
        PacketType::Unsubscribe => read_unsubscribe(body, version).map(Packet::Unsubscribe),
        PacketType::UnsubAck => read_unsuback(body, version).map(Packet::UnsubAck),
        PacketType::PingReq => body.finish().map(|()| Packet::PingReq),
        PacketType::PingResp => body.finish().map(|()| Packet::PingResp),
        PacketType::Disconnect => read_disconnect(body, version, role).map(Packet::Disconnect),
        PacketType::Auth => read_auth(body).map(Packet::Auth),
    }
}

#[inline(always)]
fn read_publish(
    flags: u8,
    mut body: Reader,
    version: Version,
    role: Role,
) -> Result<Publish, CodecError> {
    let qos = match (flags >> 1) & 0b11 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce, // 3 was refused with the fixed header
    };
    let topic = match TopicName::new(body.text()?) {
        Ok(topic) => Some(topic),
        Err(TopicError::Empty) if version == Version::V5 => None,
        Err(TopicError::Empty) => {
            return Err(CodecError::malformed("an empty topic name [MQTT-4.7.3-1]"));
        }
        Err(TopicError::Wildcard) => {
            return Err(CodecError::new(
                ReasonCode::TopicNameInvalid,
                "a wildcard in a topic name [MQTT-3.3.2-2]",
            ));
        }
        Err(_) => {
            return Err(CodecError::new(
                ReasonCode::TopicNameInvalid,
                "a topic name of too many levels [§4.7.3]",
            ));
        }
    };
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        Some(body.packet_id()?)
    };
    let mut topic_alias = None;
    let mut subscription_ids = Vec::new();
    let mut properties = PublishProperties::default();
    if version == Version::V5 {
        property::read(
            &mut body,
            Carrier::publish(role),
            |property, value| match (property, value) {
                (Property::TopicAlias, Value::Number(number)) => {
                    topic_alias = NonZeroU16::new(number as u16)
                }
                (Property::SubscriptionIdentifier, Value::Number(number)) => {
                    subscription_ids.push(number)
                }
                (property, value) => set_message_property(&mut properties, property, value),
            },
        )?;
    }
    if topic.is_none() && topic_alias.is_none() {
        return Err(CodecError::protocol(
            "an empty topic name without a topic alias [§3.3.2.1]",
        ));
    }
    Ok(Publish {
        dup: flags & 0b1000 != 0,
        qos,
        retain: flags & 0b0001 != 0,
        topic,
        packet_id,
        topic_alias,
        subscription_ids,
        properties,
        payload: body.rest(),
    })
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP: 5.0 may leave out what would say success.
fn read_ack(
    mut body: Reader,
    version: Version,
    allowed: fn(u8) -> bool,
) -> Result<Ack, CodecError> {
    let packet_id = body.packet_id()?;
    let mut ack = Ack {
        packet_id,
        reason: ReasonCode::Success,
        reason_string: None,
        user: Vec::new(),
    };
    if version == Version::V5 && body.remaining() > 0 {
        ack.reason = read_reason(&mut body, allowed)?;
        if body.remaining() > 0 {
            (ack.reason_string, ack.user) = read_explanation(&mut body, Carrier::Ack)?;
        }
    }
    body.finish()?;
    Ok(ack)
}

fn read_subscribe(mut body: Reader, version: Version) -> Result<Subscribe, CodecError> {
    let packet_id = body.packet_id()?;
    let mut subscription_id = None;
    let mut user = Vec::new();
    if version == Version::V5 {
        property::read(&mut body, Carrier::Subscribe, |property, value| {
            match (property, value) {
                (Property::SubscriptionIdentifier, Value::Number(number)) => {
                    subscription_id = Some(number)
                }
                (Property::User, Value::Pair(name, value)) => user.push((name, value)),
                (property, value) => {
                    unreachable!("the table gives SUBSCRIBE no {property:?} {value:?}")
                }
            }
        })?;
    }
    let mut filters = Vec::new();
    while body.remaining() > 0 {
        let filter = read_filter(&mut body)?;
        filters.push(read_subscription(filter, body.u8()?, version)?);
    }
    if filters.is_empty() {
        return Err(CodecError::protocol(
            "a SUBSCRIBE without a topic filter [MQTT-3.8.3-2]",
        ));
    }
    Ok(Subscribe {
        packet_id,
        subscription_id,
        user,
        filters,
    })
}

fn read_subscription(
    filter: Result<TopicFilter, Text>,
    options: u8,
    version: Version,
) -> Result<Subscription, CodecError> {
    let reserved = match version {
        Version::V5 => 0b1100_0000,
        Version::V311 => 0b1111_1100,
    };
    if options & reserved != 0 {
        return Err(CodecError::malformed(
            "reserved bits of subscription options are set [MQTT-3.8.3-5]",
        ));
    }
    let qos = match options & 0b11 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => {
            return Err(CodecError::protocol(
                "a subscription asks for QoS 3 [§3.8.3.1], [MQTT-3.8.3-4 v3.1.1]",
            ));
        }
    };
    let retain_handling = match (options >> 4) & 0b11 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::Never,
        _ => {
            return Err(CodecError::protocol(
                "a subscription asks for retain handling 3 [§3.8.3.1]",
            ));
        }
    };
    let no_local = options & 0b0100 != 0;
    if no_local && filter.as_ref().is_ok_and(|filter| filter.share().is_some()) {
        return Err(CodecError::protocol(
            "No Local on a shared subscription [MQTT-3.8.3-4]",
        ));
    }
    Ok(Subscription {
        filter,
        qos,
        no_local,
        retain_as_published: options & 0b1000 != 0,
        retain_handling,
    })
}

fn read_filter(body: &mut Reader) -> Result<Result<TopicFilter, Text>, CodecError> {
    let text = body.text()?;
    Ok(TopicFilter::new(text.clone()).map_err(|_| text))
}

fn read_unsubscribe(mut body: Reader, version: Version) -> Result<Unsubscribe, CodecError> {
    let packet_id = body.packet_id()?;
    let user = match version {
        Version::V5 => read_explanation(&mut body, Carrier::Unsubscribe)?.1,
        Version::V311 => Vec::new(),
    };
    let mut filters = Vec::new();
    while body.remaining() > 0 {
        filters.push(read_filter(&mut body)?);
    }
    if filters.is_empty() {
        return Err(CodecError::protocol(
            "an UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]",
        ));
    }
    Ok(Unsubscribe {
        packet_id,
        user,
        filters,
    })
}

fn read_suback(mut body: Reader, version: Version) -> Result<SubAck, CodecError> {
    let packet_id = body.packet_id()?;
    let (reason_string, user) = match version {
        Version::V5 => read_explanation(&mut body, Carrier::SubAck)?,
        Version::V311 => (None, Vec::new()),
    };
    let allowed = match version {
        Version::V5 => is_granted,
        Version::V311 => |code| matches!(code, 0..=2 | 0x80),
    };
    let reasons = read_reasons(&mut body, allowed)?;
    Ok(SubAck {
        packet_id,
        reason_string,
        user,
        reasons,
    })
}

fn read_unsuback(mut body: Reader, version: Version) -> Result<UnsubAck, CodecError> {
    let packet_id = body.packet_id()?;
    if version == Version::V311 {
        body.finish()?;
        return Ok(UnsubAck {
            packet_id,
            reason_string: None,
            user: Vec::new(),
            reasons: Vec::new(),
        });
    }
    let (reason_string, user) = read_explanation(&mut body, Carrier::UnsubAck)?;
    let reasons = read_reasons(&mut body, |code| {
        matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
    })?;
    Ok(UnsubAck {
        packet_id,
        reason_string,
        user,
        reasons,
    })
}

fn read_disconnect(
    mut body: Reader,
    version: Version,
    role: Role,
) -> Result<Disconnect, CodecError> {
    let mut to = Disconnect {
        reason: ReasonCode::Success,
        session_expiry_s: None,
        reason_string: None,
        user: Vec::new(),
        server_reference: None,
    };
    if version == Version::V5 && body.remaining() > 0 {
        let allowed = match role {
            Role::Server => is_from_client,
            Role::Client => is_from_server,
        };
        to.reason = read_reason(&mut body, allowed)?;
        if body.remaining() > 0 {
            property::read(
                &mut body,
                Carrier::disconnect(role),
                |property, value| match (property, value) {
                    (Property::SessionExpiry, Value::Number(number)) => {
                        to.session_expiry_s = Some(number)
                    }
                    (Property::ReasonString, Value::Text(text)) => to.reason_string = Some(text),
                    (Property::ServerReference, Value::Text(text)) => {
                        to.server_reference = Some(text)
                    }
                    (Property::User, Value::Pair(name, value)) => to.user.push((name, value)),
                    (property, value) => {
                        unreachable!("the table gives DISCONNECT no {property:?} {value:?}")
                    }
                },
            )?;
        }
    }
    body.finish()?;
    Ok(to)
}

fn read_auth(mut body: Reader) -> Result<Auth, CodecError> {
    let mut to = Auth {
        reason: ReasonCode::Success,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user: Vec::new(),
    };
    if body.remaining() == 0 {
        return Ok(to); // success without properties, §3.15.2.1
    }
    to.reason = read_reason(&mut body, |code| matches!(code, 0x00 | 0x18 | 0x19))?;
    if body.remaining() == 0 {
        return Err(CodecError::malformed(
            "an AUTH with a reason code and no property length [§3.15.2.1]",
        ));
    }
    property::read(&mut body, Carrier::Auth, |property, value| {
        match (property, value) {
            (Property::AuthenticationMethod, Value::Text(text)) => {
                to.authentication_method = Some(text)
            }
            (Property::AuthenticationData, Value::Binary(bytes)) => {
                to.authentication_data = Some(bytes)
            }
            (Property::ReasonString, Value::Text(text)) => to.reason_string = Some(text),
            (Property::User, Value::Pair(name, value)) => to.user.push((name, value)),
            (property, value) => unreachable!("the table gives AUTH no {property:?} {value:?}"),
        }
    })?;
    body.finish()?;
    if to.authentication_method.is_none() {
        return Err(CodecError::protocol(
            "an AUTH without an authentication method [§3.15.2.2.2]",
        ));
    }
    Ok(to)
}

/// A reason string and user properties.
type Explanation = (Option<Text>, Vec<(Text, Text)>);

/// Properties of the packets that have no others.
fn read_explanation(body: &mut Reader, carrier: Carrier) -> Result<Explanation, CodecError> {
    let mut reason_string = None;
    let mut user = Vec::new();
    property::read(body, carrier, |property, value| match (property, value) {
        (Property::ReasonString, Value::Text(text)) => reason_string = Some(text),
        (Property::User, Value::Pair(name, value)) => user.push((name, value)),
        (property, value) => unreachable!("the table gives {carrier:?} no {property:?} {value:?}"),
    })?;
    Ok((reason_string, user))
}

fn read_reason(body: &mut Reader, allowed: fn(u8) -> bool) -> Result<ReasonCode, CodecError> {
    let code = body.u8()?;
    ReasonCode::from_u8(code)
        .filter(|_| allowed(code))
        .ok_or(WRONG_REASON)
}

fn read_reasons(body: &mut Reader, allowed: fn(u8) -> bool) -> Result<Vec<ReasonCode>, CodecError> {
    let mut reasons = Vec::with_capacity(body.remaining());
    while body.remaining() > 0 {
        reasons.push(read_reason(body, allowed)?);
    }
    match reasons.is_empty() {
        true => Err(CodecError::protocol(
            "an acknowledgement without a reason code [MQTT-3.8.4-5]",
        )),
        false => Ok(reasons),
    }
}

/// PUBACK and PUBREC, 5.0 table 3.4 and 3.5.
fn is_received(code: u8) -> bool {
    matches!(
        code,
        0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
    )
}

/// PUBREL and PUBCOMP, 5.0 table 3.6 and 3.7.
fn is_released(code: u8) -> bool {
    matches!(code, 0x00 | 0x92)
}

/// SUBACK, 5.0 table 3.8.
fn is_granted(code: u8) -> bool {
    matches!(
        code,
        0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
    )
}

/// DISCONNECT from a client, 5.0 table 3.10.
fn is_from_client(code: u8) -> bool {
    matches!(code, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
}

/// DISCONNECT from a server, 5.0 table 3.10.
fn is_from_server(code: u8) -> bool {
    matches!(code, 0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2)
}
