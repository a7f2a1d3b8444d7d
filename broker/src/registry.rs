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
    sessions: Mutex<HashMap<Box<str>, Arc<SessionHandle>>>,
    /// One CONNECT of a client id at a time: who comes later wins.
    connecting: Mutex<HashMap<Box<str>, Weak<AsyncMutex<()>>>>,
}

impl Registry {
    /// The session of `client_id`.
    #[must_use]
    pub fn get(&self, client_id: &str) -> Option<Arc<SessionHandle>> {
        self.sessions.lock().get(client_id).cloned()
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
        let old = self
            .sessions
            .lock()
            .insert(session.client_id.clone(), Arc::clone(&session));
        if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, &session)) {
            old.evict();
            unsubscribe_all(&old, subscriptions);
        }
    }

    /// A session that is not persistent ended with its connection.
    pub fn remove(&self, session: &Arc<SessionHandle>, subscriptions: &Subscriptions) {
        let mut sessions = self.sessions.lock();
        if sessions
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
        self.sessions.lock().values().cloned().collect()
    }
}

fn unsubscribe_all(session: &Arc<SessionHandle>, subscriptions: &Subscriptions) {
    for filter in std::mem::take(&mut *session.filters.lock()) {
        subscriptions.remove(session, &filter);
    }
}
