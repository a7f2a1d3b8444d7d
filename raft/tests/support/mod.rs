//! Nodes in one process, on loopback sockets and real stores, with links that can be cut.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its part"
)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_raft::{
    Birth, Committed, Group, GroupOptions, Handler, MembersProgress, ProposeError, StateMachine,
    StateReader, StateWrites, Storage, StorageOptions, Transport, TransportOptions,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub const GROUP: &str = "shard-0";

/// Keeps all commands in their order, in the state and as events.
#[derive(Default)]
pub struct Record {
    count: u64,
}

impl StateMachine for Record {
    type Reply = u64;

    fn apply(&mut self, entries: &[Committed], writes: &mut StateWrites) -> Vec<u64> {
        entries
            .iter()
            .map(|entry| {
                let key = [b"c", &self.count.to_be_bytes()[..]].concat();
                writes.put(&key, &entry.payload);
                writes.append_event(self.count, &entry.index.to_be_bytes());
                self.count += 1;
                self.count
            })
            .collect()
    }

    fn restore(&mut self, reader: &StateReader) {
        self.count = 0;
        reader.scan(b"c", &mut |_, _| self.count += 1);
    }
}

/// Echoes requests with the asker's id before them; counts nothing.
pub struct Echo;

impl Handler for Echo {
    fn request(&self, from: u64, body: Bytes) -> BoxFuture<'static, Bytes> {
        Box::pin(async move { [&from.to_be_bytes()[..], &body].concat().into() })
    }

    fn notify(&self, _from: u64, _body: Bytes) {}
}

pub struct Node {
    pub id: u64,
    pub storage: Storage,
    pub transport: Transport,
    pub group: Group<Record>,
}

impl Node {
    /// All commands that this node has applied.
    pub fn applied(&self) -> Vec<Bytes> {
        let mut commands = Vec::new();
        self.storage.reader(GROUP).scan(b"c", &mut |_, command| {
            commands.push(Bytes::copy_from_slice(command));
        });
        commands
    }

    pub fn events(&self) -> Vec<(u64, Bytes)> {
        let events = self.storage.reader(GROUP).events(0, usize::MAX);
        events.expect("readable")
    }
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub folders: BTreeMap<u64, TempDir>,
    pub addrs: BTreeMap<u64, String>,
    links: HashMap<(u64, u64), Link>,
    pub options: GroupOptions,
}

/// One direction between two nodes.
struct Link {
    addr: SocketAddr,
    cut: watch::Sender<bool>,
    target: watch::Sender<String>,
}

impl Cluster {
    /// `count` voters, led by one of them.
    pub async fn start(count: u64) -> Cluster {
        let options = GroupOptions {
            keep_entries: 10,
            ..GroupOptions::new(0)
        };
        Self::start_with(count, options).await
    }

