//! The HTTP API and the command line, on the real binary.

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

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
        (422, Some("/features/1/geometry"))
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

/// A problem document's status and field; panics if the answer is none.
fn problem(broker: &Broker, method: &str, path: &str, body: &str) -> (u16, String) {
    let (status, answer) = call(broker, method, path, body);
    assert_eq!(answer["status"], status, "{method} {path}: {answer}");
    for member in ["type", "title", "detail", "field"] {
        assert!(answer[member].is_string(), "{method} {path}: {answer}");
    }
    (status, answer["field"].as_str().unwrap().to_owned())
}

/// Writes `text` as it is, and reads until the other side closes or nothing comes for `patience`.
fn raw(port: u16, text: &str, patience: Duration) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status_with_host(port: u16, path: &str, host: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    let answer = raw(port, &request, Duration::from_secs(30));
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{path} {host:?}: {answer:?}"))
}

#[test]
fn a_body_that_is_no_object_is_a_problem_and_no_panic() {
    let broker = Broker::start("");
    for (method, path) in [("PUT", "fences/x"), ("PUT", "fences"), ("POST", "publish")] {
        for body in ["[]", "5", "\"a\"", "null", "true"] {
            assert_eq!(
                problem(&broker, method, path, body),
                (422, "/".to_owned()),
                "{method} {path} {body}"
            );
        }
        for body in ["", "{", "nonsense", "{\"a\":1}}"] {
            assert_eq!(problem(&broker, method, path, body).0, 400, "{path} {body}");
        }
    }
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

#[test]
fn a_wrong_value_is_told_with_its_place_and_with_what_was_found() {
    let broker = Broker::start("");
    let feature = |change: &dyn Fn(&mut Value)| {
        let mut feature = circle("x", 24.94);
        change(&mut feature);
        feature
    };
    for (feature, field, found) in [
        (
            feature(&|f| f["geometry"] = json!([])),
            "/geometry",
            "an array",
        ),
        (
            feature(&|f| f["properties"] = json!("a")),
            "/properties",
            "a string",
        ),
        (
            feature(&|f| f["properties"]["radius_m"] = json!("far")),
            "/properties/radius_m",
            "a string",
        ),
        (
            feature(&|f| f["geometry"]["coordinates"] = json!({"lon": 1})),
            "/geometry/coordinates",
            "an object",
        ),
        (feature(&|f| f["id"] = json!(true)), "/id", "true"),
        (
            feature(&|f| f["type"] = json!("Fence")),
            "/type",
            "a string",
        ),
    ] {
        let (status, answer) = call(&broker, "PUT", "fences/x", &feature.to_string());
        assert_eq!(
            (status, answer["field"].as_str()),
            (422, Some(field)),
            "{answer}"
        );
        assert!(
            answer["detail"].as_str().unwrap().contains(found),
            "{answer}"
        );
        if field != "/id" {
            let all = json!({"type": "FeatureCollection", "features": [circle("y", 1.0), feature]});
            let (status, answer) = call(&broker, "PUT", "fences", &all.to_string());
            let field = format!("/features/1{field}");
            assert_eq!(
                (status, answer["field"].as_str()),
                (422, Some(field.as_str())),
                "{answer}"
            );
            assert!(
                answer["detail"].as_str().unwrap().contains(found),
                "{answer}"
            );
        }
    }
    for (body, field, found) in [
        (json!({"topic": 5}), "/topic", "integer `5`"),
        (
            json!({"topic": "a", "payload": ["x"]}),
            "/payload",
            "sequence",
        ),
        (json!({"topic": "a", "qos": "1"}), "/qos", "string"),
        (json!({"topic": "a", "retain": 1}), "/retain", "integer `1`"),
    ] {
        let (status, answer) = call(&broker, "POST", "publish", &body.to_string());
        assert_eq!(
            (status, answer["field"].as_str()),
            (422, Some(field)),
            "{answer}"
        );
        assert!(
            answer["detail"].as_str().unwrap().contains(found),
            "{answer}"
        );
    }
}

#[test]
fn parameters_out_of_range_are_problems_that_name_them() {
    let broker = Broker::start("");
    let u64_max = u64::MAX;
    let near_max = u64_max - 1;
    for (query, field) in [
        (format!("bbox=0,0,1,1&cursor={u64_max}"), "cursor"),
        (format!("bbox=0,0,1,1&cursor={near_max}"), "cursor"),
        ("bbox=0,0,1,1&cursor=-1".to_owned(), "cursor"),
        ("bbox=0,0,1,1&cursor=x".to_owned(), "cursor"),
        ("near=0,0&cursor=5".to_owned(), "cursor"),
        ("near=0,0&limit=0".to_owned(), "limit"),
        ("near=0,0&limit=10001".to_owned(), "limit"),
        ("near=0,0&limit=-1".to_owned(), "limit"),
        ("near=0,0&limit=18446744073709551616".to_owned(), "limit"),
        ("near=NaN,0".to_owned(), "near"),
        ("near=0,inf".to_owned(), "near"),
        ("near=0,90.1".to_owned(), "near"),
        ("near=0,-90.1".to_owned(), "near"),
        ("near=180.1,0".to_owned(), "near"),
        ("near=1".to_owned(), "near"),
        ("near=1,2,3".to_owned(), "near"),
        ("near=0,0&radius_m=-1".to_owned(), "radius_m"),
        ("near=0,0&radius_m=NaN".to_owned(), "radius_m"),
        ("near=0,0&radius_m=inf".to_owned(), "radius_m"),
        ("near=0,0&radius_m=1e9".to_owned(), "radius_m"),
        ("radius_m=5".to_owned(), "radius_m"),
        ("bbox=0,-91,1,1".to_owned(), "bbox"),
        ("bbox=0,0,1,91".to_owned(), "bbox"),
        ("bbox=-181,0,1,1".to_owned(), "bbox"),
        ("bbox=0,0,181,1".to_owned(), "bbox"),
        ("bbox=0,2,1,1".to_owned(), "bbox"),
        ("bbox=0,0,NaN,1".to_owned(), "bbox"),
        ("near=0,0&bbox=0,0,1,1".to_owned(), "bbox"),
        ("near=0,0&fence=x".to_owned(), "fence"),
        ("near=0,0&near=1,1".to_owned(), "near"),
        ("nea=0,0".to_owned(), "nea"),
        (String::new(), "near"),
    ] {
        let path = format!("positions?{query}");
        assert_eq!(
            problem(&broker, "GET", &path, ""),
            (422, field.to_owned()),
            "{path}"
        );
    }
    for (path, field) in [
        ("alerts?since=yesterday", "since"),
        ("alerts?limit=0", "limit"),
        ("alerts?cursor=18446744073709551615", "cursor"),
        ("alerts?cursor=1.2.3.x", "cursor"),
        ("clients?limit=0", "limit"),
        ("clients?limt=1", "limt"),
    ] {
        assert_eq!(
            problem(&broker, "GET", path, ""),
            (422, field.to_owned()),
            "{path}"
        );
    }
    for path in [
        format!("alerts?cursor={u64_max}.{u64_max}.{u64_max}.{u64_max}"),
        format!("positions?bbox=0,0,1,1&cursor={}", u64::from(u32::MAX)),
    ] {
        let (status, answer) = call(&broker, "GET", &path, "");
        assert_eq!(
            (status, &answer["data"]),
            (200, &json!([])),
            "beyond the end is nothing"
        );
    }
    assert_eq!(problem(&broker, "GET", "positions/%FF", "").0, 400);
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

fn publish_fix(broker: &Broker, device: &str, lon: f64, lat: f64) {
    let fix = json!({"ts": 1_700_000_000_000_u64, "lat": lat, "lon": lon}).to_string();
    let message = json!({"topic": format!("gps/x/{device}/position"), "payload": fix, "qos": 1});
    assert_eq!(call(broker, "POST", "publish", &message.to_string()).0, 204);
}

fn devices(answer: &Value) -> Vec<&str> {
    let data = answer["data"].as_array().unwrap();
    data.iter()
        .map(|found| found["device"].as_str().unwrap())
        .collect()
}

#[test]
fn a_box_with_west_above_east_crosses_the_antimeridian() {
    let broker = Broker::start("");
    for (device, lon) in [
        ("fiji", 178.5),
        ("samoa", -171.8),
        ("helsinki", 24.9),
        ("line", 180.0),
    ] {
        publish_fix(&broker, device, lon, -14.0);
    }
    let (status, across) = call(&broker, "GET", "positions?bbox=170,-20,-170,-10", "");
    assert_eq!(status, 200, "{across}");
    assert_eq!(devices(&across), ["fiji", "line", "samoa"]);
    let (_, around) = call(&broker, "GET", "positions?bbox=-170,-20,170,-10", "");
    assert_eq!(devices(&around), ["helsinki"]);
    let (_, everything) = call(&broker, "GET", "positions?bbox=-180,-90,180,90", "");
    assert_eq!(devices(&everything).len(), 4);
}

/// All pages of a list, `limit` at a time.
fn pages(broker: &Broker, path: &str, limit: usize) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    for _ in 0..1000 {
        let (status, answer) = call(broker, "GET", &format!("{path}limit={limit}{cursor}"), "");
        assert_eq!(status, 200, "{answer}");
        pages.push(answer["data"].as_array().unwrap().clone());
        match answer["meta"]["cursor"].as_str() {
            None => return pages,
            Some(next) => cursor = format!("&cursor={next}"),
        }
    }
    panic!("the list has no end");
}

#[test]
fn pages_together_are_the_whole_list_in_order_and_each_thing_once() {
    let broker = Broker::start("[sharding]\ndefault_shards = 3\n");
    call(&broker, "PUT", "fences/f", &circle("f", 24.94).to_string());
    for number in 0..25 {
        publish_fix(&broker, &format!("d{number:02}"), 24.94, 60.17);
    }
    let whole = call(&broker, "GET", "alerts", "").1["data"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(whole.len(), 25);
    let ids = |alerts: &[Value]| -> BTreeSet<String> {
        alerts
            .iter()
            .map(|alert| alert["event_id"].as_str().unwrap().to_owned())
            .collect()
    };
    for limit in [1, 7, 25, 26] {
        let pages = pages(&broker, "alerts?since=0&", limit);
        assert!(pages.iter().all(|page| page.len() <= limit));
        let all: Vec<Value> = pages.concat();
        assert_eq!(all.len(), 25, "none twice, with {limit} at a time");
        assert_eq!(
            ids(&all),
            ids(&whole),
            "none missing, with {limit} at a time"
        );
    }
    let later = call(&broker, "GET", "alerts?since=1700000000001", "").1;
    assert_eq!(later["data"], json!([]), "since is of the fix's time");
    let boxes = pages(&broker, "positions?bbox=24,60,25,61&", 10);
    assert_eq!(boxes.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
    // A page after a restart begins where the one before ended.
    let first = call(&broker, "GET", "alerts?limit=10", "").1;
    let cursor = first["meta"]["cursor"].as_str().unwrap().to_owned();
    let mut broker = broker;
    broker.kill_and_restart();
    let rest = call(&broker, "GET", &format!("alerts?cursor={cursor}"), "").1;
    let both = [
        first["data"].as_array().unwrap().clone(),
        rest["data"].as_array().unwrap().clone(),
    ];
    assert_eq!(ids(&both.concat()), ids(&whole));
}

#[test]
fn clients_are_listed_in_pages_by_their_ids() {
    let broker = Broker::start("");
    let mut clients = Vec::new();
    for number in 0..7 {
        let mut stream = TcpStream::connect(("127.0.0.1", broker.mqtt)).unwrap();
        let id = format!("c{number}");
        // CONNECT, 3.1.1, clean session.
        let mut packet = vec![0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 2];
        packet.extend_from_slice(id.as_bytes());
        stream.write_all(&packet).unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
        clients.push(stream);
    }
    let pages = pages(&broker, "clients?", 3);
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let ids: Vec<String> = pages
        .concat()
        .iter()
        .map(|client| client["client_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
    let (code, out, _) = meridian(&[
        "client",
        "list",
        "--api",
        &format!("http://127.0.0.1:{}", broker.http),
    ]);
    assert_eq!((code, out.lines().count()), (0, 8), "{out}");
}

#[test]
fn on_loopback_a_request_must_name_loopback_unless_it_bears_the_token() {
    let broker = Broker::start("[auth]\napi_token = \"secret\"\n");
    let port = broker.http;
    let paths = [
        "/api/v1/nodes",
        "/api/v1/fences",
        "/metrics",
        "/openapi.json",
    ];
    for path in paths {
        for host in [
            "localhost",
            "LocalHost:80",
            "127.0.0.1",
            "127.1.2.3:9",
            "[::1]",
            "x.localhost",
        ] {
            let header = format!("Host: {host}\r\n");
            assert_eq!(status_with_host(port, path, &header), 200, "{path} {host}");
        }
        for header in [
            "Host: evil.example\r\n",
            "Host: localhost.evil.example\r\n",
            "Host: 10.0.0.1\r\n",
            "Host: \r\n",
            "",
            "Host: localhost\r\nHost: evil.example\r\n",
            "Host: evil.example\r\nAuthorization: Bearer wrong\r\n",
        ] {
            assert_eq!(
                status_with_host(port, path, header),
                403,
                "{path} {header:?}"
            );
        }
        let header = "Host: evil.example\r\nAuthorization: Bearer secret\r\n";
        assert_eq!(status_with_host(port, path, header), 200, "{path}");
        let absolute = format!("http://evil.example{path}");
        assert_eq!(
            status_with_host(port, &absolute, "Host: localhost\r\n"),
            403,
            "{path}"
        );
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            status_with_host(port, path, "Host: evil.example\r\n"),
            200,
            "{path}"
        );
    }
    let answer = raw(
        port,
        "DELETE /api/v1/fences/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        Duration::from_secs(30),
    );
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("application/problem+json"),
        "{answer}"
    );
}

#[test]
fn half_a_request_does_not_stay_open_and_keeps_nobody_out() {
    let broker = Broker::start("");
    let begun = Instant::now();
    let halves: Vec<TcpStream> = [
        "",
        "G",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    ]
    .iter()
    .cycle()
    .take(300)
    .map(|half| {
        let mut stream = TcpStream::connect(("127.0.0.1", broker.http)).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
        stream
    })
    .collect();
    assert_eq!(
        status_with_host(broker.http, "/healthz", "Host: localhost\r\n"),
        200
    );
    for mut stream in halves {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let reset = closed
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(
            closed.is_ok() || reset,
            "{closed:?} after {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn a_head_too_large_and_a_body_too_large_are_refused() {
    let broker = Broker::start("");
    let large = "x".repeat(500_000);
    let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {large}\r\n\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", broker.http)).unwrap();
    // It may be cut off while we write.
    let _cut_off = stream.write_all(head.as_bytes());
    let mut start = [0; 12];
    if stream.read_exact(&mut start).is_ok() {
        assert_eq!(&start, b"HTTP/1.1 431");
    }
    let body = format!(
        "{{\"topic\":\"a\",\"payload\":\"{}\"}}",
        "x".repeat(2 << 20)
    );
    assert_eq!(
        problem(&broker, "POST", "publish", &body),
        (413, "/".to_owned())
    );
    let negative = "PUT /api/v1/fences HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n";
    let answer = raw(broker.http, negative, Duration::from_secs(30));
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn a_request_under_way_is_answered_when_the_node_stops() {
    let mut broker = Broker::start("");
    let body = circle("late", 24.94).to_string();
    let (first, second) = body.split_at(10);
    let mut stream = TcpStream::connect(("127.0.0.1", broker.http)).unwrap();
    let head = format!(
        "PUT /api/v1/fences/late HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{first}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // An idle one is closed at once, and shows when the node has begun to stop.
    let mut idle = TcpStream::connect(("127.0.0.1", broker.http)).unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut byte = [0; 12];
    idle.read_exact(&mut byte).unwrap();
    broker.terminate();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    stream.write_all(second.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(broker.wait_until_stopped().success(), "{}", broker.log());
    assert!(TcpStream::connect(("127.0.0.1", broker.http)).is_err());
}

#[test]
fn the_api_publishes_what_a_client_may_publish_and_no_more() {
    let broker = Broker::start("[limits]\nmax_packet = \"4KB\"\n");
    let publish = |body: Value| call(&broker, "POST", "publish", &body.to_string());
    let fits = "x".repeat(4096 - 1 - 2 - 2 - 1 - 2 - 1);
    assert_eq!(
        publish(json!({"topic": "t", "payload": fits, "qos": 1})).0,
        204
    );
    let (status, answer) = publish(json!({"topic": "t", "payload": format!("{fits}x"), "qos": 1}));
    assert_eq!(
        (status, answer["field"].as_str()),
        (413, Some("/payload")),
        "{answer}"
    );
    // 4096 bytes, in base64.
    let (status, answer) = publish(json!({"topic": "t", "payload_base64": "AAAA".repeat(1366)}));
    assert_eq!(
        (status, answer["field"].as_str()),
        (413, Some("/payload_base64")),
        "{answer}"
    );
    for (topic, status) in [
        ("", 422),
        ("a/+/b", 422),
        ("a/#", 422),
        ("a\0b", 422),
        ("$SYS/broker/uptime", 403),
        ("$share/g/a", 403),
        ("geo/x/y/position", 403),
    ] {
        let (found, answer) = publish(json!({"topic": topic, "payload": "x"}));
        assert_eq!(
            (found, answer["field"].as_str()),
            (status, Some("/topic")),
            "{topic:?} {answer}"
        );
    }
    for qos in [json!(2), json!(3), json!(-1), json!(256), json!(0.5)] {
        let (status, answer) = publish(json!({"topic": "t", "qos": qos}));
        assert_eq!(
            (status, answer["field"].as_str()),
            (422, Some("/qos")),
            "{qos} {answer}"
        );
    }
    for (body, field) in [
        (
            json!({"topic": "t", "payload": "a", "payload_base64": "AA=="}),
            "/payload",
        ),
        (
            json!({"topic": "t", "payload_base64": "!"}),
            "/payload_base64",
        ),
        (json!({"topic": "t", "payloat": "a"}), "/payloat"),
        (json!({"payload": "a"}), "/"),
    ] {
        let (status, answer) = publish(body);
        assert_eq!(
            (status, answer["field"].as_str()),
            (422, Some(field)),
            "{answer}"
        );
    }
}

#[test]
fn what_is_not_served_and_a_wrong_method_are_problems_too() {
    let broker = Broker::start("");
    let (status, answer) = call(&broker, "GET", "nothing", "");
    assert_eq!((status, &answer["status"]), (404, &json!(404)));
    let (status, answer) = call(&broker, "PATCH", "fences", "");
    assert_eq!((status, &answer["status"]), (405, &json!(405)), "{answer}");
    let options = "OPTIONS /api/v1/fences HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let allowed = raw(broker.http, options, Duration::from_secs(30)).to_lowercase();
    assert!(allowed.contains("allow: get,head,put"), "{allowed}");
}

#[test]
fn the_api_answers_as_its_document_says() {
    let broker = Broker::start("[sinks.log]\ntype = \"file\"\npath = \"events.ndjson\"\n");
    publish_fix(&broker, "d", 24.94, 60.17);
    call(&broker, "PUT", "fences/f", &circle("f", 24.94).to_string());
    let root = format!("http://127.0.0.1:{}", broker.http);
    let mut response = ureq::get(format!("{root}/openapi.json")).call().unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let text = response.body_mut().read_to_string().unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(operation) = item.get("get") else {
            continue;
        };
        let url = match path.as_str() {
            "/api/v1/positions" => format!("{root}{path}?near=24.94,60.17"),
            _ => format!(
                "{root}{}",
                path.replace("{id}", "f").replace("{device}", "d")
            ),
        };
        let mut response = ureq::get(&url).call().unwrap();
        let described = &operation["responses"][response.status().as_str()]["content"];
        let kind = response.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        let kind = kind.split(';').next().unwrap();
        assert!(
            !described[kind].is_null(),
            "{path}: {kind} is not in {described}"
        );
        asked += 1;
        // Every member that an answer has is described, and every one that is required is there.
        let Some(schema) = described[kind]["schema"].as_object() else {
            continue;
        };
        if kind == "application/json" && path != "/openapi.json" {
            let text = response.body_mut().read_to_string().unwrap();
            let answer: Value = serde_json::from_str(&text).unwrap();
            check(&document, &Value::Object(schema.clone()), &answer, path);
        }
    }
    assert!(asked >= 12, "only {asked} were asked");
}

/// Holds `value` against the part of JSON Schema that the document uses for answers.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => schema,
    };
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(
            value.get(required.as_str().unwrap()).is_some(),
            "{place} lacks {required}: {value}"
        );
    }
    if let (Some(described), Some(members)) = (schema["properties"].as_object(), value.as_object())
    {
        for (name, member) in members {
            let free = schema["additionalProperties"] == true;
            match described.get(name) {
                Some(schema) => check(document, schema, member, &format!("{place}/{name}")),
                None => assert!(free, "{place}/{name} is not described"),
            }
        }
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{place}/{at}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let right = types.contains(&kind) || kind == "integer" && types.contains(&"number");
    assert!(right, "{place} is {kind}, and not {types:?}");
}

#[test]
fn metrics_have_help_texts_and_the_promised_names() {
    let (folder, cert, key) = support::certificate(Duration::from_secs(10 * 86_400));
    let tls = support::free_port();
    let broker = Broker::start(&format!(
        "[listeners.tls]\nbind = \"127.0.0.1:{tls}\"\ncert = {cert:?}\nkey = {key:?}\n\
         [sinks.log]\ntype = \"file\"\npath = \"events.ndjson\"\n"
    ));
    let subscriber = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args([
            "sub",
            "-p",
            &broker.mqtt.to_string(),
            "-t",
            "a/#",
            "-C",
            "1",
            "-W",
            "60",
        ])
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut subscriber = subscriber.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while subscriber.try_wait().unwrap().is_none() && Instant::now() < deadline {
        let message = json!({"topic": "a/b", "payload": "x", "qos": 1}).to_string();
        assert_eq!(call(&broker, "POST", "publish", &message).0, 204);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(subscriber.wait().unwrap().code(), Some(0));
    publish_fix(&broker, "d", 24.94, 60.17);
    let metrics = ureq::get(format!("http://127.0.0.1:{}/metrics", broker.http)).call();
    let text = metrics.unwrap().body_mut().read_to_string().unwrap();
    let names = |prefix: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        lines
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("# TYPE "), names("# HELP "));
    for name in [
        "connections",
        "messages_received_total",
        "messages_sent_total",
        "publish_commit_seconds",
        "delivery_seconds",
        "positions_total",
        "fences",
        "raft_leader",
        "raft_applied_index",
        "sink_lag_events",
        "certificate_expiry_seconds",
    ] {
        assert!(
            names("# TYPE ").contains(&format!("meridian_{name}")),
            "{name} in {text}"
        );
    }
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {text}"))
            .trim()
            .parse()
            .unwrap()
    };
    assert!(value("meridian_publish_commit_seconds_count") >= 2.0);
    assert!(value("meridian_publish_commit_seconds_sum") > 0.0);
    assert!(value("meridian_delivery_seconds_count") >= 1.0);
    let left = value("meridian_certificate_expiry_seconds{listener=\"tls\"}");
    assert!((9.0 * 86_400.0..=10.0 * 86_400.0).contains(&left), "{left}");
    drop(folder);
}
