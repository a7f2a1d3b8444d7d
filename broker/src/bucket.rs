//! A token bucket without a clock: how fast may this go on?
//!
//! Kept as one moment, the one at which all that was taken is paid for (GCRA, ITU-T I.371): a bucket that nobody takes
//! from fills by itself.

use std::time::{Duration, Instant};

/// What may be taken at once after a silence, in time.
const BURST: Duration = Duration::from_secs(2);

/// A bucket of tokens that come at a steady rate; it holds two seconds of them.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Tokens per second, at least 1.
    rate: u64,
    paid_at: Instant,
}

impl Bucket {
    /// A full bucket. `rate` is in tokens per second, and 0 counts as 1.
    #[must_use]
    pub fn new(rate: u64, now: Instant) -> Self {
        Bucket {
            rate: rate.max(1),
            paid_at: now,
        }
    }

    /// Takes `cost` tokens, on credit if need be. When the next may be taken; `None`: at once.
    pub fn take(&mut self, cost: u64, now: Instant) -> Option<Instant> {
        self.paid_at = self.paid_at.max(now) + self.time_of(cost);
        let next = self.paid_at + self.time_of(1);
        next.checked_sub(BURST).filter(|ready| *ready > now)
    }

    /// Takes `cost` tokens if they are there.
    pub fn try_take(&mut self, cost: u64, now: Instant) -> bool {
        let paid_at = self.paid_at.max(now) + self.time_of(cost);
        let is_there = paid_at <= now + BURST;
        if is_there {
            self.paid_at = paid_at;
        }
        is_there
    }

    /// Whether it is as good as new.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.paid_at <= now
    }

    fn time_of(&self, tokens: u64) -> Duration {
        let nanos = u128::from(tokens) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn two_seconds_worth_goes_at_once_and_then_one_an_interval() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        for _ in 0..199 {
            assert_eq!(bucket.take(1, start), None);
        }
        // The 200th was there too, and the next one comes 10 ms later.
        assert_eq!(bucket.take(1, start), Some(at(start, 10)));
        assert_eq!(bucket.take(1, at(start, 10)), Some(at(start, 20)));
        assert_eq!(bucket.take(1, at(start, 1000)), None);
    }

    #[test]
    fn over_a_long_time_the_rate_holds_however_often_it_is_asked() {
        let start = Instant::now();
        let mut bucket = Bucket::new(50, start);
        let mut now = start;
        let mut taken = 0;
        while now < at(start, 60_000) {
            taken += 1;
            now = bucket.take(1, now).unwrap_or(now);
        }
        // The last one of the minute comes 20 ms before its end.
        assert_eq!(taken, 60 * 50 + 2 * 50 - 1);
    }

    #[test]
    fn what_is_larger_than_the_burst_is_taken_and_paid_for_afterwards() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        assert_eq!(bucket.take(10_000, start), Some(at(start, 8001)));
        assert!(!bucket.is_full(at(start, 9999)) && bucket.is_full(at(start, 10_000)));
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1, start);
        assert!(bucket.try_take(1, start) && bucket.try_take(1, start));
        for _ in 0..100 {
            assert!(!bucket.try_take(1, start));
        }
        assert!(bucket.try_take(1, at(start, 1000)) && !bucket.try_take(1, at(start, 1000)));
    }
}
