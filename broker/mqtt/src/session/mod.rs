//! One server-side connection of MQTT 3.1.1 or 5.0, without its socket.
//!
//! `packet ─► **session** ─► what to send, what to do`. Decides what the client may do, what it is answered and when;
//! the shell around it reads, writes and asks the shards. What must survive a connection (subscriptions, the queue,
//! names of QoS 2 publications) is not in here: the shell hands it in with [`Accepted`].
//!
//! - `handshake` CONNECT to CONNACK.
//! - `inbound` what the client publishes: flows, the server's own receive maximum, the order of the answers.
//! - `outbound` what the client is sent: the client's receive maximum, packet identifiers, resends.
//! - `topic_alias` both directions. `delivery`, `output` what the shell hands in and what it is told.
//!
//! Acknowledgements bear neither reason strings nor user properties, so a client that asks for no problem
//! information gets none [MQTT-3.1.2-29].

mod delivery;
mod handshake;
mod inbound;
mod outbound;
mod output;
mod topic_alias;

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use delivery::{Delivery, Dropped, Resume};
pub use handshake::Accepted;
pub use output::{Output, WillFate};

use crate::packet::{
    Ack, ConnectProperties, Disconnect, Packet, PacketId, QoS, SubAck, UnsubAck, Version,
};
use crate::reason::ReasonCode;
use crate::text::Text;
use crate::topic::TopicName;
use inbound::{Inbound, Releasing, Taken};
use outbound::Outbound;

/// What the server allows one client.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the whole CONNECT to arrive.
    pub connect_timeout: Duration,
    /// QoS 1 and 2 publications of the client that may wait for their end at a time.
    pub receive_maximum: NonZeroU16,
    /// The same towards the client, which may ask for less: messages without PUBACK or PUBREC.
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

impl Limits {
    /// Flows of QoS 1 and 2 that may be open at a time towards a client that asks for `receive_maximum`.
    ///
    /// More than [`Limits::max_inflight`], so that while flows with a PUBREC wait for their receipts to be committed, the
    /// next messages are under way.
    #[must_use]
    pub fn flows_max(&self, receive_maximum: Option<NonZeroU16>) -> usize {
        let asked = receive_maximum.map_or(u16::MAX, NonZeroU16::get);
        usize::from(asked.min(self.max_inflight.max(1).saturating_mul(4)))
    }
}

