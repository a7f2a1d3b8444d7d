//! Schemas: positions, alerts and events, log entries, messages between nodes. No logic.
//!
//! Generated from `proto/schema/`, where every message and field is explained. Depends on nothing of ours, so
//! that everything may depend on it.
#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    clippy::doc_markdown,
    clippy::large_enum_variant,
    reason = "generated; the schema documents it"
)]

/// Positions and alerts as devices send them and as consumers read them.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/meridian.v1.rs"));
}

/// What stands in a shard's Raft log, in its event log and in its state.
pub mod log {
    /// Version 1 of the formats.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/meridian.log.v1.rs"));
    }
}

/// The Raft log of a group on disk.
pub mod raft {
    /// Version 1 of the format.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/meridian.raft.v1.rs"));
    }
}

/// Messages between the brokers of a cluster.
pub mod cluster {
    /// Version 1 of the messages.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/meridian.cluster.v1.rs"));
    }
}
