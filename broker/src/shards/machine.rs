//! Lends [`ShardState`] to `raft` as its state machine: the only adapter between the two.

use std::sync::Arc;

use meridian_raft::{Committed, StateMachine, StateReader, StateWrites};
use meridian_shard::{
    Effect, FenceCatalog, MetaReply, MetaState, Reads, Reply, ShardState, Writes, log,
};
use parking_lot::Mutex;
use prost::Message as _;

/// Takes the effects of one applied batch, in the order of the log, before anybody is answered.
pub trait EffectSink: Send + Sync + 'static {
    /// Acts on them.
    fn effects(&self, effects: Vec<Effect>);
}

/// One shard on this node, as `raft` drives it.
pub struct ShardMachine {
    state: Arc<Mutex<ShardState>>,
    catalog: FenceCatalog,
    effects: Arc<dyn EffectSink>,
}

impl ShardMachine {
    /// The machine whose state others on this node may read through `state`.
    pub fn new(
        state: Arc<Mutex<ShardState>>,
        catalog: FenceCatalog,
        effects: Arc<dyn EffectSink>,
    ) -> Self {
        ShardMachine {
            state,
            catalog,
            effects,
        }
    }
}

impl StateMachine for ShardMachine {
    type Reply = Vec<Reply>;

    fn apply(&mut self, entries: &[Committed], writes: &mut StateWrites) -> Vec<Vec<Reply>> {
        let mut effects = Vec::new();
        let mut store = Store(writes);
        let replies = {
            let mut state = self.state.lock();
            let apply = |committed: &Committed| match log::Entry::decode(committed.payload.clone())
            {
                Ok(entry) => state.apply(entry, &mut store, &mut effects),
                // What was proposed was encoded by us; the log's checksums vouch for the rest.
                Err(error) => {
                    tracing::error!(index = committed.index, %error, "An entry of the log cannot be read.");
                    Vec::new()
                }
            };
            entries.iter().map(apply).collect()
        };
        self.effects.effects(effects);
        replies
    }

    fn restore(&mut self, reader: &StateReader) {
        let mut state = self.state.lock();
        let shard = state.shard().to_owned();
        *state = ShardState::restore(&shard, self.catalog.clone(), &Stored(reader));
    }
}

/// The meta group on this node.
pub struct MetaMachine {
    state: Arc<Mutex<MetaState>>,
}

impl MetaMachine {
    /// The machine whose state others on this node may read through `state`.
    pub fn new(state: Arc<Mutex<MetaState>>) -> Self {
        MetaMachine { state }
    }
}

impl StateMachine for MetaMachine {
    type Reply = Option<MetaReply>;

    fn apply(&mut self, entries: &[Committed], writes: &mut StateWrites) -> Vec<Option<MetaReply>> {
        let mut state = self.state.lock();
        let mut store = Store(writes);
        let apply = |committed: &Committed| match log::MetaEntry::decode(committed.payload.clone())
        {
            Ok(entry) => Some(state.apply(&entry, &mut store)),
            Err(error) => {
                tracing::error!(index = committed.index, %error, "An entry of the meta log cannot be read.");
                None
            }
        };
        entries.iter().map(apply).collect()
    }

    fn restore(&mut self, reader: &StateReader) {
        *self.state.lock() = MetaState::restore(&Stored(reader));
    }
}

struct Store<'a>(&'a mut StateWrites);

impl Writes for Store<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.put(key, value);
    }
    fn delete(&mut self, key: &[u8]) {
        self.0.delete(key);
    }
    fn append_event(&mut self, offset: u64, record: &[u8]) {
        self.0.append_event(offset, record);
    }
    fn purge_events_below(&mut self, offset: u64) {
        self.0.purge_events_below(offset);
    }
}

struct Stored<'a>(&'a StateReader);

impl Reads for Stored<'_> {
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        self.0.scan(prefix, visit);
    }
}
