//! Is a position news, does it stand still, can it be true?
//!
//! `fix ─► **movement** ─► fences`. The filter measures from the last *reported* position, so that slow creeping adds up.
//! It decides only what is forwarded: fences and stops see every accepted fix.

use std::fmt;

use crate::coordinate::Coordinate;
use crate::distance::distance_m;
use crate::fix::Fix;

/// A device that stays within this of where it came to is standing, metres.
pub const STOP_RADIUS_M: f64 = 100.0;
/// After this long in one place a device has stopped, milliseconds.
pub const STOP_AFTER_MS: i64 = 300_000;

/// The rules of movement; configuration, the same on all replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// A position farther than this from the last reported one is reported, metres.
    pub min_distance_m: f64,
    /// A position this much later than the last reported one is reported, milliseconds; `None` for never.
    pub max_silence_ms: Option<i64>,
    /// Faster than this since the last accepted fix is an outlier, metres per second; `None` for no such rule. Moves
    /// below `min_distance_m` are never outliers: jitter within a second is no speed.
    pub max_speed_mps: Option<f64>,
    /// Later than the broker's clock by more than this is rejected, milliseconds.
    pub max_future_ms: i64,
}

/// Why a readable fix is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// Too far from the last fix for the time between.
    Outlier,
    /// Later than the broker's clock allows.
    Future,
    /// A time before 1970.
    OutOfRange,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectReason::Outlier => "outlier",
            RejectReason::Future => "future",
            RejectReason::OutOfRange => "out_of_range",
        })
    }
}

impl Settings {
    pub(crate) fn is_future(&self, fix: &Fix, now_ms: i64) -> bool {
        fix.ts_ms > now_ms.saturating_add(self.max_future_ms)
    }

    /// `step_m` and `elapsed_ms`: from the last accepted fix.
    pub(crate) fn is_outlier(&self, step_m: f64, elapsed_ms: i64) -> bool {
        step_m > self.min_distance_m
            && self
                .max_speed_mps
                .is_some_and(|max_mps| step_m * 1_000.0 > max_mps * elapsed_ms as f64)
    }

    pub(crate) fn is_silent(&self, reported_ms: i64, fix: &Fix) -> bool {
        self.max_silence_ms
            .is_some_and(|silence_ms| fix.ts_ms - reported_ms >= silence_ms)
    }
}

/// A place at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) ts_ms: i64,
    pub(crate) at: Coordinate,
}

impl Moment {
    pub(crate) fn of(fix: &Fix) -> Self {
        Moment {
            ts_ms: fix.ts_ms,
            at: fix.at,
        }
    }
}

/// Whether a device stands, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Where and when it came to where it is.
    pub(crate) anchor: Moment,
    pub(crate) stopped: bool,
}

/// What a fix does to a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopChange {
    /// Nothing.
    None,
    /// It has stood for long enough.
    Stopped,
    /// It goes on; it had been stopped since the anchor.
    Moving,
    /// It is elsewhere, and was not stopped.
    Elsewhere,
}

impl Stop {
    pub(crate) fn new(fix: &Fix) -> Self {
        Stop {
            anchor: Moment::of(fix),
            stopped: false,
        }
    }

    pub(crate) fn change(&self, fix: &Fix) -> StopChange {
        if distance_m(self.anchor.at, fix.at) > STOP_RADIUS_M {
            return if self.stopped {
                StopChange::Moving
            } else {
                StopChange::Elsewhere
            };
        }
        if self.is_due(fix) {
            StopChange::Stopped
        } else {
            StopChange::None
        }
    }

    /// Whether a fix near the anchor would make it a stop.
    pub(crate) fn is_due(&self, fix: &Fix) -> bool {
        !self.stopped && fix.ts_ms - self.anchor.ts_ms >= STOP_AFTER_MS
    }

    pub(crate) fn apply(&mut self, change: StopChange, fix: &Fix) {
        match change {
            StopChange::None => {}
            StopChange::Stopped => self.stopped = true,
            StopChange::Moving | StopChange::Elsewhere => *self = Stop::new(fix),
        }
    }
}
