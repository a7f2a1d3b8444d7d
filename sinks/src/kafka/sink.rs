//! The sink.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use tokio::runtime::Handle;

use super::KafkaOptions;
use super::client::{Quiet, producer, sink_error};
use super::cursors;
use super::encode::{Encoded, Kind};
use super::topics::{Limits, prepare};
use crate::dead_letters::DeadLetters;
use crate::sink::{Confirmed, Cursors, EventRecord, FarSide, Sink, SinkError};

/// How long to wait for room in librdkafka's queue before looking again.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

type Client = FutureProducer<Quiet>;

/// Writes events to Kafka.
pub struct KafkaSink {
    options: KafkaOptions,
    dead_letters: DeadLetters,
    open: Option<Open>,
}

struct Open {
    /// By shard; without transactions the one under the empty name serves all.
    producers: BTreeMap<String, Client>,
    limits: Limits,
    /// As the cluster has them.
    cursors: Cursors,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Ending a client waits for its threads.
        let producers = std::mem::take(&mut self.producers);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(producers));
        }
    }
}

impl KafkaSink {
    /// A sink to the cluster that `options` name; nothing is touched before [`Sink::open`]. What no topic takes goes to
    /// `dead_letters`.
    #[must_use]
    pub fn new(options: KafkaOptions, dead_letters: DeadLetters) -> Self {
        KafkaSink {
            options,
            dead_letters,
            open: None,
        }
    }

    /// Splits off what a topic would never take: it would take the whole batch with it.
    fn encode<'a>(
        &self,
        batch: impl Iterator<Item = &'a EventRecord>,
        limits: Limits,
    ) -> (Vec<Encoded<'a>>, Vec<(&'a EventRecord, String)>) {
        let (mut good, mut dead) = (Vec::new(), Vec::new());
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = since.map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        });
        for record in batch {
            let encoded = Encoded::new(record, &self.options);
            let bytes = encoded.bytes();
            if bytes > limits.record_bytes_max {
                let max = limits.record_bytes_max;
                dead.push((
                    record,
                    format!("{bytes} bytes are more than the topic's {max}"),
                ));
            } else if encoded.ts_ms < 0
                || encoded.ts_ms > now_ms.saturating_add(limits.ahead_ms_max)
            {
                let ts_ms = encoded.ts_ms;
                dead.push((record, format!("the topic takes no record of {ts_ms} ms")));
            } else {
                good.push(encoded);
            }
        }
        (good, dead)
    }
}

impl Sink for KafkaSink {
    const KIND: &'static str = "kafka";
    const FAR_SIDE: FarSide = FarSide::Shared;

    async fn open(&mut self, shards: &[String]) -> Result<Cursors, SinkError> {
        self.open = None;
        let limits = prepare(&self.options).await?;
        let (options, shards) = (self.options.clone(), shards.to_vec());
        let opened = tokio::task::spawn_blocking(move || {
            let producers = producers(&options, &shards)?;
            // Only now: what a deposed writer had under way has been committed or undone by the fencing.
            let cursors = cursors::read(&options)?;
            Ok(Open {
                producers,
                limits,
                cursors,
            })
        });
        let opened = opened
            .await
            .map_err(|error| SinkError::Retry(error.to_string()))??;
        let cursors = opened.cursors.clone();
        self.open = Some(opened);
        Ok(cursors)
    }

    async fn write(
        &mut self,
        batch: &[EventRecord],
        cursors: &Cursors,
    ) -> Result<Confirmed, SinkError> {
        // Taken: a write that is dropped halfway leaves no producer behind with half a batch in it.
        let Some(mut open) = self.open.take() else {
            return Err(SinkError::Retry("the connection is closed".into()));
        };
        let mut dead_letters = 0;
        let moved = cursors
            .iter()
            .filter(|&(shard, next)| open.cursors.get(shard) != Some(next));
        let moved: Cursors = moved.map(|(shard, next)| (shard.clone(), *next)).collect();
        if self.options.transactional {
            for (shard, next) in &moved {
                let of_shard = batch.iter().filter(|record| &record.shard == shard);
                let (records, dead) = self.encode(of_shard, open.limits);
                dead_letters += self.dead_letters.bury(&dead).await?;
                let Some(producer) = open.producers.get(shard) else {
                    return Err(SinkError::Retry(format!("{shard} was not opened")));
                };
                self.transaction(producer, &records, shard, *next).await?;
            }
        } else {
            let (records, dead) = self.encode(batch.iter(), open.limits);
            dead_letters += self.dead_letters.bury(&dead).await?;
            let producer = &open.producers[""];
            self.deliver(producer, &records).await?;
            self.move_cursors(producer, &moved).await?;
        }
        open.cursors.extend(moved);
        self.open = Some(open);
        Ok(Confirmed { dead_letters })
    }
}

