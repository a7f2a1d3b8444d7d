//! Topic aliases: two bytes in place of a topic name, in either direction (5.0 §3.3.2.3.4).
//!
//! They live and die with the connection [MQTT-3.3.2-7].

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU16;

use crate::packet::Publish;
use crate::reason::ReasonCode;
use crate::topic::TopicName;

/// Topics of one connection that the server gives an alias, at most, however many the client would take: they are
/// memory of the server.
const TO_CLIENT_MAX: u16 = 64;
/// What the property costs in a PUBLISH: an alias for a shorter topic saves nothing.
const PROPERTY_BYTES: usize = 3;

/// Aliases that the client sets.
#[derive(Debug, Default)]
pub(super) struct FromClient {
    max: u16,
    topics: BTreeMap<NonZeroU16, TopicName>,
}

impl FromClient {
    pub(super) fn new(max: u16) -> Self {
        FromClient {
            max,
            topics: BTreeMap::new(),
        }
    }

    /// Puts the topic where an alias stood for it, and remembers the pair where both are there.
    pub(super) fn resolve(&mut self, publish: &mut Publish) -> Result<(), ReasonCode> {
        let Some(alias) = publish.topic_alias.take() else {
            return match publish.topic {
                Some(_) => Ok(()),
                None => Err(ReasonCode::ProtocolError),
            };
        };
        if alias.get() > self.max {
            return Err(ReasonCode::TopicAliasInvalid); // [MQTT-3.3.2-9]
        }
        match &publish.topic {
            Some(topic) if self.topics.get(&alias) == Some(topic) => {}
            Some(topic) => {
                self.topics.insert(alias, topic.detach());
            }
            None => match self.topics.get(&alias) {
                Some(topic) => publish.topic = Some(topic.clone()),
                None => return Err(ReasonCode::ProtocolError),
            },
        }
        Ok(())
    }
}

/// Aliases that the server sets: for the topics that come again and again.
#[derive(Debug)]
pub(super) struct ToClient {
    max: u16,
    by_topic: HashMap<TopicName, NonZeroU16>,
    /// The topic of alias `index + 1`.
    slots: Vec<Slot>,
    /// Where the search for a slot to take over goes on.
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    topic: TopicName,
    /// Used since the hand came by.
    is_hot: bool,
}

impl ToClient {
    /// `None` if the client wants none, which is its default [MQTT-3.1.2-26], [MQTT-3.1.2-27].
    pub(super) fn new(client_max: u16) -> Option<Box<Self>> {
        (client_max > 0).then(|| {
            Box::new(ToClient {
                max: client_max.min(TO_CLIENT_MAX),
                by_topic: HashMap::new(),
                slots: Vec::new(),
                hand: 0,
            })
        })
    }

    /// The topic and the alias to send: both the first time, then the alias alone.
    ///
    /// What is sent by it must reach the client, or the two disagree.
    pub(super) fn assign(&mut self, topic: TopicName) -> (Option<TopicName>, Option<NonZeroU16>) {
        if topic.as_str().len() <= PROPERTY_BYTES {
            return (Some(topic), None);
        }
        if let Some(alias) = self.by_topic.get(&topic) {
            self.slots[usize::from(alias.get()) - 1].is_hot = true;
            return (None, Some(*alias));
        }
        let slot = Slot {
            topic: topic.detach(),
            is_hot: false,
        };
        let index = if self.slots.len() < usize::from(self.max) {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let index = self.coldest();
            let previous = std::mem::replace(&mut self.slots[index], slot);
            self.by_topic.remove(&previous.topic);
            index
        };
        let alias = u16::try_from(index + 1).ok().and_then(NonZeroU16::new);
        let alias = alias.expect("there are at most TO_CLIENT_MAX slots");
        self.by_topic.insert(self.slots[index].topic.clone(), alias);
        (Some(topic), Some(alias))
    }

    /// A slot that was not used since the hand came by; after one round all are such.
    fn coldest(&mut self) -> usize {
        loop {
            let index = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            if !std::mem::take(&mut self.slots[index].is_hot) {
                return index;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        name.parse().expect("a valid topic")
    }

    #[test]
    fn a_topic_is_named_once_and_then_by_its_alias() {
        let mut aliases = ToClient::new(9).unwrap();
        let one = NonZeroU16::new(1);
        assert_eq!(aliases.assign(topic("gps/a")), (Some(topic("gps/a")), one));
        assert_eq!(aliases.assign(topic("gps/a")), (None, one));
        assert_eq!(aliases.assign(topic("abc")), (Some(topic("abc")), None));
    }

    #[test]
    fn no_alias_exceeds_the_clients_maximum_mqtt_3_1_2_26() {
        assert!(ToClient::new(0).is_none(), "[MQTT-3.1.2-27]");
        for max in [1, 2, u16::MAX] {
            let mut aliases = ToClient::new(max).unwrap();
            for number in 0..1000 {
                let (_, alias) = aliases.assign(topic(&format!("gps/{number}")));
                assert!(alias.unwrap().get() <= max.min(TO_CLIENT_MAX));
            }
            assert_eq!(aliases.by_topic.len(), aliases.slots.len());
        }
    }

    /// The client's side: what it makes of what it is sent.
    #[test]
    fn the_client_always_finds_the_topic_that_was_meant() {
        let (mut aliases, mut client) = (ToClient::new(3).unwrap(), HashMap::new());
        let (mut seed, mut saved) = (1_u32, 0);
        for round in 0..10_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Three in four messages have one of two topics, other ones after half the time; a hundred are the rest.
            let number = if seed >> 30 > 0 {
                (seed >> 20 & 1) + round / 5_000 * 200
            } else {
                seed >> 16 & 127
            };
            let meant = topic(&format!("gps/{number}"));
            let (named, alias) = aliases.assign(meant.clone());
            let alias = alias.unwrap();
            saved += usize::from(named.is_none());
            if let Some(named) = named {
                client.insert(alias, named);
            }
            assert_eq!(client[&alias], meant);
        }
        assert!(
            saved > 6_000,
            "hot topics have aliases: {saved} of 7,500 that might be saved"
        );
    }
}
