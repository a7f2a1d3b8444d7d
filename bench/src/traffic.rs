//! Publishers and subscribers at work: fan-in, fan-out, pairs, fleet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqttbytes::v4::{Packet, PubAck, PubComp, PubRec, PubRel, Publish};
use mqttbytes::{QoS, qos};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use crate::client::Client;
use crate::histogram::Histogram;
use crate::options::Load;
use crate::process::Process;
use crate::sequence::Sequence;

/// Who publishes to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// N to 1.
    FanIn,
    /// 1 to N.
    FanOut,
    /// N times 1 to 1.
    Pairs,
    /// Fixes in, enriched positions and alerts out.
    Fleet,
}

/// Bytes at the head of a payload: intended time (ns), sequence number, publisher.
const HEADER: usize = 20;

/// What the tasks of a run share.
struct Run {
    load: Load,
    shape: Shape,
    begun: Instant,
    /// Messages delivered of each publisher, and how to wake it.
    delivered: Vec<(AtomicU64, Notify)>,
    /// Receivers of each publisher's messages.
    receivers: u64,
    received: AtomicU64,
    stop: AtomicBool,
}

#[derive(Default)]
struct Sent {
    messages: u64,
    unacknowledged: u64,
    latency: Histogram,
}

#[derive(Default)]
struct Got {
    sequences: Vec<Sequence>,
    latency: Histogram,
    alerts: u64,
    last_ns: u64,
}

