//! What the client publishes: its flows, the server's receive maximum, and the order of the answers.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;

use super::topic_alias::FromClient;
use crate::packet::{PacketId, Publish, QoS, Version};
use crate::reason::ReasonCode;

/// Publications that a client of 3.1.1, which knows no receive maximum, may have under way: as many as it has
/// identifiers.
const V311_FLOWS_MAX: usize = u16::MAX as usize;

/// Where a QoS 2 flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its PUBREC has not gone.
    Publishing,
    /// PUBREC has gone, PUBREL has not come.
    Received,
    /// PUBREL has come, PUBCOMP has not gone.
    Releasing,
    /// As `Releasing`, for a publication of an earlier connection: whether there was one is known outside.
    ReleasingInherited,
}

impl Stage {
    /// Whether it takes a place in the receive maximum besides its answer; that of an earlier connection does not,
    /// since a new connection starts with the whole quota (5.0 §4.9).
    fn is_held(self) -> bool {
        matches!(self, Stage::Received | Stage::Releasing)
    }
}

/// A PUBACK or PUBREC that has not gone.
#[derive(Debug, Clone, Copy)]
struct Answer {
    id: PacketId,
    qos: QoS,
    /// What it will say, once that is known.
    reason: Option<ReasonCode>,
    /// The identifier belongs to something else: nobody was asked, and this is not that flow's answer.
    is_stray: bool,
}

/// What became of a PUBLISH.
#[derive(Debug)]
pub(super) enum Taken {
    /// New: to be published. Its topic is there.
    Publish(Publish),
    /// A repetition of a QoS 2 publication that is already owned: PUBREC again [MQTT-4.3.3-10].
    Repeated(PacketId),
    /// The answer comes in its turn.
    Pending,
}

/// What became of a PUBREL.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Releasing {
    /// The name is to be let go.
    Release,
    /// It is being let go: PUBCOMP comes.
    Pending,
}

#[derive(Debug)]
pub(super) struct Inbound {
    version: Version,
    /// Publications that may be under way at a time.
    window: usize,
    /// QoS 2 flows.
    flows: BTreeMap<PacketId, Stage>,
    /// Flows in a stage that [`Stage::is_held`].
    held: usize,
    /// In the order of the PUBLISH packets.
    answers: VecDeque<Answer>,
    aliases: FromClient,
}

impl Inbound {
    pub(super) fn new(version: Version, receive_maximum: NonZeroU16, aliases_max: u16) -> Self {
        Inbound {
            version,
            window: match version {
                Version::V5 => usize::from(receive_maximum.get()),
                Version::V311 => V311_FLOWS_MAX,
            },
            flows: BTreeMap::new(),
            held: 0,
            answers: VecDeque::new(),
            aliases: FromClient::new(aliases_max),
        }
    }

    /// Takes a PUBLISH; an error closes the connection with its reason. `is_requested`: a SUBSCRIBE or UNSUBSCRIBE
    /// that has no answer yet bears its identifier.
    pub(super) fn take(
        &mut self,
        mut publish: Publish,
        is_requested: impl Fn(PacketId) -> bool,
    ) -> Result<Taken, ReasonCode> {
        self.aliases.resolve(&mut publish)?;
        let Some(id) = publish.packet_id else {
            return Ok(Taken::Publish(publish));
        };
        let stage = self.flows.get(&id).copied();
        if publish.qos == QoS::ExactlyOnce {
            match stage {
                Some(Stage::Publishing) => return Ok(Taken::Pending),
                Some(Stage::Received) => return Ok(Taken::Repeated(id)),
                Some(Stage::Releasing | Stage::ReleasingInherited) | None => {}
            }
        }
        if self.under_way() >= self.window {
            return Err(ReasonCode::ReceiveMaximumExceeded); // [MQTT-3.3.4-9]
        }
        // A QoS 1 identifier that comes again before its PUBACK is served again: at least once.
        let is_other_flow = match publish.qos {
            QoS::ExactlyOnce => stage.is_some() || self.answers.iter().any(|other| other.id == id),
            _ => stage.is_some(),
        };
        let is_stray = is_other_flow || is_requested(id);
        if is_stray && self.version == Version::V311 {
            return Err(ReasonCode::ProtocolError); // [MQTT-2.3.1-2, v3.1.1]
        }
        self.answers.push_back(Answer {
            id,
            qos: publish.qos,
            reason: is_stray.then_some(ReasonCode::PacketIdentifierInUse), // [MQTT-2.2.1-3]
            is_stray,
        });
        if is_stray {
            return Ok(Taken::Pending);
        }
        if publish.qos == QoS::ExactlyOnce {
            self.flows.insert(id, Stage::Publishing);
        }
        Ok(Taken::Publish(publish))
    }

