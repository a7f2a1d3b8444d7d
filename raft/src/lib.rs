//! Many Raft groups on one node: one store, one writer, one flush for all of them.
//!
//! `propose ─► **log** (flushed) ─► apply ─► reply`. A command is opaque bytes here: this crate knows no MQTT and no
//! geography. The consensus is openraft's and stays inside; what stands on disk is our own format
//! (`meridian.raft.v1`).
//!
//! Nodes reach each other over one [`Transport`] a node, which carries the messages of all groups, and those of whoever
//! composes them.
#![forbid(unsafe_code)]

mod codec;
mod group;
mod inbound;
mod log_store;
mod machine;
mod members;
mod network;
mod snapshot;
mod state_machine;
mod status;
mod storage;
#[cfg(test)]
mod suite;
mod transport;
mod writer;

pub use group::{Birth, Group, GroupOptions, OpenGroupError, ProposeError};
pub use members::MembersProgress;
pub use state_machine::{Committed, StateMachine};
pub use status::GroupStatus;
pub use storage::{OpenError, StateReader, StateWrites, Storage, StorageOptions, all_closed};
pub use transport::{
    BindError, Handler, PeerStatus, RequestError, TlsError, Transport, TransportOptions,
    TransportTls,
};
