//! CONNECT and CONNACK (§3.1, §3.2): the packets that open a connection.

use std::num::NonZeroU16;

use super::error::CodecError;
use super::property::{self, Carrier, Property, Value};
use super::reader::Reader;
use crate::packet::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, PublishProperties, QoS, Version, Will,
};
use crate::reason::ReasonCode;
use crate::topic::TopicName;

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;

const AUTHENTICATION_DATA_ALONE: CodecError =
    CodecError::protocol("authentication data without an authentication method [§3.1.2.11.10]");

pub(super) fn read_connect(mut body: Reader) -> Result<Connect, CodecError> {
    let name = body.text()?;
    let level = body.u8()?;
    let version = match (name.as_str(), level) {
        ("MQTT", 4) => Version::V311,
        ("MQTT", 5) => Version::V5,
        (_, level) => {
            // Each generation is answered in words that it can read.
            let answer = if level < 5 {
                Version::V311
            } else {
                Version::V5
            };
            return Err(CodecError::new(
                ReasonCode::UnsupportedProtocolVersion,
                "an unsupported protocol name or version [MQTT-3.1.2-1], [MQTT-3.1.2-2]",
            )
            .answered_in(answer));
        }
    };
    read_known(body, version).map_err(|error| error.answered_in(version))
}

