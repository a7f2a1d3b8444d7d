//! The HTTP API and the command line, on the real binary.

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::Broker;

/// Status and body.
fn call(broker: &Broker, method: &str, path: &str, body: &str) -> (u16, Value) {
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(broker.api(path))
        .header("Content-Type", "application/json")
        .body(body.to_owned())
        .unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent.run(request).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    (
        response.status().as_u16(),
        serde_json::from_str(&text).unwrap_or(Value::Null),
    )
}

fn meridian(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn circle(id: &str, lon: f64) -> Value {
    json!({"type": "Feature", "id": id, "properties": {"radius_m": 500, "name": id, "colour": "red"},
        "geometry": {"type": "Point", "coordinates": [lon, 60.17]}})
}

#[test]
fn fences_are_put_given_back_as_they_were_and_survive_a_kill() {
    let mut broker = Broker::start("");
    assert_eq!(
        call(&broker, "PUT", "fences/a", &circle("a", 24.94).to_string()).0,
        201
    );
    assert_eq!(
        call(&broker, "PUT", "fences/a", &circle("a", 24.95).to_string()).0,
        200
    );
    assert_eq!(
        call(&broker, "GET", "fences/a", "").1,
        circle("a", 24.95),
        "unknown properties are kept"
    );
    broker.kill_and_restart();
    assert_eq!(
        call(&broker, "GET", "fences", "").1["features"],
        json!([circle("a", 24.95)])
    );
    assert_eq!(call(&broker, "DELETE", "fences/a", "").0, 204);
    assert_eq!(call(&broker, "GET", "fences/a", "").0, 404);
}

#[test]
fn a_wrong_fence_is_refused_with_the_place_of_the_mistake() {
    let broker = Broker::start("");
    let ring = |ring: Value| {
        json!({"type": "Feature", "id": "x", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}).to_string()
    };
    let unclosed = ring(json!([[0, 0], [1, 0], [1, 1], [0, 1]]));
    let crossing = ring(json!([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]));
    let outside = ring(json!([[0, 0], [181, 0], [1, 1], [0, 0]]));
    for (body, place) in [
        (unclosed, "/geometry/coordinates/0"),
        (crossing, "/geometry/coordinates/0"),
        (outside, "/geometry/coordinates/0/1"),
    ] {
        let (status, problem) = call(&broker, "PUT", "fences/x", &body);
        assert_eq!(status, 422);
        assert!(
            problem["detail"].as_str().unwrap().contains(place),
            "{problem}"
        );
    }
    let both = json!({"type": "FeatureCollection", "features": [circle("good", 1.0), {"type": "Feature", "id": "bad", "properties": {}, "geometry": null}]});
    let (status, problem) = call(&broker, "PUT", "fences", &both.to_string());
    assert_eq!(
        (status, problem["field"].as_str()),
        (422, Some("/features/1"))
    );
    assert_eq!(
        call(&broker, "GET", "fences", "").1["features"],
        json!([]),
        "all or nothing"
    );
}

#[test]
fn positions_are_found_by_id_nearness_radius_box_and_fence() {
    let broker = Broker::start("[sharding]\nregions = [\"hel\"]\n");
    call(
        &broker,
        "PUT",
        "fences/centre",
        &circle("centre", 24.94).to_string(),
    );
    for (device, region, lon) in [
        ("a", "hel", 24.94),
        ("b", "hel", 24.96),
        ("c", "elsewhere", 25.5),
    ] {
        let fix = json!({"ts": 1_700_000_000_000_u64, "lat": 60.17, "lon": lon}).to_string();
        let publish =
            json!({"topic": format!("gps/{region}/{device}/position"), "payload": fix, "qos": 1});
        assert_eq!(
            call(&broker, "POST", "publish", &publish.to_string()).0,
            204
        );
    }
    let devices = |path: &str| -> Vec<String> {
        let (status, answer) = call(&broker, "GET", path, "");
        assert_eq!(status, 200, "{answer}");
        answer["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|found| found["device"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(devices("positions?near=24.95,60.17&limit=2").len(), 2);
    assert_eq!(devices("positions?near=25.4,60.17&limit=1"), ["c"]);
    assert_eq!(
        devices("positions?near=24.94,60.17&radius_m=2000"),
        ["a", "b"]
    );
    assert_eq!(devices("positions?bbox=24.95,60,26,61"), ["b", "c"]);
    assert_eq!(devices("positions?fence=centre"), ["a"]);
    assert_eq!(call(&broker, "GET", "positions/a", "").1["lon"], 24.94);
    assert_eq!(call(&broker, "GET", "positions/nobody", "").0, 404);
    for wrong in [
        "positions",
        "positions?near=x",
        "positions?near=1,2&limit=0",
        "positions?nea=1,2",
        "positions?fence=none",
    ] {
        assert!(
            matches!(call(&broker, "GET", wrong, "").0, 404 | 422),
            "{wrong}"
        );
    }
    let alerts = call(&broker, "GET", "alerts?since=0", "").1;
    assert_eq!(alerts["data"][0]["type"], "geofenceEnter");
    let api = format!("http://127.0.0.1:{}", broker.http);
    let (code, out, _) = meridian(&[
        "position",
        "near",
        "24.94,60.17",
        "--limit",
        "1",
        "--api",
        &api,
    ]);
    assert!(code == 0 && out.starts_with("a\thel\t"), "{out}");
    let (code, out, _) = meridian(&["fence", "list", "--json", "--api", &api]);
    assert!(
        code == 0 && serde_json::from_str::<Value>(&out).unwrap()["features"][0]["id"] == "centre"
    );
}

#[test]
fn a_request_of_another_origin_changes_nothing() {
    let broker = Broker::start("");
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let response = agent
        .delete(broker.api("clients/x"))
        .header("Origin", "http://evil.example")
        .call()
        .unwrap();
    assert_eq!(response.status(), 403);
}

#[test]
fn the_command_line_says_what_is_wrong_and_exits_accordingly() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.toml");
    std::fs::write(
        &file,
        "[geo]\nmin_distanze = \"50m\"\n[limits]\nmax_inflight = 0\n",
    )
    .unwrap();
    let (code, out, _) = meridian(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(
        out.contains("geo.min_distanze: is no key; did you mean geo.min_distance?")
            && out.contains("limits.max_inflight"),
        "{out}"
    );
    std::fs::write(&file, "[geo]\nmin_distance = \"50m\"\n").unwrap();
    assert_eq!(meridian(&["config", "check", file.to_str().unwrap()]).0, 0);
    assert_eq!(meridian(&["nonsense"]).0, 2);
    let (code, _, error) = meridian(&["fence", "list", "--api", "http://127.0.0.1:1"]);
    assert!(
        code == 1 && error.contains("is a node running there?"),
        "{error}"
    );
    assert!(meridian(&["--version"]).1.starts_with("meridian "));
}

#[test]
fn two_nodes_do_not_share_a_data_directory() {
    let broker = Broker::start("");
    let data = broker.folder.path().join("data");
    let output = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .arg("serve")
        .env("MERIDIAN__NODE__DATA_DIR", data)
        .env("MERIDIAN__LISTENERS__TCP__BIND", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("in use by another process"), "{error}");
}
