//! Real processes, real faults, checked histories.
//!
//! `nodes ◄─ faults, clients ─► **history** ─► judge`. A campaign starts a cluster on loopback, lets real clients work, does
//! something to the nodes, and judges what was sent, acknowledged and received. A run in which nothing was tested fails.
#![forbid(unsafe_code)]

pub mod history;
pub mod nodes;
pub mod workload;
