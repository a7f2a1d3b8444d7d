//! The command line.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};

/// Load generator for MQTT brokers. Exit code 1 when a message was lost.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// What to run.
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Many publishers, one subscriber.
    FanIn(Load),
    /// One publisher, many subscribers.
    FanOut(Load),
    /// Pairs of one publisher and one subscriber.
    P2p(Load),
    /// Devices on moving tracks publish fixes (JSON) to gps/{region}/{device}/position; a subscriber reads geo/#.
    Fleet(Load),
    /// Connections with one subscription each that then do nothing: resident bytes per connection.
    Idle(Load),
    /// Connects and closes again and again: handshakes per second.
    Connect(Load),
}

/// How much of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Address of the broker.
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub(crate) broker: SocketAddr,
    /// Process id of the broker, for its CPU seconds and memory.
    #[arg(long)]
    pub(crate) broker_pid: Option<u32>,
    /// Publishers (fan-in), subscribers (fan-out), pairs, devices, connections, or concurrent handshakes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    /// Quality of service of publishing and subscribing.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=2))]
    pub(crate) qos: u8,
    /// Payload bytes, at least 20. Fixes have a size of their own.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(20..=65536))]
    pub(crate) payload: u32,
    /// Open loop: messages per second over all publishers, latency from the intended time of sending. 0: closed loop.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub(crate) rate: f64,
    /// Messages in flight per publisher: not yet acknowledged, or at QoS 0 in the closed loop not yet delivered.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=60000))]
    pub(crate) inflight: u16,
    /// Messages put into one write, if as many are due.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,
    /// Seconds of publishing, or of connecting.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Seconds without any message after which what is still missing counts as lost.
    #[arg(long, default_value_t = 3)]
    pub(crate) drain: u64,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: u16,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| format!("{text} is not a number"))?;
    if rate.is_finite() && rate >= 0.0 {
        Ok(rate)
    } else {
        Err("must be 0 or more".into())
    }
}
