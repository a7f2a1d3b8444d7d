//! A real broker process, and the oracle's expected events.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by several test binaries, each of which uses a part"
)]

pub mod client;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/geo")
}

/// `meridian serve` in a folder of its own, on free ports of loopback. Killed when dropped.
pub struct Broker {
    pub folder: tempfile::TempDir,
    pub mqtt: u16,
    pub http: u16,
    child: Child,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Broker {
    /// `more` is added to the configuration.
    pub fn start(more: &str) -> Broker {
        let folder = tempfile::tempdir().unwrap();
        let (mqtt, http) = (free_port(), free_port());
        let config = format!(
            "[node]\ndata_dir = {data:?}\n[listeners.tcp]\nbind = \"127.0.0.1:{mqtt}\"\n\
             [listeners.http]\nbind = \"127.0.0.1:{http}\"\n{more}",
            data = folder.path().join("data"),
        );
        std::fs::write(folder.path().join("meridian.toml"), config).unwrap();
        let child = spawn(folder.path());
        let broker = Broker {
            folder,
            mqtt,
            http,
            child,
        };
        broker.wait_until_ready();
        broker
    }

    /// Node `id` of a cluster that nodes of `addresses` found; not waited for.
    fn start_node(id: usize, addresses: &[String], more: &str) -> Broker {
        let folder = tempfile::tempdir().unwrap();
        let (mqtt, http) = (free_port(), free_port());
        let config = format!(
            "[node]\nid = {id}\ndata_dir = {data:?}\n[listeners.tcp]\nbind = \"127.0.0.1:{mqtt}\"\n\
             [listeners.http]\nbind = \"127.0.0.1:{http}\"\n[cluster]\nname = \"test\"\nbind = {own:?}\n\
             seeds = {addresses:?}\nbootstrap = [{first:?}]\n{more}",
            data = folder.path().join("data"),
            own = addresses[id - 1],
            first = addresses[0],
        );
        std::fs::write(folder.path().join("meridian.toml"), config).unwrap();
        let child = spawn(folder.path());
        Broker {
            folder,
            mqtt,
            http,
            child,
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again on the same data; not waited for.
    pub fn restart(&mut self) {
        self.child = spawn(self.folder.path());
    }

    /// SIGSTOP, or SIGCONT.
    pub fn pause(&self, pause: bool) {
        let id = rustix::process::Pid::from_child(&self.child);
        let signal = if pause {
            rustix::process::Signal::STOP
        } else {
            rustix::process::Signal::CONT
        };
        rustix::process::kill_process(id, signal).unwrap();
    }

    pub fn post(&self, path: &str) -> u16 {
        let response = ureq::post(self.api(path))
            .config()
            .http_status_as_error(false)
            .build()
            .send_empty()
            .unwrap();
        response.status().as_u16()
    }

    pub fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if ureq::get(format!("http://127.0.0.1:{}/readyz", self.http))
                .call()
                .is_ok()
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the broker was not ready in time: {}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end by itself.
    pub fn wait_for_end(&mut self, wait: Duration) -> Option<i32> {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// `kill -9`, and start again on the same data.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path());
        self.wait_until_ready();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for the process to end.
    pub fn wait_until_stopped(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the broker did not stop in time: {}", self.log());
    }

    pub fn api(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/api/v1/{path}", self.http)
    }

    pub fn get(&self, path: &str) -> Value {
        let text = ureq::get(self.api(path))
            .call()
            .unwrap()
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_string()
            .unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Puts all fences of the named files, as one collection.
    pub fn put_fences(&self, files: &[&str]) {
        let mut features = Vec::new();
        for file in files {
            let text =
                std::fs::read_to_string(testdata().join("fences").join(format!("{file}.geojson")))
                    .unwrap();
            let collection: Value = serde_json::from_str(&text).unwrap();
            features.extend(collection["features"].as_array().unwrap().iter().cloned());
        }
        let body =
            serde_json::json!({ "type": "FeatureCollection", "features": features }).to_string();
        let mut response = ureq::put(self.api("fences"))
            .config()
            .http_status_as_error(false)
            .build()
            .header("Content-Type", "application/json")
            .send(body)
            .unwrap();
        assert!(
            response.status().is_success(),
            "{}",
            response.body_mut().read_to_string().unwrap()
        );
    }
}

/// Three nodes that replicate everything, on loopback.
pub struct Cluster {
    pub nodes: Vec<Broker>,
}

impl Cluster {
    /// `more` is added to the configuration of each.
    pub fn start(count: usize, more: &str) -> Cluster {
        let addresses: Vec<String> = (0..count)
            .map(|_| format!("127.0.0.1:{}", free_port()))
            .collect();
        let nodes = (1..=count)
            .map(|id| Broker::start_node(id, &addresses, more))
            .collect();
        let cluster = Cluster { nodes };
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until every node is ready and every group has all of them as voters, and the leads are spread.
    pub fn wait_until_whole(&self) {
        let count = self.nodes.len();
        self.nodes.iter().for_each(Broker::wait_until_ready);
        self.until("every group to have all voters", |cluster| {
            cluster.nodes.iter().all(|node| {
                let nodes = node.get("nodes");
                let all_up = nodes["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|node| node["up"] == true);
                let shards = node.get("shards");
                let whole = |shard: &Value| {
                    shard["voters"].as_object().unwrap().len() == count.min(3)
                        && shard["leader"].is_u64()
                        && shard["joint"] == false
                };
                all_up.count() == count && shards["data"].as_array().unwrap().iter().all(whole)
            })
        });
    }

    pub fn until(&self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !is_so(self) {
            if Instant::now() > deadline {
                let logs: Vec<String> = self.nodes.iter().map(Broker::log).collect();
                panic!("waited in vain for {what}: {}", logs.join("\n==\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Shard to the node that leads it, as `of` sees it.
    pub fn leads(&self, of: usize) -> BTreeMap<String, u64> {
        let shards = self.nodes[of].get("shards");
        let shards = shards["data"].as_array().unwrap();
        let lead = |shard: &Value| {
            let name = shard["shard"].as_str().unwrap().to_owned();
            (name, shard["leader"].as_u64().unwrap_or(0))
        };
        shards.iter().map(lead).collect()
    }

    /// The place in `nodes` of the one that leads `shard`, as `of` sees it.
    pub fn leader_of(&self, shard: &str, of: usize) -> Option<usize> {
        let shards = self.nodes[of].get("shards");
        let shards = shards["data"].as_array().unwrap();
        let found = shards.iter().find(|found| found["shard"] == shard)?;
        Some(usize::try_from(found["leader"].as_u64()?).unwrap() - 1)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn spawn(folder: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(["serve", "-c"])
        .arg(folder.join("meridian.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A self-signed certificate of `localhost` that expires after `lifetime`: its folder, and the paths of certificate and key.
pub fn certificate(lifetime: Duration) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_after = (std::time::SystemTime::now() + lifetime).into();
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&pair).unwrap();
    let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&cert, certificate.pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    (folder, cert, key)
}

/// One row of a trace as a payload, and its device.
pub fn read_trace(name: &str) -> Vec<(String, String)> {
    let path = testdata().join("traces").join(format!("{name}.csv.gz"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let names = ["ts", "lat", "lon", "speed_mps", "course_deg", "accuracy_m"];
        let fields: Vec<String> = names
            .iter()
            .zip(&cells[1..])
            .filter(|(_, cell)| !cell.is_empty())
            .map(|(name, cell)| format!("{name:?}:{cell}"))
            .collect();
        (cells[0].to_owned(), format!("{{{}}}", fields.join(",")))
    };
    text.lines().skip(1).map(row).collect()
}

pub fn mqtt_options(id: &str, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options
        .set_clean_session(false)
        .set_keep_alive(Duration::from_secs(20))
        .set_inflight(100);
    options.set_max_packet_size(1 << 20, 1 << 20);
    options
}

/// Publishes a trace in its order; comes back when everything is acknowledged. Reconnects for ever.
pub async fn publish_trace(trace: &str, region: &str, port: u16, sent: Arc<AtomicUsize>) {
    let rows = read_trace(trace);
    let total = rows.len();
    let (client, mut events) =
        AsyncClient::new(mqtt_options(&format!("publisher-{trace}"), port), 100);
    let region = region.to_owned();
    let feeder = tokio::spawn(async move {
        for (device, payload) in rows {
            let topic = format!("gps/{region}/{device}/position");
            client
                .publish(topic, QoS::AtLeastOnce, false, payload)
                .await
                .unwrap();
        }
        // Alive until all is acknowledged.
        client
    });
    let mut acknowledged = 0;
    while acknowledged < total {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                acknowledged += 1;
                sent.store(acknowledged, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    feeder.await.unwrap();
}

/// (device, fence) to (kind, ts), as the broker said them.
pub type Events = BTreeMap<(String, String), BTreeSet<(String, i64)>>;

/// Adds a geofence alert; others are no business of the oracle's. Whether it is one, and new.
pub fn add_alert(events: &mut Events, alert: &Value) -> bool {
    let kind = match alert["type"].as_str() {
        Some("geofenceEnter") => "enter",
        Some("geofenceExit") => "exit",
        Some("geofenceDwell") => "dwell",
        _ => return false,
    };
    let key = (
        alert["device"].as_str().unwrap().to_owned(),
        alert["fence"]["id"].as_str().unwrap().to_owned(),
    );
    events
        .entry(key)
        .or_default()
        .insert((kind.to_owned(), alert["ts"].as_i64().unwrap()))
}

fn read_expected(name: &str) -> Value {
    let plain = testdata()
        .join("expected")
        .join(format!("{name}.events.json"));
    if plain.exists() {
        return serde_json::from_reader(std::io::BufReader::new(File::open(plain).unwrap()))
            .unwrap();
    }
    let packed = testdata()
        .join("expected")
        .join(format!("{name}.events.json.gz"));
    serde_json::from_reader(flate2::read::GzDecoder::new(File::open(packed).unwrap())).unwrap()
}

/// Everything that is missing, unexpected or out of order, with the oracle's tolerances (SEMANTICS §5).
pub fn differences(name: &str, got: &Events) -> Vec<String> {
    let expected = read_expected(name);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut wanted: Events = Events::new();
    for event in expected["events"].as_array().unwrap() {
        let key = (text(&event[0]).unwrap(), text(&event[1]).unwrap());
        wanted
            .entry(key)
            .or_default()
            .insert((text(&event[2]).unwrap(), event[3].as_i64().unwrap()));
    }
    let mut left = got.clone();
    let mut wrong = Vec::new();
    for flex in expected["flex"].as_array().unwrap() {
        let key = (text(&flex[0]).unwrap(), text(&flex[1]).unwrap());
        let (from, to) = (flex[4].as_i64().unwrap(), flex[5].as_i64().unwrap());
        let Some(events) = left.get_mut(&key) else {
            if flex[2] != flex[3] && !flex[3].is_null() {
                wrong.push(format!("{key:?}: nothing within {from}..{to}"));
            }
            continue;
        };
        let span: Vec<(String, i64)> = events
            .iter()
            .filter(|(kind, ts)| kind != "dwell" && (from..=to).contains(ts))
            .cloned()
            .collect();
        for event in &span {
            events.remove(event);
        }
        // Expected ones within the span are the oracle's own choice among equals.
        if let Some(wanted) = wanted.get_mut(&key) {
            wanted.retain(|(kind, ts)| kind == "dwell" || !(from..=to).contains(ts));
        }
        let mut by_time = span.clone();
        by_time.sort_by_key(|(_, ts)| *ts);
        let inside = |state: &Value| {
            state
                .as_bool()
                .or_else(|| state.as_str().map(|word| word == "in"))
        };
        let mut state = inside(&flex[2]).unwrap_or(false);
        for (kind, ts) in &by_time {
            let enters = kind == "enter";
            if enters == state {
                wrong.push(format!("{key:?}: {kind} at {ts} does not alternate"));
            }
            state = enters;
        }
        if inside(&flex[3]).is_some_and(|after| after != state) {
            wrong.push(format!(
                "{key:?}: ends on the wrong side within {from}..{to}"
            ));
        }
    }
    for flex in expected["dwell_flex"].as_array().into_iter().flatten() {
        let key = (text(&flex[0]).unwrap(), text(&flex[1]).unwrap());
        let (from, to) = (flex[2].as_i64().unwrap(), flex[3].as_i64().unwrap());
        for events in [left.get_mut(&key), wanted.get_mut(&key)]
            .into_iter()
            .flatten()
        {
            events.retain(|(kind, ts)| kind != "dwell" || !(from..=to).contains(ts));
        }
    }
    let empty = BTreeSet::new();
    let keys: BTreeSet<_> = wanted.keys().chain(left.keys()).cloned().collect();
    for key in keys {
        let (wanted, got) = (
            wanted.get(&key).unwrap_or(&empty),
            left.get(&key).unwrap_or(&empty),
        );
        wrong.extend(
            wanted
                .difference(got)
                .map(|event| format!("{key:?}: missing {event:?}")),
        );
        wrong.extend(
            got.difference(wanted)
                .map(|event| format!("{key:?}: unexpected {event:?}")),
        );
    }
    wrong
}
