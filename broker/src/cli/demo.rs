//! `meridian demo`: a node with Helsinki's fences, and the Helsinki fleet that drives through them, in a loop.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use meridian_mqtt::packet::{QoS, Version};

use super::Outcome;
use super::client::{Client, Options};
use crate::clock::wall_ms;
use crate::config::Config;
use crate::server::Server;

const TRACE: &[u8] = include_bytes!("../../../testdata/geo/traces/helsinki_quick.csv.gz");
const FENCES: &str = include_str!("../../../testdata/geo/fences/helsinki.geojson");
const REGION: &str = "hel";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Nodes to start; this version runs one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1))]
    nodes: u32,
    /// Vehicles, each on an MQTT connection of its own; more than the trace has follow it with an offset in time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    devices: u32,
    /// How many times faster than in life
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    speed: u32,
    /// Where the demo's data is; kept between runs
    #[arg(long, default_value = "./meridian-demo-data")]
    data_dir: PathBuf,
    /// MQTT port
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// WebSocket port
    #[arg(long, default_value_t = 8083)]
    ws_port: u16,
    /// HTTP port
    #[arg(long, default_value_t = 18083)]
    http_port: u16,
}

/// One fix of a trace, without its absolute time.
#[derive(Debug, Clone)]
struct Row {
    /// Since the trace's first fix.
    after_ms: u64,
    /// The rest of the JSON object.
    fields: String,
}

