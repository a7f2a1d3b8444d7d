//! `meridian serve` and `meridian config check`.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Outcome;
use super::terminal::printable;
use crate::config::Config;
use crate::server::Server;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The configuration, TOML; without one: data in ./meridian-data, listeners on loopback only
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
    /// Stop when standard input ends, as when the process that started this one is gone
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

pub(super) fn run(args: &ServeArgs) -> Outcome {
    log_to_stderr(args.log_json);
    let config = Config::load(args.config.as_deref(), std::env::vars())
        .map_err(|error| error.to_string())?;
    super::runtime()?.block_on(async {
        let server = Server::start(&config)
            .await
            .map_err(|error| error.to_string())?;
        for (name, address) in &server.addresses {
            tracing::info!(listener = name, %address, "Listening.");
        }
        tracing::info!(data_dir = %config.node.data_dir.display(), "The node is ready.");
        if args.until_stdin_ends {
            tokio::select! {
                () = stopped() => {}
                () = stdin_ended() => {}
            }
        } else {
            stopped().await;
        }
        tracing::info!("Stopping.");
        server.stop().await;
        Ok(())
    })
}

pub(super) fn check(file: &Path) -> Outcome {
    match Config::load(Some(file), []) {
        Ok(_) => {
            say!("{}: right", file.display());
            Ok(())
        }
        Err(error) => {
            for mistake in &error.0 {
                say!("{}", printable(&mistake.to_string()));
            }
            let count = error.0.len();
            Err(format!(
                "{}: {count} mistake{}",
                file.display(),
                if count == 1 { "" } else { "s" }
            ))
        }
    }
}

/// Logs what `RUST_LOG` asks for; by default what an operator must know.
pub(super) fn log_to_stderr(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=error"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The first call counts; a second one would be the same.
    let _already_set = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}

/// On a thread of its own, which nobody waits for: a read of standard input cannot be taken back.
async fn stdin_ended() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _copied = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        // Whoever waited may have stopped by itself.
        let _gone = ended.send(());
    });
    let _closed = end.await;
}

/// Ctrl-C or SIGTERM.
pub(super) async fn stopped() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _interrupted = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
