//! Persistent sessions at home in this shard: subscriptions, queue, will, and when they end.
//!
//! `handover ─► **queue** ─► connection ─► settle`. A message that is in the queue is owned by the session until the
//! client has acknowledged it. Sessions that end with their connection and have no will are not in here: nothing of
//! them must survive.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use prost::Message as _;

use crate::effect::{DropReason, Effect, OpenedSession, Reply};
use crate::keys;
use crate::log;
use crate::store::{Reads, Writes};

/// Session expiry that never comes [MQTT-3.1.2.11.2].
const NEVER: u32 = u32::MAX;

/// The packet identifier that message `seq` of a queue is sent with, always the same.
///
/// A function of the sequence number, so that a resend after the loss of a node bears the identifier that the client
/// knows, without a log entry for it. A queue is shorter than 65,535, so no two messages in it share one.
#[must_use]
pub fn packet_id_of(seq: u64) -> NonZeroU16 {
    let id = (seq - 1) % u64::from(u16::MAX) + 1;
    u16::try_from(id)
        .ok()
        .and_then(NonZeroU16::new)
        .expect("1…65,535 by the modulus")
}

/// One session.
#[derive(Debug, Clone)]
pub struct Session {
    /// What is written of it.
    pub record: log::Session,
    /// Messages by sequence number.
    pub queue: BTreeMap<u64, log::QueueEntry>,
    /// Bytes of topics and payloads in the queue.
    pub queue_bytes: u64,
    /// The next message's. Written beside the record, because it moves with every message.
    next_seq: u64,
}

/// Limits of one session's queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub(crate) messages_max: u64,
    pub(crate) bytes_max: u64,
}

/// All sessions of the shard.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_client: BTreeMap<String, Session>,
    /// When something is to happen to whom: expiry or will delay.
    timers: BTreeSet<(i64, String)>,
    /// Wills on their way to their topic's shard, by client and connection.
    leaving: BTreeMap<(String, u64), log::Message>,
    /// Raised by each SUBSCRIBE, so that whoever looks at an older state can be told.
    revision: u64,
}

impl Sessions {
    pub(crate) fn restore(store: &dyn Reads, revision: u64) -> Self {
        let mut sessions = Sessions {
            revision,
            ..Default::default()
        };
        store.scan(keys::SESSION, &mut |_, value| {
            if let Ok(record) = log::Session::decode(value) {
                let session = Session {
                    queue: BTreeMap::new(),
                    queue_bytes: 0,
                    next_seq: 1,
                    record,
                };
                if let Some(due) = session.due_ms() {
                    sessions
                        .timers
                        .insert((due, session.record.client_id.clone()));
                }
                sessions
                    .by_client
                    .insert(session.record.client_id.clone(), session);
            }
        });
        store.scan(keys::QUEUE, &mut |key, value| {
            if let (Some((client_id, seq)), Ok(entry)) = (
                keys::split_numbered(keys::QUEUE, key),
                log::QueueEntry::decode(value),
            ) && let Some(session) = sessions.by_client.get_mut(client_id)
            {
                session.queue_bytes += bytes_of(&entry);
                session.queue.insert(seq, entry);
            }
        });
        store.scan(keys::NEXT_SEQ, &mut |key, value| {
            if let (Some(client_id), Ok(seq)) = (keys::name(keys::NEXT_SEQ, key), value.try_into())
                && let Some(session) = sessions.by_client.get_mut(client_id)
            {
                session.next_seq = u64::from_be_bytes(seq);
            }
        });
        store.scan(keys::WILL, &mut |key, value| {
            if let (Some((client_id, epoch)), Ok(message)) = (
                keys::split_numbered(keys::WILL, key),
                log::Message::decode(value),
            ) {
                sessions
                    .leaving
                    .insert((client_id.to_owned(), epoch), message);
            }
        });
        sessions
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_client.values()
    }

