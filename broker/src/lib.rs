//! The broker that knows where things are.
//!
//! Composes the parts: connections, sessions, router, shards, delivery. Follow one PUBLISH: `listener` ─► `connection`
//! ─► `router` ─► `shards` (the log) ─► `delivery` ─► subscribers and sinks. It never turns back.

pub mod access;
pub mod admin;
pub mod auth;
pub mod bucket;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod counters;
pub mod delivery;
pub mod geo;
pub mod listener;
pub mod node;
pub mod registry;
pub mod reload;
pub mod router;
pub mod server;
pub mod shards;
pub mod sinks;
pub mod sources;
pub mod sys;
pub mod telemetry;
