//! The client's side of the model: keeps to the rules, and watches that the server does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::packet::Connect;

/// Few, so that they are soon used again.
const IDS: u16 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent,
    /// PUBREC has come, and PUBREL has gone.
    Released,
}

struct Flow {
    id: PacketId,
    message: Message,
    stage: Stage,
    /// Its PUBLISH has gone on this connection, and so takes part of the server's receive maximum.
    is_counted: bool,
}

pub(super) struct Client {
    version: Version,
    receive_maximum: u16,
    /// All that it published, ascending.
    sent: Vec<Message>,
    flows: VecDeque<Flow>,
    /// QoS 2 messages that it owns and whose PUBREL has not come.
    held: BTreeSet<PacketId>,
    /// What it received, as the application sees it.
    pub(super) log: Vec<Message>,
    /// All that ever came.
    came: BTreeSet<Message>,
    here: Connection,
}

/// What is true of one connection only.
#[derive(Default)]
struct Connection {
    is_accepted: bool,
    receive_maximum: usize,
    /// What the server owes, in the order in which it must come.
    pubacks: VecDeque<PacketId>,
    pubrecs: VecDeque<PacketId>,
    pings: usize,
    subscribing: Option<PacketId>,
    /// Acknowledgements that are to go, in order.
    owed: VecDeque<Packet>,
    /// What the server sent and that is not acknowledged to its end.
    open: BTreeSet<PacketId>,
    /// Those of them that it has not answered at all.
    unanswered: BTreeSet<PacketId>,
    came: BTreeSet<Message>,
    aliases: BTreeMap<NonZeroU16, TopicName>,
    own_aliases: BTreeMap<&'static str, NonZeroU16>,
}

impl Client {
    pub(super) fn new(version: Version, receive_maximum: u16) -> Self {
        Client {
            version,
            receive_maximum,
            sent: Vec::new(),
            flows: VecDeque::new(),
            held: BTreeSet::new(),
            log: Vec::new(),
            came: BTreeSet::new(),
            here: Connection::default(),
        }
    }

    pub(super) fn published(&self) -> &[Message] {
        &self.sent
    }

    pub(super) fn connect(&mut self) -> Packet {
        self.here = Connection::default();
        for flow in &mut self.flows {
            flow.is_counted = false;
        }
        let mut connect = Connect {
            clean_start: false,
            ..super::super::connect(self.version)
        };
        if self.version == Version::V5 {
            connect.properties.receive_maximum = NonZeroU16::new(self.receive_maximum);
            connect.properties.maximum_packet_size = Some(CLIENT_BYTES_MAX);
            connect.properties.topic_alias_maximum = Some(2);
        }
        Packet::Connect(Box::new(connect))
    }

    fn free_id(&self) -> Option<PacketId> {
        (1..=IDS).map(id).find(|id| {
            self.here.subscribing != Some(*id) && self.flows.iter().all(|flow| flow.id != *id)
        })
    }

    /// What it wants to send of its own accord.
    pub(super) fn publish(&mut self, random: &mut Random) -> Vec<Packet> {
        if random.percent(10) {
            self.here.pings += 1;
            return vec![Packet::PingReq];
        }
        let id = self.free_id();
        if self.here.is_accepted && random.percent(10) && self.here.subscribing.is_none() {
            self.here.subscribing = id;
            return id.map(|id| subscribe(id.get())).into_iter().collect();
        }
        let message = Message {
            number: self.sent.len() as u32 + 1,
            topic: UP[random.below(UP.len())],
            qos: random.qos(),
        };
        if message.qos == QoS::AtMostOnce {
            self.sent.push(message);
            return vec![self.packet(message, None, false)];
        }
        let counted = self.flows.iter().filter(|flow| flow.is_counted).count();
        let Some(id) = id.filter(|_| counted < self.here.receive_maximum) else {
            return Vec::new();
        };
        self.sent.push(message);
        self.flows.push_back(Flow {
            id,
            message,
            stage: Stage::Sent,
            is_counted: true,
        });
        vec![self.packet(message, Some(id), false)]
    }

