//! The cursors: records of a compacted topic, `{sink}/{shard}` to `{"next_offset":…}`.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::KafkaOptions;
use super::client::{Quiet, consumer, sink_error};
use crate::sink::{Cursors, SinkError};

#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    next_offset: u64,
}

pub(super) fn key(sink: &str, shard: &str) -> String {
    format!("{sink}/{shard}")
}

pub(super) fn value(next_offset: u64) -> String {
    format!("{{\"next_offset\":{next_offset}}}")
}

/// All of them. Blocks, for the options' timeout at most.
///
/// A transaction that is still open, of whatever sink, hides what was committed behind its first record; so reading waits
/// until none is.
pub(super) fn read(options: &KafkaOptions) -> Result<Cursors, SinkError> {
    let deadline = Instant::now() + options.timeout;
    let topic = options.cursors_topic();
    let all: BaseConsumer<Quiet> = consumer(options, "read_uncommitted")?;
    let committed: BaseConsumer<Quiet> = consumer(options, "read_committed")?;
    let left = || deadline.saturating_duration_since(Instant::now());
    let fail = |error: KafkaError| sink_error("the cursors could not be read", &error);
    let metadata = all.fetch_metadata(Some(&topic), left()).map_err(fail)?;
    let partitions = metadata
        .topics()
        .first()
        .map_or(0, |t| t.partitions().len());
    if partitions == 0 {
        // Just made: the broker that was asked does not know yet.
        return Err(SinkError::Retry(format!(
            "the topic {topic} is not there yet"
        )));
    }
    let mut assignment = TopicPartitionList::new();
    let mut unread = 0;
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        let (_, end) = all
            .fetch_watermarks(&topic, partition, left())
            .map_err(fail)?;
        loop {
            let (_, stable) = committed
                .fetch_watermarks(&topic, partition, left())
                .map_err(fail)?;
            if stable >= end {
                break;
            }
            if left().is_zero() {
                return Err(SinkError::Retry(format!(
                    "a transaction is open in {topic}: it ends, or times out, before the cursors are known"
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assignment
            .add_partition_offset(&topic, partition, Offset::Beginning)
            .map_err(fail)?;
        unread += 1;
    }
    committed.assign(&assignment).map_err(fail)?;
    let mut cursors = Cursors::new();
    while unread > 0 {
        match committed.poll(left().max(Duration::from_millis(1))) {
            Some(Ok(message)) => note(&mut cursors, &message, &options.sink)?,
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(Err(error)) => return Err(fail(error)),
            None if left().is_zero() => {
                return Err(SinkError::Retry(
                    "the cursors could not be read in time".into(),
                ));
            }
            None => {}
        }
    }
    Ok(cursors)
}

/// The furthest counts: a writer that was deposed may have said less afterwards.
fn note(cursors: &mut Cursors, message: &BorrowedMessage<'_>, sink: &str) -> Result<(), SinkError> {
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    let ours = key.and_then(|key| key.strip_prefix(sink)?.strip_prefix('/'));
    let (Some(shard), Some(value)) = (ours, message.payload()) else {
        return Ok(());
    };
    let cursor: Cursor = serde_json::from_slice(value).map_err(|error| {
        SinkError::Blocked(format!("the cursor of {shard} cannot be read: {error}"))
    })?;
    let furthest = cursors.entry(shard.to_owned()).or_default();
    *furthest = cursor.next_offset.max(*furthest);
    Ok(())
}
