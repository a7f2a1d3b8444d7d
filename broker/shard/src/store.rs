//! Where a state machine's durable changes go, and where it reads them back after a restart.

use std::collections::BTreeMap;

/// Takes the changes of one batch of entries. The caller makes them durable together with the applied index.
pub trait Writes {
    /// Sets `key`.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes `key`, if it is there.
    fn delete(&mut self, key: &[u8]);
    /// Appends to the event log. Offsets are dense and rising.
    fn append_event(&mut self, offset: u64, record: &[u8]);
    /// Lets go of all events below `offset`.
    fn purge_events_below(&mut self, offset: u64);
}

/// Reads the state as it was last made durable.
pub trait Reads {
    /// Calls `visit` with each key that starts with `prefix`, in order, and its value.
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]));
}

/// A store in memory: for simulation, tests and benchmarks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStore {
    /// Key to value.
    pub state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Offset to event record.
    pub events: BTreeMap<u64, Vec<u8>>,
}

impl Writes for MemoryStore {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.state.insert(key.to_vec(), value.to_vec());
    }
    fn delete(&mut self, key: &[u8]) {
        self.state.remove(key);
    }
    fn append_event(&mut self, offset: u64, record: &[u8]) {
        self.events.insert(offset, record.to_vec());
    }
    fn purge_events_below(&mut self, offset: u64) {
        self.events = self.events.split_off(&offset);
    }
}

impl Reads for MemoryStore {
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        for (key, value) in self.state.range(prefix.to_vec()..) {
            if !key.starts_with(prefix) {
                break;
            }
            visit(key, value);
        }
    }
}
