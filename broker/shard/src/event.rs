//! The shard's event log: what happened here, in order, each with its offset for ever.
//!
//! `apply ─► **event log** ─► live subscribers, persistent sessions, sinks`. Whoever reads keeps an offset of its own.

use std::sync::Arc;

use prost::Message as _;

use crate::effect::Effect;
use crate::log;
use crate::store::Writes;

/// The identity of an event: the same on every replica and after every failover.
#[must_use]
pub fn event_id(shard: &str, offset: u64) -> String {
    format!("{shard}-{offset}")
}

/// The offsets of the event log. The records themselves are the store's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EventLog {
    pub(crate) first: u64,
    pub(crate) next: u64,
}

impl EventLog {
    /// Appends a record, which `body` makes knowing its offset.
    pub(crate) fn append(
        &mut self,
        at_ms: i64,
        body: log::event::Body,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) {
        let offset = self.next;
        self.next += 1;
        let event = log::Event {
            at_ms,
            body: Some(body),
        };
        writes.append_event(offset, &event.encode_to_vec());
        effects.push(Effect::Event {
            offset,
            event: Arc::new(event),
        });
    }

    /// Lets go of what lies below `offset`, as far as it is there.
    pub(crate) fn purge_below(&mut self, offset: u64, writes: &mut dyn Writes) {
        let offset = offset.min(self.next);
        if offset > self.first {
            self.first = offset;
            writes.purge_events_below(offset);
        }
    }
}