    pub(crate) fn get(&self, client_id: &str) -> Option<&Session> {
        self.by_client.get(client_id)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether a subscription newer than `revision` may see an offset of `source` below `upto`.
    pub(crate) fn newer_sees(&self, revision: u64, source: &str, upto: u64) -> bool {
        let sees = |subscription: &log::Subscription| {
            subscription.revision > revision
                && subscription
                    .since
                    .get(source)
                    .is_some_and(|since| *since < upto)
        };
        revision < self.revision
            && self
                .by_client
                .values()
                .any(|session| session.record.subscriptions.iter().any(sees))
    }

    /// Wills that have not been confirmed.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = log::Once> {
        self.leaving
            .keys()
            .map(|(client_id, epoch)| will_name(client_id, *epoch))
    }

    /// The will of this connection, while it has not been confirmed.
    pub(crate) fn leaving_will(&self, client_id: &str, epoch: u64) -> Option<&log::Message> {
        self.leaving.get(&(client_id.to_owned(), epoch))
    }

    /// When [`Sessions::expire`] is next to be called.
    pub(crate) fn next_due_ms(&self) -> Option<i64> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// A client connected [MQTT-3.1.2-4] [MQTT-3.1.2-5].
    pub(crate) fn open(
        &mut self,
        open: &log::OpenSession,
        epochs: &mut u64,
        now_ms: i64,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let client_id = &open.client_id;
        let mut next_epoch = || {
            *epochs += 1;
            *epochs
        };
        if let Some(old) = self.by_client.get_mut(client_id) {
            let expired = old.expires_ms().is_some_and(|expires| expires <= now_ms);
            if !expired && !old.record.owner.is_empty() && old.record.owner != open.owner {
                return Reply::NotOwner;
            }
            // The old connection is being taken over: its will has no delay to wait for [MQTT-3.1.3-9].
            let overtaken = old.record.connected
                && old
                    .record
                    .will
                    .as_ref()
                    .is_some_and(|will| will.delay_s == 0);
            if overtaken {
                self.fire_will(client_id, writes, effects);
            }
            if open.clean_start || expired {
                self.end(client_id, writes, effects);
            }
        }
        let connection_epoch = next_epoch();
        let present = self.by_client.contains_key(client_id);
        let session = self
            .by_client
            .entry(client_id.clone())
            .or_insert_with(|| Session {
                record: log::Session {
                    client_id: client_id.clone(),
                    epoch: next_epoch(),
                    ..Default::default()
                },
                queue: BTreeMap::new(),
                queue_bytes: 0,
                next_seq: 1,
            });
        if let Some(due) = session.due_ms() {
            self.timers.remove(&(due, client_id.clone()));
        }
        let record = &mut session.record;
        record.connection_epoch = connection_epoch;
        record.connected = true;
        record.expiry_s = open.expiry_s;
        if !open.owner.is_empty() {
            record.owner.clone_from(&open.owner);
        }
        record.will.clone_from(&open.will);
        record.will_due_ms = None;
        record.queued = present || open.expiry_s > 0;
        record.node = open.node;
        record.boot = open.boot;
        session.save(writes);
        effects.push(Effect::SessionOpened {
            client_id: client_id.clone(),
            connection_epoch,
        });
        Reply::Opened(Box::new(OpenedSession {
            present,
            epoch: session.record.epoch,
            connection_epoch,
            subscriptions: session.record.subscriptions.clone(),
            queue: session
                .queue
                .iter()
                .map(|(seq, entry)| (*seq, entry.clone()))
                .collect(),
        }))
    }

    /// A connection ended.
    pub(crate) fn close(
        &mut self,
        close: &log::CloseSession,
        now_ms: i64,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let client_id = &close.client_id;
        let Some(session) = self.by_client.get_mut(client_id) else {
            return Reply::Stale;
        };
        let record = &mut session.record;
        if record.connection_epoch != close.connection_epoch || !record.connected {
            return Reply::Stale;
        }
        record.connected = false;
        record.disconnected_ms = now_ms;
        record.expiry_s = close.expiry_s;
        match &record.will {
            // Never later than the session's end [MQTT-3.1.3-9].
            Some(will) if close.publish_will => {
                record.will_due_ms =
                    Some(now_ms + 1000 * i64::from(will.delay_s.min(close.expiry_s)));
            }
            _ => record.will = None,
        }
        session.save(writes);
        if let Some(due) = session.due_ms() {
            self.timers.insert((due, client_id.clone()));
        }
        effects.push(Effect::SessionClosed {
            client_id: client_id.clone(),
            connection_epoch: close.connection_epoch,
        });
        self.expire(now_ms, writes, effects);
        Reply::Done
    }

