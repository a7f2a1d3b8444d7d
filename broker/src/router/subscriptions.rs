//! Who is to get a message? The subscriptions of all sessions on this node.
//!
//! `message ─► **subscriptions** ─► mailboxes, queues`. A session gets one copy of a message, whichever and however
//! many of its filters match, at the highest QoS of these and with all their identifiers [MQTT-3.3.4-2..5]; of a
//! shared subscription one session gets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use meridian_mqtt::packet::QoS;
use meridian_mqtt::topic::{TopicFilter, TopicName};
use meridian_mqtt::topic_tree::TopicTree;
use meridian_shard::log;
use parking_lot::RwLock;

use super::outgoing::{Outgoing, alert_topic, position_topic, topic};
use super::shard_map::{Reach, ShardIndex};
use crate::delivery::SessionHandle;

/// What a subscriber asked for (5.0 §3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteOptions {
    /// The most that it wants.
    pub qos: QoS,
    /// Not what it published itself.
    pub no_local: bool,
    /// The retain flag as it was published.
    pub retain_as_published: bool,
    /// Sent along with what matches.
    pub subscription_id: Option<u32>,
}

/// One subscription of one session.
#[derive(Debug)]
pub struct Route {
    /// Whose.
    pub session: Arc<SessionHandle>,
    /// For what, share name included.
    pub filter: TopicFilter,
    /// How.
    pub options: RouteOptions,
    since: Since,
}

/// The first offset of each shard that a subscription may see: what came before is the retained messages' business.
#[derive(Debug)]
enum Since {
    One(ShardIndex, AtomicU64),
    Many(Box<[(ShardIndex, AtomicU64)]>),
}

/// Not yet in place: nothing of the log matches.
const NOT_YET: u64 = u64::MAX;

impl Route {
    /// A subscription that is in place in no shard yet; see [`Route::place`].
    #[must_use]
    pub fn new(
        session: Arc<SessionHandle>,
        filter: TopicFilter,
        options: RouteOptions,
        reach: &Reach,
    ) -> Self {
        let since = match reach {
            Reach::One(shard) => Since::One(*shard, AtomicU64::new(NOT_YET)),
            Reach::Many(shards) => Since::Many(
                shards
                    .iter()
                    .map(|shard| (*shard, AtomicU64::new(NOT_YET)))
                    .collect(),
            ),
        };
        Route {
            session,
            filter,
            options,
            since,
        }
    }

    /// From offset `first` of `shard` on, events match.
    pub fn place(&self, shard: ShardIndex, first: u64) {
        if let Some((_, since)) = self.since().find(|(of, _)| *of == shard) {
            since.store(first, Ordering::Release);
        }
    }

    /// By shard, the first offset that it may see.
    pub fn placed(&self) -> impl Iterator<Item = (ShardIndex, u64)> {
        self.since()
            .map(|(shard, since)| (shard, since.load(Ordering::Acquire)))
    }

    fn since(&self) -> impl Iterator<Item = (ShardIndex, &AtomicU64)> {
        let (one, many) = match &self.since {
            Since::One(shard, since) => (Some((*shard, since)), [].as_slice()),
            Since::Many(shards) => (None, &**shards),
        };
        one.into_iter()
            .chain(many.iter().map(|(shard, since)| (*shard, since)))
    }

    fn sees(&self, source: Source) -> bool {
        match source {
            Source::Direct { .. } => true,
            Source::Event { shard, offset } => self
                .placed()
                .any(|(of, since)| of == shard && since != NOT_YET && offset >= since),
        }
    }

    /// Whether a message of `qos` goes through the session's replicated queue.
    fn is_queued(&self, qos: QoS) -> bool {
        self.session.persistent.is_some() && self.options.qos.min(qos) > QoS::AtMostOnce
    }
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From a connection, past the log.
    Direct {
        /// Whose turn it is in shared subscriptions: the same number on all nodes.
        turn: u64,
    },
    /// From a shard's event log.
    Event {
        /// The shard.
        shard: ShardIndex,
        /// The event's place there.
        offset: u64,
    },
}

/// Which recipients are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Those that are sent the message now, if they are there.
    Live,
    /// Those whose replicated queue it must reach; and the shared subscriptions that have such members.
    Queued,
}

