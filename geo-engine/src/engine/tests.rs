use super::*;
use crate::coordinate::Coordinate;
use crate::fence::Fence;

const START_MS: i64 = 1_700_000_000_000;

fn settings() -> Settings {
    Settings {
        min_distance_m: 50.0,
        max_silence_ms: Some(300_000),
        max_speed_mps: Some(100.0),
        max_future_ms: 120_000,
    }
}

/// `north_m` metres north of 60° N 25° E, `seconds` after the start.
fn fix(seconds: i64, north_m: f64) -> Fix {
    let at = Coordinate::from_degrees(60.0 + north_m / 111_195.08, 25.0).expect("a place");
    Fix::new(START_MS + seconds * 1_000, at)
}

fn engine(properties: &str) -> GeoEngine {
    let text = format!(
        r#"{{"type":"Feature","id":"yard","properties":{{"radius_m":100,{properties}}},
            "geometry":{{"type":"Point","coordinates":[25,60]}}}}"#
    );
    let mut engine = GeoEngine::new(Settings {
        max_silence_ms: None,
        ..settings()
    });
    engine.set_fences(Arc::new(FenceIndex::new(vec![Arc::new(
        Fence::from_geojson(&text, 3).expect("a fence"),
    )])));
    engine
}

fn observe(engine: &mut GeoEngine, fix: &Fix) -> Observation {
    engine.observe("d", "r", fix, None, false, fix.ts_ms)
}

fn kinds(observation: &Observation) -> Vec<&'static str> {
    observation
        .alerts
        .iter()
        .map(|alert| alert.kind.as_str())
        .collect()
}

