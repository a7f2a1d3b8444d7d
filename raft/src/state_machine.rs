//! What a group replicates, implemented by others.

use bytes::Bytes;

use crate::storage::{StateReader, StateWrites};

/// A command that a majority holds.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its place in the group's log.
    pub index: u64,
    /// What was proposed.
    pub payload: Bytes,
}

/// A deterministic machine: the same commands make the same state on every replica.
pub trait StateMachine: Send + 'static {
    /// What the proposer is told.
    type Reply: Send + 'static;

    /// Applies commands in order. Every change of state that must survive goes into `writes`, which becomes durable
    /// together with the applied index or not at all. One reply a command, in the same order.
    fn apply(&mut self, entries: &[Committed], writes: &mut StateWrites) -> Vec<Self::Reply>;

    /// Rebuilds the machine from the store: at start, and after a snapshot was installed.
    fn restore(&mut self, reader: &StateReader);
}
