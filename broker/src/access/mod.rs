//! Where a client may publish, and what it may subscribe to.
//!
//! `CONNECT ─► **rights** ─► publish, subscribe, will, delivery`. The rules are one file; the rights of a client are
//! what they say of its id, its user and its region, worked out once a connection and again whenever the file changes.
//! Without a file everything is open but what is the broker's own.

mod file;
mod rights;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

pub use file::{AclError, Rules};
pub use rights::Rights;

/// A client as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its client id.
    pub id: &'a str,
    /// The user that its credential proved. A name that nobody checked is none.
    pub user: Option<&'a str>,
    /// The region that its client id names.
    pub region: Option<&'a str>,
}

/// The rules in force on this node.
#[derive(Debug)]
pub struct Access {
    /// `None` without a file.
    rules: RwLock<Option<Arc<Rules>>>,
    /// Rises with each change.
    generation: AtomicU64,
    /// Of all clients, without a file.
    open: Arc<Rights>,
}

impl Access {
    /// `rules` are those of the file, if there is one; `publish_geo` opens `geo/` to all clients where there is none.
    #[must_use]
    pub fn new(rules: Option<Arc<Rules>>, publish_geo: bool) -> Self {
        Access {
            rules: RwLock::new(rules),
            generation: AtomicU64::new(0),
            open: Arc::new(Rights::open(publish_geo)),
        }
    }

    /// Puts other rules in force. Connections ask [`Access::generation`].
    pub fn replace(&self, rules: Rules) {
        *self.rules.write() = Some(Arc::new(rules));
        self.changed();
    }

    /// Makes all connections ask for their rights again.
    pub fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Reads the file anew; what cannot be read leaves the rules as they were.
    ///
    /// # Errors
    /// [`AclError`].
    pub fn reload(&self, path: &Path) -> Result<(), AclError> {
        self.replace(Rules::load(path)?);
        Ok(())
    }

    /// Which rules are in force: rights that were worked out under another number are to be worked out again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What `client` may do, and under which generation.
    #[must_use]
    pub fn rights(&self, client: Client<'_>) -> (Arc<Rights>, u64) {
        // The generation first: rules that change in between are asked once too often, and never once too seldom.
        let generation = self.generation();
        let rules = self.rules.read().clone();
        let rights = match rules {
            Some(rules) => Arc::new(rules.rights(client)),
            None => Arc::clone(&self.open),
        };
        (rights, generation)
    }

    /// What the broker's own interfaces may publish to, whatever the rules for clients say.
    #[must_use]
    pub fn open(&self) -> &Rights {
        &self.open
    }
}

#[cfg(test)]
mod tests;