/// Whether anybody subscribes to what was published [MQTT-3.4.2-1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// Somebody may.
    Some,
    /// Nobody does.
    None,
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
    /// What came before the client was accepted.
    early: Vec<Packet>,
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
            inbound: Inbound::new(Version::V5, NonZeroU16::MIN, 0),
            outbound: Outbound::new(Version::V5, &ConnectProperties::default(), &limits),
            requests: BTreeSet::new(),
            early: Vec::new(),
            limits,
        }
    }

    /// What to do next. To be drained after every call.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() && self.outputs.capacity() > 0 {
            // An idle connection holds no memory of its busy moments.
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
            _ => self.close(WillFate::Discard),
        }
        self.check();
    }

    /// The client was not listened to until now: its silence was not its own.
    pub fn listened(&mut self, now: Instant) {
        self.heard = now;
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
            (State::Connecting, packet) => self.early(packet),
            (State::Connected, packet) => {
                self.heard = now;
                self.connected(packet, now);
            }
        }
        self.check();
    }

    fn connected(&mut self, packet: Packet, now: Instant) {
        match packet {
            // A second CONNECT is an error [MQTT-3.1.0-2]; AUTH comes only after a method was agreed on.
            Packet::Connect(_) | Packet::Auth(_) => self.fail(ReasonCode::ProtocolError),
            Packet::Publish(publish) => {
                let requests = &self.requests;
                match self.inbound.take(publish, |id| requests.contains(&id)) {
                    Ok(Taken::Publish(publish)) => {
                        self.outputs.push_back(Output::Publish { publish });
                    }
                    Ok(Taken::Repeated(id)) => {
                        self.send_ack(Packet::PubRec, id, ReasonCode::Success);
                    }
                    Ok(Taken::Pending) => self.answer_publications(),
                    Err(reason) => self.fail(reason),
                }
            }
            Packet::PubRel(ack) => match self.inbound.release(ack.packet_id) {
                Ok(Releasing::Release) => self.outputs.push_back(Output::Release(ack.packet_id)),
                Ok(Releasing::Pending) => {}
                Err(reason) => self.fail(reason),
            },
            Packet::PubAck(ack) => self.outbound.puback(&ack, &mut self.outputs),
            Packet::PubRec(ack) => self.outbound.pubrec(&ack, &mut self.outputs),
            Packet::PubComp(ack) => self.outbound.pubcomp(&ack, &mut self.outputs),
            Packet::Subscribe(subscribe) => {
                let id = subscribe.packet_id;
                if self.claim(id) {
                    self.outputs.push_back(Output::Subscribe(subscribe));
                } else if self.version == Version::V311 {
                    self.fail(ReasonCode::ProtocolError); // [MQTT-2.3.1-2, v3.1.1]
                } else {
                    self.send_suback(id, in_use(subscribe.filters.len()));
                }
            }
            Packet::Unsubscribe(unsubscribe) => {
                let id = unsubscribe.packet_id;
                if self.claim(id) {
                    self.outputs.push_back(Output::Unsubscribe(unsubscribe));
                } else if self.version == Version::V311 {
                    self.fail(ReasonCode::ProtocolError); // [MQTT-2.3.1-2, v3.1.1]
                } else {
                    self.send_unsuback(id, in_use(unsubscribe.filters.len()));
                }
            }
            Packet::PingReq => self.send(Packet::PingResp), // [MQTT-3.12.4-1]
            Packet::Disconnect(disconnect) => self.client_leaves(&disconnect),
            // The codec refuses these; a client that sends them is no client.
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.fail(ReasonCode::ProtocolError);
            }
        }
        if self.state == State::Connected {
            // An acknowledgement may have made room.
            self.outbound.pump(now, &mut self.outputs);
        }
    }

    /// Takes the identifier of a SUBSCRIBE or UNSUBSCRIBE, unless something else under way has it [MQTT-2.2.1-3].
    fn claim(&mut self, id: PacketId) -> bool {
        !self.inbound.holds(id) && self.requests.insert(id)
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
        // Only a normal disconnection takes the will back [MQTT-3.1.2-10]; any other reason leaves it.
        self.close(match disconnect.reason {
            ReasonCode::Success => WillFate::Discard,
            _ => WillFate::Publish,
        });
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
        self.answer_publications();
        self.check();
    }

    /// Sends the acknowledgements whose turn it is.
    fn answer_publications(&mut self) {
        while let Some((id, qos, reason)) = self.inbound.next_answer() {
            let kind = match qos {
                QoS::ExactlyOnce => Packet::PubRec,
                _ => Packet::PubAck,
            };
            self.send_ack(kind, id, reason);
        }
    }

    /// The name of a QoS 2 publication is free: PUBCOMP may go.
    pub fn released(&mut self, id: PacketId) {
        if self.inbound.completed(id).is_some() {
            self.send_ack(Packet::PubComp, id, ReasonCode::Success);
        }
        self.check();
    }

    /// Nothing outside knows the name. If this connection does, that is enough.
    pub fn not_found(&mut self, id: PacketId) {
        let reason = match (self.inbound.completed(id), self.version) {
            (None, _) => return,
            (Some(false), Version::V5) => ReasonCode::PacketIdentifierNotFound,
            (Some(_), _) => ReasonCode::Success,
        };
        self.send_ack(Packet::PubComp, id, reason);
        self.check();
    }

    /// The replicated queue knows that the client has the message of this flow: PUBREL may go [MQTT-4.3.3-8].
    pub fn receipt_committed(&mut self, id: PacketId) {
        if self.state == State::Connected {
            self.outbound.receipt_committed(id, &mut self.outputs);
        }
        self.check();
    }

    /// SUBACK, one code a filter.
    pub fn subscribed(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        if self.requests.remove(&packet_id) {
            self.send_suback(packet_id, reasons);
        }
    }

    /// UNSUBACK, one code a filter.
    pub fn unsubscribed(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        if self.requests.remove(&packet_id) {
            let reasons = match self.version {
                Version::V5 => reasons,
                Version::V311 => Vec::new(),
            };
            self.send_unsuback(packet_id, reasons);
        }
    }

    /// Takes a message for the client.
    ///
    /// # Errors
    /// [`Dropped`]: it will not be sent.
    pub fn deliver(&mut self, delivery: Delivery, now: Instant) -> Result<(), Dropped> {
        if self.state != State::Connected {
            return Err(Dropped::Closed);
        }
        let delivered = self.outbound.deliver(delivery, now, &mut self.outputs);
        self.check();
        delivered
    }

    /// Takes back messages that wait to be sent and that `keeps` does not want sent any more; how many.
    pub fn withdraw(&mut self, keeps: impl Fn(&TopicName) -> bool) -> usize {
        let withdrawn = self.outbound.withdraw(keeps, &mut self.outputs);
        self.check();
        withdrawn
    }

    /// The server ends the connection.
    pub fn disconnect(&mut self, reason: ReasonCode, server_reference: Option<Text>) {
        match self.state {
            State::Connecting => self.refuse(reason, server_reference),
            State::AwaitConnect => self.close(WillFate::Discard),
            State::Connected | State::Closed => self.leave(reason, server_reference),
        }
        self.check();
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
            self.early = Vec::new();
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

    fn send_suback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.send(Packet::SubAck(SubAck {
            packet_id,
            reason_string: None,
            user: Vec::new(),
            reasons,
        }));
    }

    fn send_unsuback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.send(Packet::UnsubAck(UnsubAck {
            packet_id,
            reason_string: None,
            user: Vec::new(),
            reasons,
        }));
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
            let last = self.outputs.back();
            assert!(
                self.state != State::Closed
                    || last.is_none_or(|last| matches!(last, Output::Close { .. })),
                "nothing follows the end"
            );
            assert!(
                self.early.is_empty() || self.state == State::Connecting,
                "what came early waits for the decision only"
            );
        }
    }
}

/// A code for each filter of a request whose identifier is taken.
fn in_use(filters: usize) -> Vec<ReasonCode> {
    vec![ReasonCode::PacketIdentifierInUse; filters]
}

#[cfg(test)]
mod tests;
