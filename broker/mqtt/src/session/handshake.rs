//! CONNECT to CONNACK: how a connection becomes a client's.

use std::time::{Duration, Instant};

use super::inbound::Inbound;
use super::outbound::Outbound;
use super::{Output, Resume, Session, State, WillFate};
use crate::codec::CodecError;
use crate::packet::{ConnAck, ConnAckProperties, Connect, Packet, Version};
use crate::reason::ReasonCode;
use crate::text::Text;

/// Packets that are kept for a client that does not wait for its CONNACK, which it need not (5.0 §3.1.4).
const EARLY_PACKETS_MAX: usize = 64;

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

impl Session {
    pub(super) fn connect(&mut self, connect: Box<Connect>, now: Instant) {
        self.state = State::Connecting;
        self.version = connect.version;
        self.heard = now;
        self.keep_alive_s = connect.keep_alive_s;
        self.asked_expiry_s = match connect.version {
            Version::V5 => connect.properties.session_expiry_s.unwrap_or(0),
            Version::V311 => 0,
        };
        let limits = &self.limits;
        self.inbound = Inbound::new(
            connect.version,
            limits.receive_maximum,
            limits.topic_alias_maximum,
        );
        self.outbound = Outbound::new(connect.version, &connect.properties, limits);
        // Enhanced authentication: no method is offered [MQTT-4.12.0-1].
        if connect.properties.authentication_method.is_some() {
            self.refuse(ReasonCode::BadAuthenticationMethod, None);
            return;
        }
        self.outputs.push_back(Output::Connect(connect));
    }

    /// Keeps what came before the client was accepted. Nothing of it is looked at if it is not [MQTT-3.1.4-6].
    pub(super) fn early(&mut self, packet: Packet) {
        match packet {
            // A second CONNECT is an error whatever becomes of the first [MQTT-3.1.0-2].
            Packet::Connect(_) => self.refuse(ReasonCode::ProtocolError, None),
            _ if self.early.len() >= EARLY_PACKETS_MAX => {
                self.refuse(ReasonCode::QuotaExceeded, None);
            }
            packet => self.early.push(packet),
        }
    }

    /// The client is in. Ignored unless [`Output::Connect`] waits for it.
    pub fn accept(&mut self, accepted: Accepted, now: Instant) {
        if self.state != State::Connecting {
            return;
        }
        self.state = State::Connected;
        // The time that the decision took is not the client's silence.
        self.heard = now;
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
        self.outbound.pump(now, &mut self.outputs);
        for packet in std::mem::take(&mut self.early) {
            self.receive(packet, now);
        }
        self.check();
    }

    /// The client is not let in. Ignored unless [`Output::Connect`] waits for it.
    pub fn refuse(&mut self, reason: ReasonCode, server_reference: Option<Text>) {
        if self.state != State::Connecting {
            return;
        }
        let reason = connack_reason(reason);
        // 3.1.1 has no words for some: then it is closed in silence.
        if self.version == Version::V5 || reason.connack_v311().is_some() {
            let mut properties = ConnAckProperties::default();
            if self.version == Version::V5 {
                properties.server_reference = server_reference;
            }
            self.outputs
                .push_back(Output::Send(Packet::ConnAck(Box::new(ConnAck {
                    session_present: false, // [MQTT-3.2.2-6]
                    reason,
                    properties,
                }))));
        }
        self.close(WillFate::Discard);
    }

    /// The codec could not read what came: the client is told why, where its version has the words
    /// [MQTT-4.13.1-1], and the connection is over.
    pub fn malformed(&mut self, error: &CodecError) {
        match (self.state, error.version) {
            (State::AwaitConnect, Some(version)) => {
                self.version = version;
                self.state = State::Connecting;
                self.refuse(error.reason, None);
            }
            (State::AwaitConnect, None) => self.close(WillFate::Discard),
            (State::Connecting, _) => self.refuse(error.reason, None),
            (State::Connected, _) => self.fail(error.reason),
            (State::Closed, _) => {}
        }
        self.check();
    }
}

/// The nearest code that CONNACK may bear (5.0 table 3.1).
fn connack_reason(reason: ReasonCode) -> ReasonCode {
    match reason {
        ReasonCode::ServerShuttingDown | ReasonCode::SessionTakenOver => {
            ReasonCode::ServerUnavailable
        }
        ReasonCode::AdministrativeAction => ReasonCode::NotAuthorized,
        ReasonCode::KeepAliveTimeout
        | ReasonCode::MaximumConnectTime
        | ReasonCode::MessageRateTooHigh => ReasonCode::UnspecifiedError,
        other => other,
    }
}
