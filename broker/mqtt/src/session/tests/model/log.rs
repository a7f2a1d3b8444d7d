//! The server's side of the model: what is replicated, and survives every connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// The session's queue is handed over as far as this.
const TAKEN_MAX: usize = 6;
/// Identifiers from the queue come around after so many messages: soon, so that they meet those given by the session.
const QUEUE_IDS: u64 = 24;

enum Proposal {
    Publish {
        id: Option<PacketId>,
        message: Message,
    },
    Release {
        id: PacketId,
    },
    /// The client has the message of a QoS 2 flow.
    Received {
        id: PacketId,
        seq: u64,
    },
    /// The client is owed no more of the message.
    Settled {
        seq: u64,
    },
}

/// The part of the log that holds the session itself.
const HOME: &str = "home";

struct Queued {
    seq: u64,
    message: Message,
    is_released: bool,
}

/// What to tell the session once something is committed.
type Tell = Box<dyn FnOnce(&mut Session)>;

pub(super) struct Log {
    version: Version,
    /// Committed publications of the client.
    pub(super) published: Vec<Message>,
    /// Names of QoS 2 publications, and the topic whose part of the log holds each.
    names: BTreeMap<PacketId, &'static str>,
    /// Each topic is a part of the log with an order of its own. With the connection that proposed.
    proposals: BTreeMap<&'static str, VecDeque<(u32, Proposal)>>,
    queue: VecDeque<Queued>,
    /// All that was ever in the queue.
    pub(super) queued: Vec<Message>,
    /// What was sent past the queue.
    pub(super) direct: Vec<Message>,
    /// The last one that any connection has taken, and that this one has.
    taken_upto: u64,
    taken_here: u64,
    /// What the session said of the queue on this connection.
    received_here: BTreeSet<u64>,
    acknowledged_here: BTreeSet<u64>,
    next_number: u32,
    /// Whether messages are sent past the queue at QoS 1, which nothing keeps.
    has_direct: bool,
}

impl Log {
    pub(super) fn new(version: Version, has_direct: bool) -> Self {
        Log {
            version,
            published: Vec::new(),
            names: BTreeMap::new(),
            proposals: BTreeMap::new(),
            queue: VecDeque::new(),
            queued: Vec::new(),
            direct: Vec::new(),
            taken_upto: 0,
            taken_here: 0,
            received_here: BTreeSet::new(),
            acknowledged_here: BTreeSet::new(),
            next_number: 0,
            has_direct,
        }
    }

    pub(super) fn propose(&mut self, connection: u32, publish: &Publish) {
        let topic = publish.topic.as_ref().expect("the session resolved it");
        let message = Message::of(topic.as_str(), publish.qos, &publish.payload);
        let id = publish.packet_id;
        let part = self.proposals.entry(message.topic).or_default();
        part.push_back((connection, Proposal::Publish { id, message }));
    }

    /// Whether anything holds the name.
    pub(super) fn propose_release(&mut self, connection: u32, id: PacketId) -> bool {
        let Some(topic) = self.names.get(&id) else {
            return false;
        };
        let part = self.proposals.entry(topic).or_default();
        part.push_back((connection, Proposal::Release { id }));
        true
    }

    /// Commits the next entry of some part: whom to tell what.
    pub(super) fn commit_one(&mut self, random: &mut Random) -> Option<(u32, Tell)> {
        let parts = self.proposals.values_mut();
        let mut parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        let chosen = random.below(parts.len().max(1));
        let (connection, proposal) = parts.get_mut(chosen)?.pop_front()?;
        let tell: Tell = match proposal {
            Proposal::Release { id } => {
                self.names.remove(&id);
                Box::new(move |session| session.released(id))
            }
            // An earlier connection's word may come after a later one's: then it changes nothing.
            Proposal::Received { id, seq } => {
                if let Some(entry) = self.queue.iter_mut().find(|entry| entry.seq == seq) {
                    assert_eq!(entry.message.qos, QoS::ExactlyOnce);
                    entry.is_released = true;
                }
                Box::new(move |session| session.receipt_committed(id))
            }
            Proposal::Settled { seq } => {
                self.queue.retain(|entry| entry.seq != seq);
                Box::new(|_| ())
            }
            Proposal::Publish { id, message } => {
                let result = self.publish(id, message);
                match id {
                    Some(id) => Box::new(move |session| session.published(id, result)),
                    None => Box::new(|_| ()),
                }
            }
        };
        Some((connection, tell))
    }

    fn publish(&mut self, id: Option<PacketId>, message: Message) -> Result<Matched, ReasonCode> {
        if message.is_refused(self.version) {
            return Err(ReasonCode::QuotaExceeded);
        }
        let name = id.filter(|_| message.qos == QoS::ExactlyOnce);
        let is_new = name.is_none_or(|name| self.names.insert(name, message.topic).is_none());
        if is_new {
            self.published.push(message);
        }
        Ok(Matched::Some)
    }

