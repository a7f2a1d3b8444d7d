//! One server-side connection of MQTT 3.1.1 or 5.0, without its socket.
//!
//! `packet ─► **session** ─► what to send, what to do`. Decides what the client may do, what it is answered and when;
//! the shell around it reads, writes and asks the shards. What must survive a connection (subscriptions, the queue,
//! names of QoS 2 publications) is not in here: the shell hands it in with [`Accepted`].
//!
//! - `inbound` what the client publishes: flows, the server's own receive maximum, topic aliases.
//! - `outbound` what the client is sent: the client's receive maximum, packet identifiers, resends.

mod inbound;
mod outbound;

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::codec::CodecError;
use crate::packet::{
    Ack, ConnAck, ConnAckProperties, Connect, Disconnect, Packet, PacketId, Publish,
    PublishProperties, QoS, SubAck, Subscribe, UnsubAck, Unsubscribe, Version,
};
use crate::reason::ReasonCode;
use crate::text::Text;
use crate::topic::TopicName;
use inbound::{Inbound, Taken};
use outbound::Outbound;

/// What the server allows one client.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the whole CONNECT to arrive.
    pub connect_timeout: Duration,
    /// QoS 1 and 2 publications of the client that may wait for their end at a time.
    pub receive_maximum: NonZeroU16,
    /// The same towards the client, which may ask for less.
    pub max_inflight: u16,
    /// Bytes of one packet.
    pub max_packet: u32,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// The longest keep alive, seconds; none is this one [MQTT-3.2.2-21].
    pub server_keep_alive_max_s: u16,
    /// The longest session expiry, seconds.
    pub session_expiry_max_s: u32,
    /// Messages that wait for the client's receive maximum.
    pub outbox_messages_max: usize,
}

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
    /// Comes back in [`Output::Acknowledged`]; 0 for none.
    pub handle: u64,
}

/// Whether anybody subscribes to what was published [MQTT-3.4.2-1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// Somebody may.
    Some,
    /// Nobody does.
    None,
}

/// How a client was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The session was there before.
    pub session_present: bool,
    /// The client's, or the one that it was assigned.
    pub client_id: Text,
    /// The server assigned the identifier.
    pub assigned: bool,
    /// As the server grants it, seconds; 0 ends the session with the connection.
    pub session_expiry_s: u32,
    /// What the client may have seen on an earlier connection, in the order in which it was sent.
    pub resume: Vec<Resume>,
}

/// Something that was under way when an earlier connection ended [MQTT-4.4.0-1].
#[derive(Debug)]
pub enum Resume {
    /// Sent and not acknowledged: sent again, as a duplicate. Has its packet identifier.
    Publish(Delivery),
    /// PUBREC had come: PUBREL is owed.
    Released {
        /// The identifier of the flow.
        packet_id: PacketId,
        /// As in [`Delivery::handle`].
        handle: u64,
    },
}

/// What is to become of the will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillFate {
    /// It is published, after its delay [MQTT-3.1.2-8].
    Publish,
    /// The client left in order [MQTT-3.14.4-3].
    Discard,
}

