//! One shard's devices: what a fix would change, and what it changes.
//!
//! `decode ─► **admit** ─► log ─► **observe** ─► reports and alerts`. [`GeoEngine::admit`] asks on the leader, before the
//! log; [`GeoEngine::observe`] answers on every replica, behind it. Pure: no clock, and nothing depends on the order
//! of a hash map. Both take what was suppressed since the device's last entry, so that they see the same device.

use std::collections::HashMap;
use std::sync::Arc;

use crate::alert::{AlertFacts, AlertKind};
use crate::device::{Device, StateError};
use crate::distance::distance_m;
use crate::fence_index::FenceIndex;
use crate::fix::Fix;
use crate::movement::{Moment, RejectReason, STOP_RADIUS_M, Settings, StopChange};
use crate::position_cache::PositionCache;
use crate::visit::{self, Subject};

/// Kept off from a safe radius for the rounding of three distances, metres.
const MARGIN_M: f64 = 0.05;

/// Fixes of a device that were acknowledged without an entry since its last one. Volatile; on the leader only.
#[derive(Debug, Clone, PartialEq)]
pub struct Suppressed {
    /// How many.
    pub count: u64,
    /// The last of them.
    pub last: Fix,
    /// What they add to the odometer, metres.
    pub distance_m: f64,
}

/// What is to become of a fix before the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It may change something: it goes through the log.
    Log,
    /// It changes nothing; this stands for it and for those before it.
    Suppress(Suppressed),
    /// It is the last accepted fix again.
    Duplicate,
    /// It cannot be.
    Reject(RejectReason),
}

/// What a fix is.
#[derive(Debug, Clone, PartialEq)]
pub enum Class {
    /// The first of its device, or later than all before it.
    Accepted,
    /// Not later than the last accepted fix: forwarded, and changes nothing.
    Late,
    /// Seen before.
    Duplicate,
    /// It cannot be.
    Rejected(RejectReason),
}

/// A position that is forwarded.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// From the last reported position, metres; `None` for the first and for a late one.
    pub distance_m: Option<f64>,
    /// Since the last accepted fix, metres per second; `None` for the first and for a late one.
    pub speed_calc_mps: Option<f64>,
    /// Sum of the distances between accepted fixes, metres.
    pub odometer_calc_m: f64,
    /// Ids of the fences that the device is in, sorted; none for a late fix.
    pub fences: Vec<Arc<str>>,
    /// Accepted fixes that were filtered since the last report.
    pub suppressed: u64,
    /// Whether it is late.
    pub late: bool,
}

/// What a fix did.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// What it is.
    pub class: Class,
    /// Set when the position is forwarded.
    pub report: Option<Report>,
    /// By kind, then by fence.
    pub alerts: Vec<AlertFacts>,
}

/// Around `at` nothing changes before `due_ms`. Computed from a device's state, never stored with it.
#[derive(Debug, Clone, Copy)]
struct Horizon {
    /// The version of fences and settings that it was computed for.
    generation: u64,
    center: Moment,
    radius_m: f64,
    due_ms: i64,
}

#[derive(Debug)]
struct Tracked {
    device: Device,
    horizon: Option<Horizon>,
}

/// The devices of one shard.
#[derive(Debug)]
pub struct GeoEngine {
    settings: Settings,
    fences: Arc<FenceIndex>,
    generation: u64,
    devices: HashMap<Box<str>, Tracked>,
    positions: PositionCache,
}

