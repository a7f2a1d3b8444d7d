//! Load generator for MQTT brokers, driven by another MQTT implementation than the broker's own.
//!
//! One process, one thread unless told otherwise, so that it can be pinned beside the broker it measures. Every message
//! carries its sequence number and the time it was *to be* sent, so a stalled broker cannot hide its stall.
#![forbid(unsafe_code)]

mod client;
mod connections;
mod histogram;
mod options;
mod process;
mod sequence;
mod traffic;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;

use options::{Load, Options, Scenario};
use traffic::Shape;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options.scenario) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _stderr_gone = writeln!(io::stderr(), "meridian-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs and reports; returns what was lost.
fn run(scenario: &Scenario) -> io::Result<u64> {
    let load = scenario.load();
    let mut builder = if load.threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder
        .worker_threads(usize::from(load.threads))
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        match scenario {
            Scenario::FanIn(load) => traffic::run(Shape::FanIn, load).await,
            Scenario::FanOut(load) => traffic::run(Shape::FanOut, load).await,
            Scenario::P2p(load) => traffic::run(Shape::Pairs, load).await,
            Scenario::Fleet(load) => traffic::run(Shape::Fleet, load).await,
            Scenario::Idle(load) => connections::idle(load).await,
            Scenario::Connect(load) => connections::connect(load).await,
        }
    })?;
    let mut out = io::stdout().lock();
    if load.json {
        writeln!(out, "{report}")?;
    } else {
        print(&mut out, "", &report)?;
    }
    Ok(report["lost"].as_u64().unwrap_or(u64::MAX))
}

impl Scenario {
    fn load(&self) -> &Load {
        match self {
            Self::FanIn(load) | Self::FanOut(load) | Self::P2p(load) => load,
            Self::Fleet(load) | Self::Idle(load) | Self::Connect(load) => load,
        }
    }
}

/// One line a figure, nested names joined by a blank.
fn print(out: &mut impl Write, prefix: &str, value: &Value) -> io::Result<()> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                print(out, &format!("{prefix} {name}"), value)?;
            }
            Ok(())
        }
        Value::Null => Ok(()),
        Value::Number(number) if number.is_f64() => {
            writeln!(
                out,
                "{:<36}{:>18.1}",
                prefix.trim(),
                number.as_f64().unwrap_or_default()
            )
        }
        other => writeln!(
            out,
            "{:<36}{other:>18}",
            prefix.trim(),
            other = other.to_string()
        ),
    }
}