fn read_known(mut body: Reader, version: Version) -> Result<Connect, CodecError> {
    let flags = body.u8()?;
    check_flags(flags, version)?;
    let clean_start = flags & CLEAN_START != 0;
    let keep_alive_s = body.u16()?;
    let properties = match version {
        Version::V5 => read_properties(&mut body)?,
        Version::V311 => ConnectProperties::default(),
    };
    let client_id = body.text()?;
    if version == Version::V311 && client_id.is_empty() && !clean_start {
        return Err(CodecError::new(
            ReasonCode::ClientIdentifierNotValid,
            "an empty client identifier without a clean session [MQTT-3.1.3-8 v3.1.1]",
        ));
    }
    let will = if flags & WILL != 0 {
        Some(read_will(&mut body, flags, version)?)
    } else {
        None
    };
    let username = if flags & USERNAME != 0 {
        Some(body.text()?)
    } else {
        None
    };
    let password = if flags & PASSWORD != 0 {
        Some(body.binary()?)
    } else {
        None
    };
    body.finish()?;
    Ok(Connect {
        version,
        clean_start,
        keep_alive_s,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

fn check_flags(flags: u8, version: Version) -> Result<(), CodecError> {
    if flags & RESERVED != 0 {
        return Err(CodecError::malformed(
            "the reserved flag of CONNECT is set [MQTT-3.1.2-3]",
        ));
    }
    if flags & WILL == 0 && flags & WILL_QOS != 0 {
        return Err(CodecError::malformed(
            "a will QoS without a will [MQTT-3.1.2-11]",
        ));
    }
    if flags & WILL == 0 && flags & WILL_RETAIN != 0 {
        return Err(CodecError::malformed(
            "a will retain flag without a will [MQTT-3.1.2-13]",
        ));
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(CodecError::malformed("a will QoS of 3 [MQTT-3.1.2-12]"));
    }
    if version == Version::V311 && flags & PASSWORD != 0 && flags & USERNAME == 0 {
        return Err(CodecError::malformed(
            "a password without a user name [MQTT-3.1.2-22 v3.1.1]",
        ));
    }
    Ok(())
}

fn read_properties(body: &mut Reader) -> Result<ConnectProperties, CodecError> {
    let mut to = ConnectProperties::default();
    property::read(body, Carrier::Connect, |property, value| {
        match (property, value) {
            (Property::SessionExpiry, Value::Number(number)) => to.session_expiry_s = Some(number),
            (Property::ReceiveMaximum, Value::Number(number)) => {
                to.receive_maximum = NonZeroU16::new(number as u16)
            }
            (Property::MaximumPacketSize, Value::Number(number)) => {
                to.maximum_packet_size = Some(number)
            }
            (Property::TopicAliasMaximum, Value::Number(number)) => {
                to.topic_alias_maximum = Some(number as u16)
            }
            (Property::RequestResponseInformation, Value::Number(number)) => {
                to.request_response_information = Some(number == 1);
            }
            (Property::RequestProblemInformation, Value::Number(number)) => {
                to.request_problem_information = Some(number == 1);
            }
            (Property::AuthenticationMethod, Value::Text(text)) => {
                to.authentication_method = Some(text)
            }
            (Property::AuthenticationData, Value::Binary(bytes)) => {
                to.authentication_data = Some(bytes)
            }
            (Property::User, Value::Pair(name, value)) => to.user.push((name, value)),
            (property, value) => unreachable!("the table gives CONNECT no {property:?} {value:?}"),
        }
    })?;
    if to.authentication_data.is_some() && to.authentication_method.is_none() {
        return Err(AUTHENTICATION_DATA_ALONE);
    }
    Ok(to)
}

fn read_will(body: &mut Reader, flags: u8, version: Version) -> Result<Will, CodecError> {
    let mut delay_s = 0;
    let mut properties = PublishProperties::default();
    if version == Version::V5 {
        property::read(body, Carrier::Will, |property, value| {
            match (property, value) {
                (Property::WillDelay, Value::Number(number)) => delay_s = number,
                (property, value) => set_message_property(&mut properties, property, value),
            }
        })?;
    }
    let topic = TopicName::new(body.text()?).map_err(|_| {
        CodecError::new(
            ReasonCode::TopicNameInvalid,
            "a will topic is no topic name [MQTT-4.7.1-1]",
        )
    })?;
    let payload = body.binary()?;
    let qos = match flags & WILL_QOS {
        0 => QoS::AtMostOnce,
        0b0000_1000 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    Ok(Will {
        topic,
        payload,
        qos,
        retain: flags & WILL_RETAIN != 0,
        delay_s,
        properties,
    })
}

/// The properties that a will and a PUBLISH have in common.
pub(super) fn set_message_property(to: &mut PublishProperties, property: Property, value: Value) {
    // Boxed with the first of them: the common message has none.
    let to = to.0.get_or_insert_default();
    match (property, value) {
        (Property::PayloadFormat, Value::Number(number)) => to.payload_is_utf8 = Some(number == 1),
        (Property::MessageExpiry, Value::Number(number)) => to.message_expiry_s = Some(number),
        (Property::ContentType, Value::Text(text)) => to.content_type = Some(text),
        (Property::ResponseTopic, Value::Topic(topic)) => to.response_topic = Some(topic),
        (Property::CorrelationData, Value::Binary(bytes)) => to.correlation_data = Some(bytes),
        (Property::User, Value::Pair(name, value)) => to.user.push((name, value)),
        (property, value) => unreachable!("the table gives messages no {property:?} {value:?}"),
    }
}

pub(super) fn read_connack(mut body: Reader, version: Version) -> Result<ConnAck, CodecError> {
    let flags = body.u8()?;
    if flags > 1 {
        return Err(CodecError::malformed(
            "reserved acknowledge flags are set [MQTT-3.2.2-1]",
        ));
    }
    let session_present = flags == 1;
    let code = body.u8()?;
    let (reason, properties) = match version {
        Version::V311 => (
            ReasonCode::from_connack_v311(code),
            ConnAckProperties::default(),
        ),
        Version::V5 => (
            ReasonCode::from_u8(code).filter(is_connack),
            read_connack_properties(&mut body)?,
        ),
    };
    let reason = reason.ok_or(CodecError::protocol(
        "a reason code that CONNACK cannot have [MQTT-3.2.2-8]",
    ))?;
    if session_present && reason != ReasonCode::Success {
        return Err(CodecError::protocol(
            "session present on a refusal [MQTT-3.2.2-6]",
        ));
    }
    body.finish()?;
    Ok(ConnAck {
        session_present,
        reason,
        properties,
    })
}

/// 5.0 table 3.1.
fn is_connack(code: &ReasonCode) -> bool {
    matches!(
        code.as_u8(),
        0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
    )
}

fn read_connack_properties(body: &mut Reader) -> Result<ConnAckProperties, CodecError> {
    let mut to = ConnAckProperties::default();
    property::read(body, Carrier::ConnAck, |property, value| {
        match (property, value) {
            (Property::SessionExpiry, Value::Number(number)) => to.session_expiry_s = Some(number),
            (Property::ReceiveMaximum, Value::Number(number)) => {
                to.receive_maximum = NonZeroU16::new(number as u16)
            }
            (Property::MaximumQoS, Value::Number(0)) => to.maximum_qos = Some(QoS::AtMostOnce),
            (Property::MaximumQoS, Value::Number(_)) => to.maximum_qos = Some(QoS::AtLeastOnce),
            (Property::RetainAvailable, Value::Number(number)) => {
                to.retain_available = Some(number == 1)
            }
            (Property::MaximumPacketSize, Value::Number(number)) => {
                to.maximum_packet_size = Some(number)
            }
            (Property::AssignedClientIdentifier, Value::Text(text)) => {
                to.assigned_client_id = Some(text)
            }
            (Property::TopicAliasMaximum, Value::Number(number)) => {
                to.topic_alias_maximum = Some(number as u16)
            }
            (Property::ReasonString, Value::Text(text)) => to.reason_string = Some(text),
            (Property::User, Value::Pair(name, value)) => to.user.push((name, value)),
            (Property::WildcardSubscriptionAvailable, Value::Number(number)) => {
                to.wildcard_subscription_available = Some(number == 1);
            }
            (Property::SubscriptionIdentifiersAvailable, Value::Number(number)) => {
                to.subscription_identifiers_available = Some(number == 1);
            }
            (Property::SharedSubscriptionAvailable, Value::Number(number)) => {
                to.shared_subscription_available = Some(number == 1);
            }
            (Property::ServerKeepAlive, Value::Number(number)) => {
                to.server_keep_alive_s = Some(number as u16)
            }
            (Property::ResponseInformation, Value::Text(text)) => {
                to.response_information = Some(text)
            }
            (Property::ServerReference, Value::Text(text)) => to.server_reference = Some(text),
            (Property::AuthenticationMethod, Value::Text(text)) => {
                to.authentication_method = Some(text)
            }
            (Property::AuthenticationData, Value::Binary(bytes)) => {
                to.authentication_data = Some(bytes)
            }
            (property, value) => unreachable!("the table gives CONNACK no {property:?} {value:?}"),
        }
    })?;
    if to.authentication_data.is_some() && to.authentication_method.is_none() {
        return Err(AUTHENTICATION_DATA_ALONE);
    }
    Ok(to)
}
