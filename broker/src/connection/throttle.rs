//! How fast one client may publish: who is too fast is not read from, and nothing that he sent is dropped.

use std::time::Instant;

use crate::bucket::Bucket;

/// What one client may publish; `None` for as much as it can.
#[derive(Debug, Clone, Copy, Default)]
pub struct PublishRates {
    /// Messages per second.
    pub messages: Option<u64>,
    /// Bytes of PUBLISH packets per second.
    pub bytes: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Throttle {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    held_until: Option<Instant>,
}

impl Throttle {
    pub(super) fn new(rates: PublishRates, now: Instant) -> Self {
        let bucket = |rate: Option<u64>| rate.map(|rate| Bucket::new(rate, now));
        Throttle {
            messages: bucket(rates.messages),
            bytes: bucket(rates.bytes),
            held_until: None,
        }
    }

    /// A PUBLISH of so many bytes was taken.
    pub(super) fn published(&mut self, bytes: u64, now: Instant) {
        let costs = [(&mut self.messages, 1), (&mut self.bytes, bytes)];
        let ready = costs
            .into_iter()
            .filter_map(|(bucket, cost)| bucket.as_mut()?.take(cost, now))
            .max();
        if ready.is_some() && self.held_until.is_none() {
            metrics::counter!("meridian_publish_throttled_total").increment(1);
        }
        self.held_until = ready;
    }

    /// Until when nothing is read from the client.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Whether it is time to read again.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        let is_time = self.held_until.is_some_and(|until| until <= now);
        if is_time {
            self.held_until = None;
        }
        is_time
    }
}
