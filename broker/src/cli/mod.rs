//! The command line: one node, the demo, and the commands that speak with a running node.
//!
//! Exit codes: 0 done, 1 refused, 2 usage; 27 for `sub` whose time was over, as mosquitto_sub has it.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]

/// Prints a line; whoever closes the pipe wants no more, and that is no failure.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        if writeln!(std::io::stdout(), $($part)*).is_err() {
            std::process::exit(0);
        }
    }};
}

mod api;
mod client;
mod cluster;
mod demo;
mod demo_nodes;
mod format;
mod http;
mod messages;
mod serve;
mod terminal;
mod tls;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use terminal::printable_lines;

/// The broker that knows where things are.
#[derive(Debug, Parser)]
#[command(name = "meridian", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("MERIDIAN_COMMIT"), ")"), about, long_about = None,
    after_help = "Examples:\n  meridian demo                          three nodes, and a fleet in Helsinki\n  meridian serve -c meridian.toml        one node\n  meridian sub -t 'geo/#' -v             what moves, and what crosses a fence\n  meridian fence put depot.geojson       a fence, from now on\n  meridian position near 24.94,60.17 --limit 3")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node, until Ctrl-C or SIGTERM
    Serve(serve::ServeArgs),
    /// Run a node with fences of Helsinki and a fleet that moves through them
    Demo(demo::DemoArgs),
    /// Look at a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List, put, show and remove fences
    #[command(subcommand)]
    Fence(http::FenceCommand),
    /// Ask where devices are
    #[command(subcommand)]
    Position(http::PositionCommand),
    /// List and disconnect clients
    #[command(subcommand)]
    Client(http::ClientCommand),
    /// List, pause and resume sinks
    #[command(subcommand)]
    Sink(http::SinkCommand),
    /// Show how the cluster stands
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// List nodes
    #[command(subcommand)]
    Node(cluster::NodeCommand),
    /// List shards
    #[command(subcommand)]
    Shard(cluster::ShardCommand),
    /// Add, list and remove users in a users file
    #[command(subcommand)]
    User(users::UserCommand),
    /// Publish a message
    Pub(messages::PubArgs),
    /// Subscribe and print messages
    Sub(messages::SubArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Exit 0 if FILE is right, or say each mistake with its key
    Check {
        /// The file
        file: PathBuf,
    },
}

/// How a command ended.
type Outcome = Result<(), String>;

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    /// How long the store may take to close after everything else has ended.
    const CLOSE_MAX: std::time::Duration = std::time::Duration::from_secs(3);
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => {
            let outcome = serve::run(&args);
            // The runtime is gone, and with it whoever used the store; its last user may be on its way out.
            if !meridian_raft::all_closed(CLOSE_MAX) {
                tracing::warn!("The store is still in use; its log survives this as well.");
            }
            outcome
        }
        Command::Demo(args) => demo::run(&args),
        Command::Config(ConfigCommand::Check { file }) => serve::check(&file),
        Command::Fence(command) => http::fence(command),
        Command::Position(command) => http::position(command),
        Command::Client(command) => http::client(command),
        Command::Sink(command) => http::sink(command),
        Command::Cluster(command) => cluster::cluster(command),
        Command::Node(command) => cluster::node(command),
        Command::Shard(command) => cluster::shard(command),
        Command::User(command) => users::run(command),
        Command::Pub(args) => messages::publish(args),
        Command::Sub(args) => return ended(messages::subscribe(args)),
    };
    ended(outcome.map(|()| ExitCode::SUCCESS))
}

fn ended(outcome: Result<ExitCode, String>) -> ExitCode {
    outcome.unwrap_or_else(|message| {
        // It may quote what came from outside.
        eprintln!("meridian: {}", printable_lines(&message));
        ExitCode::from(1)
    })
}

/// A runtime with a thread for each processor that this process may use.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}
