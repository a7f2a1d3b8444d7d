//! Positions and alerts as rows of PostgreSQL, with hypertables where TimescaleDB is there.
//!
//! `pipeline ─► **timescale** ─► one transaction: cursor, COPY, INSERT … ON CONFLICT DO NOTHING`. The cursor is a row of
//! the same database, moved by the transaction of its rows and only from where this sink last saw it; so each event is
//! there exactly once, whatever ends when, and whoever else writes under the same name.

mod connection;
mod failure;
mod options;
mod rows;
mod schema;
mod sink;

pub use options::TimescaleOptions;
pub use sink::TimescaleSink;
