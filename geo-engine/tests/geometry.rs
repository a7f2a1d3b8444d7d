//! Geometry against the independent `geo` crate, and what suppression relies on.

use std::sync::Arc;

use geo::{Distance, Haversine, Intersects};
use meridian_geo_engine::{
    Coordinate, Fence, FenceIndex, Fix, GeoEngine, Settings, Suppressed, Verdict, decode_json,
    distance_m,
};
use proptest::prelude::*;

fn degrees(e7: i32) -> f64 {
    f64::from(e7) / 1e7
}

fn fence(
    id: &str,
    geometry: &str,
    properties: &str,
) -> Result<Fence, meridian_geo_engine::FenceError> {
    let text = format!(
        r#"{{"type":"Feature","id":"{id}","properties":{{{properties}}},"geometry":{geometry}}}"#
    );
    Fence::from_geojson(&text, 1)
}

/// Places on a coarse lattice, so that vertices, edges, poles and the antimeridian are met often.
fn lattice() -> impl Strategy<Value = Coordinate> {
    let lat = prop_oneof![
        (-9..=9i32).prop_map(|tens| tens * 100_000_000),
        -900_000_000..=900_000_000
    ];
    let lon = prop_oneof![
        (-18..=18i32).prop_map(|tens| tens * 100_000_000),
        -1_800_000_000..=1_800_000_000
    ];
    (lat, lon).prop_filter_map("on the globe", |(lat, lon)| Coordinate::from_e7(lat, lon))
}

/// Star-shaped rings of lattice-like vertices around a middle.
fn star() -> impl Strategy<Value = Vec<Coordinate>> {
    let rays = proptest::collection::vec(1..=8i32, 3..=16);
    (-4..=4i32, -9..=9i32, rays).prop_map(|(lat, lon, rays)| {
        let count = rays.len() as f64;
        let mut ring: Vec<Coordinate> = rays
            .iter()
            .enumerate()
            .map(|(index, reach)| {
                let angle = index as f64 / count * std::f64::consts::TAU;
                let snap = |value: f64| (value * 10.0).round() as i32 * 1_000_000;
                let reach = f64::from(*reach) * 5.0;
                let (sin, cos) = angle.sin_cos();
                let lat = (lat * 100_000_000 + snap(reach * sin)).clamp(-900_000_000, 900_000_000);
                let lon =
                    (lon * 100_000_000 + snap(reach * cos)).clamp(-1_800_000_000, 1_800_000_000);
                Coordinate::from_e7(lat, lon).expect("clamped")
            })
            .collect();
        ring.push(ring[0]);
        ring
    })
}

