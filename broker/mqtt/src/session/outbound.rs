//! What the client is sent: its receive maximum, packet identifiers, aliases, and what is sent again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU16;
use std::time::Instant;

use bytes::BytesMut;

use super::{Delivery, Dropped, Output, Resume};
use crate::codec::{PACKET_BYTES_MAX, PublishHeader, encode_publish_header};
use crate::packet::{Ack, Connect, Packet, PacketId, Publish, PublishProperties, QoS, Version};
use crate::reason::ReasonCode;
use crate::topic::TopicName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// PUBLISH has gone.
    Sent,
    /// PUBREC has come and PUBREL has gone.
    Released,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    qos: QoS,
    stage: Stage,
    handle: u64,
}

#[derive(Debug)]
enum Waiting {
    New(Delivery),
    Again(Delivery),
    Release { packet_id: PacketId, handle: u64 },
}

#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Flows that may be open at a time.
    window: usize,
    waiting_max: usize,
    packet_bytes_max: u32,
    flows: BTreeMap<PacketId, Flow>,
    waiting: VecDeque<Waiting>,
    /// Identifiers of what waits and has one already.
    reserved: BTreeMap<PacketId, ()>,
    last_id: u16,
    aliases: Option<Box<Aliases>>,
}

/// Aliases towards the client: the first topics get them, and keep them.
#[derive(Debug)]
struct Aliases {
    max: u16,
    by_topic: HashMap<TopicName, NonZeroU16>,
}

impl Outbound {
    pub(super) fn limits(&mut self, connect: &Connect, max_inflight: u16, waiting_max: usize) {
        let asked = connect
            .properties
            .receive_maximum
            .map_or(u16::MAX, NonZeroU16::get);
        self.window = usize::from(asked.min(max_inflight.max(1)));
        self.waiting_max = waiting_max;
        self.packet_bytes_max = connect
            .properties
            .maximum_packet_size
            .unwrap_or(PACKET_BYTES_MAX);
        let max = connect.properties.topic_alias_maximum.unwrap_or(0);
        self.aliases = (max > 0).then(|| {
            Box::new(Aliases {
                max,
                by_topic: HashMap::new(),
            })
        });
    }

    pub(super) fn resume(&mut self, resume: Vec<Resume>) {
        for item in resume {
            let (id, waiting) = match item {
                Resume::Publish(delivery) => (delivery.packet_id, Waiting::Again(delivery)),
                Resume::Released { packet_id, handle } => {
                    (Some(packet_id), Waiting::Release { packet_id, handle })
                }
            };
            if let Some(id) = id {
                self.reserved.insert(id, ());
            }
            self.waiting.push_back(waiting);
        }
    }