    fn packet(&mut self, message: Message, packet_id: Option<PacketId>, dup: bool) -> Packet {
        match (packet_id, message.qos) {
            (Some(id), QoS::ExactlyOnce) => self.here.pubrecs.push_back(id),
            (Some(id), _) => self.here.pubacks.push_back(id),
            (None, _) => {}
        }
        let mut topic = Some(TopicName::from_static(message.topic));
        let mut topic_alias = None;
        if self.version == Version::V5 && self.here.is_accepted && message.topic != UP[0] {
            let next = NonZeroU16::new(self.here.own_aliases.len() as u16 + 1);
            topic_alias = self.here.own_aliases.get(message.topic).copied();
            match topic_alias {
                Some(_) => topic = None,
                None => {
                    topic_alias = next;
                    self.here
                        .own_aliases
                        .extend(next.map(|next| (message.topic, next)));
                }
            }
        }
        Packet::Publish(Publish {
            dup,
            qos: message.qos,
            retain: false,
            topic,
            packet_id,
            topic_alias,
            subscription_ids: Vec::new(),
            properties: PublishProperties::default(),
            payload: message.payload(),
        })
    }

    /// The next acknowledgement goes.
    pub(super) fn owed_next(&mut self) -> Option<Packet> {
        let packet = self.here.owed.pop_front()?;
        if let Packet::PubAck(ack) | Packet::PubRec(ack) = &packet {
            self.here.unanswered.remove(&ack.packet_id);
        }
        if let Packet::PubAck(ack) | Packet::PubComp(ack) = &packet {
            self.here.open.remove(&ack.packet_id);
        }
        if let Packet::PubRec(ack) = &packet
            && ack.reason.is_error()
        {
            self.here.open.remove(&ack.packet_id);
        }
        Some(packet)
    }

    /// Takes what the server sent; what it answers at once.
    pub(super) fn receive(&mut self, packet: Packet) -> Vec<Packet> {
        match packet {
            Packet::ConnAck(connack) => return self.accepted(&connack),
            Packet::Publish(publish) => self.message(publish),
            Packet::PubAck(ack) => {
                let first = self.here.pubacks.pop_front();
                assert_eq!(first, Some(ack.packet_id), "in order [MQTT-4.6.0-2]");
                self.end(&ack);
            }
            Packet::PubRec(ack) => {
                let first = self.here.pubrecs.pop_front();
                assert_eq!(first, Some(ack.packet_id), "in order [MQTT-4.6.0-3]");
                if ack.reason.is_error() {
                    self.end(&ack);
                } else {
                    let mut flows = self.flows.iter_mut();
                    let flow = flows.find(|flow| flow.id == ack.packet_id);
                    flow.expect("a flow of the client").stage = Stage::Released;
                    return vec![Packet::PubRel(super::super::ack(
                        ack.packet_id.get(),
                        ReasonCode::Success,
                    ))];
                }
            }
            Packet::PubComp(ack) => {
                let flow = self.flows.iter().find(|flow| flow.id == ack.packet_id);
                let flow = flow.expect("a flow of the client");
                assert_eq!(flow.stage, Stage::Released);
                assert!(
                    ack.reason == ReasonCode::Success || !flow.is_counted,
                    "only what another connection began may be unknown"
                );
                self.flows.retain(|flow| flow.id != ack.packet_id);
            }
            Packet::PubRel(ack) => {
                let reason = match (self.held.remove(&ack.packet_id), self.version) {
                    (false, Version::V5) => ReasonCode::PacketIdentifierNotFound,
                    _ => ReasonCode::Success,
                };
                let ack = super::super::ack(ack.packet_id.get(), reason);
                self.here.owed.push_back(Packet::PubComp(ack));
            }
            Packet::PingResp => {
                assert!(self.here.pings > 0, "nobody asked");
                self.here.pings -= 1;
            }
            Packet::SubAck(suback) => {
                assert_eq!(self.here.subscribing.take(), Some(suback.packet_id));
            }
            other => panic!("{other:?}"),
        }
        Vec::new()
    }

