//! What comes out of `apply`: values for the shell, which alone acts on them.

use std::sync::Arc;

use crate::log;

/// A consequence of an applied entry, in the order of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A record was appended to the event log: live subscribers, persistent sessions and sinks are to see it.
    Event {
        /// Its place in the shard's event log.
        offset: u64,
        /// The record.
        event: Arc<log::Event>,
    },
    /// A message was put into a session's queue: the connection, if there is one, may send it.
    Queued {
        /// Whose queue.
        client_id: String,
        /// Its place in the queue.
        seq: u64,
        /// The message.
        queued: Box<log::QueuedMessage>,
    },
    /// A message for a session was let go.
    Dropped {
        /// Why.
        reason: DropReason,
    },
    /// A will is due: to be published in the shard of its topic, and confirmed here with `WillPublished`. The replay of a
    /// log says so again: whether the will is still on its way is [`crate::ShardState::leaving_will`]'s word.
    WillDue {
        /// The name that makes it be published once.
        once: log::Once,
    },
    /// A client connected: whoever is connected by its name with an older epoch, on any node, is taken over.
    SessionOpened {
        /// Whose.
        client_id: String,
        /// Names the connection.
        connection_epoch: u64,
    },
    /// A connection of a session has ended, by the log's word: if it is still there, it must go.
    SessionClosed {
        /// Whose.
        client_id: String,
        /// Names the connection.
        connection_epoch: u64,
    },
    /// A session's subscriptions have changed; they are in the state.
    SessionChanged {
        /// Whose.
        client_id: String,
    },
    /// A session is no more: its subscriptions match nothing, and its names can be forgotten.
    SessionEnded {
        /// Whose.
        client_id: String,
        /// The session's epoch.
        epoch: u64,
    },
    /// A fix was unusable, seen only when its turn came.
    Rejected {
        /// The device.
        device: String,
        /// The region of its topic.
        region: String,
        /// When the fix says that it was, epoch milliseconds.
        ts_ms: i64,
        /// A short word for machines.
        reason: String,
    },
    /// How a fix was classified; for the counters.
    Classified {
        /// `reported`, `filtered`, `late`, `duplicate` or `rejected`.
        result: &'static str,
    },
}

/// Why a message for a session was let go. Each is a value of `meridian_messages_dropped_total{reason}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The session's queue holds as many messages, or bytes, as it may.
    QueueFull,
}

/// What applying an entry gives the node that its commands came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// The number of the first command that was applied; those before it were known.
    pub first: u64,
    /// By command, from there on.
    pub replies: Vec<Reply>,
}

/// The answer to one command, for whoever proposed it on this node.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Applied.
    Done,
    /// The publication's name was known: it had been applied before, and was not again.
    Duplicate,
    /// The session is open.
    Opened(Box<OpenedSession>),
    /// The session, or the connection, that the command speaks of is no longer the one of its client id.
    Stale,
    /// The session is another user's.
    NotOwner,
}

/// A session as its new connection finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedSession {
    /// The session existed before: Session Present.
    pub present: bool,
    /// Names the session for life.
    pub epoch: u64,
    /// Names this connection: an older one can change nothing any more.
    pub connection_epoch: u64,
    /// Its subscriptions.
    pub subscriptions: Vec<log::Subscription>,
    /// Its queue by sequence number, oldest first.
    pub queue: Vec<(u64, log::QueueEntry)>,
}
