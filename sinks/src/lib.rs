//! Events to the outside world: the [`Sink`] trait, the pipeline that drives every sink, and the sinks.
//!
//! `event log ─► **pipeline** ─► sink ─► confirmed ─► cursor`. A sink reads the event log from a cursor of its own. The
//! cursor moves only once the far side has confirmed; a sink that is dead or hangs delays nobody else. Knows events,
//! not sessions.
#![forbid(unsafe_code)]

pub mod file;
pub mod json;
mod pipeline;
mod sink;

pub use pipeline::{Pipeline, PipelineOptions, SinkState, SinkStatus};
pub use sink::{Cursors, Event, EventRecord, EventSource, ReadError, Sink, SinkError};