    /// Whether a publication that is under way bears this identifier.
    pub(super) fn holds(&self, id: PacketId) -> bool {
        self.flows.contains_key(&id) || self.answers.iter().any(|answer| answer.id == id)
    }

    /// QoS 1 without PUBACK, and QoS 2 without PUBCOMP or a refusing PUBREC (5.0 §4.9).
    fn under_way(&self) -> usize {
        self.answers.len() + self.held
    }

    /// A publication's end is known.
    pub(super) fn published(&mut self, id: PacketId, reason: ReasonCode) {
        let mut answers = self.answers.iter_mut();
        if let Some(answer) = answers.find(|answer| answer.id == id && answer.reason.is_none()) {
            answer.reason = Some(reason);
        }
    }

    /// The next answer whose turn it is; it goes now.
    pub(super) fn next_answer(&mut self) -> Option<(PacketId, QoS, ReasonCode)> {
        let Answer {
            id,
            qos,
            reason,
            is_stray,
        } = *self.answers.front()?;
        let reason = reason?;
        self.answers.pop_front();
        if self.answers.is_empty() {
            self.answers = VecDeque::new();
        }
        if qos == QoS::ExactlyOnce && !is_stray {
            if reason.is_error() {
                // A refusing PUBREC ends the flow [MQTT-4.3.3-9].
                self.flows.remove(&id);
            } else {
                self.flows.insert(id, Stage::Received);
                self.held += 1;
            }
        }
        Some((id, qos, reason))
    }

    /// Takes a PUBREL; an error closes the connection with its reason.
    pub(super) fn release(&mut self, id: PacketId) -> Result<Releasing, ReasonCode> {
        match self.flows.get_mut(&id) {
            // PUBREL answers a PUBREC [MQTT-4.3.3-4], and that has not gone.
            Some(Stage::Publishing) => Err(ReasonCode::ProtocolError),
            Some(Stage::Releasing | Stage::ReleasingInherited) => Ok(Releasing::Pending),
            Some(stage @ Stage::Received) => {
                *stage = Stage::Releasing;
                Ok(Releasing::Release)
            }
            None => {
                self.flows.insert(id, Stage::ReleasingInherited);
                Ok(Releasing::Release)
            }
        }
    }

    /// PUBCOMP goes. Whether the publication came on this connection; `None` if none is being released.
    pub(super) fn completed(&mut self, id: PacketId) -> Option<bool> {
        match self.flows.get(&id)? {
            Stage::Publishing | Stage::Received => None,
            Stage::ReleasingInherited => {
                self.flows.remove(&id);
                Some(false)
            }
            Stage::Releasing => {
                self.flows.remove(&id);
                self.held -= 1;
                Some(true)
            }
        }
    }

    /// Whether it owns no memory but what aliases take.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.flows.is_empty() && self.answers.capacity() == 0
    }

    pub(super) fn check(&self) {
        assert!(
            self.under_way() <= self.window,
            "a client is held to the server's receive maximum"
        );
        let held = self.flows.values().filter(|stage| stage.is_held());
        assert_eq!(held.count(), self.held, "each flow is counted once");
        let publishing = self.flows.values();
        let publishing = publishing.filter(|stage| **stage == Stage::Publishing);
        let answers = self.answers.iter();
        let answers = answers.filter(|answer| answer.qos == QoS::ExactlyOnce && !answer.is_stray);
        assert_eq!(
            publishing.count(),
            answers.count(),
            "each QoS 2 publication under way has one answer to come"
        );
        assert!(
            self.answers
                .front()
                .is_none_or(|answer| answer.reason.is_none()),
            "an answer whose turn it is has gone"
        );
    }
}