    pub async fn start_with(count: u64, options: GroupOptions) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            folders: BTreeMap::new(),
            addrs: BTreeMap::new(),
            links: HashMap::new(),
            options,
        };
        for id in 1..=count {
            let birth = if id == 1 { Birth::Alone } else { Birth::Join };
            cluster.add(id, birth).await;
        }
        let all: Vec<u64> = (1..=count).collect();
        cluster.become_members(&all).await;
        cluster
    }

    /// A new node, in no group yet.
    pub async fn add(&mut self, id: u64, birth: Birth) {
        self.folders
            .insert(id, tempfile::tempdir().expect("a folder"));
        self.open(id, birth).await;
    }

    /// Opens what is in the node's folder.
    pub async fn open(&mut self, id: u64, birth: Birth) {
        let storage = self.storage(id);
        let transport = Transport::bind(
            TransportOptions {
                node: id,
                cluster: "test".to_owned(),
                bind: "127.0.0.1:0".parse().expect("an address"),
                advertise: format!("127.0.0.1:{id}"),
                tls: None,
            },
            Arc::new(Echo),
        )
        .await
        .expect("binds");
        let addr = transport.local_addr().expect("listens").to_string();
        self.addrs.insert(id, addr.clone());
        let others: Vec<u64> = self.folders.keys().copied().filter(|o| *o != id).collect();
        for other in others {
            for pair in [(id, other), (other, id)] {
                if let std::collections::hash_map::Entry::Vacant(vacant) = self.links.entry(pair) {
                    vacant.insert(Link::open().await);
                }
            }
            self.links[&(other, id)].target.send_replace(addr.clone());
            if let Some(other_addr) = self.addrs.get(&other) {
                let target = &self.links[&(id, other)].target;
                target.send_replace(other_addr.clone());
            }
            transport.set_peer(other, &self.links[&(id, other)].addr.to_string());
            if let Some(other) = self.nodes.get(&other) {
                other
                    .transport
                    .set_peer(id, &self.links[&(other.id, id)].addr.to_string());
            }
        }
        let options = GroupOptions {
            node: id,
            ..self.options.clone()
        };
        let group = Group::open(
            &storage,
            GROUP,
            &options,
            Record::default(),
            &transport,
            birth,
        )
        .await
        .expect("opens");
        let node = Node {
            id,
            storage,
            transport,
            group,
        };
        self.nodes.insert(id, node);
    }

    pub fn storage(&self, id: u64) -> Storage {
        let options = StorageOptions {
            fsync: true,
            on_failure: Arc::new(|reason| panic!("the store failed: {reason}")),
        };
        Storage::open(self.folders[&id].path(), options).expect("opens")
    }

    /// Ends a node in order.
    pub async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("it runs");
        node.group.shutdown().await;
        node.transport.shutdown().await;
    }

    /// Ends a node as a kill would: what was not synced is gone.
    pub async fn kill(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("it runs");
        node.group.shutdown().await;
        node.transport.shutdown().await;
        let copy = tempfile::tempdir().expect("a folder");
        // The store is still open: its memory reaches no file.
        copy_files(self.folders[&id].path(), copy.path());
        drop(node);
        self.folders.insert(id, copy);
    }

    /// Has the leader pursue these voters until it is done.
    pub async fn become_members(&mut self, ids: &[u64]) {
        self.pursue(ids, &[]).await;
    }

    pub async fn pursue(&mut self, voters: &[u64], learners: &[u64]) {
        let named = |ids: &[u64]| -> BTreeMap<u64, String> {
            ids.iter()
                .map(|id| (*id, format!("127.0.0.1:{id}")))
                .collect()
        };
        let (voters, learners) = (named(voters), named(learners));
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < Duration::from_secs(20) {
            for node in self.nodes.values().filter(|node| node.group.is_leader()) {
                match node.group.set_members(&voters, &learners).await {
                    Ok(MembersProgress::Done) => return,
                    other => last = format!("{other:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the members did not become {voters:?}: {last}");
    }

    /// Who leads, as a majority sees it.
    pub async fn leader(&self) -> u64 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(15) {
            for node in self.nodes.values() {
                if node.group.is_leader()
                    && node.group.linearize(Duration::from_secs(1)).await.is_ok()
                {
                    return node.id;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let all: Vec<_> = self
            .nodes
            .values()
            .map(|node| node.group.status())
            .collect();
        panic!("nobody leads: {all:#?}");
    }

    /// Proposes by whoever leads, until it is acknowledged. Only a refusal that is sure is repeated.
    pub async fn propose(&self, command: &str) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(15) {
            let leader = self.leader().await;
            match self.nodes[&leader]
                .group
                .propose(Bytes::from(command.to_owned()))
                .await
            {
                Ok(_) => return,
                Err(ProposeError::NotLeader { .. }) => {}
                Err(error) => panic!("{command}: {error}"),
            }
        }
        panic!("{command} was not acknowledged");
    }

    /// Waits until all running nodes have applied what the leader has, and gives it.
    pub async fn agreed(&self) -> Vec<Bytes> {
        let leader = &self.nodes[&self.leader().await];
        let index = leader.group.status().last_index;
        for node in self.nodes.values() {
            let begun = Instant::now();
            while node.group.status().applied_index < index {
                assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "node {} stays behind {index}: {:?}",
                    node.id,
                    node.group.status()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let expected = leader.applied();
        for node in self.nodes.values() {
            assert_eq!(node.applied(), expected, "node {}", node.id);
            assert_eq!(node.events(), leader.events(), "node {}", node.id);
        }
        expected
    }

    /// Nothing passes between `a` and `b` any more; their sockets do not notice.
    pub fn cut(&self, a: u64, b: u64) {
        self.links[&(a, b)].cut.send_replace(true);
        self.links[&(b, a)].cut.send_replace(true);
    }

    pub fn heal(&self) {
        for link in self.links.values() {
            link.cut.send_replace(false);
        }
    }

    pub async fn shutdown(mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            self.stop(id).await;
        }
    }
}

impl Link {
    async fn open() -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("bound");
        let cut = watch::Sender::new(false);
        let target = watch::Sender::new(String::new());
        let (cuts, targets) = (cut.subscribe(), target.subscribe());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let target = targets.borrow().clone();
                tokio::spawn(forward(near, target, cuts.clone()));
            }
        });
        Link { addr, cut, target }
    }
}

/// While it is cut, bytes and connections vanish and nothing is closed.
async fn forward(mut near: TcpStream, target: String, mut cut: watch::Receiver<bool>) {
    let carried = async {
        let Ok(mut far) = TcpStream::connect(target).await else {
            return;
        };
        let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    };
    if !*cut.borrow() {
        tokio::select! {
            () = carried => return,
            changed = cut.wait_for(|cut| *cut) => if changed.is_err() { return },
        }
    }
    let _healed = cut.wait_for(|cut| !*cut).await;
}

pub fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("listed") {
        let file = file.expect("readable");
        if file.path().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        } else {
            std::fs::create_dir(to.join(file.file_name())).expect("made");
            copy_files(&file.path(), &to.join(file.file_name()));
        }
    }
}