/// One recipient and how it is to get the message.
#[derive(Debug)]
pub struct Recipient {
    /// The session.
    pub session: Arc<SessionHandle>,
    /// The lower one of what was published and what was subscribed.
    pub qos: QoS,
    /// The retain flag to send.
    pub retain: bool,
    /// Of all subscriptions of the session that match.
    pub subscription_ids: Vec<u32>,
}

/// All subscriptions on this node.
#[derive(Debug, Default)]
pub struct Subscriptions {
    tree: RwLock<TopicTree<Key, Arc<Route>>>,
    /// Subscriptions whose messages go through a replicated queue.
    queued: AtomicUsize,
    /// Turns of the shared subscriptions, for what has no offset.
    turns: AtomicU64,
}

impl Subscriptions {
    /// Adds a subscription; one of the same session and filter is replaced. Whether there was one.
    pub fn insert(&self, route: Arc<Route>) -> bool {
        let queued = usize::from(route.is_queued(QoS::ExactlyOnce));
        self.queued.fetch_add(queued, Ordering::Release);
        let filter = route.filter.clone();
        let old = self
            .tree
            .write()
            .insert(&filter, key(&route.session, &filter), route);
        if let Some(old) = &old {
            self.queued.fetch_sub(
                usize::from(old.is_queued(QoS::ExactlyOnce)),
                Ordering::Release,
            );
        }
        old.is_some()
    }

    /// Removes a subscription. Whether there was one.
    pub fn remove(&self, session: &Arc<SessionHandle>, filter: &TopicFilter) -> bool {
        let old = self.tree.write().remove(filter, &key(session, filter));
        if let Some(old) = &old {
            self.queued.fetch_sub(
                usize::from(old.is_queued(QoS::ExactlyOnce)),
                Ordering::Release,
            );
        }
        old.is_some()
    }

    /// Whether any message at all can concern a replicated queue.
    #[must_use]
    pub fn any_queued(&self) -> bool {
        self.queued.load(Ordering::Acquire) > 0
    }

    /// Whether anybody subscribes to `topic`.
    #[must_use]
    pub fn wants(&self, topic: &TopicName) -> bool {
        self.tree.read().has_match(topic)
    }

    /// An event as a message. A position or an alert is written out only if somebody subscribes to it.
    #[must_use]
    pub fn wanted(&self, event: &log::Event) -> Option<Outgoing> {
        if self.is_empty() {
            return None;
        }
        match event.body.as_ref()? {
            log::event::Body::Message(message) => Outgoing::from_message(message),
            log::event::Body::Position(position) => {
                let name = position_topic(&position.region, &position.device);
                self.wants(&topic(&name)?)
                    .then(|| Outgoing::from_position(position))?
            }
            log::event::Body::Alert(alert) => self
                .wants(&topic(&alert_topic(alert))?)
                .then(|| Outgoing::from_alert(alert))?,
        }
    }

    /// Whether a message must go into the log because a replicated queue wants it.
    #[must_use]
    pub fn wants_queued(&self, message: &Outgoing) -> bool {
        if message.qos == QoS::AtMostOnce || !self.any_queued() {
            return false;
        }
        let mut wanted = false;
        self.tree.read().for_each_match(&message.topic, |_, route| {
            wanted |= route.is_queued(message.qos)
                && !(route.options.no_local && is_publisher(route, message));
        });
        wanted
    }

    /// Calls `each` with every recipient of `message` in `audience`.
    pub fn recipients(
        &self,
        message: &Outgoing,
        source: Source,
        audience: Audience,
        mut each: impl FnMut(Recipient),
    ) {
        let mut plain: Vec<Arc<Route>> = Vec::new();
        let mut shared: Vec<Arc<Route>> = Vec::new();
        self.tree.read().for_each_match(&message.topic, |_, route| {
            if route.options.no_local && is_publisher(route, message) || !route.sees(source) {
                return;
            }
            if route.filter.share().is_some() {
                shared.push(Arc::clone(route));
            } else if route.is_queued(message.qos) == (audience == Audience::Queued) {
                plain.push(Arc::clone(route));
            }
        });
        if !shared.is_empty() {
            self.choose(shared, message, source, audience, &mut plain);
        }
        if plain.len() > 1 {
            plain.sort_by_key(|route| Arc::as_ptr(&route.session).addr());
        }
        for routes in plain.chunk_by(|a, b| Arc::ptr_eq(&a.session, &b.session)) {
            let most = routes
                .iter()
                .map(|route| route.options.qos)
                .max()
                .unwrap_or_default();
            each(Recipient {
                session: Arc::clone(&routes[0].session),
                qos: most.min(message.qos),
                retain: message.retain
                    && routes.iter().any(|route| route.options.retain_as_published),
                subscription_ids: routes
                    .iter()
                    .filter_map(|route| route.options.subscription_id)
                    .collect(),
            });
        }
    }

