//! A message on its way to subscribers, whatever it came from.

use bytes::Bytes;
use meridian_mqtt::packet::{PublishProperties, QoS};
use meridian_mqtt::session::Delivery;
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::TopicName;
use meridian_proto::v1;
use meridian_shard::{log, properties_from_message};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// A message as it is matched with subscriptions: made once, shared by all who get it.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its topic.
    pub topic: TopicName,
    /// Its payload.
    pub payload: Bytes,
    /// As published.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// What travels with it.
    pub properties: PublishProperties,
    /// Who published it, for No Local; empty for the broker itself.
    pub publisher: Text,
    /// When the broker took it, epoch milliseconds.
    pub received_ms: i64,
}

impl Outgoing {
    /// From a logged message; `None` if its topic is none, which what was admitted never is.
    #[must_use]
    pub fn from_message(message: &log::Message) -> Option<Self> {
        Some(Outgoing {
            topic: topic(&message.topic)?,
            payload: message.payload.clone(),
            qos: qos(message.qos),
            retain: message.retain,
            properties: properties_from_message(message),
            publisher: text(&message.publisher)?,
            received_ms: message.received_ms,
        })
    }

    /// From a position that passed the filter: QoS 1, and retained unless it is late.
    #[must_use]
    pub fn from_position(position: &v1::EnrichedPosition) -> Option<Self> {
        let mut payload = Vec::with_capacity(512);
        meridian_sinks::json::write_position(&mut payload, position);
        Some(Outgoing {
            topic: topic(&position_topic(&position.region, &position.device))?,
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: !position.late,
            properties: PublishProperties::default(),
            publisher: Text::from_static(""),
            received_ms: position.received_ts_ms,
        })
    }

    /// From an alert: QoS 1, never retained.
    #[must_use]
    pub fn from_alert(alert: &v1::Alert) -> Option<Self> {
        let mut payload = Vec::with_capacity(512);
        meridian_sinks::json::write_alert(&mut payload, alert);
        Some(Outgoing {
            topic: topic(&alert_topic(alert))?,
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: PublishProperties::default(),
            publisher: Text::from_static(""),
            received_ms: alert.received_ts_ms,
        })
    }

    /// From a retained message.
    #[must_use]
    pub fn from_retained(retained: &log::Retained) -> Option<Self> {
        match retained.body.as_ref()? {
            log::retained::Body::Message(message) => Self::from_message(message),
            log::retained::Body::Position(position) => Self::from_position(position),
        }
    }

    /// As a session's queue keeps it.
    #[must_use]
    pub fn to_message(&self) -> log::Message {
        let properties = self.properties.0.as_deref();
        let owned = |text: &Text| text.as_str().to_owned();
        log::Message {
            topic: self.topic.as_str().to_owned(),
            payload: self.payload.clone(),
            qos: self.qos as u32,
            retain: self.retain,
            payload_is_utf8: properties.and_then(|p| p.payload_is_utf8),
            message_expiry_s: properties.and_then(|p| p.message_expiry_s),
            content_type: properties.and_then(|p| p.content_type.as_ref()).map(owned),
            response_topic: properties
                .and_then(|p| p.response_topic.as_ref())
                .map(|t| t.as_str().to_owned()),
            correlation_data: properties.and_then(|p| p.correlation_data.clone()),
            user: properties.map_or_else(Vec::new, |p| {
                p.user
                    .iter()
                    .map(|(n, v)| log::UserProperty {
                        name: owned(n),
                        value: owned(v),
                    })
                    .collect()
            }),
            publisher: owned(&self.publisher),
            received_ms: self.received_ms,
            publisher_user: String::new(),
        }
    }

    /// As one session is sent it. `queued` is its place in the session's replicated queue, if it stands in one.
    #[must_use]
    pub fn delivery(
        &self,
        qos: QoS,
        retain: bool,
        subscription_ids: Vec<u32>,
        now_ms: i64,
        queued: Option<NonZeroU64>,
    ) -> Delivery {
        let expiry_s = self
            .properties
            .0
            .as_ref()
            .and_then(|properties| properties.message_expiry_s);
        Delivery {
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            qos,
            retain,
            properties: self.properties.clone(),
            subscription_ids,
            expires: expiry_s.map(|expiry_s| {
                let left_ms = self.received_ms + 1000 * i64::from(expiry_s) - now_ms;
                let now = Instant::now();
                match u64::try_from(left_ms) {
                    Ok(left_ms) if left_ms > 0 => now + Duration::from_millis(left_ms),
                    // Over already, whichever moment the caller compares with.
                    _ => now.checked_sub(Duration::from_secs(1)).unwrap_or(now),
                }
            }),
            packet_id: queued.map(|seq| {
                meridian_mqtt::packet::PacketId(meridian_shard::packet_id_of(seq.get()))
            }),
            handle: queued.map_or(0, NonZeroU64::get),
        }
    }
}

/// `geo/{region}/{device}/position`.
#[must_use]
pub fn position_topic(region: &str, device: &str) -> String {
    format!("geo/{region}/{device}/position")
}

/// `geo/{region}/{device}/alert/{type}`, and the fence behind it where there is one.
#[must_use]
pub fn alert_topic(alert: &v1::Alert) -> String {
    let base = format!(
        "geo/{}/{}/alert/{}",
        alert.region, alert.device, alert.r#type
    );
    match &alert.fence {
        // A fence's id may hold what a topic may not.
        Some(fence) => format!("{base}/{}", fence.id.replace(['+', '#', '/', '\0'], "_")),
        None => base,
    }
}

pub(crate) fn topic(name: &str) -> Option<TopicName> {
    TopicName::new(text(name)?).ok()
}

pub(crate) fn text(text: &str) -> Option<Text> {
    Text::new(Bytes::copy_from_slice(text.as_bytes())).ok()
}

/// From a number in the log, where it is 0, 1 or 2.
pub(crate) fn qos(number: u32) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