#[test]
fn a_visit_begins_and_ends_with_min_samples_in_a_row() {
    let mut engine = engine(r#""min_samples":2,"name":"The yard""#);
    let mut seen = Vec::new();
    for (step, north_m) in [0.0, 200.0, 10.0, 20.0, 200.0, 30.0, 200.0, 210.0]
        .into_iter()
        .enumerate()
    {
        let observation = observe(&mut engine, &fix(step as i64 * 10, north_m));
        seen.extend(observation.alerts.iter().map(|alert| (step, alert.kind)));
    }
    assert_eq!(
        seen,
        [(3, AlertKind::GeofenceEnter), (7, AlertKind::GeofenceExit)]
    );
}

#[test]
fn a_visit_ends_beyond_the_hysteresis() {
    let mut engine = engine(r#""hysteresis_m":20"#);
    assert_eq!(
        kinds(&observe(&mut engine, &fix(0, 90.0))),
        ["geofenceEnter"]
    );
    assert_eq!(kinds(&observe(&mut engine, &fix(10, 115.0))), [""; 0]);
    assert_eq!(
        engine.admit("d", "r", &fix(20, 119.0), None, i64::MAX),
        Verdict::Suppress(Suppressed {
            count: 1,
            last: fix(20, 119.0),
            distance_m: distance_m(fix(10, 115.0).at, fix(20, 119.0).at),
        })
    );
    let exit = observe(&mut engine, &fix(30, 121.0));
    assert_eq!(kinds(&exit), ["geofenceExit"]);
    assert_eq!(exit.alerts[0].dwell_ms, Some(30_000));
    assert_eq!(exit.alerts[0].previous, Some(fix(10, 115.0)));
    assert_eq!(
        exit.alerts[0].fence.as_ref().map(|fence| fence.rev),
        Some(3)
    );
}

#[test]
fn speeding_is_told_once_until_it_ends() {
    let mut engine = engine(r#""speed_limit_mps":10"#);
    let mut told = Vec::new();
    for (step, speed) in [5.0, 12.0, 13.0, 9.0, 11.0].into_iter().enumerate() {
        let fix = Fix {
            speed_mps: Some(speed),
            ..fix(step as i64, 0.0)
        };
        let must_log = step == 0 || engine.admit("d", "r", &fix, None, fix.ts_ms) == Verdict::Log;
        let alerts = observe(&mut engine, &fix).alerts;
        assert!(alerts.is_empty() || must_log, "step {step}");
        told.extend(
            alerts
                .iter()
                .filter(|alert| alert.kind == AlertKind::DeviceOverspeed)
                .map(|alert| alert.value_mps),
        );
    }
    assert_eq!(told, [Some(12.0), Some(11.0)]);
}

#[test]
fn creeping_adds_up() {
    let mut engine = GeoEngine::new(settings());
    observe(&mut engine, &fix(0, 0.0));
    let mut pending: Option<Suppressed> = None;
    for step in 1..=5 {
        let Verdict::Suppress(suppressed) = engine.admit(
            "d",
            "r",
            &fix(step, step as f64 * 9.9),
            pending.as_ref(),
            i64::MAX,
        ) else {
            panic!("{step}: below the threshold");
        };
        pending = Some(suppressed);
    }
    assert_eq!(
        engine.admit("d", "r", &fix(6, 50.5), pending.as_ref(), i64::MAX),
        Verdict::Log
    );
    let report = engine
        .observe("d", "r", &fix(6, 50.5), pending.as_ref(), false, i64::MAX)
        .report
        .expect("reported");
    assert_eq!(report.suppressed, 5);
    assert!((report.odometer_calc_m - 50.5).abs() < 0.05, "{report:?}");
    assert!((report.distance_m.expect("not the first") - 50.5).abs() < 0.05);
}

#[test]
fn silence_ends_with_a_report() {
    let mut engine = GeoEngine::new(settings());
    observe(&mut engine, &fix(0, 0.0));
    assert!(matches!(
        engine.admit("d", "r", &fix(299, 0.0), None, i64::MAX),
        Verdict::Suppress(_)
    ));
    assert_eq!(
        engine.admit("d", "r", &fix(300, 0.0), None, i64::MAX),
        Verdict::Log
    );
    assert!(observe(&mut engine, &fix(300, 0.0)).report.is_some());
}

#[test]
fn what_cannot_be_is_rejected_on_both_sides() {
    let mut engine = GeoEngine::new(settings());
    observe(&mut engine, &fix(0, 0.0));
    let outlier = fix(1, 101.0);
    assert_eq!(
        engine.admit("d", "r", &outlier, None, i64::MAX),
        Verdict::Reject(RejectReason::Outlier)
    );
    assert_eq!(
        observe(&mut engine, &outlier).class,
        Class::Rejected(RejectReason::Outlier)
    );
    let future = fix(121, 0.0);
    assert_eq!(
        engine.admit("d", "r", &future, None, START_MS),
        Verdict::Reject(RejectReason::Future)
    );
    assert_eq!(
        engine
            .observe("d", "r", &future, None, false, START_MS)
            .class,
        Class::Rejected(RejectReason::Future)
    );
    assert_eq!(
        engine.positions().get("d").map(|located| located.fix),
        Some(fix(0, 0.0))
    );
}

#[test]
fn a_resend_is_no_late_fix() {
    let mut engine = GeoEngine::new(settings());
    for step in 0..3 {
        observe(&mut engine, &fix(step * 60, step as f64 * 100.0));
    }
    let again = fix(60, 100.0);
    assert_eq!(
        engine.observe("d", "r", &again, None, true, i64::MAX).class,
        Class::Duplicate
    );
    assert_eq!(
        engine
            .observe("d", "r", &again, None, false, i64::MAX)
            .class,
        Class::Late
    );
    assert_eq!(
        engine
            .observe("d", "r", &fix(30, 0.0), None, true, i64::MAX)
            .class,
        Class::Late
    );
}

#[test]
fn new_fences_are_seen_by_a_parked_device() {
    let mut engine = engine(r#""dwell_s":600"#);
    let fences = Arc::clone(engine.fences());
    engine.set_fences(Arc::default());
    observe(&mut engine, &fix(0, 0.0));
    assert!(matches!(
        engine.admit("d", "r", &fix(10, 0.0), None, i64::MAX),
        Verdict::Suppress(_)
    ));
    engine.set_fences(fences);
    assert_eq!(
        engine.admit("d", "r", &fix(20, 0.0), None, i64::MAX),
        Verdict::Log
    );
    assert_eq!(
        kinds(&observe(&mut engine, &fix(20, 0.0))),
        ["geofenceEnter"]
    );
    observe(&mut engine, &fix(330, 0.0));
    assert_eq!(
        engine.admit("d", "r", &fix(620, 0.0), None, i64::MAX),
        Verdict::Log
    );
    assert_eq!(
        kinds(&observe(&mut engine, &fix(620, 0.0))),
        ["geofenceDwell"]
    );
}

#[test]
fn an_alarm_is_told_when_it_changes() {
    let mut engine = GeoEngine::new(settings());
    let alarm = |seconds, alarm: Option<&str>| Fix {
        alarm: alarm.map(str::to_owned),
        ..fix(seconds, 0.0)
    };
    assert_eq!(
        kinds(&observe(&mut engine, &alarm(0, Some("sos")))),
        ["alarm"]
    );
    assert!(matches!(
        engine.admit("d", "r", &alarm(1, Some("sos")), None, i64::MAX),
        Verdict::Suppress(_)
    ));
    assert_eq!(
        engine.admit("d", "r", &alarm(2, None), None, i64::MAX),
        Verdict::Log
    );
    observe(&mut engine, &alarm(2, None));
    let told = observe(&mut engine, &alarm(3, Some("sos")));
    assert_eq!((kinds(&told), told.report.is_some()), (vec!["alarm"], true));
}

#[test]
fn a_state_of_another_version_is_refused() {
    let mut engine = GeoEngine::new(settings());
    assert_eq!(
        engine.restore_device("d", &[9, 0]),
        Err(StateError::UnknownVersion(9))
    );
    assert_eq!(engine.restore_device("d", &[]), Err(StateError::Malformed));
    observe(&mut engine, &fix(0, 0.0));
    let mut state = engine.device_state("d").expect("known");
    state.push(0);
    assert_eq!(
        engine.restore_device("d", &state),
        Err(StateError::Malformed)
    );
}
