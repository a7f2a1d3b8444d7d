//! The leader's clock, which stamps the entries of a shard's log.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Stamps that never run back, and run forward by no more than the monotonic time that has passed.
///
/// So a wall clock that jumps can neither expire sessions nor fire wills before their time; a clock that was set
/// right is followed at its own speed.
#[derive(Debug)]
pub struct LeaderClock {
    last_ms: i64,
    last: Instant,
    /// Another leader's stamps count, whatever this node's wall clock says.
    follows: bool,
}

impl LeaderClock {
    /// A clock for a leader whose log stands at `log_ms`. Its first stamp is the wall clock's, if that is later.
    #[must_use]
    pub fn new(log_ms: i64) -> Self {
        LeaderClock {
            last_ms: log_ms.max(wall_ms()),
            last: Instant::now(),
            follows: false,
        }
    }

    /// The log is up to date, and another node leads: from now on its stamps count, and not this node's wall clock. Before
    /// that, entries are of the past, and the time since then has passed.
    pub fn follow(&mut self) {
        self.follows = true;
    }

    /// An entry with the stamp `stamp_ms` was applied: this clock goes on from there.
    pub fn observe(&mut self, stamp_ms: i64) {
        if self.follows || stamp_ms >= self.last_ms {
            self.last_ms = stamp_ms;
            self.last = Instant::now();
        }
    }

    /// The next stamp, epoch milliseconds.
    pub fn stamp(&mut self) -> i64 {
        let now = Instant::now();
        let passed = now.duration_since(self.last).as_millis();
        // Whole milliseconds are taken, and the rest of one stays for the next stamp.
        self.last += Duration::from_millis(u64::try_from(passed).unwrap_or(u64::MAX));
        self.last_ms = next_stamp(
            self.last_ms,
            i64::try_from(passed).unwrap_or(i64::MAX),
            wall_ms(),
        );
        self.last_ms
    }
}

fn next_stamp(last_ms: i64, passed_ms: i64, wall_ms: i64) -> i64 {
    wall_ms.clamp(last_ms, last_ms.saturating_add(passed_ms))
}

/// The wall clock, epoch milliseconds.
#[must_use]
pub fn wall_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::next_stamp;

    #[test]
    fn who_followed_another_leader_goes_on_from_its_stamps_and_not_from_its_own_clock() {
        let hour = 3_600_000;
        let mut clock = super::LeaderClock::new(super::wall_ms() + hour);
        let led = super::wall_ms();
        clock.observe(led);
        assert!(clock.stamp() >= led + hour, "of the past");
        clock.follow();
        clock.observe(led);
        let stamp = clock.stamp();
        assert!((led..led + hour / 2).contains(&stamp), "{stamp}");
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_the_stamps_no_more_than_time_passed() {
        assert_eq!(next_stamp(1000, 5, 1003), 1003);
        assert_eq!(next_stamp(1000, 5, 3_600_000), 1005, "an hour ahead");
        assert_eq!(next_stamp(1000, 5, 0), 1000, "set back");
    }
}
