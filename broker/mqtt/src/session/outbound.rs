//! What the client is sent: its receive maximum, packet identifiers, and what is sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::time::Instant;

use bytes::BytesMut;

use super::topic_alias::ToClient;
use super::{Delivery, Dropped, Limits, Output, Resume};
use crate::codec::{PACKET_BYTES_MAX, PublishHeader, encode_publish_header};
use crate::packet::{
    Ack, ConnectProperties, Packet, PacketId, Publish, PublishProperties, QoS, Version,
};
use crate::reason::ReasonCode;
use crate::topic::TopicName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// PUBLISH has gone.
    Sent,
    /// PUBREC has come. PUBREL waits until the replicated queue knows it: the client forgets the identifier at PUBREL, so
    /// a message that the queue still had as unreceived would be a new one to it [MQTT-4.3.3-8].
    Received,
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

/// Bytes that wait for the client's receive maximum and that nothing but this connection keeps. What stands in a
/// replicated queue is bounded there.
const WAITING_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Outbound {
    version: Version,
    /// Flows that may be open at a time.
    flows_max: usize,
    /// Those of them whose PUBLISH may be without an answer.
    unanswered_max: usize,
    unanswered: usize,
    waiting_max: usize,
    packet_bytes_max: u32,
    flows: BTreeMap<PacketId, Flow>,
    waiting: VecDeque<Waiting>,
    /// Of the messages in `waiting` that no replicated queue keeps.
    waiting_bytes: usize,
    /// Identifiers of what waits and has one already.
    reserved: BTreeSet<PacketId>,
    last_id: u16,
    aliases: Option<Box<ToClient>>,
}

impl Outbound {
    /// For a client that says this of itself in CONNECT.
    pub(super) fn new(version: Version, properties: &ConnectProperties, limits: &Limits) -> Self {
        Outbound {
            version,
            flows_max: limits.flows_max(properties.receive_maximum),
            unanswered_max: usize::from(limits.max_inflight.max(1)),
            unanswered: 0,
            waiting_max: limits.outbox_messages_max,
            packet_bytes_max: properties.maximum_packet_size.unwrap_or(PACKET_BYTES_MAX),
            flows: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            reserved: BTreeSet::new(),
            last_id: 0,
            aliases: ToClient::new(properties.topic_alias_maximum.unwrap_or(0)),
        }
    }

    pub(super) fn resume(&mut self, resume: Vec<Resume>) {
        for item in resume {
            self.wait(match item {
                Resume::Publish(delivery) => Waiting::Again(delivery),
                Resume::Released { packet_id, handle } => Waiting::Release { packet_id, handle },
            });
        }
    }

