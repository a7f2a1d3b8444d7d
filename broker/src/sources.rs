//! The event logs, as the sinks read them.

use std::sync::Arc;

use futures::future::select_all;
use meridian_shard::log;
use meridian_sinks::{Event, EventRecord, EventSource, FarSide, Growth, ReadError};
use tokio::sync::watch;

use crate::shards::{Shard, Shards};

/// Lends the shards' event logs to a sink: all of them, or those that this node leads if the far side is shared.
pub struct ShardEvents {
    shards: Arc<Shards>,
    far_side: FarSide,
}

impl ShardEvents {
    /// For a sink with such a far side.
    #[must_use]
    pub fn new(shards: Arc<Shards>, far_side: FarSide) -> Self {
        ShardEvents { shards, far_side }
    }
}

impl EventSource for ShardEvents {
    type Growth = ShardGrowth;

    fn shards(&self) -> Vec<String> {
        let ours = |shard: &&Shard| self.far_side == FarSide::Own || shard.leading.leads();
        let shards = self.shards.iter().filter(ours);
        shards.map(|shard| shard.name.clone()).collect()
    }

    fn bounds(&self, shard: &str) -> (u64, u64) {
        let Some(index) = self.shards.map.named(shard) else {
            return (0, 0);
        };
        let shard = self.shards.get(index);
        (shard.state.lock().first_offset(), shard.tail.head())
    }

    fn read(
        &self,
        shard: &str,
        from: u64,
        max: usize,
    ) -> Result<(Vec<EventRecord>, u64), ReadError> {
        let Some(index) = self.shards.map.named(shard) else {
            return Ok((Vec::new(), from));
        };
        let events = self.shards.get(index).events(from, max);
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
        let shard = self.shards.get(self.shards.map.named(shard)?);
        match shard.events(offset, 1) {
            Ok(events) => events.first().map(|(_, event)| event.at_ms),
            Err(error) => {
                tracing::warn!(shard = shard.name, %error, "The age of an event could not be read.");
                None
            }
        }
    }

    fn growth(&self) -> ShardGrowth {
        let leads = match self.far_side {
            FarSide::Own => Vec::new(),
            FarSide::Shared => self
                .shards
                .iter()
                .map(|shard| shard.leading.watch())
                .collect(),
        };
        ShardGrowth {
            heads: self.shards.iter().map(|shard| shard.tail.watch()).collect(),
            leads,
        }
    }
}

/// Wakes a sink when any shard's event log has grown, and when a shard comes to this node or leaves it.
pub struct ShardGrowth {
    heads: Vec<watch::Receiver<u64>>,
    leads: Vec<watch::Receiver<bool>>,
}

impl Growth for ShardGrowth {
    fn mark_seen(&mut self) {
        self.heads
            .iter_mut()
            .for_each(watch::Receiver::mark_unchanged);
        self.leads
            .iter_mut()
            .for_each(watch::Receiver::mark_unchanged);
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = any_changed(&mut self.heads) => {}
            () = any_changed(&mut self.leads) => {}
        }
    }
}

/// A shard that is gone tells nothing any more: the node is stopping.
async fn any_changed<T>(watched: &mut Vec<watch::Receiver<T>>) {
    watched.retain(|one| one.has_changed().is_ok());
    if watched.is_empty() {
        return std::future::pending().await;
    }
    let changes = watched.iter_mut().map(|one| Box::pin(one.changed()));
    let _changed_or_gone = select_all(changes).await;
}
