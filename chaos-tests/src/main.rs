//! `meridian-chaos`: campaigns against a cluster of real processes on this machine, and a report as JSON.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line speaks to people")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use meridian_chaos_tests::history::{History, percentile};
use meridian_chaos_tests::nodes::Nodes;
use meridian_chaos_tests::workload;
use serde_json::json;

/// A topic of the shard whose leader the faults are for.
const TOPIC: &str = "cmd/hel/chaos/numbers";
const SHARD: &str = "hel";
/// The nodes of the clients; the third leads the shard when the cluster is whole.
const PUBLISHER: usize = 0;
const SUBSCRIBER: usize = 2;

/// What is done to the node that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// kill -9 and a restart (P1, P4)
    Kill,
    /// SIGSTOP for some seconds (P5)
    Pause,
    /// Nothing: the control run
    None,
}

/// Campaigns against three real nodes on loopback.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is done to the leader in each round
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    fault: Fault,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Publications a second, QoS 1
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The program under test
    #[arg(long, default_value = "target/debug/meridian", env = "MERIDIAN_BIN")]
    program: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool, String> {
    let mut nodes = Nodes::start(&arguments.program)?;
    let (stop, done) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let received = workload::subscribe(nodes.mqtt(SUBSCRIBER), TOPIC, Arc::clone(&done)).await?;
    let acknowledged = workload::publish(
        nodes.mqtt(PUBLISHER),
        TOPIC,
        arguments.rate,
        Arc::clone(&stop),
    );
    let mut faults = Vec::new();
    for round in 1..=arguments.rounds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let victim = wait_for_leader(&nodes).await?;
        faults.push(Instant::now());
        match arguments.fault {
            Fault::Kill => {
                nodes.kill(victim)?;
                tokio::time::sleep(Duration::from_secs(4)).await;
                nodes.restart(victim)?;
            }
            Fault::Pause => {
                nodes.pause(victim, true)?;
                tokio::time::sleep(Duration::from_secs(5)).await;
                nodes.pause(victim, false)?;
            }
            Fault::None => tokio::time::sleep(Duration::from_secs(1)).await,
        }
        tokio::task::block_in_place(|| nodes.wait_until_whole())?;
        println!("round {round} of {}", arguments.rounds);
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = acknowledged.await.map_err(|error| error.to_string())??;
    done.store(true, Ordering::Relaxed);
    let history = History {
        acknowledged,
        received: received.await.map_err(|error| error.to_string())??,
        faults,
    };
    let verdict = history.judge();
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let gap = |percent| ms(percentile(&verdict.gaps, percent));
    println!(
        "{}",
        json!({
            "fault": format!("{:?}", arguments.fault).to_lowercase(), "rounds": arguments.rounds, "rate": arguments.rate,
            "acknowledged": history.acknowledged.len(), "received": history.received.len(), "lost": verdict.lost,
            "repeated": verdict.repeated, "overtaken": verdict.overtaken,
            "ack_gap_ms": { "p50": gap(50), "p99": gap(99), "max": gap(100) },
        })
    );
    let tested = history.acknowledged.len() as u64 > u64::from(arguments.rounds) * 100;
    if !tested {
        println!("hardly anything was acknowledged: nothing was tested");
    }
    Ok(tested && (verdict.lost, verdict.repeated, verdict.overtaken) == (0, 0, 0))
}

/// The leader of the shard, once it is a node without clients of ours.
async fn wait_for_leader(nodes: &Nodes) -> Result<usize, String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let leader = tokio::task::block_in_place(|| nodes.leader(SHARD, PUBLISHER));
        if let Some(leader) = leader.filter(|leader| ![PUBLISHER, SUBSCRIBER].contains(leader)) {
            return Ok(leader);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("{SHARD} is not led by the node that is to be hit"))
}
