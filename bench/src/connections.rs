//! Connections that carry nothing: what they cost to have, and to make.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mqttbytes::QoS;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::Client;
use crate::histogram::Histogram;
use crate::options::Load;
use crate::process::Process;

/// Holds `load.clients` connections with one subscription each for `load.seconds`.
pub(crate) async fn idle(load: &Load) -> io::Result<Value> {
    let process = load.broker_pid.map(Process);
    let before = process.map(Process::resident_bytes).transpose()?;
    let begun = Instant::now();
    let mut held = Vec::new();
    for index in 0..load.clients {
        let id = format!("bench-{}-idle-{index}", std::process::id());
        let mut client = Client::connect(load.broker, &id).await?;
        client
            .subscribe(&format!("cmd/bench/{id}/#"), QoS::AtLeastOnce)
            .await?;
        held.push(client);
    }
    let seconds = begun.elapsed().as_secs_f64();
    sleep(Duration::from_secs(load.seconds)).await;
    let after = process.map(Process::resident_bytes).transpose()?;
    let grown = before
        .zip(after)
        .map(|(before, after)| after.saturating_sub(before));
    Ok(json!({
        "clients": held.len(), "connect_seconds": seconds, "resident_bytes_before": before, "resident_bytes_after": after,
        "bytes_per_connection": grown.map(|grown| grown as f64 / held.len() as f64), "lost": 0,
    }))
}

/// Makes and closes connections for `load.seconds`, `load.clients` at a time.
pub(crate) async fn connect(load: &Load) -> io::Result<Value> {
    let process = load.broker_pid.map(Process);
    let cpu_before = process.map(Process::cpu_seconds).transpose()?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(load.seconds);
    let failures = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for slot in 0..load.clients {
        let (address, failures) = (load.broker, failures.clone());
        tasks.spawn(async move {
            let mut latency = Histogram::default();
            let id = format!("bench-{}-connect-{slot}", std::process::id());
            while Instant::now() < end {
                let at = Instant::now();
                match Client::connect(address, &id).await {
                    Ok(_) => latency.record(at.elapsed()),
                    Err(_) => {
                        failures.fetch_add(1, Relaxed);
                        sleep(Duration::from_millis(10)).await;
                    }
                }
            }
            latency
        });
    }
    let mut latency = Histogram::default();
    while let Some(joined) = tasks.join_next().await {
        latency.merge(&joined.map_err(io::Error::other)?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_after = process.map(Process::cpu_seconds).transpose()?;
    Ok(json!({
        "clients": load.clients, "connected": latency.total(), "failed": failures.load(Relaxed), "seconds": seconds,
        "connects_per_second": latency.total() as f64 / seconds, "connect_us": latency.summary_us(),
        "broker_cpu_seconds": cpu_before.zip(cpu_after).map(|(before, after)| after - before), "lost": failures.load(Relaxed),
    }))
}
