//! The sessions that this node knows by client id: connected ones, and persistent ones at home here.
//!
//! One client id has one session [MQTT-3.1.4-3]; whoever connects second takes it over.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::delivery::SessionHandle;
use crate::router::Subscriptions;

/// See the module.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Mutex<Sessions>,
    /// One CONNECT of a client id at a time: who comes later wins.
    connecting: Mutex<HashMap<Box<str>, Weak<AsyncMutex<()>>>>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_client: HashMap<Box<str>, Arc<SessionHandle>>,
    /// Those that outlive their connections.
    persistent: usize,
    /// Of these, by the user whose they are.
    persistent_of: HashMap<Box<str>, usize>,
}

/// How many sessions may outlive their connections.
#[derive(Debug, Clone, Copy)]
pub struct SessionQuota {
    /// In all.
    pub total_max: u64,
    /// Of one user.
    pub per_user_max: Option<u64>,
}

impl Sessions {
    fn insert(&mut self, session: Arc<SessionHandle>) -> Option<Arc<SessionHandle>> {
        let old = self.remove(&session.client_id);
        if session.persistent.is_some() {
            self.persistent += 1;
            if let Some(owner) = session.owner.get() {
                *self.persistent_of.entry(owner.clone()).or_default() += 1;
            }
        }
        self.by_client.insert(session.client_id.clone(), session);
        old
    }

    fn remove(&mut self, client_id: &str) -> Option<Arc<SessionHandle>> {
        let session = self.by_client.remove(client_id)?;
        if session.persistent.is_some() {
            self.persistent -= 1;
            let owner = session.owner.get();
            if let Some(count) = owner.and_then(|owner| self.persistent_of.get_mut(owner)) {
                *count -= 1;
                if *count == 0
                    && let Some(owner) = owner
                {
                    self.persistent_of.remove(owner);
                }
            }
        }
        Some(session)
    }
}

impl Registry {
    /// Whether one more session of `user` may outlive its connection.
    #[must_use]
    pub fn has_room(&self, user: Option<&str>, quota: SessionQuota) -> bool {
        let below = |count: usize, max: u64| u64::try_from(count).is_ok_and(|count| count < max);
        let sessions = self.sessions.lock();
        let of_user = user.and_then(|user| sessions.persistent_of.get(user));
        let of_user = of_user.copied().unwrap_or(0);
        below(sessions.persistent, quota.total_max)
            && (user.is_none() || quota.per_user_max.is_none_or(|max| below(of_user, max)))
    }

    /// A session of nobody's has an owner from now on.
    pub fn own(&self, session: &Arc<SessionHandle>, user: &str) {
        let mut sessions = self.sessions.lock();
        let is_new = session.owner.set(user.into()).is_ok();
        let known = sessions.by_client.get(&session.client_id);
        let is_counted = known.is_some_and(|known| Arc::ptr_eq(known, session));
        if is_new && is_counted && session.persistent.is_some() {
            *sessions.persistent_of.entry(user.into()).or_default() += 1;
        }
    }

    /// The session of `client_id`.
    #[must_use]
    pub fn get(&self, client_id: &str) -> Option<Arc<SessionHandle>> {
        self.sessions.lock().by_client.get(client_id).cloned()
    }

    /// Waits for its turn to connect as `client_id`.
    pub async fn turn(&self, client_id: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut connecting = self.connecting.lock();
            if connecting.len() > 1024 {
                connecting.retain(|_, turn| turn.strong_count() > 0);
            }
            match connecting.get(client_id).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(AsyncMutex::new(()));
                    connecting.insert(client_id.into(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// Makes `session` the one of its client id. The one before is evicted, and its subscriptions match no more.
    pub fn replace(&self, session: Arc<SessionHandle>, subscriptions: &Subscriptions) {
        let old = self.sessions.lock().insert(Arc::clone(&session));
        if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, &session)) {
            old.evict();
            unsubscribe_all(&old, subscriptions);
        }
    }

    /// A session that is not persistent ended with its connection.
    pub fn remove(&self, session: &Arc<SessionHandle>, subscriptions: &Subscriptions) {
        let mut sessions = self.sessions.lock();
        if sessions
            .by_client
            .get(&session.client_id)
            .is_some_and(|known| Arc::ptr_eq(known, session))
        {
            sessions.remove(&session.client_id);
        }
        drop(sessions);
        unsubscribe_all(session, subscriptions);
    }

    /// A persistent session is over, by its home shard's word.
    pub fn ended(&self, client_id: &str, epoch: u64, subscriptions: &Subscriptions) {
        let session = self.get(client_id);
        if let Some(session) = session.filter(|session| session.session_epoch == epoch) {
            session.evict();
            self.remove(&session, subscriptions);
        }
    }

    /// All sessions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<SessionHandle>> {
        self.sessions.lock().by_client.values().cloned().collect()
    }
}

fn unsubscribe_all(session: &Arc<SessionHandle>, subscriptions: &Subscriptions) {
    for filter in std::mem::take(&mut *session.filters.lock()) {
        subscriptions.remove(session, &filter);
    }
}