    /// Does what is due: wills first, then ends.
    pub(crate) fn expire(
        &mut self,
        now_ms: i64,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) {
        while let Some((due, client_id)) = self
            .timers
            .first()
            .filter(|(due, _)| *due <= now_ms)
            .cloned()
        {
            self.timers.remove(&(due, client_id.clone()));
            let Some(session) = self.by_client.get(&client_id) else {
                continue;
            };
            if session
                .record
                .will_due_ms
                .is_some_and(|will_due| will_due <= now_ms)
            {
                self.fire_will(&client_id, writes, effects);
            }
            let Some(session) = self.by_client.get(&client_id) else {
                continue;
            };
            if session
                .expires_ms()
                .is_some_and(|expires| expires <= now_ms)
            {
                self.end(&client_id, writes, effects);
            } else if let Some(due) = session.due_ms() {
                self.timers.insert((due, client_id));
            }
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        subscribe: &log::Subscribe,
        limits: QueueLimits,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let revision = self.revision + 1;
        let Some(session) = self.current(&subscribe.client_id, subscribe.session_epoch) else {
            return Reply::Stale;
        };
        for new in &subscribe.subscriptions {
            let new = log::Subscription {
                revision,
                ..new.clone()
            };
            // An identical filter replaces the subscription [MQTT-3.8.4-3].
            match session
                .record
                .subscriptions
                .iter_mut()
                .find(|old| old.filter == new.filter)
            {
                Some(old) => *old = new,
                None => session.record.subscriptions.push(new),
            }
        }
        for queued in &subscribe.retained {
            session.enqueue(queued.clone(), limits, writes, effects);
        }
        session.save(writes);
        self.revision = revision;
        effects.push(Effect::SessionChanged {
            client_id: subscribe.client_id.clone(),
        });
        Reply::Done
    }

    pub(crate) fn unsubscribe(
        &mut self,
        unsubscribe: &log::Unsubscribe,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let Some(session) = self.current(&unsubscribe.client_id, unsubscribe.session_epoch) else {
            return Reply::Stale;
        };
        session
            .record
            .subscriptions
            .retain(|old| !unsubscribe.filters.contains(&old.filter));
        session.save(writes);
        effects.push(Effect::SessionChanged {
            client_id: unsubscribe.client_id.clone(),
        });
        Reply::Done
    }

    pub(crate) fn enqueue(
        &mut self,
        item: log::EnqueueItem,
        limits: QueueLimits,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) {
        let Some(queued) = item.queued else { return };
        if let Some(session) = self.current(&item.client_id, item.session_epoch) {
            session.enqueue(queued, limits, writes, effects);
        }
    }

    pub(crate) fn settle(&mut self, settle: &log::Settle, writes: &mut dyn Writes) -> Reply {
        let Some(session) = self.current(&settle.client_id, settle.session_epoch) else {
            return Reply::Stale;
        };
        let client_id = &settle.client_id;
        for seq in &settle.received {
            if let Some(entry) = session.queue.get_mut(seq) {
                session.queue_bytes -= bytes_of(entry);
                // Only the identifier is still needed [MQTT-4.3.3-8].
                *entry = log::QueueEntry {
                    queued: None,
                    released: true,
                };
                writes.put(
                    &keys::numbered(keys::QUEUE, client_id, *seq),
                    &entry.encode_to_vec(),
                );
            }
        }
        for seq in &settle.settled {
            if let Some(entry) = session.queue.remove(seq) {
                session.queue_bytes -= bytes_of(&entry);
                writes.delete(&keys::numbered(keys::QUEUE, client_id, *seq));
            }
        }
        Reply::Done
    }

    pub(crate) fn will_published(&mut self, done: &log::WillPublished, writes: &mut dyn Writes) {
        self.leaving
            .remove(&(done.client_id.clone(), done.connection_epoch));
        writes.delete(&keys::numbered(
            keys::WILL,
            &done.client_id,
            done.connection_epoch,
        ));
    }

    fn current(&mut self, client_id: &str, epoch: u64) -> Option<&mut Session> {
        self.by_client
            .get_mut(client_id)
            .filter(|session| session.record.epoch == epoch)
    }

    fn fire_will(&mut self, client_id: &str, writes: &mut dyn Writes, effects: &mut Vec<Effect>) {
        let Some(session) = self.by_client.get_mut(client_id) else {
            return;
        };
        session.record.will_due_ms = None;
        let Some(message) = session.record.will.take().and_then(|will| will.message) else {
            return;
        };
        let epoch = session.record.connection_epoch;
        session.save(writes);
        writes.put(
            &keys::numbered(keys::WILL, client_id, epoch),
            &message.encode_to_vec(),
        );
        self.leaving.insert((client_id.to_owned(), epoch), message);
        effects.push(Effect::WillDue {
            once: will_name(client_id, epoch),
        });
    }

    /// Ends a session: a will that still waits is published now [MQTT-3.1.2-8].
    fn end(&mut self, client_id: &str, writes: &mut dyn Writes, effects: &mut Vec<Effect>) {
        if self
            .by_client
            .get(client_id)
            .is_some_and(|session| session.record.will_due_ms.is_some())
        {
            self.fire_will(client_id, writes, effects);
        }
        let Some(session) = self.by_client.remove(client_id) else {
            return;
        };
        if let Some(due) = session.due_ms() {
            self.timers.remove(&(due, client_id.to_owned()));
        }
        for seq in session.queue.keys() {
            writes.delete(&keys::numbered(keys::QUEUE, client_id, *seq));
        }
        writes.delete(&keys::named(keys::SESSION, client_id));
        writes.delete(&keys::named(keys::NEXT_SEQ, client_id));
        effects.push(Effect::SessionEnded {
            client_id: client_id.to_owned(),
            epoch: session.record.epoch,
        });
    }
}

impl Session {
    /// When the session ends by itself, epoch milliseconds; never while the client is there.
    #[must_use]
    pub fn expires_ms(&self) -> Option<i64> {
        let record = &self.record;
        (!record.connected && record.expiry_s != NEVER)
            .then(|| record.disconnected_ms + 1000 * i64::from(record.expiry_s))
    }

