//! What one fix does to a device's fences.
//!
//! `fence index ─► **visits** ─► alerts`. A visit begins and ends when `min_samples` fixes in a row say so; it ends only
//! beyond `hysteresis_m`. With 1 and 0, the defaults, a visit is simply the time inside.

use std::sync::Arc;

use crate::alert::{AlertFacts, AlertKind};
use crate::coordinate::Coordinate;
use crate::fence::Fence;
use crate::fence_index::FenceIndex;
use crate::fix::Fix;

/// A device and a fence that have to do with each other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Visit {
    pub(crate) fence: Arc<str>,
    /// The device is inside; otherwise it may be about to enter.
    pub(crate) inside: bool,
    /// When the visit began: the time of the fix that decided it.
    pub(crate) entered_ms: i64,
    /// The dwell alert was given.
    pub(crate) dwelt: bool,
    /// The device is faster than the fence allows, and that was told.
    pub(crate) speeding: bool,
    /// Fixes in a row that speak against `inside`.
    pub(crate) against: u32,
}

/// Who is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) device: &'a str,
    pub(crate) region: &'a str,
}

impl Subject<'_> {
    pub(crate) fn is_concern_of(self, fence: &Fence) -> bool {
        fence.concerns(self.region, self.device)
    }
}

/// What the visits of a device are after `fix`; `visits` is sorted by fence and stays so. Alerts come in no special order.
pub(crate) fn advance(
    index: &FenceIndex,
    subject: Subject<'_>,
    visits: &mut Vec<Visit>,
    fix: &Fix,
    speed_mps: Option<f64>,
    previous: Option<&Fix>,
    alerts: &mut Vec<AlertFacts>,
) {
    let containing = index.containing_where(fix.at, |fence| subject.is_concern_of(fence));
    let mut before = std::mem::take(visits).into_iter().peekable();
    let mut inside = containing.fences.into_iter().peekable();
    loop {
        let order = match (before.peek(), inside.peek()) {
            (Some(visit), Some(fence)) => visit.fence.cmp(&fence.id),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        let visit = if order.is_le() { before.next() } else { None };
        let fence = if order.is_ge() { inside.next() } else { None };
        let alert = |kind, fence: &Fence| AlertFacts::of_fence(kind, fence, previous);
        match (visit, fence) {
            (Some(mut visit), Some(fence)) if visit.inside => {
                visit.against = 0;
                stay(fence, &mut visit, fix, speed_mps, previous, alerts);
                visits.push(visit);
            }
            (visit, Some(fence)) => {
                let mut visit = visit.unwrap_or_else(|| Visit::of(fence));
                visit.against += 1;
                if visit.against >= fence.min_samples {
                    visit = Visit {
                        inside: true,
                        entered_ms: fix.ts_ms,
                        ..Visit::of(fence)
                    };
                    alerts.push(alert(AlertKind::GeofenceEnter, fence));
                    stay(fence, &mut visit, fix, speed_mps, previous, alerts);
                }
                visits.push(visit);
            }
            (Some(mut visit), None) => {
                // A fence that is gone, or no longer concerns the device, is left without a word.
                let fence = index
                    .get(&visit.fence)
                    .filter(|fence| visit.inside && subject.is_concern_of(fence));
                let Some(fence) = fence else { continue };
                if fence.hysteresis_m > 0.0 && fence.holds(fix.at) {
                    visit.against = 0;
                    stay(fence, &mut visit, fix, speed_mps, previous, alerts);
                    visits.push(visit);
                    continue;
                }
                visit.against += 1;
                if visit.against < fence.min_samples {
                    visits.push(visit);
                } else {
                    let dwell_ms = Some(fix.ts_ms - visit.entered_ms);
                    alerts.push(AlertFacts {
                        dwell_ms,
                        ..alert(AlertKind::GeofenceExit, fence)
                    });
                }
            }
            (None, None) => unreachable!("one of two streams had an item"),
        }
    }
}

/// What a fix inside may tell besides: the dwell time is reached, the speed limit is passed.
fn stay(
    fence: &Fence,
    visit: &mut Visit,
    fix: &Fix,
    speed_mps: Option<f64>,
    previous: Option<&Fix>,
    alerts: &mut Vec<AlertFacts>,
) {
    let stayed_ms = fix.ts_ms - visit.entered_ms;
    if !visit.dwelt && fence.dwell_ms.is_some_and(|dwell_ms| stayed_ms >= dwell_ms) {
        visit.dwelt = true;
        let facts = AlertFacts::of_fence(AlertKind::GeofenceDwell, fence, previous);
        alerts.push(AlertFacts {
            dwell_ms: Some(stayed_ms),
            ..facts
        });
    }
    let speeding = is_speeding(fence, speed_mps);
    if speeding && !visit.speeding {
        let facts = AlertFacts::of_fence(AlertKind::DeviceOverspeed, fence, previous);
        alerts.push(AlertFacts {
            limit_mps: fence.speed_limit_mps,
            value_mps: speed_mps,
            ..facts
        });
    }
    visit.speeding = speeding;
}

fn is_speeding(fence: &Fence, speed_mps: Option<f64>) -> bool {
    fence
        .speed_limit_mps
        .zip(speed_mps)
        .is_some_and(|(limit, speed)| speed > limit)
}

impl Visit {
    fn of(fence: &Fence) -> Self {
        let fence = Arc::clone(&fence.id);
        Visit {
            fence,
            inside: false,
            entered_ms: 0,
            dwelt: false,
            speeding: false,
            against: 0,
        }
    }

    /// Whether each further fix changes the visit, wherever it is.
    pub(crate) fn is_counting(&self) -> bool {
        self.against > 0
    }
}

/// When the next dwell is due, epoch milliseconds; `i64::MAX` for never.
pub(crate) fn dwell_due_ms(index: &FenceIndex, visits: &[Visit]) -> i64 {
    let waiting = visits.iter().filter(|visit| visit.inside && !visit.dwelt);
    let due = waiting.filter_map(|visit| {
        Some(
            visit
                .entered_ms
                .saturating_add(index.get(&visit.fence)?.dwell_ms?),
        )
    });
    due.min().unwrap_or(i64::MAX)
}

/// Whether `speed_mps` would begin or end an excess of speed.
pub(crate) fn speed_changes(index: &FenceIndex, visits: &[Visit], speed_mps: Option<f64>) -> bool {
    index.has_speed_limits()
        && visits.iter().filter(|visit| visit.inside).any(|visit| {
            index
                .get(&visit.fence)
                .is_some_and(|fence| is_speeding(fence, speed_mps) != visit.speeding)
        })
}

/// Whether a fix at `at` would leave all settled visits as they are.
pub(crate) fn are_settled_at(
    index: &FenceIndex,
    subject: Subject<'_>,
    visits: &[Visit],
    at: Coordinate,
) -> bool {
    let containing = index.containing_where(at, |fence| subject.is_concern_of(fence));
    let mut inside = containing.fences.iter().peekable();
    let held = visits.iter().all(|visit| {
        if inside.next_if(|fence| fence.id == visit.fence).is_some() {
            return visit.inside;
        }
        let fence = index.get(&visit.fence);
        fence.is_some_and(|fence| {
            fence.hysteresis_m > 0.0 && subject.is_concern_of(fence) && fence.holds(at)
        })
    });
    held && inside.next().is_none()
}