    fn next_message(&mut self, qos: QoS, topics: &[&'static str], random: &mut Random) -> Message {
        self.next_number += 1;
        Message {
            number: self.next_number,
            topic: topics[random.below(topics.len())],
            qos,
        }
    }

    /// Something is published that the session is owed.
    pub(super) fn enqueue(&mut self, random: &mut Random) {
        let qos = random.qos();
        if qos == QoS::AtMostOnce || self.queue.len() >= QUEUE_IDS as usize {
            return;
        }
        // An identifier is not given again while its message is in the queue.
        let seq = self.queued.len() as u64 + 1;
        if self
            .queue
            .front()
            .is_some_and(|first| seq - first.seq >= QUEUE_IDS)
        {
            return;
        }
        let message = self.next_message(qos, &DOWN[..3], random);
        self.queued.push(message);
        self.queue.push_back(Queued {
            seq,
            message,
            is_released: false,
        });
    }

    /// Something is published that nothing keeps.
    pub(super) fn deliver_direct(
        &mut self,
        session: &mut Session,
        now: Instant,
        random: &mut Random,
    ) {
        let qos = random.qos().min(QoS::AtLeastOnce);
        if qos > QoS::AtMostOnce && !self.has_direct {
            return;
        }
        // On a topic of its own, where numbers ascend.
        let message = self.next_message(qos, &DOWN[3..], random);
        match session.deliver(delivery_of(message, None), now) {
            Ok(()) => self.direct.push(message),
            Err(Dropped::TooLarge) => assert!(message.is_too_large()),
            Err(Dropped::Full) => assert_eq!(qos, QoS::AtLeastOnce),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Hands over what the session has room for; whether there was anything.
    pub(super) fn hand_over(&mut self, session: &mut Session, now: Instant) -> bool {
        let here = self.taken_here;
        let taken = self.queue.iter().filter(|entry| entry.seq <= here).count();
        let next = self.queue.iter().find(|entry| entry.seq > here);
        let Some(next) = next.filter(|_| taken < TAKEN_MAX) else {
            return false;
        };
        let (seq, message) = (next.seq, next.message);
        match session.deliver(delivery_of(message, Some(seq)), now) {
            Ok(()) => {}
            // It waits in the queue as well as here.
            Err(Dropped::Full) => return false,
            Err(Dropped::TooLarge) => {
                assert!(message.is_too_large() && self.version == Version::V5);
                self.queue.retain(|entry| entry.seq != seq);
            }
            Err(other) => panic!("{other:?}"),
        }
        self.taken_here = seq;
        self.taken_upto = self.taken_upto.max(seq);
        true
    }

    /// What an earlier connection has taken.
    pub(super) fn resume(&mut self) -> Vec<Resume> {
        self.taken_here = self.taken_upto;
        self.received_here.clear();
        self.acknowledged_here.clear();
        let taken = self.queue.iter();
        let taken = taken.filter(|entry| entry.seq <= self.taken_upto);
        taken
            .map(|entry| match entry.is_released {
                true => Resume::Released {
                    packet_id: queue_id(entry.seq),
                    handle: entry.seq,
                },
                false => Resume::Publish(delivery_of(entry.message, Some(entry.seq))),
            })
            .collect()
    }

    pub(super) fn acknowledged(&mut self, connection: u32, seq: u64) {
        if seq == 0 {
            return;
        }
        let first = self.acknowledged_here.insert(seq);
        assert!(first, "each message is acknowledged once");
        self.propose_at_home(connection, Proposal::Settled { seq });
    }

    pub(super) fn received(&mut self, connection: u32, seq: u64, id: PacketId) {
        assert!(seq > 0, "what nothing keeps is noted nowhere");
        assert!(
            !self.acknowledged_here.contains(&seq),
            "what is received is still owed"
        );
        assert!(self.received_here.insert(seq), "it is received once");
        self.propose_at_home(connection, Proposal::Received { id, seq });
    }

    fn propose_at_home(&mut self, connection: u32, proposal: Proposal) {
        let part = self.proposals.entry(HOME).or_default();
        part.push_back((connection, proposal));
    }

    /// The server dies.
    pub(super) fn lose_what_is_not_committed(&mut self) {
        self.proposals.clear();
    }

    /// Nothing is owed to anybody, and what the client published is there as often as it may be.
    pub(super) fn check_at_rest(&self, sent: &[Message]) {
        assert!(self.queue.is_empty(), "the client has all that was queued");
        assert!(self.names.is_empty(), "all names are let go");
        check_order(&self.published, "published");
        let all: BTreeSet<_> = sent.iter().collect();
        assert!(self.published.iter().all(|message| all.contains(message)));
        for message in sent {
            let times = times(&self.published, *message);
            let right = match message.qos {
                _ if message.is_refused(self.version) => times == 0,
                QoS::AtMostOnce => times <= 1,
                QoS::AtLeastOnce => times >= 1,
                QoS::ExactlyOnce => times == 1,
            };
            assert!(right, "{message:?} was published {times} times");
        }
    }
}

fn queue_id(seq: u64) -> PacketId {
    id((seq % QUEUE_IDS) as u16 + 1)
}

fn delivery_of(message: Message, seq: Option<u64>) -> Delivery {
    Delivery {
        topic: TopicName::from_static(message.topic),
        payload: message.payload(),
        packet_id: seq.map(queue_id),
        ..delivery(message.qos, seq.unwrap_or(0))
    }
}
