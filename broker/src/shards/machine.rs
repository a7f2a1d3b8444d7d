//! Lends [`ShardState`] to `raft` as its state machine: the only adapter between the two.

use std::sync::Arc;

use meridian_raft::{Committed, StateMachine, StateReader, StateWrites};
use meridian_shard::{
    Applied, Effect, FenceCatalog, MetaReply, MetaState, Reads, ShardState, Writes, log,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

use super::pipeline::Unapplied;
use crate::clock::LeaderClock;

/// Takes the effects of one applied batch, in the order of the log, before anybody is answered.
pub trait EffectSink: Send + Sync + 'static {
    /// Acts on them.
    fn effects(&self, effects: Vec<Effect>);
    /// The whole state was replaced: whatever was derived from it is to be derived again.
    fn restored(&self);
}

/// One shard on this node, as `raft` drives it.
pub struct ShardMachine {
    state: Arc<Mutex<ShardState>>,
    catalog: FenceCatalog,
    effects: Arc<dyn EffectSink>,
    /// This node, and this run of it.
    node: u64,
    boot: u64,
    unapplied: Arc<Unapplied>,
    clock: Arc<Mutex<LeaderClock>>,
}

impl ShardMachine {
    /// The machine whose state others on this node may read through `state`, and which answers those of this node's run
    /// `boot` that wait for a command.
    pub(crate) fn new(
        state: Arc<Mutex<ShardState>>,
        catalog: FenceCatalog,
        effects: Arc<dyn EffectSink>,
        (node, boot): (u64, u64),
        unapplied: Arc<Unapplied>,
        clock: Arc<Mutex<LeaderClock>>,
    ) -> Self {
        ShardMachine {
            state,
            catalog,
            effects,
            node,
            boot,
            unapplied,
            clock,
        }
    }
}

impl StateMachine for ShardMachine {
    type Reply = ();

    fn apply(&mut self, entries: &[Committed], writes: &mut StateWrites) -> Vec<()> {
        let mut effects = Vec::new();
        let mut store = Store(writes);
        let mut own: Vec<Applied> = Vec::new();
        let now_ms = {
            let mut state = self.state.lock();
            for committed in entries {
                match log::Entry::decode(committed.payload.clone()) {
                    Ok(entry) => {
                        let is_own = entry.node == self.node && entry.boot == self.boot;
                        let applied = state.apply(entry, &mut store, &mut effects);
                        if is_own {
                            own.push(applied);
                        }
                    }
                    // What was proposed was encoded by us; the log's checksums vouch for the rest.
                    Err(error) => {
                        tracing::error!(index = committed.index, %error, "An entry of the log cannot be read.");
                    }
                }
            }
            state.now_ms()
        };
        self.clock.lock().observe(now_ms);
        self.effects.effects(effects);
        for applied in own {
            self.unapplied.applied(applied);
        }
        entries.iter().map(|_| ()).collect()
    }

    fn restore(&mut self, reader: &StateReader) {
        let next = {
            let mut state = self.state.lock();
            let shard = state.shard().to_owned();
            *state = ShardState::restore(&shard, self.catalog.clone(), &Stored(reader));
            state.next_of(self.node, self.boot)
        };
        self.effects.restored();
        self.unapplied.passed(next);
    }
}

/// The meta group on this node.
pub struct MetaMachine {
    state: Arc<Mutex<MetaState>>,
    changed: watch::Sender<u64>,
}

impl MetaMachine {
    /// The machine whose state others on this node may read through `state`; `changed` is told of each change.
    pub fn new(state: Arc<Mutex<MetaState>>, changed: watch::Sender<u64>) -> Self {
        MetaMachine { state, changed }
    }
}

impl StateMachine for MetaMachine {
    type Reply = Option<MetaReply>;

    fn apply(&mut self, entries: &[Committed], writes: &mut StateWrites) -> Vec<Option<MetaReply>> {
        let replies = {
            let mut state = self.state.lock();
            let mut store = Store(writes);
            let apply = |committed: &Committed| match log::MetaEntry::decode(
                committed.payload.clone(),
            ) {
                Ok(entry) => Some(state.apply(&entry, &mut store)),
                Err(error) => {
                    tracing::error!(index = committed.index, %error, "An entry of the meta log cannot be read.");
                    None
                }
            };
            entries.iter().map(apply).collect()
        };
        self.changed.send_modify(|count| *count += 1);
        replies
    }

    fn restore(&mut self, reader: &StateReader) {
        *self.state.lock() = MetaState::restore(&Stored(reader));
        self.changed.send_modify(|count| *count += 1);
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
