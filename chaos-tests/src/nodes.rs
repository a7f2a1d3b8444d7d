//! A cluster of real processes on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long the cluster may take to be whole.
const WHOLE_MAX: Duration = Duration::from_secs(120);

/// See the module. Killed when dropped.
pub struct Nodes {
    nodes: Vec<Node>,
    _folder: tempfile::TempDir,
}

struct Node {
    child: Child,
    folder: PathBuf,
    program: PathBuf,
    mqtt: u16,
    http: u16,
}

impl Nodes {
    /// Starts three nodes of `program`, and waits until they are one cluster.
    ///
    /// # Errors
    /// In words.
    pub fn start(program: &Path) -> Result<Nodes, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let ports: Vec<u16> = free_ports(9)?;
        let address = |at: usize| format!("127.0.0.1:{}", ports[at]);
        let seeds: Vec<String> = (0..3).map(address).collect();
        let mut nodes = Vec::new();
        for at in 0..3 {
            let own = folder.path().join(format!("node-{}", at + 1));
            std::fs::create_dir_all(&own).map_err(|error| error.to_string())?;
            let (mqtt, http) = (ports[3 + at], ports[6 + at]);
            let config = format!(
                "[node]\nid = {id}\ndata_dir = {data:?}\n[cluster]\nname = \"chaos\"\nbind = {bind:?}\nseeds = {seeds:?}\n\
                 bootstrap = [{first:?}]\n[sharding]\nregions = [\"hel\"]\ndefault_shards = 2\n[listeners.tcp]\n\
                 bind = \"127.0.0.1:{mqtt}\"\n[listeners.http]\nbind = \"127.0.0.1:{http}\"\n",
                id = at + 1,
                data = own.join("data"),
                bind = seeds[at],
                first = seeds[0],
            );
            std::fs::write(own.join("meridian.toml"), config).map_err(|error| error.to_string())?;
            nodes.push(Node {
                child: spawn(program, &own)?,
                folder: own,
                program: program.to_owned(),
                mqtt,
                http,
            });
        }
        let nodes = Nodes {
            nodes,
            _folder: folder,
        };
        nodes.wait_until_whole()?;
        Ok(nodes)
    }

    /// The MQTT port of a node.
    #[must_use]
    pub fn mqtt(&self, at: usize) -> u16 {
        self.nodes[at].mqtt
    }

    /// Waits until every node serves and every group has three voters and a leader.
    ///
    /// # Errors
    /// In words, with the end of each node's log.
    pub fn wait_until_whole(&self) -> Result<(), String> {
        let deadline = Instant::now() + WHOLE_MAX;
        while !self.nodes.iter().all(Node::is_whole) {
            if Instant::now() > deadline {
                let logs: Vec<String> = self.nodes.iter().map(Node::last_words).collect();
                return Err(format!("the cluster is not whole: {}", logs.join("\n")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The place of the node that leads `shard`, as node `of` sees it.
    #[must_use]
    pub fn leader(&self, shard: &str, of: usize) -> Option<usize> {
        let shards = self.nodes[of].get("shards")?;
        let shards = shards["data"].as_array()?;
        let found = shards.iter().find(|found| found["shard"] == shard)?;
        usize::try_from(found["leader"].as_u64()?)
            .ok()?
            .checked_sub(1)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self, at: usize) -> Result<(), String> {
        let child = &mut self.nodes[at].child;
        child.kill().map_err(|error| error.to_string())?;
        child.wait().map(|_| ()).map_err(|error| error.to_string())
    }

    /// Starts a node again on its data.
    ///
    /// # Errors
    /// The system's.
    pub fn restart(&mut self, at: usize) -> Result<(), String> {
        let node = &mut self.nodes[at];
        node.child = spawn(&node.program, &node.folder)?;
        Ok(())
    }

    /// SIGSTOP, or SIGCONT.
    ///
    /// # Errors
    /// The system's.
    pub fn pause(&self, at: usize, pause: bool) -> Result<(), String> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        let id = Pid::from_child(&self.nodes[at].child);
        kill_process(id, signal).map_err(|error| error.to_string())
    }
}

impl Node {
    fn get(&self, what: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{what}", self.http);
        let text = ureq::get(url)
            .call()
            .ok()?
            .body_mut()
            .read_to_string()
            .ok()?;
        serde_json::from_str(&text).ok()
    }

    fn is_whole(&self) -> bool {
        let ready = ureq::get(format!("http://127.0.0.1:{}/readyz", self.http)).call();
        let is_whole = |shard: &Value| {
            shard["voters"]
                .as_object()
                .is_some_and(|voters| voters.len() == 3)
                && shard["leader"].is_u64()
        };
        let shards = self.get("shards");
        let shards = shards.as_ref().and_then(|shards| shards["data"].as_array());
        ready.is_ok() && shards.is_some_and(|shards| shards.iter().all(is_whole))
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let mut last: Vec<&str> = text.lines().rev().take(5).collect();
        last.reverse();
        format!("{}:\n{}", self.folder.display(), last.join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn spawn(program: &Path, folder: &Path) -> Result<Child, String> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .map_err(|error| error.to_string())?;
    Command::new(program)
        .args(["serve", "-c"])
        .arg(folder.join("meridian.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))
}

fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<TcpListener>, _> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    let listeners = listeners.map_err(|error| error.to_string())?;
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    let ports: Result<Vec<u16>, _> = listeners.iter().map(port).collect();
    ports.map_err(|error| error.to_string())
}
