//! `meridian demo`: a cluster of nodes with Helsinki's fences, and the Helsinki fleet that drives through them, in a loop.

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
use super::api::ApiArgs;
use super::client::{Client, Options};
use super::demo_nodes::{DemoNodes, Ports};
use crate::clock::wall_ms;

const TRACE: &[u8] = include_bytes!("../../../testdata/geo/traces/helsinki_quick.csv.gz");
const FENCES: &str = include_str!("../../../testdata/geo/fences/helsinki.geojson");
const REGION: &str = "hel";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Nodes to start, each a process of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Vehicles, each on an MQTT connection of its own; more than the trace has follow it with an offset in time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    devices: u32,
    /// How many times faster than in life
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    speed: u32,
    /// Where the demo's data is; kept between runs
    #[arg(long, default_value = "./meridian-demo-data")]
    data_dir: PathBuf,
    /// MQTT port of the first node; the others have the next ones
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// WebSocket port, likewise
    #[arg(long, default_value_t = 8083)]
    ws_port: u16,
    /// HTTP port, likewise
    #[arg(long, default_value_t = 18083)]
    http_port: u16,
    /// Port between nodes, likewise
    #[arg(long, default_value_t = 7883)]
    cluster_port: u16,
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
    let vehicles = read_trace()?;
    let ports = Ports {
        mqtt: args.port,
        ws: args.ws_port,
        http: args.http_port,
        cluster: args.cluster_port,
    };
    let mut nodes = DemoNodes::start(args.nodes, &args.data_dir, ports, REGION)?;
    let api = ApiArgs::at(format!("http://127.0.0.1:{}", ports.http));
    super::runtime()?.block_on(async {
        let interrupted = super::serve::stopped();
        tokio::pin!(interrupted);
        tokio::select! {
            ready = nodes.wait_until_ready() => ready?,
            () = &mut interrupted => {
                nodes.stop().await;
                return Ok(());
            }
        }
        let fences = put_fences(&api)?;
        introduce(args, fences);
        let published = Arc::new(AtomicU64::new(0));
        let mut fleet = Vec::new();
        for number in 0..args.devices {
            // Vehicles are spread over the nodes; whose node is gone goes to the next.
            let first = u16::try_from(number % u32::from(args.nodes)).unwrap_or(0);
            let mut mqtt: Vec<u16> = (0..args.nodes).map(|at| ports.mqtt + at).collect();
            mqtt.rotate_left(usize::from(first));
            fleet.push(tokio::spawn(drive(
                number,
                vehicles.clone(),
                args.speed,
                mqtt,
                Arc::clone(&published),
            )));
        }
        let progress = tokio::spawn(progress(ports.http, args.nodes, Arc::clone(&published)));
        let ended = tokio::select! {
            () = &mut interrupted => None,
            all = nodes.all_ended() => Some(all),
        };
        progress.abort();
        fleet.iter().for_each(tokio::task::JoinHandle::abort);
        if let Some(why) = ended {
            return Err(why);
        }
        say!("\nstopping");
        nodes.stop().await;
        Ok(())
    })
}

fn introduce(args: &DemoArgs, fences: usize) {
    let (http, ws, port) = (args.http_port, args.ws_port, args.port);
    let to = |first: u16| match args.nodes {
        1 => String::new(),
        nodes => format!(" to {}", first + nodes - 1),
    };
    let data = args.data_dir.display();
    say!(
        "Meridian's demo: {nodes} nodes, and {devices} vehicles that drive through Helsinki, {speed} times as fast as they did; \
         {fences} fences.\n\n\
         MQTT        mqtt://127.0.0.1:{port}{}\n\
         WebSocket   ws://127.0.0.1:{ws}/mqtt (ports {ws}{})\n\
         HTTP API    http://127.0.0.1:{http}/api/v1/   metrics http://127.0.0.1:{http}/metrics (ports {http}{})\n\
         events      {data}/node-1/events.ndjson, and so for each node\n\
         logs        {data}/node-1/log\n\n\
         Try, in another terminal (meridian is target/debug/meridian, or where `make run` says):\n\
         \x20 meridian sub -p {port} -t 'geo/#' -v\n\
         \x20 meridian sub -p {port} -t 'geo/+/+/alert/#' -v\n\
         \x20 meridian cluster status --api http://127.0.0.1:{http}\n\
         \x20 meridian position near 24.94,60.17 --limit 3 --api http://127.0.0.1:{http}\n\
         \x20 kill -9 the process of a node (its number is in {data}/node-2/pid), and see that nothing stops\n\n\
         Ctrl-C stops it.\n",
        to(port),
        to(ws),
        to(http),
        nodes = args.nodes,
        devices = args.devices,
        speed = args.speed,
    );
}

/// Puts the demo's fences, unless they are there. How many there are.
fn put_fences(api: &ApiArgs) -> Result<usize, String> {
    let wanted: serde_json::Value =
        serde_json::from_str(FENCES).map_err(|error| error.to_string())?;
    let wanted = wanted["features"].as_array().map_or(0, Vec::len);
    let known = api.get("/api/v1/fences")?;
    let known = known["features"].as_array().map_or(0, Vec::len);
    if known < wanted {
        api.send("PUT", "/api/v1/fences", Some(FENCES))?;
        return Ok(wanted);
    }
    Ok(known)
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
    ports: Vec<u16>,
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
    let mut options = Options {
        host: "127.0.0.1".into(),
        port: ports[0],
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
    for port in ports.into_iter().cycle() {
        options.port = port;
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

async fn progress(http_port: u16, nodes: u16, published: Arc<AtomicU64>) {
    let terminal = std::io::stdout().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 10 });
    loop {
        tokio::time::sleep(every).await;
        let asked = tokio::task::spawn_blocking(move || look(http_port, nodes)).await;
        let Ok(Some((up, events, devices, connections))) = asked else {
            continue;
        };
        let line = format!(
            "{} fixes published, {events} events in the log, {devices} devices, {connections} connections, {up} of {nodes} nodes",
            published.load(Ordering::Relaxed),
        );
        if terminal {
            print!("\r{line}   ");
            let _closed = std::io::Write::flush(&mut std::io::stdout());
        } else {
            say!("{line}");
        }
    }
}

/// Nodes that are up, events, devices and connections, as the first node that answers sees them.
fn look(http_port: u16, nodes: u16) -> Option<(usize, u64, u64, i64)> {
    (0..nodes).find_map(|at| {
        let api = ApiArgs::at(format!("http://127.0.0.1:{}", http_port + at));
        let nodes = api.get("/api/v1/nodes").ok()?;
        let shards = api.get("/api/v1/shards").ok()?;
        let sum = |name: &str| {
            let shards = shards["data"].as_array().into_iter().flatten();
            shards.filter_map(|shard| shard[name].as_u64()).sum()
        };
        let nodes = nodes["data"].as_array()?;
        let up = nodes.iter().filter(|node| node["up"] == true).count();
        let connections = nodes
            .iter()
            .filter_map(|node| node["connections"].as_i64())
            .sum();
        Some((up, sum("events_next"), sum("devices"), connections))
    })
}