    /// One member of each shared subscription, in turn.
    ///
    /// A group with a member whose queue is replicated is the handover's business as a whole, so that only one of the
    /// two audiences chooses.
    fn choose(
        &self,
        mut shared: Vec<Arc<Route>>,
        message: &Outgoing,
        source: Source,
        audience: Audience,
        chosen: &mut Vec<Arc<Route>>,
    ) {
        shared.sort_by(|a, b| {
            (a.filter.as_str(), &a.session.client_id)
                .cmp(&(b.filter.as_str(), &b.session.client_id))
        });
        let turn = match source {
            Source::Event { offset, .. } => offset,
            Source::Direct { turn } => turn,
        };
        let turn = usize::try_from(turn).unwrap_or(usize::MAX);
        for group in shared.chunk_by(|a, b| a.filter == b.filter) {
            let queued = matches!(source, Source::Event { .. })
                && group.iter().any(|route| route.is_queued(message.qos));
            if queued != (audience == Audience::Queued) {
                continue;
            }
            let online: Vec<&Arc<Route>> = group
                .iter()
                .filter(|route| route.session.is_online() || route.session.away() != 0)
                .collect();
            let member = if online.is_empty() {
                &group[turn % group.len()]
            } else {
                online[turn % online.len()]
            };
            chosen.push(Arc::clone(member));
        }
    }

    /// The next turn of the shared subscriptions, for a message that has no offset.
    #[must_use]
    pub fn next_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tree.read().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_publisher(route: &Route, message: &Outgoing) -> bool {
    *route.session.client_id == *message.publisher.as_str()
}

/// Names a subscription among those of its pattern: by session, and by share name, since one may share and not share.
type Key = (usize, Option<Box<str>>);

fn key(session: &Arc<SessionHandle>, filter: &TopicFilter) -> Key {
    (Arc::as_ptr(session).addr(), filter.share().map(Into::into))
}

#[cfg(test)]
mod tests {
    use meridian_proto::v1;

    use super::*;
    use crate::router::ShardMap;

    fn event(body: log::event::Body) -> log::Event {
        log::Event {
            at_ms: 0,
            body: Some(body),
        }
    }

    #[test]
    fn a_position_and_an_alert_are_written_out_only_for_who_subscribes_to_them() {
        let subscriptions = Subscriptions::default();
        let position = event(log::event::Body::Position(v1::EnrichedPosition {
            device: "d".into(),
            region: "r".into(),
            ..Default::default()
        }));
        let alert = event(log::event::Body::Alert(v1::Alert {
            device: "d".into(),
            region: "r".into(),
            r#type: "sos".into(),
            ..Default::default()
        }));
        assert!(subscriptions.wanted(&position).is_none());
        let filter = TopicFilter::from_static("geo/+/+/position");
        let map = ShardMap::new(vec!["geo".to_owned()], &[], 1, None);
        let route = Route::new(
            Arc::new(SessionHandle::new("c", 0, None, 0)),
            filter.clone(),
            RouteOptions {
                qos: QoS::AtMostOnce,
                no_local: false,
                retain_as_published: false,
                subscription_id: None,
            },
            &map.of_filter(&filter),
        );
        subscriptions.insert(Arc::new(route));
        let message = subscriptions
            .wanted(&position)
            .expect("somebody subscribes");
        assert_eq!(message.topic.as_str(), "geo/r/d/position");
        assert!(message.payload.starts_with(b"{"));
        assert!(subscriptions.wanted(&alert).is_none(), "nobody does");
    }
}
