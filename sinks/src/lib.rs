//! Events to the outside world: the [`Sink`] trait, the pipeline that drives every sink, and the sinks.
//!
//! `event log ─► **pipeline** ─► sink ─► confirmed ─► cursor`. A sink reads the event log from a cursor of its own. The
//! cursor moves only once the far side has confirmed; a sink that is dead or hangs delays nobody else. Knows events,
//! not sessions.
#![forbid(unsafe_code)]

mod cursor_file;
mod dead_letters;
pub mod file;
mod filter;
pub mod json;
pub mod kafka;
mod pipeline;
mod sink;
mod status;
pub mod timescale;
pub mod webhook;

pub use dead_letters::DeadLetters;
pub use filter::Filter;
pub use pipeline::{Pipeline, PipelineOptions};
pub use sink::{
    Confirmed, Cursors, Event, EventRecord, EventSource, FarSide, Growth, ReadError, Sink,
    SinkError,
};
pub use status::{Lag, SinkState, SinkStatus};