/// Runs `shape` and returns its report.
pub(crate) async fn run(shape: Shape, load: &Load) -> io::Result<Value> {
    let (publishers, subscribers) = match shape {
        Shape::FanIn | Shape::Fleet => (load.clients, 1),
        Shape::FanOut => (1, load.clients),
        Shape::Pairs => (load.clients, load.clients),
    };
    let level = qos(load.qos).map_err(|_| io::Error::other("no such QoS"))?;
    let process = load.broker_pid.map(Process);
    let tag = std::process::id();
    let mut receiving = Vec::new();
    for index in 0..subscribers {
        let mut client = Client::connect(load.broker, &format!("bench-{tag}-sub-{index}")).await?;
        let filter = match shape {
            Shape::Pairs => format!("bench/{tag}/{index}"),
            Shape::Fleet => "geo/#".to_owned(),
            Shape::FanIn | Shape::FanOut => format!("bench/{tag}/+"),
        };
        client.subscribe(&filter, level).await?;
        receiving.push(client);
    }
    let mut sending = Vec::new();
    for index in 0..publishers {
        sending.push(Client::connect(load.broker, &format!("bench-{tag}-pub-{index}")).await?);
    }
    let cpu_before = process.map(Process::cpu_seconds).transpose()?;
    let run = Arc::new(Run {
        load: load.clone(),
        shape,
        begun: Instant::now(),
        delivered: (0..publishers)
            .map(|_| (AtomicU64::new(0), Notify::new()))
            .collect(),
        receivers: if shape == Shape::FanOut {
            u64::from(subscribers)
        } else {
            1
        },
        received: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let mut subscriber_tasks = JoinSet::new();
    for client in receiving {
        subscriber_tasks.spawn(subscribe(client, run.clone()));
    }
    let mut publisher_tasks = JoinSet::new();
    for (index, client) in sending.into_iter().enumerate() {
        publisher_tasks.spawn(publish(client, index, tag, run.clone()));
    }
    let mut sent = Sent::default();
    while let Some(joined) = publisher_tasks.join_next().await {
        let one = joined.map_err(io::Error::other)??;
        sent.messages += one.messages;
        sent.unacknowledged += one.unacknowledged;
        sent.latency.merge(&one.latency);
    }
    let expected = sent.messages * run.receivers;
    // Until everything is there, or nothing came for a while.
    let mut seen = (run.received.load(Relaxed), Instant::now());
    while (shape == Shape::Fleet || seen.0 < expected)
        && seen.1.elapsed() < Duration::from_secs(load.drain)
    {
        sleep(Duration::from_millis(20)).await;
        let now = run.received.load(Relaxed);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
    }
    let cpu_after = process.map(Process::cpu_seconds).transpose()?;
    run.stop.store(true, Relaxed);
    let (mut got, mut unique, mut duplicated, mut reordered) = (Got::default(), 0, 0, 0);
    while let Some(joined) = subscriber_tasks.join_next().await {
        let one = joined.map_err(io::Error::other)??;
        got.latency.merge(&one.latency);
        got.alerts += one.alerts;
        got.last_ns = got.last_ns.max(one.last_ns);
        for sequence in &one.sequences {
            unique += sequence.unique;
            duplicated += sequence.duplicated;
            reordered += sequence.reordered;
        }
    }
    let seconds = (got.last_ns as f64 / 1e9).max(if shape == Shape::Fleet {
        load.seconds as f64
    } else {
        0.0
    });
    let received = run.received.load(Relaxed);
    // The filter and the rules decide what a fleet gets to hear, so there only the acknowledgements tell of loss.
    let lost = if shape == Shape::Fleet {
        sent.unacknowledged
    } else {
        expected - unique + sent.unacknowledged
    };
    let cpu = cpu_before
        .zip(cpu_after)
        .map(|(before, after)| after - before);
    let mut report = json!({
        "clients": load.clients, "qos": load.qos, "payload_bytes": load.payload, "rate": load.rate, "burst": load.burst,
        "sent": sent.messages, "received": received, "lost": lost, "unacknowledged": sent.unacknowledged,
        "duplicated": duplicated, "reordered": reordered, "seconds": seconds,
        "sent_per_second": sent.messages as f64 / seconds, "received_per_second": received as f64 / seconds,
        "acknowledged_us": sent.latency.summary_us(), "delivered_us": got.latency.summary_us(),
        "broker_cpu_seconds": cpu,
        "messages_per_cpu_second":
            cpu.filter(|cpu| *cpu > 0.0).map(|cpu| (if shape == Shape::Fleet { sent.messages } else { received }) as f64 / cpu),
    });
    if shape == Shape::Fleet {
        report["alerts"] = json!(got.alerts);
        report["positions"] = json!(received - got.alerts);
    }
    Ok(report)
}

async fn publish(mut client: Client, index: usize, tag: u32, run: Arc<Run>) -> io::Result<Sent> {
    let load = &run.load;
    let level = qos(load.qos).map_err(|_| io::Error::other("no such QoS"))?;
    let topic = match run.shape {
        Shape::Fleet => format!("gps/bench/bench-{tag}-{index}/position"),
        _ => format!("bench/{tag}/{index}"),
    };
    let interval = if load.rate > 0.0 {
        run.delivered.len() as f64 / load.rate
    } else {
        0.0
    };
    // Publishers begin one after the other within the first interval, not all at once.
    let offset = interval * index as f64 / run.delivered.len() as f64;
    let intended =
        |number: u64| run.begun + Duration::from_secs_f64(offset + interval * number as f64);
    let end = run.begun + Duration::from_secs(load.seconds);
    let inflight_max = u64::from(load.inflight);
    let mut pending: Vec<Option<Instant>> = vec![None; usize::from(u16::MAX) + 1];
    let mut free: Vec<u16> = (1..=load.inflight).rev().collect();
    let mut message = Publish::from_bytes(topic, level, Bytes::new());
    let mut payload = vec![0_u8; load.payload as usize];
    let mut sent = Sent::default();
    let mut given_up = 0; // At QoS 0: messages written off as lost, so that the window opens again.
    loop {
        let now = Instant::now();
        let mut written = 0;
        let mut wake = None;
        let mut window_full = false;
        let mut over = false;
        while written < load.burst {
            let at = if interval > 0.0 {
                intended(sent.messages)
            } else {
                now
            };
            if at >= end {
                over = true;
                break;
            }
            if at > now {
                wake = Some(at);
                break;
            }
            if level == QoS::AtMostOnce {
                let delivered = run.delivered[index].0.load(Relaxed) / run.receivers;
                if interval == 0.0 && sent.messages - given_up >= delivered + inflight_max {
                    window_full = true;
                    break;
                }
            } else if let Some(id) = free.pop() {
                message.pkid = id;
                pending[usize::from(id)] = Some(at);
            } else {
                window_full = true;
                break;
            }
            let ns = at.duration_since(run.begun).as_nanos() as u64;
            message.payload = if run.shape == Shape::Fleet {
                Bytes::from(fix(index, sent.messages, ns))
            } else {
                payload[..8].copy_from_slice(&ns.to_be_bytes());
                payload[8..16].copy_from_slice(&sent.messages.to_be_bytes());
                payload[16..HEADER].copy_from_slice(&(index as u32).to_be_bytes());
                Bytes::copy_from_slice(&payload)
            };
            client.publish(&message)?;
            sent.messages += 1;
            written += 1;
        }
        if written > 0 {
            client.flush().await?;
            // Others share this thread.
            tokio::task::yield_now().await;
        }
        let outstanding = usize::from(load.inflight) - free.len();
        if over && (outstanding == 0 || now >= end + Duration::from_secs(load.drain)) {
            sent.unacknowledged = outstanding as u64;
            return Ok(sent);
        }
        let idle = if over || window_full || wake.is_some() {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        let until = wake.unwrap_or(now + idle).min(now + Duration::from_secs(1));
        if idle.is_zero() && level == QoS::AtMostOnce {
            continue;
        }
        let waits_for_delivery = window_full && level == QoS::AtMostOnce;
        let progress = tokio::select! {
            biased;
            filled = client.fill() => { filled?; true }
            () = run.delivered[index].1.notified(), if waits_for_delivery => true,
            () = sleep_until(until.into()) => false,
        };
        if waits_for_delivery && !progress {
            given_up = sent.messages - run.delivered[index].0.load(Relaxed) / run.receivers;
        }
        let now = Instant::now();
        while let Some(packet) = client.next()? {
            let id = match packet {
                Packet::PubAck(ack) => ack.pkid,
                Packet::PubComp(complete) => complete.pkid,
                Packet::PubRec(received) => {
                    client.acknowledge(&Packet::PubRel(PubRel::new(received.pkid)))?;
                    continue;
                }
                other => return Err(io::Error::other(format!("a publisher received {other:?}"))),
            };
            let Some(at) = pending[usize::from(id)].take() else {
                return Err(io::Error::other(format!(
                    "packet {id} acknowledged that was not in flight"
                )));
            };
            sent.latency.record(now.duration_since(at));
            free.push(id);
        }
        client.flush().await?;
    }
}

async fn subscribe(mut client: Client, run: Arc<Run>) -> io::Result<Got> {
    let mut got = Got::default();
    while !run.stop.load(Relaxed) {
        match timeout(Duration::from_millis(50), client.fill()).await {
            Ok(filled) => filled?,
            Err(_) => continue,
        }
        let mut count = 0;
        let now_ns = run.begun.elapsed().as_nanos() as u64;
        while let Some(packet) = client.next()? {
            let publish = match packet {
                Packet::Publish(publish) => publish,
                Packet::PubRel(release) => {
                    client.acknowledge(&Packet::PubComp(PubComp::new(release.pkid)))?;
                    continue;
                }
                other => return Err(io::Error::other(format!("a subscriber received {other:?}"))),
            };
            match publish.qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => {
                    client.acknowledge(&Packet::PubAck(PubAck::new(publish.pkid)))?
                }
                QoS::ExactlyOnce => {
                    client.acknowledge(&Packet::PubRec(PubRec::new(publish.pkid)))?
                }
            }
            let sent_ns = if run.shape == Shape::Fleet {
                let Some(sent_ns) = fix_sent_ns(&publish.payload) else {
                    continue;
                };
                got.alerts += u64::from(publish.topic.contains("/alert/"));
                sent_ns
            } else {
                let header = publish
                    .payload
                    .get(..HEADER)
                    .ok_or_else(|| io::Error::other("a foreign message"))?;
                let number = |from: usize| {
                    u64::from_be_bytes(header[from..from + 8].try_into().expect("8 bytes"))
                };
                let index = u32::from_be_bytes(header[16..].try_into().expect("4 bytes")) as usize;
                if got.sequences.len() <= index {
                    got.sequences.resize_with(index + 1, Sequence::default);
                }
                got.sequences[index].receive(number(8));
                let (delivered, waiting) = &run.delivered[index];
                delivered.fetch_add(1, Relaxed);
                waiting.notify_one();
                number(0)
            };
            got.latency
                .record(Duration::from_nanos(now_ns.saturating_sub(sent_ns)));
            count += 1;
        }
        got.last_ns = if count > 0 { now_ns } else { got.last_ns };
        run.received.fetch_add(count, Relaxed);
        client.flush().await?;
    }
    Ok(got)
}

/// A fix of a device that drives along a circle of its own, some 60 m between two fixes.
fn fix(device: usize, number: u64, sent_ns: u64) -> String {
    let angle = number as f64 * 0.006;
    let (lat, lon) = (
        40.0 + (device % 1000) as f64 * 0.005,
        -74.0 - (device / 1000) as f64 * 0.3,
    );
    let (lat, lon) = (lat + 0.09 * angle.sin(), lon + 0.117 * angle.cos());
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        r#"{{"ts":{},"lat":{lat:.7},"lon":{lon:.7},"speed_mps":20,"attrs":{{"sent_ns":{sent_ns}}}}}"#,
        since.as_millis()
    )
}

/// When the fix that caused this output was to be sent. `None` for output that no fix of ours caused.
fn fix_sent_ns(payload: &[u8]) -> Option<u64> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    let attrs = value
        .get("attrs")
        .or_else(|| value.get("position")?.get("attrs"))?;
    attrs.get("sent_ns")?.as_u64()
}