/// One for all shards, or one a shard, each of which fences off its predecessor. Blocks.
fn producers(
    options: &KafkaOptions,
    shards: &[String],
) -> Result<BTreeMap<String, Client>, SinkError> {
    if !options.transactional {
        return Ok(BTreeMap::from([(String::new(), producer(options, None)?)]));
    }
    let mut producers = BTreeMap::new();
    for shard in shards {
        let id = format!("{}{}/{shard}", options.topic_prefix, options.sink);
        let producer: Client = producer(options, Some(&id))?;
        producer
            .init_transactions(options.timeout)
            .map_err(|error| sink_error("transactions could not be begun", &error))?;
        producers.insert(shard.clone(), producer);
    }
    Ok(producers)
}

impl KafkaSink {
    /// Records and cursor, all or nothing.
    async fn transaction(
        &self,
        producer: &Client,
        records: &[Encoded<'_>],
        shard: &str,
        next: u64,
    ) -> Result<(), SinkError> {
        let fail = |error: KafkaError| sink_error(&format!("the transaction of {shard}"), &error);
        producer.begin_transaction().map_err(fail)?;
        self.deliver(producer, records).await?;
        let moved = Cursors::from([(shard.to_owned(), next)]);
        self.move_cursors(producer, &moved).await?;
        let (producer, timeout) = (producer.clone(), self.options.timeout);
        let commit = move || producer.commit_transaction(timeout);
        tokio::task::spawn_blocking(commit)
            .await
            .map_err(|error| SinkError::Retry(error.to_string()))?
            // What becomes of it is found out by the next open, which fences this producer.
            .map_err(fail)
    }

    /// Sends, and waits until all replicas have everything.
    async fn deliver(&self, producer: &Client, records: &[Encoded<'_>]) -> Result<(), SinkError> {
        let topics = (self.options.positions_topic(), self.options.alerts_topic());
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let topic = match record.kind {
                Kind::Position => &topics.0,
                Kind::Alert => &topics.1,
            };
            let out = FutureRecord::to(topic)
                .key(record.key)
                .payload(&record.value)
                .timestamp(record.ts_ms)
                .headers(record.headers());
            deliveries.push(send(producer, out).await?);
        }
        confirmed(deliveries).await
    }

    async fn move_cursors(&self, producer: &Client, moved: &Cursors) -> Result<(), SinkError> {
        let topic = self.options.cursors_topic();
        let mut deliveries = Vec::with_capacity(moved.len());
        for (shard, next) in moved {
            let (key, value) = (
                cursors::key(&self.options.sink, shard),
                cursors::value(*next),
            );
            let out = FutureRecord::to(&topic).key(&key).payload(&value);
            deliveries.push(send(producer, out).await?);
        }
        confirmed(deliveries).await
    }
}

/// Waits while librdkafka's queue is full.
async fn send<K, V>(
    producer: &Client,
    mut record: FutureRecord<'_, K, V>,
) -> Result<DeliveryFuture, SinkError>
where
    K: rdkafka::message::ToBytes + ?Sized + Sync,
    V: rdkafka::message::ToBytes + ?Sized + Sync,
{
    loop {
        match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            Err((error, _)) => return Err(sink_error("a record could not be sent", &error)),
        }
    }
}

async fn confirmed(deliveries: Vec<DeliveryFuture>) -> Result<(), SinkError> {
    for delivery in deliveries {
        let delivered = delivery
            .await
            .map_err(|_| SinkError::Retry("the producer ended".into()))?;
        delivered.map_err(|(error, _)| sink_error("a record was not acknowledged", &error))?;
    }
    Ok(())
}