pub(super) fn run(args: &DemoArgs) -> Outcome {
    super::serve::log_to_stderr(false);
    let environment = [
        (
            "MERIDIAN__NODE__DATA_DIR",
            args.data_dir.display().to_string(),
        ),
        ("MERIDIAN__SHARDING__REGIONS", REGION.to_owned()),
        (
            "MERIDIAN__LISTENERS__TCP__BIND",
            format!("127.0.0.1:{}", args.port),
        ),
        (
            "MERIDIAN__LISTENERS__WS__BIND",
            format!("127.0.0.1:{}", args.ws_port),
        ),
        (
            "MERIDIAN__LISTENERS__HTTP__BIND",
            format!("127.0.0.1:{}", args.http_port),
        ),
        // Time is compressed, so speeds are not what they were.
        ("MERIDIAN__GEO__MAX_SPEED", "off".to_owned()),
        ("MERIDIAN__SINKS__EVENTS__TYPE", "file".to_owned()),
        (
            "MERIDIAN__SINKS__EVENTS__PATH",
            args.data_dir.join("events.ndjson").display().to_string(),
        ),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    let config = Config::load(None, environment).map_err(|error| error.to_string())?;
    let vehicles = read_trace()?;
    super::runtime()?.block_on(async {
        let server = Server::start(&config)
            .await
            .map_err(|error| error.to_string())?;
        let count = put_fences(&server).await?;
        let port = server
            .address("tcp")
            .map_or(args.port, |address| address.port());
        introduce(args, port, count);
        let published = Arc::new(AtomicU64::new(0));
        let mut fleet = Vec::new();
        for number in 0..args.devices {
            fleet.push(tokio::spawn(drive(
                number,
                vehicles.clone(),
                args.speed,
                port,
                Arc::clone(&published),
            )));
        }
        let progress = tokio::spawn(progress(Arc::clone(&server.node), Arc::clone(&published)));
        super::serve::stopped().await;
        progress.abort();
        say!("\nstopping");
        fleet.iter().for_each(tokio::task::JoinHandle::abort);
        server.stop().await;
        Ok(())
    })
}

fn introduce(args: &DemoArgs, port: u16, fences: usize) {
    let (http, ws) = (args.http_port, args.ws_port);
    let data = args.data_dir.display();
    say!(
        "Meridian's demo: {devices} vehicles drive through Helsinki, {speed} times as fast as they did; {fences} fences.\n\n\
         MQTT        mqtt://127.0.0.1:{port}\n\
         WebSocket   ws://127.0.0.1:{ws}/mqtt\n\
         HTTP API    http://127.0.0.1:{http}/api/v1/   metrics http://127.0.0.1:{http}/metrics\n\
         events      {data}/events.ndjson\n\n\
         Try, in another terminal (meridian is target/debug/meridian, or where `make run` says):\n\
         \x20 meridian sub -p {port} -t 'geo/#' -v\n\
         \x20 meridian sub -p {port} -t 'geo/+/+/alert/#' -v\n\
         \x20 meridian position near 24.94,60.17 --limit 3 --api http://127.0.0.1:{http}\n\
         \x20 meridian fence list --api http://127.0.0.1:{http}\n\n\
         Ctrl-C stops it.\n",
        devices = args.devices,
        speed = args.speed,
    );
}

async fn put_fences(server: &Server) -> Result<usize, String> {
    let collection: serde_json::Value =
        serde_json::from_str(FENCES).map_err(|error| error.to_string())?;
    let features = collection["features"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let known: usize = server.node.meta.lock().fences().len();
    if known >= features.len() {
        return Ok(known);
    }
    let mut upserts = Vec::new();
    for feature in features {
        let feature_json = feature.to_string();
        let fence = meridian_geo_engine::Fence::from_geojson(&feature_json, 0)
            .map_err(|error| error.to_string())?;
        upserts.push(meridian_shard::log::FenceRecord {
            id: fence.id().to_owned(),
            feature_json,
            rev: 0,
        });
    }
    let count = upserts.len();
    let change = meridian_shard::log::PutFences {
        upserts,
        ..Default::default()
    };
    server
        .node
        .change_fences(change)
        .await
        .map_err(|error| error.to_string())?;
    Ok(count)
}

/// The trace's vehicles: device to rows in order.
fn read_trace() -> Result<Arc<BTreeMap<String, Vec<Row>>>, String> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(TRACE)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    let mut first: Option<u64> = None;
    let mut vehicles: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [device, ts, lat, lon, rest @ ..] = &cells[..] else {
            continue;
        };
        let Ok(ts) = ts.parse::<u64>() else { continue };
        let start = *first.get_or_insert(ts);
        let mut fields = format!(r#""lat":{lat},"lon":{lon}"#);
        for (name, cell) in ["speed_mps", "course_deg", "accuracy_m"].iter().zip(rest) {
            if !cell.is_empty() {
                fields.push_str(&format!(r#","{name}":{cell}"#));
            }
        }
        vehicles.entry((*device).to_owned()).or_default().push(Row {
            after_ms: ts.saturating_sub(start),
            fields,
        });
    }
    Ok(Arc::new(vehicles))
}

/// One vehicle, for ever: its fixes at their time, stamped now.
async fn drive(
    number: u32,
    vehicles: Arc<BTreeMap<String, Vec<Row>>>,
    speed: u32,
    port: u16,
    published: Arc<AtomicU64>,
) {
    let index = number as usize % vehicles.len().max(1);
    let round = number as usize / vehicles.len().max(1);
    let Some((name, rows)) = vehicles.iter().nth(index) else {
        return;
    };
    let device = if round == 0 {
        name.clone()
    } else {
        format!("{name}-{round}")
    };
    let options = Options {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        websocket: false,
        version: Version::V5,
        client_id: format!("demo-{device}"),
        clean_start: true,
        session_expiry_s: 0,
        keep_alive_s: 60,
        username: None,
        password: None,
        will: None,
    };
    let topic = format!("gps/{REGION}/{device}/position");
    tokio::time::sleep(Duration::from_millis(137 * u64::from(number) % 10_000)).await;
    loop {
        let outcome = drive_once(&options, &topic, rows, speed, &published).await;
        if let Err(error) = outcome {
            tracing::warn!(
                device,
                error,
                "A vehicle lost its connection, and connects again."
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn drive_once(
    options: &Options,
    topic: &str,
    rows: &[Row],
    speed: u32,
    published: &AtomicU64,
) -> Result<(), String> {
    let mut client = Client::connect(options).await?;
    let first = rows.first().map_or(0, |row| row.after_ms);
    let begun = tokio::time::Instant::now();
    for row in rows {
        let at = begun + Duration::from_millis((row.after_ms - first) / u64::from(speed));
        tokio::time::sleep_until(at).await;
        let payload = format!(r#"{{"ts":{},{}}}"#, wall_ms(), row.fields);
        client
            .publish(topic, Bytes::from(payload), QoS::AtLeastOnce, false)
            .await?;
        published.fetch_add(1, Ordering::Relaxed);
    }
    client.disconnect().await
}

async fn progress(node: Arc<crate::node::Node>, published: Arc<AtomicU64>) {
    let terminal = std::io::stdout().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 10 });
    loop {
        tokio::time::sleep(every).await;
        let events: u64 = node
            .shards
            .iter()
            .map(|shard| shard.state.lock().next_offset())
            .sum();
        let devices: usize = node
            .shards
            .iter()
            .map(|shard| shard.state.lock().positions().len())
            .sum();
        let line = format!(
            "{} fixes published, {events} events in the log, {devices} devices, {} connections",
            published.load(Ordering::Relaxed),
            node.counters.connections(),
        );
        if terminal {
            print!("\r{line}   ");
            let _closed = std::io::Write::flush(&mut std::io::stdout());
        } else {
            say!("{line}");
        }
    }
}