fn polygon_fence(ring: &[Coordinate]) -> Option<Fence> {
    let positions: Vec<String> = ring
        .iter()
        .map(|at| format!("[{:.7},{:.7}]", at.lon_deg(), at.lat_deg()))
        .collect();
    fence(
        "p",
        &format!(
            r#"{{"type":"Polygon","coordinates":[[{}]]}}"#,
            positions.join(",")
        ),
        "",
    )
    .ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn point_in_polygon_agrees_with_geo(ring in star(), mut places in proptest::collection::vec(lattice(), 20)) {
        let Some(fence) = polygon_fence(&ring) else { return Ok(()) };
        let corner = |at: &Coordinate| geo::Coord { x: f64::from(at.lon_e7()), y: f64::from(at.lat_e7()) };
        let other = geo::Polygon::new(ring.iter().map(corner).collect(), vec![]);
        let index = FenceIndex::new(vec![Arc::new(fence.clone())]);
        places.extend(&ring);
        places.extend(ring.windows(2).filter_map(|edge| {
            let middle = |a: i32, b: i32| i32::midpoint(a, b);
            Coordinate::from_e7(middle(edge[0].lat_e7(), edge[1].lat_e7()), middle(edge[0].lon_e7(), edge[1].lon_e7()))
        }));
        for at in places {
            let names = [Some(at), at.across_antimeridian()].into_iter().flatten();
            let expected = names.into_iter().any(|name| other.intersects(&geo::Point(corner(&name))));
            prop_assert_eq!(fence.contains(at), expected, "{:?}", at);
            prop_assert_eq!(!index.containing(at).fences.is_empty(), expected, "index, {:?}", at);
        }
    }

    #[test]
    fn distance_agrees_with_geo(a in lattice(), b in lattice()) {
        let point = |at: Coordinate| geo::Point::new(at.lon_deg(), at.lat_deg());
        let other = Haversine.distance(point(a), point(b));
        prop_assert!((distance_m(a, b) - other).abs() <= 0.5 + other * 1e-6, "{} {other}", distance_m(a, b));
    }

    #[test]
    fn the_safe_radius_hides_no_crossing(
        ring in star(), center in lattice(), radius_m in 1.0..5_000.0f64, start in 0..3usize,
        nudge in (-30_000..30_000i32, -30_000..30_000i32), hysteresis_m in prop_oneof![Just(0.0), 1.0..200.0f64],
        steps in proptest::collection::vec((-1.0..1.0f64, -1.0..1.0f64), 30),
    ) {
        let mut fences: Vec<Arc<Fence>> = polygon_fence(&ring).into_iter().map(Arc::new).collect();
        let (lon, lat) = (center.lon_deg(), center.lat_deg());
        let circle = format!(r#"{{"type":"Point","coordinates":[{lon},{lat}]}}"#);
        let properties = format!(r#""radius_m":{radius_m},"hysteresis_m":{hysteresis_m}"#);
        fences.push(Arc::new(fence("c", &circle, &properties).expect("a circle")));
        let (end_lon, end_lat) = ((lon + 0.5).min(180.0), (lat + 0.3).min(90.0));
        let line = format!(r#"{{"type":"LineString","coordinates":[[{lon},{lat}],[{end_lon},{end_lat}]]}}"#);
        fences.push(Arc::new(fence("l", &line, &format!(r#""buffer_m":{radius_m}"#)).expect("a corridor")));
        let index = FenceIndex::new(fences);

        // Near a vertex, or near the circle's boundary to the north or the south.
        let base = match start {
            0 => ring[0],
            1 => Coordinate::from_degrees((lat + radius_m / 111_195.0).min(90.0), lon).expect("clamped"),
            _ => center,
        };
        let moved = |from: Coordinate, lat: i32, lon: i32| {
            let turn = 3_600_000_000i64;
            let lon = (i64::from(from.lon_e7()) + i64::from(lon) + turn / 2).rem_euclid(turn) - turn / 2;
            Coordinate::from_e7((from.lat_e7() + lat).clamp(-900_000_000, 900_000_000), lon as i32).expect("clamped")
        };
        let at = moved(base, nudge.0, nudge.1);
        let names = |at| index.containing(at).fences.iter().map(|fence| fence.id().to_owned()).collect::<Vec<_>>();
        let here = names(at);
        let safe_m = index.safe_radius_m(at, 1_000.0);
        for (north, east) in steps {
            let cosine = at.lat_deg().to_radians().cos().max(1e-3);
            let units = safe_m / 0.011_119_5;
            let there = moved(at, (north * units) as i32, (east * units / cosine) as i32);
            if distance_m(at, there) < safe_m {
                prop_assert_eq!(&names(there), &here, "{:?} {:?} {} m", at, there, safe_m);
            }
        }
    }

    #[test]
    fn decoding_any_bytes_is_a_value(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _any = decode_json(&bytes);
    }

    #[test]
    fn decoding_any_fields_is_a_value(
        ts in "[-0-9eE.\"TZ:]{1,25}", lat in "[-0-9eE.]{1,400}", lon in "-?[0-9]{1,3}(\\.[0-9]{1,9})?", tail in ".{0,40}",
    ) {
        for text in [
            format!(r#"{{"ts":{ts},"lat":{lat},"lon":{lon}}}"#),
            format!(r#"[{{"_type":"location","tst":{ts},"lat":{lat},"lon":{lon},"vel":{lat}}},{tail}]"#),
            format!(r#"{{"type":"Feature","geometry":{{"type":"Point","coordinates":[{lon},{lat}]}},"properties":{{"ts":{ts}}}}}"#),
        ] {
            let fixes = decode_json(text.as_bytes()).into_iter().flatten().flatten();
            for fix in fixes {
                prop_assert!(fix.ts_ms >= 0 && fix.at.lat_deg().abs() <= 90.0 && fix.at.lon_deg().abs() <= 180.0);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400), valid_head in any::<bool>()) {
        let mut bytes = bytes;
        if valid_head && !bytes.is_empty() {
            bytes[0] = 1;
        }
        let mut engine = engine();
        if engine.restore_device("d", &bytes).is_ok() {
            prop_assert_eq!(engine.device_state("d"), Some(bytes));
        }
    }

    /// Suppression with overlays and everything through the log end in the same alerts and the same device; and a device
    /// restored from its bytes at any time goes on as the other does.
    #[test]
    fn suppression_and_restoring_change_no_alert(walk in walk(), restore_every in 1..20usize) {
        let (mut whole, mut sparse) = (engine(), engine());
        let (mut whole_alerts, mut sparse_alerts) = (Vec::new(), Vec::new());
        let mut pending: Option<Suppressed> = None;
        for (step, fix) in walk.iter().enumerate() {
            let now_ms = fix.ts_ms;
            let alerts = whole.observe("d", "r", fix, None, false, now_ms).alerts;
            whole_alerts.extend(alerts.into_iter().map(|alert| (fix.ts_ms, alert)));
            if step % restore_every == 0 && let Some(state) = sparse.device_state("d") {
                sparse.restore_device("d", &state).expect("what was written");
                prop_assert_eq!(sparse.device_state("d"), Some(state));
            }
            match sparse.admit("d", "r", fix, pending.as_ref(), now_ms) {
                Verdict::Log => {
                    let alerts = sparse.observe("d", "r", fix, pending.take().as_ref(), false, now_ms).alerts;
                    sparse_alerts.extend(alerts.into_iter().map(|alert| (fix.ts_ms, alert)));
                }
                Verdict::Suppress(suppressed) => pending = Some(suppressed),
                Verdict::Duplicate => {}
                Verdict::Reject(reason) => prop_assert!(false, "{reason}"),
            }
        }
        prop_assert_eq!(&whole_alerts, &sparse_alerts);
        if let Some(pending) = pending {
            sparse.touch("d", &pending);
        }
        prop_assert_eq!(whole.positions().get("d"), sparse.positions().get("d"));
        let (whole_m, sparse_m) = (whole.odometer_m("d").unwrap_or(0.0), sparse.odometer_m("d").unwrap_or(0.0));
        prop_assert!((whole_m - sparse_m).abs() < 1e-6 * whole_m.max(1.0), "{whole_m} {sparse_m}");
    }
}

/// Small steps around fences of all kinds and rules.
fn walk() -> impl Strategy<Value = Vec<Fix>> {
    let step = (
        1..90i64,
        -4_000..=4_000i32,
        -4_000..=4_000i32,
        proptest::option::of(0.0..30.0f64),
        0..20u8,
    );
    proptest::collection::vec(step, 1..120).prop_map(|steps| {
        let (mut ts_ms, mut lat, mut lon) = (1_700_000_000_000, 600_000_000, 250_000_000);
        steps
            .into_iter()
            .map(|(seconds, north, east, speed_mps, alarm)| {
                // Long rests between moves, so that there is something to suppress.
                let still = alarm < 12;
                ts_ms += seconds * 1_000;
                lat += if still { north / 200 } else { north };
                lon += if still { east / 200 } else { east };
                let at = Coordinate::from_e7(lat, lon).expect("near 60 north");
                let alarm = (alarm == 19).then(|| "sos".to_owned());
                Fix {
                    speed_mps,
                    alarm,
                    ..Fix::new(ts_ms, at)
                }
            })
            .collect()
    })
}

fn engine() -> GeoEngine {
    let settings = Settings {
        min_distance_m: 50.0,
        max_silence_ms: Some(900_000),
        max_speed_mps: Some(1_000.0),
        max_future_ms: 0,
    };
    let mut engine = GeoEngine::new(settings);
    let circle = |lon: f64| format!(r#"{{"type":"Point","coordinates":[{lon},60.0]}}"#);
    let (lat, lon) = (degrees(600_000_000), degrees(250_000_000));
    let square = format!(
        r#"{{"type":"Polygon","coordinates":[[[{lon},{lat}],[25.002,{lat}],[25.002,60.001],[{lon},60.001],[{lon},{lat}]]]}}"#
    );
    let line = r#"{"type":"LineString","coordinates":[[24.99,59.999],[25.01,60.001]]}"#;
    let fences = [
        fence("a", &circle(25.0), r#""radius_m":60,"dwell_s":120"#),
        fence(
            "b",
            &circle(25.001),
            r#""radius_m":40,"min_samples":3,"hysteresis_m":25"#,
        ),
        fence("c", &square, r#""speed_limit_mps":10,"hysteresis_m":15"#),
        fence(
            "d",
            line,
            r#""buffer_m":30,"min_samples":2,"speed_limit_mps":20"#,
        ),
        fence("e", &circle(25.0), r#""radius_m":500,"devices":["x*"]"#),
    ];
    let fences = fences
        .into_iter()
        .map(|fence| Arc::new(fence.expect("a fence")))
        .collect();
    engine.set_fences(Arc::new(FenceIndex::new(fences)));
    engine
}
