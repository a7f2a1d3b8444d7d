//! Names of publications that must happen once: QoS 2 from persistent sessions, and wills.
//!
//! A name lives from the publication until PUBREL releases it, or until its session ends [MQTT-4.3.3-10].

use std::collections::{BTreeMap, BTreeSet};

use crate::keys;
use crate::log::Once;
use crate::store::{Reads, Writes};

/// The names that this shard knows, by client.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<String, BTreeSet<(u64, u32)>>);

impl Names {
    pub(crate) fn restore(store: &dyn Reads) -> Self {
        let mut names = Names::default();
        store.scan(keys::NAME, &mut |key, _| {
            if let Some((client_id, epoch, packet_id)) = keys::split_once(key) {
                names
                    .0
                    .entry(client_id.to_owned())
                    .or_default()
                    .insert((epoch, packet_id));
            }
        });
        names
    }

    /// Whether the name is new; it is known from now on.
    pub(crate) fn claim(&mut self, once: &Once, writes: &mut dyn Writes) -> bool {
        let new = self
            .0
            .entry(once.client_id.clone())
            .or_default()
            .insert((once.epoch, once.packet_id));
        if new {
            writes.put(
                &keys::once(&once.client_id, once.epoch, once.packet_id),
                &[],
            );
        }
        new
    }

    /// Lets go of a name. Whether it was there.
    pub(crate) fn release(&mut self, once: &Once, writes: &mut dyn Writes) -> bool {
        let Some(names) = self.0.get_mut(&once.client_id) else {
            return false;
        };
        let known = names.remove(&(once.epoch, once.packet_id));
        if known {
            writes.delete(&keys::once(&once.client_id, once.epoch, once.packet_id));
        }
        if names.is_empty() {
            self.0.remove(&once.client_id);
        }
        known
    }

    /// Lets go of the names of packets of all the client's sessions up to `epoch`. Wills keep theirs until confirmed.
    pub(crate) fn forget(&mut self, client_id: &str, epoch: u64, writes: &mut dyn Writes) {
        let Some(names) = self.0.get_mut(client_id) else {
            return;
        };
        names.retain(|&(of, packet_id)| {
            let keep = of > epoch || packet_id == 0;
            if !keep {
                writes.delete(&keys::once(client_id, of, packet_id));
            }
            keep
        });
        if names.is_empty() {
            self.0.remove(client_id);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Once> {
        let of_client = |(client_id, names): (&String, &BTreeSet<(u64, u32)>)| {
            let once = |&(epoch, packet_id): &(u64, u32)| Once {
                client_id: client_id.clone(),
                epoch,
                packet_id,
            };
            names.iter().map(once).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_client)
    }

    /// Whether any publication of `client_id` awaits its release.
    pub(crate) fn knows(&self, client_id: &str) -> bool {
        self.0.contains_key(client_id)
    }

    /// Whether this name is taken.
    pub(crate) fn holds(&self, client_id: &str, epoch: u64, packet_id: u32) -> bool {
        self.0
            .get(client_id)
            .is_some_and(|names| names.contains(&(epoch, packet_id)))
    }
}
