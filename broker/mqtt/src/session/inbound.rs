//! What the client publishes: its flows, the server's receive maximum, and the client's topic aliases.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;

use crate::packet::{PacketId, Publish, QoS, Version};
use crate::reason::ReasonCode;
use crate::topic::TopicName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its end is awaited; PUBREC has not gone.
    Publishing,
    /// PUBREC has gone, PUBREL has not come.
    Received,
    /// PUBREL has come, PUBCOMP has not gone.
    Releasing,
}

/// What became of a PUBLISH.
#[derive(Debug)]
pub(super) enum Taken {
    /// New: to be published. Its topic is there.
    Publish(Publish),
    /// A repetition of a QoS 2 publication that is already owned: PUBREC again [MQTT-4.3.3-10].
    Repeated(PacketId),
    /// A repetition of one that is still under way: PUBREC comes.
    Pending,
}

#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// Flows that may be open at a time; 3.1.1 has no such limit.
    receive_maximum: Option<NonZeroU16>,
    topic_alias_maximum: u16,
    /// QoS 2 flows.
    flows: BTreeMap<PacketId, Stage>,
    /// Answers in the order of the PUBLISH packets, each with its reason once it is known.
    answers: VecDeque<(PacketId, QoS, Option<ReasonCode>)>,
    aliases: BTreeMap<NonZeroU16, TopicName>,
}

impl Inbound {
    pub(super) fn limits(
        &mut self,
        receive_maximum: NonZeroU16,
        version: Version,
        topic_alias_maximum: u16,
    ) {
        self.receive_maximum = (version == Version::V5).then_some(receive_maximum);
        self.topic_alias_maximum = topic_alias_maximum;
    }

    /// Takes a PUBLISH; an error closes the connection with its reason.
    pub(super) fn take(&mut self, mut publish: Publish) -> Result<Taken, ReasonCode> {
        self.resolve_alias(&mut publish)?;
        let Some(id) = publish.packet_id else {
            return Ok(Taken::Publish(publish));
        };
        if publish.qos == QoS::ExactlyOnce {
            match self.flows.get(&id) {
                Some(Stage::Publishing) => return Ok(Taken::Pending),
                Some(Stage::Received) => return Ok(Taken::Repeated(id)),
                // It was released and is not completed: the identifier is not free yet.
                Some(Stage::Releasing) => return Err(ReasonCode::PacketIdentifierInUse),
                None => {}
            }
        }
        if self
            .receive_maximum
            .is_some_and(|max| self.open_flows() >= usize::from(max.get()))
        {
            return Err(ReasonCode::ReceiveMaximumExceeded); // [MQTT-3.3.4-9]
        }
        if publish.qos == QoS::ExactlyOnce {
            self.flows.insert(id, Stage::Publishing);
        }
        self.answers.push_back((id, publish.qos, None));
        Ok(Taken::Publish(publish))
    }

    /// QoS 1 without PUBACK and QoS 2 without PUBCOMP [MQTT-4.9.0-1].
    fn open_flows(&self) -> usize {
        self.flows.len()
            + self
                .answers
                .iter()
                .filter(|(_, qos, _)| *qos == QoS::AtLeastOnce)
                .count()
    }

    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), ReasonCode> {
        let Some(alias) = publish.topic_alias.take() else {
            return if publish.topic.is_some() {
                Ok(())
            } else {
                Err(ReasonCode::ProtocolError)
            };
        };
        if alias.get() > self.topic_alias_maximum {
            return Err(ReasonCode::TopicAliasInvalid); // [MQTT-3.3.2-9]
        }
        match &publish.topic {
            Some(topic) => {
                self.aliases.insert(alias, topic.detach());
            }
            None => match self.aliases.get(&alias) {
                Some(topic) => publish.topic = Some(topic.clone()),
                None => return Err(ReasonCode::ProtocolError),
            },
        }
        Ok(())
    }

    pub(super) fn published(&mut self, id: PacketId, reason: ReasonCode) {
        let waiting = self
            .answers
            .iter_mut()
            .find(|(of, _, answer)| *of == id && answer.is_none());
        let Some((_, qos, answer)) = waiting else {
            return;
        };
        *answer = Some(reason);
        if *qos == QoS::ExactlyOnce {
            if reason.is_error() {
                // A refusing PUBREC ends the flow [MQTT-4.3.3-9].
                self.flows.remove(&id);
            } else {
                self.flows.insert(id, Stage::Received);
            }
        }
    }

    /// The next answer whose turn it is.
    pub(super) fn next_answer(&mut self) -> Option<(PacketId, QoS, ReasonCode)> {
        let (id, qos, reason) = *self.answers.front()?;
        let reason = reason?;
        self.answers.pop_front();
        if self.answers.is_empty() {
            self.answers = VecDeque::new();
        }
        Some((id, qos, reason))
    }

    pub(super) fn releasing(&mut self, id: PacketId) {
        if let Some(stage) = self.flows.get_mut(&id) {
            *stage = Stage::Releasing;
        }
    }

    /// Whether the flow was known.
    pub(super) fn completed(&mut self, id: PacketId) -> bool {
        self.flows.remove(&id).is_some()
    }

    pub(super) fn check(&self) {
        if let Some(max) = self.receive_maximum {
            assert!(
                self.open_flows() <= usize::from(max.get()),
                "a client is held to the server's receive maximum"
            );
        }
        let publishing = self
            .flows
            .values()
            .filter(|stage| **stage == Stage::Publishing)
            .count();
        let unanswered = self
            .answers
            .iter()
            .filter(|(_, qos, reason)| *qos == QoS::ExactlyOnce && reason.is_none());
        assert_eq!(
            publishing,
            unanswered.count(),
            "each QoS 2 publication under way has an answer to come"
        );
    }
}
