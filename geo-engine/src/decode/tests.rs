use super::*;

fn one(text: &str) -> Result<Fix, FixError> {
    decode_json(text.as_bytes()).expect("a payload").remove(0)
}

#[test]
fn the_contracts_example() {
    let fix = one(
        r#"{"ts":1764000000123,"lat":40.7128,"lon":-74.006,"speed_mps":12.4,"course_deg":87,"accuracy_m":6}"#,
    );
    let fix = fix.expect("a fix");
    assert_eq!(
        (fix.ts_ms, fix.at.lat_e7(), fix.at.lon_e7()),
        (1_764_000_000_123, 407_128_000, -740_060_000)
    );
    assert_eq!(
        (fix.speed_mps, fix.course_deg, fix.accuracy_m),
        (Some(12.4), Some(87.0), Some(6.0))
    );
}

#[test]
fn all_ways_to_write_a_time() {
    for ts in [
        "1764000000123",
        "1764000000.123",
        "\"2025-11-24T16:00:00.123Z\"",
    ] {
        assert_eq!(
            one(&format!(r#"{{"ts":{ts},"lat":0,"lon":0}}"#))
                .expect("a fix")
                .ts_ms,
            1_764_000_000_123,
            "{ts}"
        );
    }
}

#[test]
fn own_tracks_and_geojson() {
    let fix = one(
        r#"{"_type":"location","tst":1764000000,"lat":1,"lon":2,"vel":36,"cog":90,"acc":5,"alt":3,"batt":77}"#,
    );
    let fix = fix.expect("a fix");
    assert_eq!(
        (fix.ts_ms, fix.speed_mps, fix.battery_pct),
        (1_764_000_000_000, Some(10.0), Some(77.0))
    );
    let fix = one(
        r#"{"type":"Feature","geometry":{"type":"Point","coordinates":[2,1,30]},"properties":{"ts":5,"attrs":{"a":[1]}}}"#,
    );
    let fix = fix.expect("a fix");
    assert_eq!(
        (fix.at.lat_e7(), fix.alt_m, fix.attrs.as_deref()),
        (10_000_000, Some(30.0), Some(r#"{"a":[1]}"#))
    );
}

#[test]
fn what_is_wrong_is_named() {
    use FixFault::{Malformed, Missing, OutOfRange};
    for (text, field, fault) in [
        (r#"{"lat":1,"lon":1}"#, "ts", Missing),
        (r#"{"ts":1,"lon":1}"#, "lat", Missing),
        (r#"{"ts":1,"lat":"52.5","lon":1}"#, "lat", Malformed),
        (r#"{"ts":1,"lat":91,"lon":1}"#, "lat", OutOfRange),
        (r#"{"ts":1,"lat":1,"lon":-180.5}"#, "lon", OutOfRange),
        (r#"{"ts":-1,"lat":1,"lon":1}"#, "ts", OutOfRange),
        (
            r#"{"ts":"9999-12-31T23:59:59Z","lat":1,"lon":1}"#,
            "ts",
            OutOfRange,
        ),
        (
            r#"{"ts":253402300799999,"lat":1,"lon":1}"#,
            "ts",
            OutOfRange,
        ),
        (r#"{"ts":1,"lat":1e999,"lon":1}"#, "fix", Malformed),
        (
            r#"{"ts":1,"lat":1,"lon":1,"speed_mps":-1}"#,
            "speed_mps",
            OutOfRange,
        ),
        (
            r#"{"ts":1,"lat":1,"lon":1,"attrs":"x"}"#,
            "attrs",
            Malformed,
        ),
        (r#"{"_type":"waypoint"}"#, "_type", Malformed),
    ] {
        assert_eq!(one(text), Err(FixError { field, fault }), "{text}");
    }
    assert_eq!(
        one(r#"{"ts":1,"lat":1e999,"lon":1}"#)
            .expect_err("refused")
            .to_string(),
        "malformed: fix"
    );
}

#[test]
fn bombs_are_errors() {
    let deep = "[".repeat(100_000);
    assert_eq!(decode_json(deep.as_bytes()), Err(DecodeError::Malformed));
    let nested = format!(
        r#"{{"ts":1,"lat":1,"lon":1,"attrs":{}1{}}}"#,
        r#"{"a":"#.repeat(10_000),
        "}".repeat(10_000)
    );
    assert!(matches!(
        decode_json(nested.as_bytes()).as_deref(),
        Ok([Err(FixError { field: "fix", .. })])
    ));
    let digits = format!(r#"{{"ts":1,"lat":{},"lon":1}}"#, "9".repeat(10_000));
    assert!(matches!(
        decode_json(digits.as_bytes()).as_deref(),
        Ok([Err(_)])
    ));
    let many = format!("[{}]", vec!["{}"; 101].join(","));
    assert_eq!(
        decode_json(many.as_bytes()),
        Err(DecodeError::TooMany { found: 101 })
    );
    for text in [
        &b"NaN"[..],
        b"",
        b"\xff\xfe",
        b"12",
        b"\"x\"",
        b"{\"ts\":NaN}",
    ] {
        assert_eq!(decode_json(text), Err(DecodeError::Malformed));
    }
}

#[test]
fn a_bad_fix_leaves_the_others() {
    let read = decode_json(
        br#"[{"ts":1,"lat":1,"lon":1},{"ts":1,"lat":1e999,"lon":1},7,{"ts":2,"lat":1,"lon":1}]"#,
    );
    let good: Vec<bool> = read.expect("an array").iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, false, true]);
}
