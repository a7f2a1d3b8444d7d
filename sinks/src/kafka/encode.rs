//! Events as records.

use meridian_proto::v1::{Alert, EnrichedPosition};
use prost::Message as _;
use rdkafka::message::{Header, OwnedHeaders};

use super::{Format, KafkaOptions};
use crate::json;
use crate::sink::{Event, EventRecord};

/// What a record's frame takes at most beside key, value and headers, bytes.
const FRAME_BYTES: usize = 256;

/// One record, ready to go.
pub(super) struct Encoded<'a> {
    pub(super) kind: Kind,
    /// The device: its records stay in one partition, and so in order.
    pub(super) key: &'a str,
    pub(super) value: Vec<u8>,
    /// Of the fix, epoch milliseconds.
    pub(super) ts_ms: i64,
    headers: [(&'static str, String); 6],
}

/// Which topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Position,
    Alert,
}

impl<'a> Encoded<'a> {
    pub(super) fn new(record: &'a EventRecord, options: &KafkaOptions) -> Self {
        let (kind, event_id, device, region, ts_ms, schema) = match &record.event {
            Event::Position(EnrichedPosition {
                event_id,
                device,
                region,
                position,
                ..
            }) => {
                let ts_ms = position.as_ref().map_or(0, |fix| fix.ts_ms);
                let schema = json::POSITION_SCHEMA;
                (Kind::Position, event_id, device, region, ts_ms, schema)
            }
            Event::Alert(Alert {
                event_id,
                device,
                region,
                ts_ms,
                ..
            }) => {
                let schema = json::ALERT_SCHEMA;
                (Kind::Alert, event_id, device, region, *ts_ms, schema)
            }
        };
        let mut value = Vec::new();
        let content_type = match options.format {
            Format::Json => {
                json::write_event(&mut value, &record.event);
                "application/json"
            }
            Format::Protobuf => {
                value = match &record.event {
                    Event::Position(position) => position.encode_to_vec(),
                    Event::Alert(alert) => alert.encode_to_vec(),
                };
                "application/x-protobuf"
            }
        };
        Encoded {
            kind,
            key: device,
            value,
            ts_ms,
            headers: [
                ("event-id", event_id.clone()),
                ("region", region.clone()),
                ("shard", record.shard.clone()),
                ("offset", record.offset.to_string()),
                ("schema", schema.to_owned()),
                ("content-type", content_type.to_owned()),
            ],
        }
    }

    pub(super) fn headers(&self) -> OwnedHeaders {
        let headers = OwnedHeaders::new_with_capacity(self.headers.len());
        self.headers.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        })
    }

    /// An upper bound of what the record takes in an uncompressed batch, bytes.
    pub(super) fn bytes(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(key, value)| key.len() + value.len() + 8)
            .sum();
        FRAME_BYTES + headers + self.key.len() + self.value.len()
    }
}
