//! Every mistake in a fence is refused, with its place.

use meridian_geo_engine::{Fence, split_collection};

fn error(geometry: &str, properties: &str) -> String {
    let text = format!(
        r#"{{"type":"Feature","id":"f","properties":{{{properties}}},"geometry":{geometry}}}"#
    );
    Fence::from_geojson(&text, 1)
        .expect_err("a mistake")
        .to_string()
}

fn polygon(coordinates: &str) -> String {
    format!(r#"{{"type":"Polygon","coordinates":{coordinates}}}"#)
}

#[test]
fn geometry_mistakes_are_placed() {
    let hole = "[[0,0],[9,0],[9,9],[0,9],[0,0]],[[1,1],[2,1],[2,2],[1,2],[1,1.5]]";
    for (geometry, properties, message) in [
        (
            polygon(&format!("[{hole}]")),
            "",
            "/geometry/coordinates/1/4: the ring is not closed",
        ),
        (
            polygon("[[[0,0],[9,9],[9,0],[0,8],[0,0]]]"),
            "",
            "/geometry/coordinates/0/0: the edge that begins here crosses the edge that begins at /geometry/coordinates/0/2",
        ),
        (
            polygon("[[[0,0],[9,0],[9,91],[0,0]]]"),
            "",
            "/geometry/coordinates/0/2: latitude 91",
        ),
        (
            polygon("[[[0,0],[9,0],[\"9\",9],[0,0]]]"),
            "",
            "/geometry/coordinates/0/2: expected a position",
        ),
        (
            polygon("[[[0,0],[1,1],[2,2],[0,0]]]"),
            "",
            "/geometry/coordinates/0: the ring has no area",
        ),
        (
            polygon("[]"),
            "",
            "/geometry/coordinates: expected an array of rings",
        ),
        (
            polygon(&format!("[[{}]]", vec!["[0,0]"; 10_001].join(","))),
            "",
            "/geometry/coordinates/0: a ring may have 10000",
        ),
        (
            r#"{"type":"Point","coordinates":[1,2]}"#.into(),
            "",
            "/properties/radius_m: missing",
        ),
        (
            r#"{"type":"Point","coordinates":[1,2]}"#.into(),
            r#""radius_m":-1"#,
            "/properties/radius_m: -1 is not between",
        ),
        (
            r#"{"type":"LineString","coordinates":[[1,2]]}"#.into(),
            r#""buffer_m":5"#,
            "/geometry/coordinates: expected two",
        ),
        (
            r#"{"type":"GeometryCollection","geometries":[]}"#.into(),
            "",
            "/geometry/type: expected Polygon",
        ),
        (
            r#"{"type":"Point","coordinates":[NaN,2]}"#.into(),
            "",
            ": not JSON",
        ),
        (
            r#"{"type":"Point","coordinates":[1,2]}"#.into(),
            r#""radius_m":5,"min_samples":0"#,
            "/properties/min_samples",
        ),
        (
            r#"{"type":"Point","coordinates":[1,2]}"#.into(),
            r#""radius_m":5,"devices":["a",1]"#,
            "/properties/devices/1",
        ),
    ] {
        let found = error(&geometry, properties);
        assert!(found.starts_with(message), "{found}\nexpected {message}");
    }
}

#[test]
fn collections_are_all_or_nothing() {
    let good = |id: &str| {
        format!(
            r#"{{"type":"Feature","properties":{{"id":"{id}","radius_m":5, "own":[1]}},"geometry":{{"type":"Point","coordinates":[1,2]}}}}"#
        )
    };
    let collection = |features: &[String]| {
        format!(
            r#"{{"type":"FeatureCollection","features":[{}]}}"#,
            features.join(",")
        )
    };
    let split = split_collection(&collection(&[good("a"), good("b")])).expect("two fences");
    assert_eq!(
        split,
        [("a".to_owned(), good("a")), ("b".to_owned(), good("b"))],
        "the text is kept as it came"
    );
    let error = |features: &[String]| {
        split_collection(&collection(features))
            .expect_err("a mistake")
            .to_string()
    };
    assert!(error(&[good("a"), good("b/c")]).starts_with("/features/1/properties/id: an id is"));
    assert_eq!(
        error(&[good("a"), good("a")]),
        "/features/1: the id \"a\" is that of /features/0 too"
    );
    assert!(error(&[good("a"), "{}".into()]).starts_with("/features/1/type: expected"));
}
