//! What a sink is, and what it reads from.

use std::collections::BTreeMap;
use std::future::Future;

use meridian_proto::v1::{Alert, EnrichedPosition};

/// By shard: the first offset that the far side does not have.
pub type Cursors = BTreeMap<String, u64>;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "most of them are of the large kind"
)]
pub enum Event {
    /// A position that the movement filter passed.
    Position(EnrichedPosition),
    /// An alert.
    Alert(Alert),
}

/// An event and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// The shard whose event log it stands in.
    pub shard: String,
    /// Its place there.
    pub offset: u64,
    /// When the log took it, epoch milliseconds.
    pub at_ms: i64,
    /// The event.
    pub event: Event,
}

/// Why a write did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The far side cannot take it now; the same batch is tried again.
    #[error("{0}")]
    Retry(String),
    /// This sink can never go on like this: its configuration or its data needs a person.
    #[error("{0}")]
    Blocked(String),
}

/// What the far side has confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Events of the batch that the far side will never take, put aside with the reason.
    pub dead_letters: u64,
}

/// Whose a far side is, where several nodes have the same shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarSide {
    /// This node's own: it gets all events of this node's replica.
    Own,
    /// One for all nodes: each writes only the shards that it leads, so that every event has one writer.
    Shared,
}

/// A destination of events.
///
/// `open` is called before the first write and after each failure; it tells which events the far side already has, so
/// that a sink which keeps its cursor beside the data gets each event exactly once.
///
/// Both futures may be dropped at any point, when they take too long: what was under way then must be found out, or
/// undone, by the next `open`.
pub trait Sink: Send + 'static {
    /// What `type` in the configuration calls it.
    const KIND: &'static str;
    /// Whether other nodes write to the same place.
    const FAR_SIDE: FarSide;

    /// Connects or opens, and reads the cursors that the far side keeps. `shards` are those that are going to be written.
    fn open(
        &mut self,
        shards: &[String],
    ) -> impl Future<Output = Result<Cursors, SinkError>> + Send;

    /// Writes a batch, and `cursors` with it. `Ok` means that the far side has confirmed both. An empty batch moves the
    /// cursors over what is none of this sink's business.
    fn write(
        &mut self,
        batch: &[EventRecord],
        cursors: &Cursors,
    ) -> impl Future<Output = Result<Confirmed, SinkError>> + Send;
}

/// Why events could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store refused.
    #[error("the event log of {shard} cannot be read")]
    Storage {
        /// The shard.
        shard: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Wakes a reader of the event logs. Loses no wake-up: mark, read, and only then wait.
pub trait Growth: Send + 'static {
    /// What is there now counts as seen.
    fn mark_seen(&mut self);

    /// Comes back when something came since the last mark.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// The event logs, as the broker lends them to its sinks.
pub trait EventSource: Send + Sync + 'static {
    /// See [`EventSource::growth`].
    type Growth: Growth;

    /// The shards whose events are this node's to write, in a fixed order. When the answer changes, sinks are opened anew.
    fn shards(&self) -> Vec<String>;

    /// The first offset that is still there, and the one that the next event will have.
    fn bounds(&self, shard: &str) -> (u64, u64);

    /// Events from offset `from` on, out of at most `max` records, and the offset to go on from. Records that are no
    /// sink's business are passed over.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read(
        &self,
        shard: &str,
        from: u64,
        max: usize,
    ) -> Result<(Vec<EventRecord>, u64), ReadError>;

    /// When the log took the first event at or behind `offset`, epoch milliseconds; `None` if there is none yet.
    fn taken_at_ms(&self, shard: &str, offset: u64) -> Option<i64>;

    /// Follows the logs of all shards.
    fn growth(&self) -> Self::Growth;
}
