//! The newest events of a shard, in memory, for those who follow it closely.
//!
//! `apply ─► **tail** ─► handover, sinks`. Each reader keeps its own offset; whoever falls behind the tail reads the
//! event log on disk.

use std::collections::VecDeque;
use std::sync::Arc;

use meridian_shard::log;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Events kept.
const EVENTS_MAX: usize = 8192;
/// Payload bytes kept, roughly.
const BYTES_MAX: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub struct EventTail {
    events: Mutex<Kept>,
    head: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<(u64, Arc<log::Event>)>,
    bytes: usize,
}

impl EventTail {
    /// A tail of a log whose next offset is `head`.
    #[must_use]
    pub fn new(head: u64) -> Self {
        EventTail {
            events: Mutex::default(),
            head: watch::channel(head).0,
        }
    }

    /// After a replay, says where the log stands. What the replay pushed stays readable.
    pub fn start_at(&self, head: u64) {
        self.head.send_if_modified(|old| {
            let newer = head > *old;
            *old = head.max(*old);
            newer
        });
    }

    /// Forgets everything: the log now stands at `head`, and what is before it is on disk.
    pub fn restart_at(&self, head: u64) {
        {
            let mut kept = self.events.lock();
            kept.events.clear();
            kept.bytes = 0;
        }
        self.start_at(head);
    }

    /// Adds events in the order of their offsets.
    pub fn push(&self, new: impl Iterator<Item = (u64, Arc<log::Event>)>) {
        let mut kept = self.events.lock();
        let mut head = None;
        for (offset, event) in new {
            kept.bytes += size(&event);
            kept.events.push_back((offset, event));
            head = Some(offset + 1);
        }
        while kept.events.len() > EVENTS_MAX || kept.bytes > BYTES_MAX {
            let Some((_, event)) = kept.events.pop_front() else {
                break;
            };
            kept.bytes -= size(&event);
        }
        drop(kept);
        if let Some(head) = head {
            self.head.send_if_modified(|old| {
                let newer = head > *old;
                *old = head.max(*old);
                newer
            });
        }
    }

    /// Up to `max` events from offset `from`; `None` if the tail does not reach back that far.
    #[must_use]
    pub fn read(&self, from: u64, max: usize) -> Option<Vec<(u64, Arc<log::Event>)>> {
        let kept = self.events.lock();
        let first = kept
            .events
            .front()
            .map_or(*self.head.borrow(), |(offset, _)| *offset);
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        Some(kept.events.iter().skip(skip).take(max).cloned().collect())
    }

    /// The offset that the next event will have.
    #[must_use]
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Follows [`EventTail::head`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

fn size(event: &log::Event) -> usize {
    64 + match &event.body {
        Some(log::event::Body::Message(message)) => message.topic.len() + message.payload.len(),
        Some(_) => 400,
        None => 0,
    }
}
