//! A message published by the API, held to what a client may publish.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use meridian_mqtt::packet::{PublishProperties, QoS};
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::TopicName;
use serde::Deserialize;

use super::Shared;
use super::problem::Problem;
use super::request;
use crate::clock::wall_ms;
use crate::router::Outgoing;

/// What the JSON around a payload may take, bytes: more than the longest topic does.
const FRAME_BYTES_MAX: usize = 512 << 10;

/// The body of `POST publish`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    topic: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
}

/// `{"topic":…,"payload":…|"payload_base64":…,"qos":0|1,"retain":false}`: returns when it is durable.
pub(super) async fn publish(State(api): Shared, body: Body) -> Result<StatusCode, Problem> {
    let packet_max = api.node.session_limits.max_packet as usize;
    // Base64 makes four characters of three bytes; JSON text seldom needs more.
    let body = request::bytes(body, 2 * packet_max + FRAME_BYTES_MAX).await?;
    let message = message(request::object(&body)?, packet_max)?;
    if !api.node.access.open().may_publish(&message.topic) {
        return Err(Problem::forbidden("this topic is the broker's own").at("/topic"));
    }
    let published = api.node.publish(message).await;
    published
        .map(|()| StatusCode::NO_CONTENT)
        .map_err(|error| Problem::unavailable(error.to_string()))
}

fn message(publish: Publish, packet_max: usize) -> Result<Outgoing, Problem> {
    let topic = Text::new(Bytes::from(publish.topic))
        .map_err(|error| Problem::invalid("/topic", error.to_string()))?;
    let topic =
        TopicName::new(topic).map_err(|error| Problem::invalid("/topic", error.to_string()))?;
    let (field, payload) = match (publish.payload, publish.payload_base64) {
        (payload, None) => ("/payload", payload.unwrap_or_default().into_bytes()),
        (None, Some(encoded)) => {
            let decoded = STANDARD.decode(encoded);
            let decoded =
                decoded.map_err(|error| Problem::invalid("/payload_base64", error.to_string()))?;
            ("/payload_base64", decoded)
        }
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "/payload",
                "give payload or payload_base64, not both",
            ));
        }
    };
    let packet = packet_bytes(topic.as_str().len(), payload.len());
    if packet > packet_max {
        let detail = format!(
            "the message is a packet of {packet} bytes, and limits.max_packet is {packet_max}"
        );
        return Err(Problem::too_large(field, detail));
    }
    let qos = match publish.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        other => {
            return Err(Problem::invalid(
                "/qos",
                format!(
                    "must be 0 or 1, and is {other}: a request cannot be told from its repetition"
                ),
            ));
        }
    };
    Ok(Outgoing {
        topic,
        payload: payload.into(),
        qos,
        retain: publish.retain,
        properties: PublishProperties::default(),
        publisher: Text::from_static(""),
        received_ms: wall_ms(),
    })
}

/// The size of a client's QoS 1 PUBLISH with no properties, bytes [MQTT-3.3].
fn packet_bytes(topic: usize, payload: usize) -> usize {
    let remaining = 2 + topic + 2 + 1 + payload;
    // The remaining length takes a byte for each seven bits [MQTT-1.5.5].
    let length = (1..4)
        .find(|bytes| remaining < 1 << (7 * bytes))
        .unwrap_or(4);
    1 + length + remaining
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use meridian_mqtt::codec::{PACKET_BYTES_MAX, encode};
    use meridian_mqtt::packet::{Packet, PacketId, Publish as PublishPacket, Version};

    use super::*;

    #[test]
    fn a_message_counts_as_the_packet_that_it_would_be() {
        for payload in [
            0, 1, 121, 122, 123, 16_000, 16_375, 16_376, 16_377, 2_097_200,
        ] {
            let packet = Packet::Publish(PublishPacket {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: crate::router::topic("a"),
                packet_id: PacketId::new(1),
                topic_alias: None,
                subscription_ids: Vec::new(),
                properties: PublishProperties::default(),
                payload: Bytes::from(vec![0; payload]),
            });
            let mut out = BytesMut::new();
            encode(&packet, Version::V5, PACKET_BYTES_MAX, &mut out).unwrap();
            assert_eq!(packet_bytes(1, payload), out.len(), "{payload}");
        }
    }
}
