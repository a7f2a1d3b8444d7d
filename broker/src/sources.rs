//! The event logs, as the sinks read them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use meridian_shard::log;
use meridian_sinks::{Event, EventRecord, EventSource, ReadError};

use crate::shards::Shards;

/// Lends the shards' event logs to sinks.
pub struct ShardEvents(pub Arc<Shards>);

impl EventSource for ShardEvents {
    fn shards(&self) -> Vec<String> {
        self.0.map.names().to_vec()
    }

    fn bounds(&self, shard: &str) -> (u64, u64) {
        let Some(index) = self.0.map.named(shard) else {
            return (0, 0);
        };
        let shard = self.0.get(index);
        (shard.state.lock().first_offset(), shard.tail.head())
    }

    fn read(
        &self,
        shard: &str,
        from: u64,
        max: usize,
    ) -> Result<(Vec<EventRecord>, u64), ReadError> {
        let Some(index) = self.0.map.named(shard) else {
            return Ok((Vec::new(), from));
        };
        let events = self.0.get(index).events(from, max);
        let events = events.map_err(|source| ReadError::Storage {
            shard: shard.to_owned(),
            source,
        })?;
        let next = events.last().map_or(from, |(offset, _)| offset + 1);
        let record = |(offset, event): (u64, Arc<log::Event>)| {
            let body = match event.body.as_ref()? {
                log::event::Body::Position(position) => Event::Position(position.clone()),
                log::event::Body::Alert(alert) => Event::Alert(alert.clone()),
                log::event::Body::Message(_) => return None,
            };
            Some(EventRecord {
                shard: shard.to_owned(),
                offset,
                at_ms: event.at_ms,
                event: body,
            })
        };
        Ok((events.into_iter().filter_map(record).collect(), next))
    }

    fn grown(&self) -> impl Future<Output = ()> + Send {
        let mut heads: Vec<_> = self.0.iter().map(|shard| shard.tail.watch()).collect();
        async move {
            let changes = heads.iter_mut().map(|head| {
                head.mark_unchanged();
                Box::pin(async move {
                    let _closed = head.changed().await;
                })
            });
            // A change between the caller's look and ours is seen after this time.
            let _grown =
                tokio::time::timeout(Duration::from_millis(100), select_all(changes)).await;
        }
    }
}