    pub(super) fn deliver(
        &mut self,
        mut delivery: Delivery,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Dropped> {
        if self.version == Version::V311 {
            strip(&mut delivery);
        }
        if delivery.is_over(now) {
            return Err(Dropped::Expired);
        }
        if !self.fits(&delivery) {
            return Err(Dropped::TooLarge);
        }
        if delivery.qos == QoS::AtMostOnce {
            // Order holds per topic and QoS, so nothing of a higher one is waited for [MQTT-4.6.0-6].
            let publish = self.packet(delivery, None, false, now);
            outputs.push_back(Output::Send(Packet::Publish(publish)));
            return Ok(());
        }
        let is_kept = delivery.handle != 0;
        let too_many_bytes = !is_kept && self.waiting_bytes + delivery.bytes() > WAITING_BYTES_MAX;
        if self.waiting.len() >= self.waiting_max || too_many_bytes {
            return Err(Dropped::Full);
        }
        self.wait(Waiting::New(delivery));
        self.pump(now, outputs);
        Ok(())
    }

    /// Takes back what waits and `keeps` does not want sent any more; how many messages.
    ///
    /// A QoS 2 message that the client may have seen cannot just be left out: its flow is ended by PUBREL, which tells
    /// nothing.
    pub(super) fn withdraw(
        &mut self,
        keeps: impl Fn(&TopicName) -> bool,
        outputs: &mut VecDeque<Output>,
    ) -> usize {
        let mut withdrawn = 0;
        for waiting in std::mem::take(&mut self.waiting) {
            self.waiting_bytes -= waiting.own_bytes();
            if let Some(id) = waiting.packet_id() {
                self.reserved.remove(&id);
            }
            let (delivery, again) = match waiting {
                Waiting::New(delivery) => (delivery, false),
                Waiting::Again(delivery) => (delivery, true),
                release @ Waiting::Release { .. } => {
                    self.wait(release);
                    continue;
                }
            };
            if keeps(&delivery.topic) {
                self.wait(if again {
                    Waiting::Again(delivery)
                } else {
                    Waiting::New(delivery)
                });
                continue;
            }
            withdrawn += 1;
            let handle = delivery.handle;
            match delivery.packet_id {
                Some(packet_id) if again && delivery.qos == QoS::ExactlyOnce => {
                    self.wait(Waiting::Release { packet_id, handle });
                }
                _ => outputs.push_back(Output::Acknowledged { handle }),
            }
        }
        withdrawn
    }

    fn wait(&mut self, waiting: Waiting) {
        if let Some(id) = waiting.packet_id() {
            self.reserved.insert(id);
        }
        self.waiting_bytes += waiting.own_bytes();
        self.waiting.push_back(waiting);
    }

    /// Sends what waits, in its order, as far as the client's receive maximum goes [MQTT-4.9.0-2].
    ///
    /// An identifier that was given elsewhere may still be under way with another message: then it is waited for.
    pub(super) fn pump(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        while self.flows.len() < self.flows_max
            && let Some(next) = self.waiting.pop_front_if(|next| {
                let is_free = |id| !self.flows.contains_key(&id);
                let has_turn = matches!(next, Waiting::Release { .. })
                    || self.unanswered < self.unanswered_max;
                has_turn && next.packet_id().is_none_or(is_free)
            })
        {
            if let Some(id) = next.packet_id() {
                self.reserved.remove(&id);
            }
            self.waiting_bytes -= next.own_bytes();
            let (delivery, again) = match next {
                Waiting::New(delivery) => (delivery, false),
                Waiting::Again(mut delivery) => {
                    if self.version == Version::V311 {
                        strip(&mut delivery);
                    }
                    (delivery, true)
                }
                Waiting::Release { packet_id, handle } => {
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
            // A message that the client may have seen is not taken back by its expiry: its flow must end. One that
            // it cannot take is as good as sent [MQTT-3.1.2-25].
            if (!again && delivery.is_over(now)) || !self.fits(&delivery) {
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
            self.unanswered += 1;
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
        assert!(
            self.flows.len() + self.reserved.len() < usize::from(u16::MAX),
            "the window leaves an identifier free"
        );
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && !self.flows.contains_key(&id)
                && !self.reserved.contains(&id)
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
        if let (Some(expires), Version::V5) = (delivery.expires, self.version) {
            // What is left of it [MQTT-3.3.2-6].
            let message = properties.0.get_or_insert_default();
            let left = expires.saturating_duration_since(now);
            message.message_expiry_s = Some(u32::try_from(left.as_secs()).unwrap_or(u32::MAX));
        }
        let (topic, topic_alias) = match &mut self.aliases {
            Some(aliases) => aliases.assign(delivery.topic),
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
    fn fits(&self, delivery: &Delivery) -> bool {
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
            self.version,
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
            // An answer to an earlier connection's PUBLISH that is yet to be sent again: PUBREL would make the client
            // forget the identifier, and take the resend for a new message.
            if !ack.reason.is_error() && !self.reserved.contains(&ack.packet_id) {
                outputs.push_back(pubrel(ack.packet_id, ReasonCode::PacketIdentifierNotFound));
            }
            return;
        };
        if ack.reason.is_error() {
            // Refused: the flow is over, and the quota is given back.
            self.end(ack.packet_id, outputs);
            return;
        }
        self.unanswered -= usize::from(flow.stage == Stage::Sent);
        match flow.stage {
            // Nothing but this connection keeps the message.
            Stage::Sent if flow.handle == 0 => flow.stage = Stage::Released,
            Stage::Sent => {
                flow.stage = Stage::Received;
                outputs.push_back(Output::Received {
                    handle: flow.handle,
                    packet_id: ack.packet_id,
                });
                return;
            }
            Stage::Received => return,
            Stage::Released => {}
        }
        outputs.push_back(pubrel(ack.packet_id, ReasonCode::Success));
    }

    /// The replicated queue knows that the client has the message.
    pub(super) fn receipt_committed(&mut self, id: PacketId, outputs: &mut VecDeque<Output>) {
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.stage == Stage::Received
        {
            flow.stage = Stage::Released;
            outputs.push_back(pubrel(id, ReasonCode::Success));
        }
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
            self.unanswered -= usize::from(flow.stage == Stage::Sent);
            outputs.push_back(Output::Acknowledged {
                handle: flow.handle,
            });
        }
    }

    /// Whether it owns no memory but what aliases take.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.flows.is_empty() && self.reserved.is_empty() && self.waiting.capacity() == 0
    }

    pub(super) fn check(&self) {
        assert!(
            self.flows.len() <= self.flows_max,
            "the client's receive maximum holds"
        );
        assert!(
            self.unanswered <= self.unanswered_max,
            "no more is sent than may wait for an answer"
        );
        // What is long is looked at now and then: else a slow test would be quadratic.
        if self.waiting.len() > 64 && !self.waiting.len().is_power_of_two() {
            return;
        }
        let bytes = self.waiting.iter().map(Waiting::own_bytes);
        assert_eq!(
            bytes.sum::<usize>(),
            self.waiting_bytes,
            "what waits is counted once"
        );
        let sent = self.flows.values().filter(|flow| flow.stage == Stage::Sent);
        assert_eq!(
            sent.count(),
            self.unanswered,
            "a flow without an answer is counted once"
        );
        let ids = self.waiting.iter().filter_map(Waiting::packet_id);
        assert!(
            self.reserved.is_subset(&ids.collect()),
            "only what waits has an identifier reserved"
        );
    }
}

impl Waiting {
    /// The identifier that it was given elsewhere.
    fn packet_id(&self) -> Option<PacketId> {
        match self {
            Waiting::New(delivery) | Waiting::Again(delivery) => delivery.packet_id,
            Waiting::Release { packet_id, .. } => Some(*packet_id),
        }
    }

    /// Bytes that nothing but this connection keeps.
    fn own_bytes(&self) -> usize {
        match self {
            Waiting::New(delivery) if delivery.handle == 0 => delivery.bytes(),
            _ => 0,
        }
    }
}

/// Takes off what 3.1.1 has no words for.
fn strip(delivery: &mut Delivery) {
    delivery.properties = PublishProperties::default();
    delivery.subscription_ids = Vec::new();
}

fn pubrel(packet_id: PacketId, reason: ReasonCode) -> Output {
    Output::Send(Packet::PubRel(Ack {
        packet_id,
        reason,
        reason_string: None,
        user: Vec::new(),
    }))
}
