//! What happened, and whether it may: nothing acknowledged is lost (P1), nothing comes twice to who stayed connected (P9),
//! nothing overtakes (P7), and how long nobody was acknowledged (P4).

use std::time::{Duration, Instant};

/// One run of a workload that publishes 0, 1, 2 … to one topic.
#[derive(Debug, Default)]
pub struct History {
    /// When each was acknowledged, in the order of the numbers.
    pub acknowledged: Vec<Instant>,
    /// The numbers as they were received.
    pub received: Vec<u64>,
    /// When each fault was done.
    pub faults: Vec<Instant>,
}

/// What is wrong or was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged and never received.
    pub lost: u64,
    /// Received again.
    pub repeated: u64,
    /// First arrivals behind a later one.
    pub overtaken: u64,
    /// By fault, the longest time without an acknowledgement from it on, until the next.
    pub gaps: Vec<Duration>,
}

impl History {
    /// Judges the run.
    #[must_use]
    pub fn judge(&self) -> Verdict {
        let mut seen = std::collections::BTreeSet::new();
        let (mut repeated, mut overtaken, mut highest) = (0, 0, None);
        for number in &self.received {
            if !seen.insert(*number) {
                repeated += 1;
            } else if highest.is_some_and(|highest| *number < highest) {
                overtaken += 1;
            }
            highest = highest.max(Some(*number));
        }
        let lost = (0..self.acknowledged.len() as u64)
            .filter(|number| !seen.contains(number))
            .count() as u64;
        let ends = self.faults.iter().skip(1).map(Some).chain([None]);
        let gaps = self
            .faults
            .iter()
            .zip(ends)
            .map(|(from, to)| {
                let mut last = *from;
                let mut longest = Duration::ZERO;
                let within = |at: &&Instant| **at >= *from && to.is_none_or(|to| **at < *to);
                for at in self.acknowledged.iter().filter(within) {
                    longest = longest.max(at.duration_since(last));
                    last = *at;
                }
                longest
            })
            .collect();
        Verdict {
            lost,
            repeated,
            overtaken,
            gaps,
        }
    }
}

/// The `percent`th percentile, nearest rank.
#[must_use]
pub fn percentile(durations: &[Duration], percent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_wrong_is_seen() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let history = History {
            acknowledged: vec![at(1), at(2), at(50), at(52), at(99)],
            received: vec![0, 2, 1, 2, 4],
            faults: vec![at(10), at(60)],
        };
        let verdict = history.judge();
        assert_eq!(
            (verdict.lost, verdict.repeated, verdict.overtaken),
            (1, 1, 1)
        );
        let ms = |verdict: &Verdict| -> Vec<u128> {
            verdict.gaps.iter().map(Duration::as_millis).collect()
        };
        assert_eq!(ms(&verdict), [40, 39]);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let ms: Vec<Duration> = (1..=10).rev().map(Duration::from_millis).collect();
        let of = |percent| percentile(&ms, percent).as_millis();
        assert_eq!((of(50), of(99), of(100), of(1)), (5, 10, 10, 1));
    }
}
