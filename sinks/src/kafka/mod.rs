//! Positions and alerts as records of Apache Kafka.
//!
//! `pipeline ─► **kafka** ─► records, acknowledged by all replicas ─► cursor`. The cursor of each shard is a record of a
//! compacted topic. Without transactions it follows the records once all are acknowledged: at least once. With them it is
//! committed with the records, and the transactional id, one a sink and shard, fences off a writer that was deposed:
//! exactly once for consumers that read committed records.

mod client;
mod cursors;
mod encode;
mod options;
mod sink;
mod topics;

pub use options::{Format, KafkaOptions};
pub use sink::KafkaSink;