    fn due_ms(&self) -> Option<i64> {
        if self.record.connected {
            return None;
        }
        [self.expires_ms(), self.record.will_due_ms]
            .into_iter()
            .flatten()
            .min()
    }

    fn enqueue(
        &mut self,
        queued: log::QueuedMessage,
        limits: QueueLimits,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) {
        let entry = log::QueueEntry {
            queued: Some(queued),
            released: false,
        };
        let bytes = bytes_of(&entry);
        let span_full = self.queue.first_key_value().is_some_and(|(oldest, _)| {
            // Identifiers repeat after 65,535: the oldest message keeps its own.
            self.next_seq - oldest >= u64::from(u16::MAX)
        });
        if self.queue.len() as u64 >= limits.messages_max
            || self.queue_bytes + bytes > limits.bytes_max
            || span_full
        {
            effects.push(Effect::Dropped {
                reason: DropReason::QueueFull,
            });
            return;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        writes.put(
            &keys::named(keys::NEXT_SEQ, &self.record.client_id),
            &self.next_seq.to_be_bytes(),
        );
        self.queue_bytes += bytes;
        writes.put(
            &keys::numbered(keys::QUEUE, &self.record.client_id, seq),
            &entry.encode_to_vec(),
        );
        if self.record.connected
            && let Some(queued) = entry.queued.clone()
        {
            effects.push(Effect::Queued {
                client_id: self.record.client_id.clone(),
                seq,
                queued: Box::new(queued),
            });
        }
        self.queue.insert(seq, entry);
    }

    fn save(&self, writes: &mut dyn Writes) {
        writes.put(
            &keys::named(keys::SESSION, &self.record.client_id),
            &self.record.encode_to_vec(),
        );
    }
}

fn will_name(client_id: &str, connection_epoch: u64) -> log::Once {
    log::Once {
        client_id: client_id.to_owned(),
        epoch: connection_epoch,
        packet_id: 0,
    }
}

fn bytes_of(entry: &log::QueueEntry) -> u64 {
    let message = entry
        .queued
        .as_ref()
        .and_then(|queued| queued.message.as_ref());
    message.map_or(0, |message| {
        (message.topic.len() + message.payload.len()) as u64
    })
}