    pub(super) fn deliver(
        &mut self,
        mut delivery: Delivery,
        now: Instant,
        version: Version,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Dropped> {
        if version == Version::V311 {
            delivery.properties = PublishProperties::default();
            delivery.subscription_ids = Vec::new();
        }
        if is_over(&delivery, now) {
            return Err(Dropped::Expired);
        }
        if !self.fits(&delivery, version) {
            return Err(Dropped::TooLarge);
        }
        if delivery.qos == QoS::AtMostOnce {
            // Order holds per topic and QoS, so nothing of a higher one is waited for [MQTT-4.6.0-6].
            let publish = self.packet(delivery, None, false, now);
            outputs.push_back(Output::Send(Packet::Publish(publish)));
            return Ok(());
        }
        if self.waiting.len() >= self.waiting_max {
            return Err(Dropped::Full);
        }
        if let Some(id) = delivery.packet_id {
            self.reserved.insert(id, ());
        }
        self.waiting.push_back(Waiting::New(delivery));
        self.pump(now, version, outputs);
        Ok(())
    }

    /// Sends what waits, as far as the client's receive maximum goes [MQTT-4.9.0-2].
    pub(super) fn pump(&mut self, now: Instant, version: Version, outputs: &mut VecDeque<Output>) {
        while self.flows.len() < self.window
            && let Some(next) = self.waiting.pop_front()
        {
            let (delivery, again) = match next {
                Waiting::New(delivery) => (delivery, false),
                Waiting::Again(delivery) => (delivery, true),
                Waiting::Release { packet_id, handle } => {
                    self.reserved.remove(&packet_id);
                    let flow = Flow {
                        qos: QoS::ExactlyOnce,
                        stage: Stage::Released,
                        handle,
                    };
                    self.flows.insert(packet_id, flow);
                    outputs.push_back(pubrel(packet_id, ReasonCode::Success));
                    continue;
                }
            };
            let mut delivery = delivery;
            if version == Version::V311 {
                delivery.properties = PublishProperties::default();
                delivery.subscription_ids = Vec::new();
            }
            if let Some(id) = delivery.packet_id {
                self.reserved.remove(&id);
            }
            // A message that the client may have seen is not taken back by its expiry: its flow must end.
            if (!again && is_over(&delivery, now)) || !self.fits(&delivery, version) {
                outputs.push_back(Output::Acknowledged {
                    handle: delivery.handle,
                });
                continue;
            }
            let id = delivery.packet_id.unwrap_or_else(|| self.free_id());
            let flow = Flow {
                qos: delivery.qos,
                stage: Stage::Sent,
                handle: delivery.handle,
            };
            let previous = self.flows.insert(id, flow);
            assert!(
                previous.is_none(),
                "no two messages under way share an identifier [MQTT-2.2.1-4]"
            );
            let publish = self.packet(delivery, Some(id), again, now);
            outputs.push_back(Output::Send(Packet::Publish(publish)));
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 0 {
            self.waiting = VecDeque::new();
        }
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && !self.flows.contains_key(&id)
                && !self.reserved.contains_key(&id)
            {
                return id;
            }
        }
    }

    fn packet(
        &mut self,
        delivery: Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now: Instant,
    ) -> Publish {
        let mut properties = delivery.properties;
        if let (Some(expires), Some(message)) = (delivery.expires, &mut properties.0) {
            // What is left of it [MQTT-3.3.2-6].
            let left = expires.saturating_duration_since(now);
            message.message_expiry_s = Some(u32::try_from(left.as_secs()).unwrap_or(u32::MAX));
        }
        let (topic, topic_alias) = match &mut self.aliases {
            Some(aliases) => aliases.of(delivery.topic),
            None => (Some(delivery.topic), None),
        };
        Publish {
            dup,
            qos: delivery.qos,
            retain: delivery.retain,
            topic,
            packet_id,
            topic_alias,
            subscription_ids: delivery.subscription_ids,
            properties,
            payload: delivery.payload,
        }
    }

    /// Whether the client takes a packet of this size [MQTT-3.1.2-24].
    fn fits(&self, delivery: &Delivery, version: Version) -> bool {
        let rough = delivery.topic.as_str().len() + delivery.payload.len() + 1024;
        let bare = delivery.properties.0.is_none() && delivery.subscription_ids.len() < 64;
        if bare && rough < self.packet_bytes_max as usize {
            return true;
        }
        let header = PublishHeader {
            dup: false,
            qos: delivery.qos,
            retain: delivery.retain,
            topic: Some(&delivery.topic),
            packet_id: (delivery.qos > QoS::AtMostOnce).then_some(PacketId(NonZeroU16::MIN)),
            topic_alias: self.aliases.is_some().then_some(NonZeroU16::MAX),
            subscription_ids: &delivery.subscription_ids,
            message_expiry_s: delivery.expires.map(|_| u32::MAX),
            properties: &delivery.properties,
            payload_bytes: delivery.payload.len(),
        };
        encode_publish_header(
            &header,
            version,
            self.packet_bytes_max,
            &mut BytesMut::new(),
        )
        .is_ok()
    }

    pub(super) fn puback(&mut self, ack: &Ack, outputs: &mut VecDeque<Output>) {
        if self
            .flows
            .get(&ack.packet_id)
            .is_some_and(|flow| flow.qos == QoS::AtLeastOnce)
        {
            self.end(ack.packet_id, outputs);
        }
    }

    pub(super) fn pubrec(&mut self, ack: &Ack, outputs: &mut VecDeque<Output>) {
        let Some(flow) = self
            .flows
            .get_mut(&ack.packet_id)
            .filter(|flow| flow.qos == QoS::ExactlyOnce)
        else {
            if !ack.reason.is_error() {
                outputs.push_back(pubrel(ack.packet_id, ReasonCode::PacketIdentifierNotFound));
            }
            return;
        };
        if ack.reason.is_error() {
            // Refused: the flow is over, and the quota is given back.
            self.end(ack.packet_id, outputs);
            return;
        }
        if flow.stage == Stage::Sent {
            flow.stage = Stage::Released;
            outputs.push_back(Output::Received {
                handle: flow.handle,
            });
        }
        outputs.push_back(pubrel(ack.packet_id, ReasonCode::Success));
    }

    pub(super) fn pubcomp(&mut self, ack: &Ack, outputs: &mut VecDeque<Output>) {
        if self
            .flows
            .get(&ack.packet_id)
            .is_some_and(|flow| flow.stage == Stage::Released)
        {
            self.end(ack.packet_id, outputs);
        }
    }

    fn end(&mut self, id: PacketId, outputs: &mut VecDeque<Output>) {
        if let Some(flow) = self.flows.remove(&id) {
            outputs.push_back(Output::Acknowledged {
                handle: flow.handle,
            });
        }
    }

    pub(super) fn check(&self) {
        assert!(
            self.flows.len() <= self.window.max(1),
            "the client's receive maximum holds"
        );
    }
}

impl Aliases {
    /// The topic and the alias to send: both the first time, then the alias alone [MQTT-3.3.2-12].
    fn of(&mut self, topic: TopicName) -> (Option<TopicName>, Option<NonZeroU16>) {
        if let Some(alias) = self.by_topic.get(&topic) {
            return (None, Some(*alias));
        }
        let next = u16::try_from(self.by_topic.len() + 1)
            .ok()
            .filter(|next| *next <= self.max);
        let Some(alias) = next.and_then(NonZeroU16::new) else {
            return (Some(topic), None);
        };
        self.by_topic.insert(topic.detach(), alias);
        (Some(topic), Some(alias))
    }
}

fn is_over(delivery: &Delivery, now: Instant) -> bool {
    delivery.expires.is_some_and(|expires| expires <= now)
}

fn pubrel(packet_id: PacketId, reason: ReasonCode) -> Output {
    Output::Send(Packet::PubRel(Ack {
        packet_id,
        reason,
        reason_string: None,
        user: Vec::new(),
    }))
}
