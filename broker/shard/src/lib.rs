//! The replicated state machine of a shard: commands in, effects out.
//!
//! `router ─► admission ─► log ─► **apply** ─► effects ─► delivery, sinks`. One [`ShardState`] is one shard on one
//! replica. [`ShardState::apply`] is a function of the state and the entry alone: no clock, no randomness, no I/O
//! but the writes that it hands out, so that all replicas agree. [`Admission`] is the leader's side before the log:
//! which fixes change nothing and need no entry.
//!
//! Knows no sockets, no tokio and no Raft: `broker` lends it to `raft` as its state machine.
#![forbid(unsafe_code)]

mod admission;
mod convert;
mod effect;
mod event;
mod fences;
mod keys;
mod meta;
mod names;
mod origins;
mod retained;
mod session;
mod shard;
mod store;

pub use admission::{Admission, Admitted, Rejected};
pub use convert::{fix_from_log, fix_to_log, position_from_fix, properties_from_message};
pub use effect::{Applied, DropReason, Effect, OpenedSession, Reply};
pub use event::event_id;
pub use fences::{FenceCatalog, FenceStore};
pub use meta::{MetaReply, MetaState};
pub use session::{Session, packet_id_of};
pub use shard::ShardState;
pub use store::{MemoryStore, Reads, Writes};

/// The commands, events and state records, as written to disk.
pub use meridian_proto::log::v1 as log;
