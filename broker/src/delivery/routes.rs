//! Keeps what this node knows of the sessions at home in a shard equal to that shard's state.
//!
//! `apply ─► **routes** ─► registry, subscriptions`. Every replica does: the source shard's leader must know who is owed a
//! message, and a shared subscription's members must be the same wherever one is chosen.

use std::sync::Arc;

use meridian_mqtt::topic::TopicFilter;
use meridian_shard::{ShardState, log};
use parking_lot::Mutex;

use super::dispatch::Dispatch;
use super::mailbox::{Persistent, SENT_UNKNOWN, SessionHandle};
use crate::registry::Registry;
use crate::router::{Route, RouteOptions, ShardIndex, ShardMap, qos, text};

/// See the module.
pub struct SessionRoutes {
    /// The home shard.
    pub shard: ShardIndex,
    /// Its state on this replica.
    pub state: Arc<Mutex<ShardState>>,
    /// Topics to shards.
    pub map: Arc<ShardMap>,
    /// This node's sessions.
    pub registry: Arc<Registry>,
    /// Live delivery.
    pub dispatch: Arc<Dispatch>,
    /// This node, and this run of it.
    pub node: u64,
    /// See `node`.
    pub boot: u64,
}

impl SessionRoutes {
    /// All sessions of the shard, after the state was read back or replaced.
    pub fn sync_all(&self) {
        let records: Vec<log::Session> = self
            .state
            .lock()
            .sessions()
            .map(|session| session.record.clone())
            .collect();
        for session in self.registry.all() {
            let is_at_home = session
                .persistent
                .is_some_and(|persistent| persistent.home == self.shard);
            let exists = records
                .iter()
                .any(|record| *record.client_id == *session.client_id);
            if is_at_home && !exists {
                session.evict();
                self.registry.remove(&session, &self.dispatch.subscriptions);
            }
        }
        for record in &records {
            self.sync_record(record);
        }
    }

    /// One session, after a change.
    pub fn sync(&self, client_id: &str) {
        let record = self
            .state
            .lock()
            .session(client_id)
            .map(|session| session.record.clone());
        if let Some(record) = record {
            self.sync_record(&record);
        }
    }

    fn sync_record(&self, record: &log::Session) {
        let is_here = record.connected && record.node == self.node && record.boot == self.boot;
        // A connection that serves a session without a queue keeps its subscriptions itself.
        if !record.queued && (is_here || record.subscriptions.is_empty()) {
            return;
        }
        let handle = self.handle(record);
        if !record.owner.is_empty() {
            self.registry.own(&handle, &record.owner);
        }
        handle.set_away(if record.connected && record.node != self.node {
            record.node
        } else {
            0
        });
        let mut filters = handle.filters.lock();
        let mut gone = std::mem::take(&mut *filters);
        for subscription in &record.subscriptions {
            let Some(filter) =
                text(&subscription.filter).and_then(|text| TopicFilter::new(text).ok())
            else {
                continue;
            };
            gone.retain(|old| *old != filter);
            self.insert(&handle, &filter, subscription);
            filters.push(filter);
        }
        drop(filters);
        for filter in gone {
            // A connection of this node puts its route in place before the home shard knows of it.
            if is_here {
                handle.filters.lock().push(filter);
            } else {
                self.dispatch.subscriptions.remove(&handle, &filter);
            }
        }
    }

    fn handle(&self, record: &log::Session) -> Arc<SessionHandle> {
        let known = self
            .registry
            .get(&record.client_id)
            .filter(|handle| handle.session_epoch == record.epoch);
        known.unwrap_or_else(|| {
            let persistent = record.queued.then_some(Persistent {
                home: self.shard,
                epoch: record.epoch,
            });
            let handle = Arc::new(SessionHandle::new(
                &record.client_id,
                record.epoch,
                persistent,
                SENT_UNKNOWN,
            ));
            self.registry
                .replace(Arc::clone(&handle), &self.dispatch.subscriptions);
            handle
        })
    }

    fn insert(
        &self,
        handle: &Arc<SessionHandle>,
        filter: &TopicFilter,
        subscription: &log::Subscription,
    ) {
        let wanted = subscription.options.unwrap_or_default();
        let options = RouteOptions {
            qos: qos(wanted.qos),
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            subscription_id: wanted.subscription_id,
        };
        let reach = self.map.of_filter(filter);
        let route = Route::new(Arc::clone(handle), filter.clone(), options, &reach);
        for of in reach.shards() {
            // A shard that came later has everything from its beginning on for it.
            let since = subscription.since.get(&self.map.names()[of.at()]);
            route.place(*of, since.copied().unwrap_or(0));
        }
        self.dispatch.subscriptions.insert(Arc::new(route));
    }
}
