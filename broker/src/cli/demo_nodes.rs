//! The nodes of the demo: processes of this program, on loopback, which end with it.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::api::ApiArgs;

/// How long the nodes may take until all of them serve.
const READY_MAX: Duration = Duration::from_secs(90);
/// How long one node may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

/// The ports of the first node; each further one has the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) mqtt: u16,
    pub(super) ws: u16,
    pub(super) http: u16,
    pub(super) cluster: u16,
}

/// See the module.
pub(super) struct DemoNodes {
    nodes: Vec<DemoNode>,
}

struct DemoNode {
    /// Ends the node when it is closed, even by the end of this process.
    child: Child,
    api: ApiArgs,
    folder: PathBuf,
}

impl DemoNodes {
    /// Starts `count` nodes with their data below `data_dir`.
    pub(super) fn start(
        count: u16,
        data_dir: &Path,
        ports: Ports,
        region: &str,
    ) -> Result<DemoNodes, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let address = |at: u16| format!("127.0.0.1:{}", ports.cluster + at);
        let seeds: Vec<String> = (0..count).map(address).collect();
        let mut nodes = Vec::new();
        for at in 0..count {
            let folder = data_dir.join(format!("node-{}", at + 1));
            let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
            std::fs::create_dir_all(&folder).map_err(failed)?;
            let log = File::create(folder.join("log")).map_err(failed)?;
            let on = |port: u16| format!("127.0.0.1:{}", port + at);
            let mut command = Command::new(&program);
            command
                .args(["serve", "--until-stdin-ends"])
                .env("MERIDIAN__NODE__ID", (at + 1).to_string())
                .env("MERIDIAN__NODE__DATA_DIR", folder.join("data"))
                .env("MERIDIAN__SHARDING__REGIONS", region)
                .env("MERIDIAN__LISTENERS__TCP__BIND", on(ports.mqtt))
                .env("MERIDIAN__LISTENERS__WS__BIND", on(ports.ws))
                .env("MERIDIAN__LISTENERS__HTTP__BIND", on(ports.http))
                // Time is compressed, so speeds are not what they were.
                .env("MERIDIAN__GEO__MAX_SPEED", "off")
                .env("MERIDIAN__SINKS__EVENTS__TYPE", "file")
                .env(
                    "MERIDIAN__SINKS__EVENTS__PATH",
                    folder.join("events.ndjson"),
                );
            if count > 1 {
                command
                    .env("MERIDIAN__CLUSTER__NAME", "demo")
                    .env("MERIDIAN__CLUSTER__BIND", address(at))
                    .env("MERIDIAN__CLUSTER__SEEDS", seeds.join(","))
                    .env("MERIDIAN__CLUSTER__BOOTSTRAP", &seeds[0]);
            }
            let child = command
                .stdin(Stdio::piped())
                .stdout(log.try_clone().map_err(failed)?)
                .stderr(log)
                // Ctrl-C is for this process, which stops them one after the other.
                .process_group(0)
                .spawn()
                .map_err(|error| format!("{}: {error}", program.display()))?;
            std::fs::write(folder.join("pid"), format!("{}\n", child.id())).map_err(failed)?;
            nodes.push(DemoNode {
                child,
                api: ApiArgs::at(format!("http://{}", on(ports.http))),
                folder,
            });
        }
        Ok(DemoNodes { nodes })
    }

    /// Waits until every node serves.
    pub(super) async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let mut waiting = 0;
            for node in &mut self.nodes {
                if let Some(status) = node.child.try_wait().map_err(|error| error.to_string())? {
                    return Err(node.last_words(&format!("ended with {status}")));
                }
                let ready = tokio::task::block_in_place(|| node.api.is_ready());
                waiting += usize::from(!ready);
            }
            if waiting == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{waiting} nodes are not ready after {READY_MAX:?}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Comes back when no node is left, with what the last one said.
    pub(super) async fn all_ended(&mut self) -> String {
        loop {
            let mut left = 0;
            for node in &mut self.nodes {
                left += usize::from(node.child.try_wait().is_ok_and(|status| status.is_none()));
            }
            if left == 0 {
                return self.nodes[0].last_words("has ended, like all the others");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops them one after the other, each with time to hand over.
    pub(super) async fn stop(&mut self) {
        for node in &mut self.nodes {
            drop(node.child.stdin.take());
            let deadline = Instant::now() + STOP_MAX;
            while node.child.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline {
                    // It has had its time; its log survives this as well.
                    let _gone = node.child.kill();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl DemoNode {
    fn last_words(&self, what: &str) -> String {
        let log = self.folder.join("log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(3).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("{} {what}:\n{}", self.folder.display(), last.join("\n"))
    }
}
