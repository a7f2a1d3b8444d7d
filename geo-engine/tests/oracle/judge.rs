//! The rules of agreement.

use std::collections::{BTreeMap, BTreeSet};

use meridian_geo_engine::{AlertKind, Coordinate};
use serde_json::Value;

use super::files::Case;
use super::replay::Outcome;

/// Distances may differ by this share.
const BAND: f64 = 0.006;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn time(value: &Value) -> i64 {
    value.as_i64().expect("a time")
}

/// SEMANTICS 8.
pub(crate) fn classes(case: &Case, outcome: &Outcome) {
    let mut expected = vec!["accepted"; case.rows.len()];
    for row in case
        .classes
        .iter()
        .flat_map(|classes| list(&classes["rows"]))
    {
        expected[row[0].as_u64().expect("a row") as usize] = text(&row[1]);
    }
    for (row, (found, expected)) in outcome.classes.iter().zip(expected).enumerate() {
        assert_eq!(
            *found, expected,
            "{} row {row}: {}",
            case.trace, case.rows[row].payload
        );
    }
    let late = outcome
        .classes
        .iter()
        .filter(|class| **class == "late")
        .count();
    assert_eq!(
        outcome.late_reports, late,
        "each late fix is forwarded once"
    );
}

/// SEMANTICS 5.
pub(crate) fn events(case: &Case, outcome: &Outcome) {
    type Key = (String, String);
    let key = |entry: &Value| -> Key { (text(&entry[0]).to_owned(), text(&entry[1]).to_owned()) };
    let mut expected: BTreeMap<Key, Vec<(AlertKind, i64)>> = BTreeMap::new();
    for event in list(&case.events["events"]) {
        let kind = match text(&event[2]) {
            "enter" => AlertKind::GeofenceEnter,
            "exit" => AlertKind::GeofenceExit,
            "dwell" => AlertKind::GeofenceDwell,
            other => panic!("unknown kind {other}"),
        };
        expected
            .entry(key(event))
            .or_default()
            .push((kind, time(&event[3])));
    }
    /// Before, after, from, to.
    type Run<'a> = (&'a str, Option<&'a str>, i64, i64);
    let mut flex: BTreeMap<Key, Vec<Run<'_>>> = BTreeMap::new();
    for run in list(&case.events["flex"]) {
        let run_of = (text(&run[2]), run[3].as_str(), time(&run[4]), time(&run[5]));
        flex.entry(key(run)).or_default().push(run_of);
    }
    let mut dwell_flex: BTreeMap<Key, Vec<(i64, i64)>> = BTreeMap::new();
    for span in list(&case.events["dwell_flex"]) {
        dwell_flex
            .entry(key(span))
            .or_default()
            .push((time(&span[2]), time(&span[3])));
    }
    let none = Vec::new();
    let keys: BTreeSet<&Key> = expected
        .keys()
        .chain(flex.keys())
        .chain(outcome.events.keys())
        .collect();
    let mut judged = 0;
    for key in keys {
        let runs = flex.get(key).map_or(&[][..], Vec::as_slice);
        let spans = dwell_flex.get(key).map_or(&[][..], Vec::as_slice);
        let in_run = |ts: i64| {
            runs.iter()
                .any(|(_, _, from, to)| (*from..=*to).contains(&ts))
        };
        let in_span = |ts: i64| spans.iter().any(|(from, to)| (*from..=*to).contains(&ts));
        let strict = |events: &[(AlertKind, i64)]| -> BTreeSet<(AlertKind, i64)> {
            let free = |(kind, ts): &&(AlertKind, i64)| {
                if *kind == AlertKind::GeofenceDwell {
                    in_span(*ts)
                } else {
                    in_run(*ts)
                }
            };
            events
                .iter()
                .filter(|event| !free(event))
                .copied()
                .collect()
        };
        let found = outcome.events.get(key).unwrap_or(&none);
        let wanted = strict(expected.get(key).unwrap_or(&none));
        judged += wanted.len();
        assert_eq!(strict(found), wanted, "{} {key:?}", case.trace);
        for (before, after, from, to) in runs {
            let crossings = found.iter().filter(|(kind, ts)| {
                *kind != AlertKind::GeofenceDwell && (*from..=*to).contains(ts)
            });
            let mut inside = *before == "in";
            for (kind, ts) in crossings {
                assert_eq!(
                    inside,
                    *kind == AlertKind::GeofenceExit,
                    "{key:?} at {ts}: crossings alternate"
                );
                inside = !inside;
            }
            if let Some(after) = after {
                assert_eq!(
                    inside,
                    *after == "in",
                    "{key:?} {from}..{to}: where the run ends"
                );
            }
        }
        let mut inside = false;
        for (kind, ts) in found
            .iter()
            .filter(|(kind, _)| *kind != AlertKind::GeofenceDwell)
        {
            assert_eq!(
                inside,
                *kind == AlertKind::GeofenceExit,
                "{key:?} at {ts}: crossings alternate"
            );
            inside = !inside;
        }
    }
    assert!(judged > 0, "{}: something was judged", case.trace);
}

