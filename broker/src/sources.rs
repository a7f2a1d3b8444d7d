//! The event logs, as the sinks read them.

use std::sync::Arc;

use futures::future::select_all;
use meridian_shard::log;
use meridian_sinks::{Event, EventRecord, EventSource, Growth, ReadError};
use tokio::sync::watch;

use crate::shards::Shards;

/// Lends the shards' event logs to sinks.
pub struct ShardEvents(pub Arc<Shards>);

impl EventSource for ShardEvents {
    type Growth = ShardGrowth;

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

    fn taken_at_ms(&self, shard: &str, offset: u64) -> Option<i64> {
        let shard = self.0.get(self.0.map.named(shard)?);
        match shard.events(offset, 1) {
            Ok(events) => events.first().map(|(_, event)| event.at_ms),
            Err(error) => {
                tracing::warn!(shard = shard.name, %error, "The age of an event could not be read.");
                None
            }
        }
    }

    fn growth(&self) -> ShardGrowth {
        ShardGrowth(self.0.iter().map(|shard| shard.tail.watch()).collect())
    }
}

/// Wakes a sink when any shard's event log has grown.
pub struct ShardGrowth(Vec<watch::Receiver<u64>>);

impl Growth for ShardGrowth {
    fn mark_seen(&mut self) {
        self.0.iter_mut().for_each(watch::Receiver::mark_unchanged);
    }

    async fn changed(&mut self) {
        // A shard that is gone tells nothing any more: the node is stopping.
        self.0.retain(|head| head.has_changed().is_ok());
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let heads = self.0.iter_mut().map(|head| Box::pin(head.changed()));
        let _grown_or_gone = select_all(heads).await;
    }
}
