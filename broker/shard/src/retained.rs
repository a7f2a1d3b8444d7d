//! Retained messages: the last of each topic, for those who subscribe later [MQTT-3.3.1-5].

use std::ops::ControlFlow;

use bytes::Bytes;
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::{TopicFilter, TopicName};
use meridian_mqtt::topic_map::TopicMap;
use prost::Message as _;

use crate::keys;
use crate::log;
use crate::store::{Reads, Writes};

/// The retained messages of the shard's topics.
#[derive(Debug, Default)]
pub(crate) struct RetainedMessages(TopicMap<log::Retained>);

impl RetainedMessages {
    pub(crate) fn restore(store: &dyn Reads) -> Self {
        let mut retained = RetainedMessages::default();
        store.scan(keys::RETAINED, &mut |key, value| {
            if let (Some(topic), Ok(message)) = (
                keys::name(keys::RETAINED, key).and_then(topic_name),
                log::Retained::decode(value),
            ) {
                retained.0.insert(topic, message);
            }
        });
        retained
    }

    /// A message with an empty payload clears the topic [MQTT-3.3.1-6].
    pub(crate) fn put_message(&mut self, message: &log::Message, writes: &mut dyn Writes) {
        let Some(topic) = topic_name(&message.topic) else {
            return;
        };
        let key = keys::named(keys::RETAINED, &message.topic);
        if message.payload.is_empty() {
            if self.0.remove(&topic).is_some() {
                writes.delete(&key);
            }
            return;
        }
        let retained = log::Retained {
            body: Some(log::retained::Body::Message(message.clone())),
        };
        writes.put(&key, &retained.encode_to_vec());
        self.0.insert(topic, retained);
    }

    pub(crate) fn put_position(
        &mut self,
        topic: &str,
        position: &meridian_proto::v1::EnrichedPosition,
        writes: &mut dyn Writes,
    ) {
        let Some(name) = topic_name(topic) else {
            return;
        };
        let retained = log::Retained {
            body: Some(log::retained::Body::Position(position.clone())),
        };
        writes.put(
            &keys::named(keys::RETAINED, topic),
            &retained.encode_to_vec(),
        );
        self.0.insert(name, retained);
    }

    /// Visits what `filter` matches and has not expired at `now_ms` [MQTT-3.3.2-5].
    pub(crate) fn for_each_match(
        &self,
        filter: &TopicFilter,
        now_ms: i64,
        mut visit: impl FnMut(&TopicName, &log::Retained),
    ) {
        let all = self.0.try_for_each_match(filter, |topic, retained| {
            let expired = match &retained.body {
                Some(log::retained::Body::Message(message)) => {
                    message.message_expiry_s.is_some_and(|expiry_s| {
                        message.received_ms + 1000 * i64::from(expiry_s) <= now_ms
                    })
                }
                Some(log::retained::Body::Position(_)) | None => false,
            };
            if !expired {
                visit(topic, retained);
            }
            ControlFlow::<()>::Continue(())
        });
        debug_assert!(all.is_continue(), "nothing breaks the visit");
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn topic_name(topic: &str) -> Option<TopicName> {
    TopicName::new(Text::new(Bytes::copy_from_slice(topic.as_bytes())).ok()?).ok()
}
