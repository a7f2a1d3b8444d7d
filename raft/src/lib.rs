//! Many Raft groups on one node: one store, one writer, one flush for all of them.
//!
//! `propose ─► **log** (flushed) ─► apply ─► reply`. A command is opaque bytes here: this crate knows no MQTT and no
//! geography. The consensus is openraft's and stays inside; what stands on disk is our own format
//! (`meridian.raft.v1`).
//!
//! Today a group has one voter, its own node: there is no transport between nodes yet, and what would need one says so.
#![forbid(unsafe_code)]

mod codec;
mod group;
mod log_store;
mod machine;
mod network;
mod state_machine;
mod storage;
mod writer;

pub use group::{Group, GroupOptions, GroupStatus, OpenGroupError, ProposeError};
pub use state_machine::{Committed, StateMachine};
pub use storage::{OpenError, StateReader, StateWrites, Storage, StorageOptions};
