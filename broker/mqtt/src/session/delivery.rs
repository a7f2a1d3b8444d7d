//! A message on its way to the client, and what became of it.

use std::time::Instant;

use bytes::Bytes;

use crate::packet::{PacketId, PublishProperties, QoS};
use crate::topic::TopicName;

/// A message for the client.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its topic.
    pub topic: TopicName,
    /// Its payload, shared by all who get it.
    pub payload: Bytes,
    /// The lower one of published and subscribed.
    pub qos: QoS,
    /// As it is to be sent.
    pub retain: bool,
    /// As they came.
    pub properties: PublishProperties,
    /// Of the subscriptions that matched.
    pub subscription_ids: Vec<u32>,
    /// After this it is not sent any more [MQTT-3.3.2-5].
    pub expires: Option<Instant>,
    /// Given where the message stands in a replicated queue, so that it is the same after any crash.
    pub packet_id: Option<PacketId>,
    /// Comes back in [`super::Output::Acknowledged`]; 0 for none.
    pub handle: u64,
}

impl Delivery {
    /// Whether its time is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Bytes that it holds in memory, about: what it shares with other recipients is counted too.
    pub(super) fn bytes(&self) -> usize {
        let properties = self.properties.0.as_deref().map_or(0, |message| {
            let user = message.user.iter();
            user.map(|(name, value)| name.as_str().len() + value.as_str().len())
                .sum::<usize>()
                + message.correlation_data.as_ref().map_or(0, Bytes::len)
        });
        self.topic.as_str().len() + self.payload.len() + properties
    }
}

/// Something that was under way when an earlier connection ended [MQTT-4.4.0-1].
#[derive(Debug)]
pub enum Resume {
    /// Sent and not acknowledged: sent again, as a duplicate. Has its packet identifier.
    Publish(Delivery),
    /// The replicated queue knows that PUBREC had come: PUBREL is owed.
    Released {
        /// The identifier of the flow.
        packet_id: PacketId,
        /// As in [`Delivery::handle`].
        handle: u64,
    },
}

/// Why a message was not taken for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Its time is over.
    Expired,
    /// The client does not take packets of this size [MQTT-3.1.2-24].
    TooLarge,
    /// As many messages, or as many bytes, wait as may.
    Full,
    /// There is no client any more.
    Closed,
}