    /// Everything that was under way is sent again, in its order [MQTT-4.4.0-1].
    fn accepted(&mut self, connack: &crate::packet::ConnAck) -> Vec<Packet> {
        assert_eq!(connack.reason, ReasonCode::Success);
        self.here.is_accepted = true;
        self.here.receive_maximum = connack
            .properties
            .receive_maximum
            .map_or(5, |max| usize::from(max.get()));
        let mut flows = std::mem::take(&mut self.flows);
        let mut packets = Vec::new();
        for flow in &mut flows {
            flow.is_counted = flow.stage == Stage::Sent;
            packets.push(match flow.stage {
                Stage::Sent => self.packet(flow.message, Some(flow.id), true),
                Stage::Released => {
                    let ack = super::super::ack(flow.id.get(), ReasonCode::Success);
                    Packet::PubRel(ack)
                }
            });
        }
        self.flows = flows;
        packets
    }

    /// PUBACK, or a refusing PUBREC.
    fn end(&mut self, ack: &Ack) {
        let at = self.flows.iter().position(|flow| flow.id == ack.packet_id);
        let flow = self.flows.remove(at.expect("a flow of the client"));
        let message = flow.expect("its place was found").message;
        assert_eq!(ack.reason.is_error(), message.is_refused(self.version));
    }

    fn message(&mut self, mut publish: Publish) {
        match (publish.topic_alias, &publish.topic) {
            (Some(alias), Some(topic)) => {
                assert!(alias.get() <= 2, "[MQTT-3.1.2-26]");
                self.here.aliases.insert(alias, topic.clone());
            }
            (Some(alias), None) => publish.topic = Some(self.here.aliases[&alias].clone()),
            (None, topic) => assert!(topic.is_some()),
        }
        let topic = publish.topic.as_ref().expect("a topic");
        let message = Message::of(topic.as_str(), publish.qos, &publish.payload);
        let first_here = self.here.came.insert(message);
        assert!(first_here, "no resend on a live connection [MQTT-4.4.0-1]");
        let first = self.came.insert(message);
        assert!(first || publish.dup, "a resend says so [MQTT-3.3.1-1]");
        let Some(id) = publish.packet_id else {
            self.log.push(message);
            return;
        };
        assert!(self.here.open.insert(id), "{id:?} is in use [MQTT-2.2.1-4]");
        let window = match self.version {
            Version::V5 => self.receive_maximum,
            Version::V311 => 4 * limits().max_inflight,
        };
        self.here.unanswered.insert(id);
        assert!(self.here.unanswered.len() <= usize::from(limits().max_inflight));
        assert!(
            self.here.open.len() <= usize::from(window),
            "[MQTT-3.3.4-9]: {:?}",
            self.here.open
        );
        let is_refused = message.is_refused(self.version);
        let reason = match is_refused {
            true => ReasonCode::QuotaExceeded,
            false => ReasonCode::Success,
        };
        let answer = super::super::ack(id.get(), reason);
        if publish.qos == QoS::AtLeastOnce {
            if !is_refused {
                self.log.push(message);
            }
            self.here.owed.push_back(Packet::PubAck(answer));
            return;
        }
        if !is_refused && self.held.insert(id) {
            self.log.push(message);
        }
        self.here.owed.push_back(Packet::PubRec(answer));
    }

    /// Everything that it published is over, and it has what it was sent as often as it may.
    pub(super) fn check_at_rest(&self, log: &Log) {
        assert!(self.flows.is_empty(), "all that it published is over");
        assert!(self.held.is_empty(), "all that it received is released");
        assert_eq!(self.here.pings, 0);
        check_order(&self.log, "received");
        for message in &log.queued {
            let times = times(&self.log, *message);
            let is_lost = message.is_refused(self.version)
                || (message.is_too_large() && self.version == Version::V5);
            let right = match message.qos {
                _ if is_lost => times == 0,
                QoS::ExactlyOnce => times == 1,
                _ => times >= 1,
            };
            assert!(right, "{message:?} was received {times} times");
        }
        for message in &log.direct {
            assert!(times(&self.log, *message) <= 1, "{message:?}");
        }
    }
}