impl GeoEngine {
    /// An engine without devices and fences.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        GeoEngine {
            settings,
            fences: Arc::default(),
            generation: 0,
            devices: HashMap::new(),
            positions: PositionCache::default(),
        }
    }

    /// Changes the rules of movement.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
        self.generation += 1;
    }

    /// Changes the fences. What a device is inside of is judged anew at its next fix.
    pub fn set_fences(&mut self, fences: Arc<FenceIndex>) {
        self.fences = fences;
        self.generation += 1;
    }

    /// The fences that positions are judged by.
    #[must_use]
    pub fn fences(&self) -> &Arc<FenceIndex> {
        &self.fences
    }

    /// Last positions, for queries.
    #[must_use]
    pub fn positions(&self) -> &PositionCache {
        &self.positions
    }

    /// As [`GeoEngine::positions`], to show a suppressed fix on the leader.
    pub fn positions_mut(&mut self) -> &mut PositionCache {
        &mut self.positions
    }

    /// Would this fix change anything? Asked by the leader, with what it suppressed since the device's last entry.
    /// Costs two or three distances while the device is inside its safe radius.
    #[must_use]
    pub fn admit(
        &self,
        device: &str,
        region: &str,
        fix: &Fix,
        pending: Option<&Suppressed>,
        now_ms: i64,
    ) -> Verdict {
        if let Some(reason) = self.unusable(fix, now_ms) {
            return Verdict::Reject(reason);
        }
        let Some(tracked) = self.devices.get(device) else {
            return Verdict::Log;
        };
        let state = &tracked.device;
        let pending = pending.filter(|pending| pending.last.ts_ms > state.last.ts_ms);
        let last = pending.map_or(&state.last, |pending| &pending.last);
        if fix.repeats(last) {
            return Verdict::Duplicate;
        }
        if fix.ts_ms <= last.ts_ms {
            return Verdict::Log;
        }
        let (step_m, elapsed_ms) = Device::step(last, fix);
        if self.settings.is_outlier(step_m, elapsed_ms) {
            return Verdict::Reject(RejectReason::Outlier);
        }
        let subject = Subject { device, region };
        if self.changes(tracked, subject, fix, speed_mps(fix, step_m, elapsed_ms)) {
            return Verdict::Log;
        }
        let (count, distance_m) =
            pending.map_or((0, 0.0), |pending| (pending.count, pending.distance_m));
        Verdict::Suppress(Suppressed {
            count: count + 1,
            last: fix.clone(),
            distance_m: distance_m + step_m,
        })
    }

    fn unusable(&self, fix: &Fix, now_ms: i64) -> Option<RejectReason> {
        if fix.ts_ms < 0 {
            Some(RejectReason::OutOfRange)
        } else if self.settings.is_future(fix, now_ms) {
            Some(RejectReason::Future)
        } else {
            None
        }
    }

    fn changes(
        &self,
        tracked: &Tracked,
        subject: Subject<'_>,
        fix: &Fix,
        speed_mps: Option<f64>,
    ) -> bool {
        let state = &tracked.device;
        let horizon = tracked
            .horizon
            .filter(|horizon| horizon.generation == self.generation);
        let due_ms = horizon.map_or_else(
            || visit::dwell_due_ms(&self.fences, &state.visits),
            |horizon| horizon.due_ms,
        );
        let anything_but_the_place = *state.region != *subject.region
            || fix.ts_ms >= due_ms
            || state.stop.is_due(fix)
            || self.settings.is_silent(state.reported.ts_ms, fix)
            || has_news(state, fix)
            || state.visits.iter().any(visit::Visit::is_counting)
            || visit::speed_changes(&self.fences, &state.visits, speed_mps);
        if anything_but_the_place {
            return true;
        }
        if horizon.is_some_and(|horizon| distance_m(horizon.center.at, fix.at) <= horizon.radius_m)
        {
            return false;
        }
        distance_m(state.reported.at, fix.at) > self.settings.min_distance_m
            || state.stop.change(fix) != StopChange::None
            || !visit::are_settled_at(&self.fences, subject, &state.visits, fix.at)
    }

    /// Takes a fix from the log, after what was suppressed before it. `resend`: the publish was marked as one that may
    /// have come before (DUP), so a fix that is remembered is no news. `now_ms` is the log's clock.
    pub fn observe(
        &mut self,
        device: &str,
        region: &str,
        fix: &Fix,
        pending: Option<&Suppressed>,
        resend: bool,
        now_ms: i64,
    ) -> Observation {
        let nothing = |class| Observation {
            class,
            report: None,
            alerts: Vec::new(),
        };
        if let Some(pending) = pending {
            self.touch(device, pending);
        }
        if let Some(reason) = self.unusable(fix, now_ms) {
            return nothing(Class::Rejected(reason));
        }
        let Some(tracked) = self.devices.get_mut(device) else {
            let tracked = Tracked {
                device: Device::first(region, fix),
                horizon: None,
            };
            self.devices.insert(device.into(), tracked);
            return self.accept(device, region, fix, None);
        };
        let state = &mut tracked.device;
        if fix.repeats(&state.last) {
            return nothing(Class::Duplicate);
        }
        if fix.ts_ms <= state.last.ts_ms {
            if resend && state.remembers(fix) {
                return nothing(Class::Duplicate);
            }
            state.remember(fix);
            let report = Report {
                distance_m: None,
                speed_calc_mps: None,
                odometer_calc_m: state.odometer_m,
                fences: Vec::new(),
                suppressed: 0,
                late: true,
            };
            return Observation {
                report: Some(report),
                ..nothing(Class::Late)
            };
        }
        let (step_m, elapsed_ms) = Device::step(&state.last, fix);
        if self.settings.is_outlier(step_m, elapsed_ms) {
            return nothing(Class::Rejected(RejectReason::Outlier));
        }
        self.accept(device, region, fix, Some((step_m, elapsed_ms)))
    }

    /// `step` is `None` for the first fix of a device.
    fn accept(
        &mut self,
        device: &str,
        region: &str,
        fix: &Fix,
        step: Option<(f64, i64)>,
    ) -> Observation {
        let GeoEngine {
            settings,
            fences,
            generation,
            devices,
            positions,
        } = self;
        let Tracked {
            device: state,
            horizon,
        } = devices
            .get_mut(device)
            .expect("an accepted fix has a device");
        let subject = Subject { device, region };
        let previous = step.map(|_| state.last.clone());
        let (step_m, elapsed_ms) = step.unwrap_or((0.0, 0));
        let speed_calc_mps = step.map(|_| step_m * 1_000.0 / elapsed_ms as f64);
        let mut alerts = Vec::new();

        if *state.region != *region {
            state.region = region.into();
        }
        let speed_mps = fix.speed_mps.or(speed_calc_mps);
        visit::advance(
            fences,
            subject,
            &mut state.visits,
            fix,
            speed_mps,
            previous.as_ref(),
            &mut alerts,
        );

        let change = state.stop.change(fix);
        let stood_ms = Some(fix.ts_ms - state.stop.anchor.ts_ms);
        let stop_alert = match change {
            StopChange::Stopped => Some(AlertKind::DeviceStopped),
            StopChange::Moving => Some(AlertKind::DeviceMoving),
            StopChange::None | StopChange::Elsewhere => None,
        };
        alerts.extend(stop_alert.map(|kind| AlertFacts {
            dwell_ms: stood_ms,
            ..AlertFacts::new(kind, previous.as_ref())
        }));
        state.stop.apply(change, fix);

        let has_news = has_news(state, fix);
        if fix.alarm.as_deref() != state.alarm.as_deref() {
            state.alarm = fix.alarm.as_deref().map(Into::into);
            alerts.extend(fix.alarm.clone().map(|alarm| AlertFacts {
                reason: Some(alarm),
                ..AlertFacts::new(AlertKind::Alarm, previous.as_ref())
            }));
        }
        state.ignition = fix.ignition.or(state.ignition);
        alerts.sort_by(|a, b| (a.kind, &a.fence).cmp(&(b.kind, &b.fence)));

        state.odometer_m += step_m;
        let from_reported_m = distance_m(state.reported.at, fix.at);
        let reported = step.is_none()
            || from_reported_m > settings.min_distance_m
            || settings.is_silent(state.reported.ts_ms, fix)
            || has_news;
        let report = reported.then(|| Report {
            distance_m: step.map(|_| from_reported_m),
            speed_calc_mps,
            odometer_calc_m: state.odometer_m,
            fences: state
                .visits
                .iter()
                .filter(|visit| visit.inside)
                .map(|visit| visit.fence.clone())
                .collect(),
            suppressed: state.suppressed,
            late: false,
        });
        if reported {
            state.reported = Moment::of(fix);
            state.suppressed = 0;
        } else {
            state.suppressed += 1;
        }
        state.last = fix.clone();
        state.remember(fix);
        positions.update(device, region, fix);
        *horizon = Some(Horizon::of(state, settings, fences, *generation, subject));
        Observation {
            class: Class::Accepted,
            report,
            alerts,
        }
    }

    /// Takes in what was suppressed, without a fix: the periodic entry that keeps `last seen` through a failover.
    pub fn touch(&mut self, device: &str, pending: &Suppressed) {
        if let Some(tracked) = self.devices.get_mut(device) {
            tracked.device.merge(pending);
            self.positions
                .update(device, &tracked.device.region, &tracked.device.last);
        }
    }

    /// How many devices there are.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// What a device has gone since its first fix, metres.
    #[must_use]
    pub fn odometer_m(&self, device: &str) -> Option<f64> {
        self.devices
            .get(device)
            .map(|tracked| tracked.device.odometer_m)
    }

    /// All that must outlive the process of a device; equal states give equal bytes.
    #[must_use]
    pub fn device_state(&self, device: &str) -> Option<Vec<u8>> {
        self.devices
            .get(device)
            .map(|tracked| tracked.device.to_bytes())
    }

    /// Sets a device to what [`GeoEngine::device_state`] gave.
    ///
    /// # Errors
    ///
    /// When the bytes are no such state; then nothing changes.
    pub fn restore_device(&mut self, device: &str, bytes: &[u8]) -> Result<(), StateError> {
        let state = Device::from_bytes(bytes)?;
        self.positions.put(device, &state.region, &state.last);
        self.devices.insert(
            device.into(),
            Tracked {
                device: state,
                horizon: None,
            },
        );
        Ok(())
    }
}

