//! The broker that knows where things are.
//!
//! Composes the parts: connections, sessions, router, shards, delivery. Follow one PUBLISH: `listener` ─► `connection`
//! ─► `router` ─► `shards` (the log) ─► `delivery` ─► subscribers and sinks. It never turns back.

pub mod auth;
pub mod clock;
pub mod connection;
pub mod counters;
pub mod delivery;
pub mod geo;
pub mod node;
pub mod registry;
pub mod router;
pub mod shards;
pub mod sys;