/// Why a message was not taken for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Its time is over.
    Expired,
    /// The client does not take packets of this size [MQTT-3.1.2-24].
    TooLarge,
    /// As many wait as may.
    Full,
    /// There is no client any more.
    Closed,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Output {
    /// Send this.
    Send(Packet),
    /// Decide about this; answer with [`Session::accept`] or [`Session::refuse`].
    Connect(Box<Connect>),
    /// Publish this; its topic is there. At QoS 1 and 2 answer with [`Session::published`].
    Publish {
        /// The publication.
        publish: Publish,
    },
    /// Let go of the name of a QoS 2 publication; answer with [`Session::released`] or [`Session::not_found`].
    Release(PacketId),
    /// Answer with [`Session::subscribed`].
    Subscribe(Subscribe),
    /// Answer with [`Session::unsubscribed`].
    Unsubscribe(Unsubscribe),
    /// The client has the message, or refused it: it is owed no more.
    Acknowledged {
        /// Of the delivery.
        handle: u64,
    },
    /// The client has the message of a QoS 2 flow: only PUBREL is owed.
    Received {
        /// Of the delivery.
        handle: u64,
    },
    /// Send what is left, and close.
    Close {
        /// The will's fate.
        will: WillFate,
        /// The session's expiry, as DISCONNECT may have changed it.
        session_expiry_s: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitConnect,
    Connecting,
    Connected,
    Closed,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    limits: Arc<Limits>,
    state: State,
    version: Version,
    outputs: VecDeque<Output>,
    /// One and a half keep alives [MQTT-3.1.2-22].
    patience: Option<Duration>,
    /// The client's keep alive as CONNECT had it.
    keep_alive_s: u16,
    heard: Instant,
    session_expiry_s: u32,
    asked_expiry_s: u32,
    inbound: Inbound,
    outbound: Outbound,
    /// SUBSCRIBE and UNSUBSCRIBE that have no answer yet.
    requests: BTreeSet<PacketId>,
}

impl Session {
    /// A connection that has said nothing yet.
    #[must_use]
    pub fn new(limits: Arc<Limits>, now: Instant) -> Self {
        Session {
            state: State::AwaitConnect,
            version: Version::V5,
            outputs: VecDeque::new(),
            patience: None,
            keep_alive_s: 0,
            heard: now,
            session_expiry_s: 0,
            asked_expiry_s: 0,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            requests: BTreeSet::new(),
            limits,
        }
    }

    /// What to do next. To be drained after every call.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if self.outputs.is_empty() && self.outputs.capacity() > 16 {
            // An idle connection holds no memory of its busy hours.
            self.outputs = VecDeque::new();
        }
        output
    }

    /// When [`Session::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::AwaitConnect => Some(self.heard + self.limits.connect_timeout),
            State::Connected => self.patience.map(|patience| self.heard + patience),
            State::Connecting | State::Closed => None,
        }
    }

    /// Looks at the clock.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Connected => self.fail(ReasonCode::KeepAliveTimeout),
            _ => self.close(WillFate::Publish),
        }
    }

    /// The session's expiry as it stands, seconds.
    #[must_use]
    pub fn session_expiry_s(&self) -> u32 {
        self.session_expiry_s
    }

    /// Takes a packet of the client.
    pub fn receive(&mut self, packet: Packet, now: Instant) {
        match (self.state, packet) {
            (State::AwaitConnect, Packet::Connect(connect)) => self.connect(connect, now),
            // The first packet is CONNECT, or the connection is closed [MQTT-3.1.0-1].
            (State::AwaitConnect, _) => self.close(WillFate::Discard),
            (State::Closed, _) => {}
            (State::Connecting | State::Connected, packet) => {
                self.heard = now;
                self.connected(packet, now);
            }
        }
        self.check();
    }

    fn connect(&mut self, connect: Box<Connect>, now: Instant) {
        self.state = State::Connecting;
        self.version = connect.version;
        self.heard = now;
        self.keep_alive_s = connect.keep_alive_s;
        self.asked_expiry_s = match connect.version {
            Version::V5 => connect.properties.session_expiry_s.unwrap_or(0),
            Version::V311 => 0,
        };
        self.inbound.limits(
            self.limits.receive_maximum,
            connect.version,
            self.limits.topic_alias_maximum,
        );
        self.outbound.limits(
            &connect,
            self.limits.max_inflight,
            self.limits.outbox_messages_max,
        );
        // Enhanced authentication: no method is offered [MQTT-4.12.0-1].
        if connect.properties.authentication_method.is_some() {
            self.refuse(ReasonCode::BadAuthenticationMethod, None);
            return;
        }
        self.outputs.push_back(Output::Connect(connect));
    }

    fn connected(&mut self, packet: Packet, now: Instant) {
        match packet {
            // A second CONNECT is an error [MQTT-3.1.0-2]; AUTH comes only after a method was agreed on.
            Packet::Connect(_) | Packet::Auth(_) => self.fail(ReasonCode::ProtocolError),
            Packet::Publish(publish) => match self.inbound.take(publish) {
                Ok(Taken::Publish(publish)) => self.outputs.push_back(Output::Publish { publish }),
                Ok(Taken::Repeated(id)) => self.send_ack(Packet::PubRec, id, ReasonCode::Success),
                Ok(Taken::Pending) => {}
                Err(reason) => self.fail(reason),
            },
            Packet::PubRel(ack) => {
                self.inbound.releasing(ack.packet_id);
                self.outputs.push_back(Output::Release(ack.packet_id));
            }
            Packet::PubAck(ack) => self.outbound.puback(&ack, &mut self.outputs),
            Packet::PubRec(ack) => self.outbound.pubrec(&ack, &mut self.outputs),
            Packet::PubComp(ack) => self.outbound.pubcomp(&ack, &mut self.outputs),
            Packet::Subscribe(subscribe) => {
                if self.requests.insert(subscribe.packet_id) {
                    self.outputs.push_back(Output::Subscribe(subscribe));
                } else {
                    self.fail(ReasonCode::PacketIdentifierInUse);
                }
            }
            Packet::Unsubscribe(unsubscribe) => {
                if self.requests.insert(unsubscribe.packet_id) {
                    self.outputs.push_back(Output::Unsubscribe(unsubscribe));
                } else {
                    self.fail(ReasonCode::PacketIdentifierInUse);
                }
            }
            Packet::PingReq => self.outputs.push_back(Output::Send(Packet::PingResp)),
            Packet::Disconnect(disconnect) => self.client_leaves(&disconnect),
            // The codec refuses these; a client that sends them is no client.
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.fail(ReasonCode::ProtocolError);
            }
        }
        self.outbound.pump(now, self.version, &mut self.outputs);
    }

    fn client_leaves(&mut self, disconnect: &Disconnect) {
        if let Some(expiry_s) = disconnect.session_expiry_s {
            // A session that was to end with the connection cannot be prolonged [MQTT-3.14.2-2].
            if self.asked_expiry_s == 0 && expiry_s > 0 {
                self.fail(ReasonCode::ProtocolError);
                return;
            }
            self.session_expiry_s = expiry_s.min(self.limits.session_expiry_max_s);
        }
        let with_will = disconnect.reason == ReasonCode::DisconnectWithWill;
        self.close(if with_will {
            WillFate::Publish
        } else {
            WillFate::Discard
        });
    }

    /// The client is in.
    pub fn accept(&mut self, accepted: Accepted, now: Instant) {
        if self.state != State::Connecting {
            return;
        }
        self.state = State::Connected;
        self.session_expiry_s = accepted.session_expiry_s;
        let cap = self.limits.server_keep_alive_max_s;
        let granted = match (self.version, self.keep_alive_s) {
            // 3.1.1 has no word for another keep alive than the client's.
            (Version::V311, asked) => asked,
            (Version::V5, 0) => cap,
            (Version::V5, asked) => asked.min(cap),
        };
        self.patience = (granted > 0).then(|| Duration::from_millis(1500 * u64::from(granted)));
        let mut properties = ConnAckProperties::default();
        if self.version == Version::V5 {
            properties.receive_maximum = Some(self.limits.receive_maximum);
            properties.maximum_packet_size = Some(self.limits.max_packet);
            properties.topic_alias_maximum = Some(self.limits.topic_alias_maximum);
            properties.assigned_client_id = accepted.assigned.then(|| accepted.client_id.clone());
            properties.server_keep_alive_s = (granted != self.keep_alive_s).then_some(granted);
            properties.session_expiry_s = (accepted.session_expiry_s != self.asked_expiry_s)
                .then_some(accepted.session_expiry_s);
        }
        self.outputs
            .push_back(Output::Send(Packet::ConnAck(Box::new(ConnAck {
                session_present: accepted.session_present,
                reason: ReasonCode::Success,
                properties,
            }))));
        self.outbound.resume(accepted.resume);
        self.outbound.pump(now, self.version, &mut self.outputs);
        self.check();
    }

    /// The client is not let in.
    pub fn refuse(&mut self, reason: ReasonCode, server_reference: Option<Text>) {
        let speaks = self.version == Version::V5 || reason.connack_v311().is_some();
        if self.state == State::Connecting && speaks {
            let mut properties = ConnAckProperties::default();
            if self.version == Version::V5 {
                properties.server_reference = server_reference;
            }
            let connack = ConnAck {
                session_present: false,
                reason,
                properties,
            };
            self.outputs
                .push_back(Output::Send(Packet::ConnAck(Box::new(connack))));
        }
        self.close(WillFate::Discard);
    }

    /// The codec could not read what came.
    pub fn malformed(&mut self, error: &CodecError) {
        match (self.state, error.version) {
            (State::AwaitConnect, Some(version)) => {
                self.version = version;
                self.state = State::Connecting;
                self.refuse(error.reason, None);
            }
            (State::AwaitConnect | State::Connecting, _) => self.close(WillFate::Discard),
            (State::Connected, _) => self.fail(error.reason),
            (State::Closed, _) => {}
        }
    }

    /// A publication's end: PUBACK or PUBREC goes when those before it have gone [MQTT-4.6.0-2] [MQTT-4.6.0-3].
    pub fn published(&mut self, id: PacketId, result: Result<Matched, ReasonCode>) {
        let reason = match (result, self.version) {
            (Ok(Matched::None), Version::V5) => ReasonCode::NoMatchingSubscribers,
            (Ok(_), _) => ReasonCode::Success,
            (Err(reason), Version::V5) => reason,
            // 3.1.1 acknowledges all, or closes [MQTT-3.3.5-2, v3.1.1].
            (Err(_), Version::V311) => ReasonCode::Success,
        };
        self.inbound.published(id, reason);
        while let Some((id, qos, reason)) = self.inbound.next_answer() {
            let kind = if qos == QoS::ExactlyOnce {
                Packet::PubRec
            } else {
                Packet::PubAck
            };
            self.send_ack(kind, id, reason);
        }
        self.check();
    }

    /// A QoS 2 publication's name is free: PUBCOMP may go.
    pub fn released(&mut self, id: PacketId) {
        self.inbound.completed(id);
        self.send_ack(Packet::PubComp, id, ReasonCode::Success);
    }

    /// Nothing outside knows the name. If this connection does, that is enough.
    pub fn not_found(&mut self, id: PacketId) {
        let known = self.inbound.completed(id);
        let reason = match (known, self.version) {
            (false, Version::V5) => ReasonCode::PacketIdentifierNotFound,
            _ => ReasonCode::Success,
        };
        self.send_ack(Packet::PubComp, id, reason);
    }

    /// SUBACK, one code a filter.
    pub fn subscribed(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.requests.remove(&packet_id);
        let suback = SubAck {
            packet_id,
            reason_string: None,
            user: Vec::new(),
            reasons,
        };
        self.send(Packet::SubAck(suback));
    }

    /// UNSUBACK, one code a filter.
    pub fn unsubscribed(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.requests.remove(&packet_id);
        let reasons = if self.version == Version::V5 {
            reasons
        } else {
            Vec::new()
        };
        let unsuback = UnsubAck {
            packet_id,
            reason_string: None,
            user: Vec::new(),
            reasons,
        };
        self.send(Packet::UnsubAck(unsuback));
    }

    /// Takes a message for the client.
    ///
    /// # Errors
    /// [`Dropped`]: it will not be sent.
    pub fn deliver(&mut self, delivery: Delivery, now: Instant) -> Result<(), Dropped> {
        if self.state != State::Connected {
            return Err(Dropped::Closed);
        }
        let delivered = self
            .outbound
            .deliver(delivery, now, self.version, &mut self.outputs);
        self.check();
        delivered
    }

    /// The server ends the connection.
    pub fn disconnect(&mut self, reason: ReasonCode, server_reference: Option<Text>) {
        self.leave(reason, server_reference);
    }

    /// The client did what it must not: it is told, where its version has the words [MQTT-4.13.1-1].
    fn fail(&mut self, reason: ReasonCode) {
        self.leave(reason, None);
    }

    fn leave(&mut self, reason: ReasonCode, server_reference: Option<Text>) {
        if self.state == State::Connected && self.version == Version::V5 {
            self.outputs
                .push_back(Output::Send(Packet::Disconnect(Disconnect {
                    reason,
                    session_expiry_s: None,
                    reason_string: None,
                    user: Vec::new(),
                    server_reference,
                })));
        }
        self.close(WillFate::Publish);
    }

    fn close(&mut self, will: WillFate) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.outputs.push_back(Output::Close {
                will,
                session_expiry_s: self.session_expiry_s,
            });
        }
    }

    fn send(&mut self, packet: Packet) {
        if self.state == State::Connected {
            self.outputs.push_back(Output::Send(packet));
        }
    }

    fn send_ack(&mut self, kind: impl Fn(Ack) -> Packet, packet_id: PacketId, reason: ReasonCode) {
        self.send(kind(Ack {
            packet_id,
            reason,
            reason_string: None,
            user: Vec::new(),
        }));
    }

    fn check(&self) {
        if cfg!(debug_assertions) {
            self.inbound.check();
            self.outbound.check();
        }
    }
}

#[cfg(test)]
mod tests;