impl Horizon {
    fn of(
        state: &Device,
        settings: &Settings,
        fences: &FenceIndex,
        generation: u64,
        subject: Subject<'_>,
    ) -> Self {
        let at = state.last.at;
        let to_report_m = settings.min_distance_m - distance_m(state.reported.at, at);
        let to_leave_m = STOP_RADIUS_M - distance_m(state.stop.anchor.at, at);
        // Whoever is about to be reported or to leave need not know the fences.
        let movement_m = to_report_m.min(to_leave_m) - MARGIN_M;
        let radius_m = if movement_m > 0.0 {
            fences.safe_radius_where(at, movement_m, |fence| subject.is_concern_of(fence))
        } else {
            -1.0
        };
        Horizon {
            generation,
            center: Moment::of(&state.last),
            // Zero would still hold for the very same place; with a boundary there it must be evaluated.
            radius_m: if radius_m > 0.0 { radius_m } else { -1.0 },
            due_ms: visit::dwell_due_ms(fences, &state.visits),
        }
    }
}

/// What passes the filter from any place: another alarm, the ignition turned.
fn has_news(state: &Device, fix: &Fix) -> bool {
    fix.alarm.as_deref() != state.alarm.as_deref()
        || (fix.ignition.is_some() && fix.ignition != state.ignition)
}

/// The device's own speed, or the one since its last fix.
fn speed_mps(fix: &Fix, step_m: f64, elapsed_ms: i64) -> Option<f64> {
    fix.speed_mps.or(Some(step_m * 1_000.0 / elapsed_ms as f64))
}

#[cfg(test)]
mod tests;