/// SEMANTICS 2 and 3.
pub(crate) fn devices(case: &Case, outcome: &Outcome) {
    let none = Vec::new();
    for expected in list(&case.devices["devices"]) {
        let device = text(&expected["device"]);
        let kept = outcome.kept.get(device).unwrap_or(&none);
        let bounds = expected["kept_min"].as_u64().expect("a count")
            ..=expected["kept_max"].as_u64().expect("a count");
        assert!(
            bounds.contains(&(kept.len() as u64)),
            "{device}: {} kept, not in {bounds:?}",
            kept.len()
        );
        if let Some(kept_ts) = expected["kept_ts"].as_array() {
            let before = expected["strict_before"].as_i64().unwrap_or(i64::MAX);
            let strict = |times: Vec<i64>| {
                times
                    .into_iter()
                    .filter(|ts| *ts < before)
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                strict(kept.clone()),
                strict(kept_ts.iter().map(time).collect()),
                "{device}"
            );
        }
        let wanted = expected["distance_m"].as_f64().expect("a distance");
        let found = outcome.engine.odometer_m(device).unwrap_or(0.0);
        assert!(
            (found - wanted).abs() <= wanted * BAND + 0.01,
            "{device}: {found} m, {wanted} expected"
        );
    }
}

/// SEMANTICS 6.
pub(crate) fn stops(case: &Case, outcome: &Outcome) {
    for expected in list(&case.stops["devices"]) {
        let device = text(&expected["device"]);
        let before = expected["strict_before"].as_i64().unwrap_or(i64::MAX);
        let wanted: Vec<(AlertKind, i64, i64)> = list(&expected["events"])
            .iter()
            .map(|event| {
                let kind = if event[0] == "stop_start" {
                    AlertKind::DeviceStopped
                } else {
                    AlertKind::DeviceMoving
                };
                (kind, time(&event[1]), time(&event[2]))
            })
            .filter(|(_, ts, _)| *ts < before)
            .collect();
        let found = outcome
            .stops
            .get(device)
            .into_iter()
            .flatten()
            .filter(|(_, ts, _)| *ts < before);
        assert_eq!(found.copied().collect::<Vec<_>>(), wanted, "{device}");
    }
}

/// SEMANTICS 7.
pub(crate) fn queries(case: &Case, outcome: &Outcome) {
    let positions = outcome.engine.positions();
    let queries = &case.queries;
    let place = |query: &Value| {
        let axis = |name: &str| query[name].as_f64().expect("degrees");
        Coordinate::from_degrees(axis("lat"), axis("lon")).expect("a place")
    };
    let names = |value: &Value| {
        list(value)
            .iter()
            .map(|name| text(name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let agree = |found: BTreeSet<String>, query: &Value| {
        let (must, either) = (names(&query["must"]), names(&query["either"]));
        assert!(
            found.is_superset(&must),
            "{query}: missing {:?}",
            must.difference(&found)
        );
        let known: BTreeSet<String> = must.union(&either).cloned().collect();
        assert!(
            found.is_subset(&known),
            "{query}: too many {:?}",
            found.difference(&known)
        );
    };
    let devices = |found: Vec<meridian_geo_engine::Located>| {
        found.into_iter().map(|located| located.device).collect()
    };

    assert_eq!(positions.len(), list(&queries["last"]).len());
    for last in list(&queries["last"]) {
        let located = positions.get(text(&last[0])).expect("a known device");
        let at = Coordinate::from_degrees(
            last[2].as_f64().expect("lat"),
            last[3].as_f64().expect("lon"),
        );
        assert_eq!(
            (located.fix.ts_ms, Some(located.fix.at)),
            (time(&last[1]), at),
            "{last}"
        );
    }
    for query in list(&queries["knn"]) {
        let found = positions.nearest(place(query), query["k"].as_u64().expect("k") as usize);
        let wanted = list(&query["result"]);
        assert_eq!(found.len(), wanted.len(), "{query}");
        for (found, wanted) in found.iter().zip(wanted) {
            let (found, wanted) = (
                found.distance_m.expect("a distance"),
                wanted[1].as_f64().expect("a distance"),
            );
            assert!(
                (found - wanted).abs() <= wanted * BAND + 0.01,
                "{query}: {found} {wanted}"
            );
        }
    }
    for query in list(&queries["within"]) {
        agree(
            devices(positions.within(place(query), query["radius_m"].as_f64().expect("metres"))),
            query,
        );
    }
    for query in list(&queries["bbox"]) {
        let side = |index: usize| query["bbox"][index].as_f64().expect("degrees");
        agree(
            devices(positions.in_box(side(0), side(1), side(2), side(3))),
            query,
        );
    }
    let listed = list(&queries["in_fence"]);
    for fence in case.fences.iter() {
        let found: BTreeSet<String> = devices(positions.in_fence(fence));
        match listed.iter().find(|query| query["fence"] == fence.id()) {
            Some(query) => agree(found, query),
            None => assert!(found.is_empty(), "{}: {found:?}", fence.id()),
        }
    }
}
