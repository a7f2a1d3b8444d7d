//! A trace through the engine.

use std::collections::{BTreeMap, HashMap};

use meridian_geo_engine::{
    AlertKind, Class, GeoEngine, Observation, Settings, Suppressed, Verdict, decode_json,
};

use super::files::Case;

/// Which way fixes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// All of them through the log.
    Observe,
    /// Only those that the leader would not suppress.
    Suppress,
}

/// What came out.
pub(crate) struct Outcome {
    pub(crate) engine: GeoEngine,
    /// By row.
    pub(crate) classes: Vec<&'static str>,
    /// By device and fence: enter, exit and dwell with their times, in order.
    pub(crate) events: BTreeMap<(String, String), Vec<(AlertKind, i64)>>,
    /// By device: stopped and moving with their times and that of the anchor.
    pub(crate) stops: BTreeMap<String, Vec<(AlertKind, i64, i64)>>,
    /// By device: times of reported fixes that were not late.
    pub(crate) kept: BTreeMap<String, Vec<i64>>,
    /// By device: what the last report said and what was suppressed since.
    pub(crate) late_reports: usize,
    pub(crate) logged: usize,
}

pub(crate) fn run(case: &Case, path: Path) -> Outcome {
    let settings = Settings {
        min_distance_m: 50.0,
        max_silence_ms: None,
        max_speed_mps: None,
        max_future_ms: 0,
    };
    let mut engine = GeoEngine::new(settings);
    engine.set_fences(case.fences.clone());
    let mut outcome = Outcome {
        engine,
        classes: Vec::new(),
        events: BTreeMap::new(),
        stops: BTreeMap::new(),
        kept: BTreeMap::new(),
        late_reports: 0,
        logged: 0,
    };
    let mut pending: HashMap<&str, Suppressed> = HashMap::new();
    for row in &case.rows {
        let class = match decode_json(row.payload.as_bytes()) {
            Ok(mut fixes) => match fixes.remove(0) {
                Ok(fix) => {
                    let now_ms = fix.ts_ms;
                    let overlay = pending.get(row.device.as_str());
                    let verdict = match path {
                        Path::Observe => Verdict::Log,
                        Path::Suppress => {
                            outcome
                                .engine
                                .admit(&row.device, &case.region, &fix, overlay, now_ms)
                        }
                    };
                    match verdict {
                        Verdict::Log => {
                            let overlay = pending.remove(row.device.as_str());
                            let observation = outcome.engine.observe(
                                &row.device,
                                &case.region,
                                &fix,
                                overlay.as_ref(),
                                false,
                                now_ms,
                            );
                            outcome.logged += 1;
                            outcome.take(&row.device, fix.ts_ms, observation)
                        }
                        Verdict::Suppress(suppressed) => {
                            outcome
                                .engine
                                .positions_mut()
                                .update(&row.device, &case.region, &fix);
                            pending.insert(&row.device, suppressed);
                            "accepted"
                        }
                        Verdict::Duplicate => "duplicate",
                        Verdict::Reject(reason) => {
                            panic!("{} {reason}: no such rule is on", row.payload)
                        }
                    }
                }
                Err(_) => "rejected",
            },
            Err(_) => "rejected",
        };
        outcome.classes.push(class);
    }
    for (device, suppressed) in &pending {
        outcome.engine.touch(device, suppressed);
    }
    let usable = case.rows.len()
        - outcome
            .classes
            .iter()
            .filter(|class| **class == "rejected")
            .count();
    assert_eq!(
        outcome.logged < usable,
        path == Path::Suppress,
        "only suppression saves entries"
    );
    outcome
}

impl Outcome {
    fn take(&mut self, device: &str, ts_ms: i64, observation: Observation) -> &'static str {
        let sorted = observation
            .alerts
            .is_sorted_by(|a, b| (a.kind, &a.fence) <= (b.kind, &b.fence));
        assert!(sorted, "alerts of one fix come in order");
        for alert in observation.alerts {
            match (&alert.fence, alert.kind) {
                (Some(fence), kind) => {
                    let key = (device.to_owned(), fence.id.to_string());
                    self.events.entry(key).or_default().push((kind, ts_ms));
                }
                (None, kind) => {
                    let anchor_ms = ts_ms - alert.dwell_ms.expect("stops know how long");
                    self.stops
                        .entry(device.to_owned())
                        .or_default()
                        .push((kind, ts_ms, anchor_ms));
                }
            }
        }
        match (&observation.class, &observation.report) {
            (Class::Accepted, Some(report)) => {
                assert!(!report.late);
                self.kept.entry(device.to_owned()).or_default().push(ts_ms);
            }
            (Class::Late, report) => {
                assert!(
                    report.as_ref().is_some_and(|report| report.late),
                    "late fixes are forwarded"
                );
                self.late_reports += 1;
            }
            (_, report) => assert!(report.is_none() || observation.class == Class::Accepted),
        }
        match observation.class {
            Class::Accepted => "accepted",
            Class::Late => "late",
            Class::Duplicate => "duplicate",
            Class::Rejected(_) => "rejected",
        }
    }
}
