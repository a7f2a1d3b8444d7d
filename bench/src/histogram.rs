//! Latencies in a log-linear histogram: constant memory, relative error below 1 %.

use std::time::Duration;

/// Buckets to each power of two.
const STEPS: u64 = 128;

/// Nanoseconds, counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Histogram {
    /// Counts one latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(ns);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds what `other` counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Latencies counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Upper bound of the latency that the fraction `quantile` of all do not exceed, nanoseconds.
    pub(crate) fn quantile_ns(&self, quantile: f64) -> u64 {
        let wanted = ((self.total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_ns(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// `p50`, `p90`, `p99`, `p99.9`, `max`, microseconds.
    pub(crate) fn summary_us(&self) -> serde_json::Value {
        let us = |ns: u64| ns as f64 / 1e3;
        serde_json::json!({
            "count": self.total, "p50": us(self.quantile_ns(0.5)), "p90": us(self.quantile_ns(0.9)),
            "p99": us(self.quantile_ns(0.99)), "p99.9": us(self.quantile_ns(0.999)), "max": us(self.max_ns),
        })
    }
}

fn bucket(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    let shift = ns.ilog2() - STEPS.ilog2();
    (u64::from(shift) * STEPS + (ns >> shift)) as usize
}

fn upper_ns(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((u128::from(bucket - shift * STEPS + 1) << shift) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_one_percent_above_the_exact_one() {
        let mut histogram = Histogram::default();
        let mut exact: Vec<u64> = (0..20_000_u64)
            .map(|n| (n * n * 7919) % 3_000_000_019)
            .collect();
        for ns in &exact {
            histogram.record(Duration::from_nanos(*ns));
        }
        exact.sort_unstable();
        for quantile in [0.001, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let wanted = exact[((exact.len() as f64 * quantile).ceil() as usize).max(1) - 1];
            let found = histogram.quantile_ns(quantile);
            assert!(
                found >= wanted && found as f64 <= wanted as f64 * 1.01 + 1.0,
                "{quantile}: {found} for {wanted}"
            );
        }
        assert!(upper_ns(bucket(u64::MAX)) == u64::MAX);
    }
}
