//! A node: its shards, its sessions and what runs beside them; started in order, stopped in reverse.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_mqtt::packet::QoS;
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::Limits;
use meridian_mqtt::text::Text;
use meridian_proto::cluster::v1;
use meridian_raft::{
    BindError, Birth, Group, GroupOptions, OpenError, OpenGroupError, Storage, StorageOptions,
    Transport, TransportOptions, TransportTls,
};
use meridian_shard::{
    Admission, FenceCatalog, MetaReply, MetaState, ShardState, fix_from_log, log,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::access::{Access, Client, Rights};
use crate::auth::Auth;
use crate::clock::LeaderClock;
use crate::cluster::{Calls, ClusterOptions, Peers, run_members, run_presence};
use crate::connection::PublishRates;
use crate::counters::Counters;
use crate::delivery::{
    Dispatch, Errand, Errands, MailboxLimits, SessionRoutes, ShardEffects, run_errands,
    run_handover,
};
use crate::geo::{GeoInputs, GeoPublish, InputPattern};
use crate::registry::{Registry, SessionQuota};
use crate::router::{Outgoing, ShardIndex, ShardMap, Subscriptions};
use crate::shards::{
    EventTail, FixesItem, FixesPublish, FixesWaiter, Leader, Leading, MetaMachine, QUEUE_MAX,
    Refused, Shard, ShardMachine, Shards, Unapplied, Waiter, follow_leader, run_fixes,
    run_pipeline, run_upkeep,
};
use crate::sys::SysTopics;

/// What a node is started with; the configuration file says the same in words.
pub struct NodeOptions {
    /// Names the node for life.
    pub id: u64,
    /// Where everything is.
    pub data_dir: PathBuf,
    /// Flush before acknowledging.
    pub fsync: bool,
    /// Topics to shards.
    pub map: ShardMap,
    /// Input topics.
    pub inputs: Vec<InputPattern>,
    /// What shards measure by.
    pub settings: log::Settings,
    /// Limits of a session.
    pub session_limits: Limits,
    /// Limits of a session's mailbox.
    pub mailbox_limits: MailboxLimits,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Bytes of the event log that are kept for nobody in particular, in events a shard.
    pub events_kept: u64,
    /// Who may connect.
    pub auth: Auth,
    /// Where they may publish and subscribe.
    pub access: Access,
    /// How fast one client may publish.
    pub publish_rates: PublishRates,
    /// How many sessions may outlive their connections.
    pub session_quota: SessionQuota,
    /// How it finds the other nodes; without, it is a cluster of one.
    pub cluster: Option<ClusterOptions>,
    /// Copies of each shard.
    pub replication: usize,
    /// Its zone; empty for none.
    pub zone: String,
    /// Where clients reach it, for those that are better served here; empty if nowhere.
    pub client_address: String,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// A group.
    #[error(transparent)]
    Group(#[from] OpenGroupError),
    /// What names the data directory.
    #[error("{path} cannot be read or written: {source}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The way to other nodes.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No node of the cluster took this one in.
    #[error("the cluster did not take this node in: {reason}")]
    NotAdmitted {
        /// In that node's words.
        reason: String,
    },
    /// A group found no leader.
    #[error("{group} did not elect this node within {waited_s} s")]
    NoLeader {
        /// The group.
        group: String,
        /// How long it was waited for.
        waited_s: u64,
    },
}

/// See the module.
pub struct Node {
    /// Its number.
    pub id: u64,
    /// Names this run of it.
    pub boot: u64,
    /// The way to other nodes.
    pub transport: Transport,
    /// Its shards.
    pub shards: Arc<Shards>,
    /// Live delivery.
    pub dispatch: Arc<Dispatch>,
    /// Its sessions.
    pub registry: Arc<Registry>,
    /// The fences, as the meta group has them.
    pub meta: Arc<Mutex<MetaState>>,
    meta_group: Group<MetaMachine>,
    meta_clock: Mutex<LeaderClock>,
    /// Counts the changes of `meta`.
    meta_changed: watch::Sender<u64>,
    settings: log::Settings,
    /// Copies of each shard.
    pub replication: usize,
    pub(crate) member: Option<log::ClusterNode>,
    /// Limits of a session.
    pub session_limits: Arc<Limits>,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Who may connect.
    pub auth: Auth,
    /// Input topics.
    pub geo: GeoInputs,
    /// `$SYS`.
    pub sys: SysTopics,
    /// What is counted.
    pub counters: Counters,
    /// Where clients may publish and subscribe.
    pub access: Arc<Access>,
    /// How fast one client may publish.
    pub publish_rates: PublishRates,
    /// How many sessions may outlive their connections.
    pub session_quota: SessionQuota,
    owners: AtomicU64,
    started: Instant,
    storage: Storage,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The file that names a data directory.
const IDENTITY: &str = "identity";
/// How often a shard's settings are looked at, beside their changes.
const SETTINGS: Duration = Duration::from_secs(1);
/// How long a group of one may take to elect itself.
const ELECTION_MAX: Duration = Duration::from_secs(30);
/// How long a leader may be without a majority before the node says that it waits for one.
const MAJORITY_MAX: Duration = Duration::from_secs(3);
/// How long a change of the cluster or of the fences may take.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// How long fixes may take from the leader into the log.
const FIXES_MAX: Duration = Duration::from_secs(5);

impl Node {
    /// Opens the data directory, replays what is there, and takes up its sessions. A node of a cluster comes back when it is
    /// a member, or after a while without a majority: then it waits for one, and `/readyz` says so.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: NodeOptions) -> Result<Arc<Node>, StartError> {
        let storage = Storage::open(
            &options.data_dir,
            StorageOptions {
                fsync: options.fsync,
                ..Default::default()
            },
        )?;
        let boot = storage.boot();
        let incarnation =
            incarnation(&options.data_dir).map_err(|source| StartError::Identity {
                path: options.data_dir.join(IDENTITY),
                source,
            })?;
        let calls = Arc::new(Calls::default());
        let transport = match &options.cluster {
            None => Transport::alone(options.id),
            Some(cluster) => {
                let tls = cluster
                    .tls
                    .clone()
                    .map(|(cert, key, ca)| TransportTls { cert, key, ca });
                let options = TransportOptions {
                    node: options.id,
                    cluster: cluster.name.clone(),
                    bind: cluster.bind,
                    advertise: cluster.advertise.clone(),
                    tls,
                };
                Transport::bind(options, calls.clone()).await?
            }
        };
        let birth = match &options.cluster {
            Some(cluster) if !cluster.bootstrap => Birth::Join,
            _ => Birth::Alone,
        };
        let group_options = GroupOptions::new(options.id);
        let (errands, errand_queue) = Errands::channel();
        let (stop, stopped) = watch::channel(false);
        let shared = Shared {
            node: options.id,
            boot,
            transport: transport.clone(),
            catalog: FenceCatalog::default(),
            registry: Arc::new(Registry::default()),
            dispatch: Arc::new(Dispatch {
                peers: Peers::new(transport.clone()),
                subscriptions: Subscriptions::default(),
                limits: options.mailbox_limits,
            }),
            map: Arc::new(options.map),
            errands,
            stopped: stopped.clone(),
        };

        let meta = Arc::new(Mutex::new(MetaState::default()));
        let meta_changed = watch::channel(0).0;
        let meta_group = Group::open(
            &storage,
            "meta",
            &group_options,
            MetaMachine::new(Arc::clone(&meta), meta_changed.clone()),
            &transport,
            birth,
        )
        .await?;
        let mut list = Vec::new();
        let mut queues = Vec::new();
        let mut tasks = Vec::new();
        for index in shared.map.all() {
            let opened = shared
                .open_shard(index, &storage, &group_options, birth)
                .await?;
            tasks.extend(opened.tasks);
            list.push(opened.shard);
            queues.push(opened.fixes);
        }
        let shards = Arc::new(Shards::new(shared.map, Arc::clone(&shared.dispatch), list));
        let member = options.cluster.as_ref().map(|cluster| log::ClusterNode {
            id: options.id,
            address: cluster.advertise.clone(),
            zone: options.zone.clone(),
            client_address: options.client_address.clone(),
            draining: false,
            leaving: false,
            incarnation,
        });
        let node = Arc::new(Node {
            id: options.id,
            boot,
            transport,
            shards,
            dispatch: shared.dispatch,
            registry: shared.registry,
            meta,
            meta_group,
            meta_clock: Mutex::new(LeaderClock::new(0)),
            meta_changed,
            settings: options.settings,
            replication: options.replication,
            member,
            session_limits: Arc::new(options.session_limits),
            subscriptions_max: options.subscriptions_max,
            auth: options.auth,
            geo: GeoInputs {
                patterns: options.inputs,
            },
            sys: SysTopics::default(),
            counters: Counters::default(),
            access: Arc::new(options.access),
            publish_rates: options.publish_rates,
            session_quota: options.session_quota,
            owners: AtomicU64::new(1),
            started: Instant::now(),
            storage,
            stop,
            tasks: Mutex::new(tasks),
        });
        node.know_members();
        calls.serve(&node);
        node.run_beside(errand_queue, queues, &stopped, options.events_kept);
        if birth == Birth::Join {
            let seeds = options
                .cluster
                .map(|cluster| cluster.seeds)
                .unwrap_or_default();
            node.join(&seeds).await?;
        }
        node.wait_until_served().await?;
        Ok(node)
    }

    /// Waits until every group has a leader, and the shards that this node leads have their settings.
    async fn wait_until_served(self: &Arc<Self>) -> Result<(), StartError> {
        let deadline = Instant::now() + ELECTION_MAX;
        loop {
            let waiting = self.waiting_for();
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                if self.member.is_none() {
                    return Err(StartError::NoLeader {
                        group: waiting.join(", "),
                        waited_s: ELECTION_MAX.as_secs(),
                    });
                }
                tracing::warn!(
                    groups = waiting.join(", "),
                    "No majority yet: this node waits for one, and serves what needs none."
                );
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The groups that cannot serve now, as this node sees it.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&str> {
        let is_led = |status: &meridian_raft::GroupStatus| match status.leader {
            // A leader that a majority has not answered for long may be none any more.
            Some(leader) if leader == self.id => {
                status.quorum_acked.is_some_and(|ago| ago < MAJORITY_MAX)
            }
            other => other.is_some(),
        };
        let meta = (!is_led(&self.meta_group.status())).then_some("meta");
        let waits = |shard: &&Shard| {
            let status = shard.group.status();
            let has_settings =
                || shard.leading.leads() && *shard.state.lock().settings() == self.settings;
            !is_led(&status)
                || !shard.leading.has_caught_up()
                || status.leader == Some(self.id) && !has_settings()
        };
        let shards = self
            .shards
            .iter()
            .filter(waits)
            .map(|shard| shard.name.as_str());
        meta.into_iter().chain(shards).collect()
    }

    /// Whether it is a cluster of one that nobody can join.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.member.is_none()
    }

    fn run_beside(
        self: &Arc<Self>,
        errands: mpsc::Receiver<Errand>,
        fixes: Vec<mpsc::Receiver<Box<FixesPublish>>>,
        stopped: &watch::Receiver<bool>,
        events_kept: u64,
    ) {
        let mut tasks = self.tasks.lock();
        tasks.push(tokio::spawn(run_errands(
            Arc::clone(&self.shards),
            Arc::clone(&self.access),
            errands,
            stopped.clone(),
        )));
        for (index, fixes) in self.shards.map.all().zip(fixes) {
            tasks.push(tokio::spawn(run_fixes(Arc::clone(self), index, fixes)));
            tasks.push(tokio::spawn(run_handover(
                index,
                Arc::clone(&self.shards),
                stopped.clone(),
            )));
            tasks.push(tokio::spawn(run_upkeep(
                Arc::clone(&self.shards),
                index,
                events_kept,
                stopped.clone(),
            )));
            tasks.push(tokio::spawn(run_settings(
                Arc::clone(self),
                index,
                stopped.clone(),
            )));
        }
        tasks.push(tokio::spawn(run_presence(
            Arc::clone(self),
            stopped.clone(),
        )));
        if self.member.is_some() {
            tasks.push(tokio::spawn(run_members(
                Arc::clone(self),
                self.replication,
                stopped.clone(),
            )));
        }
        tasks.push(tokio::spawn(crate::sys::run(
            Arc::clone(self),
            stopped.clone(),
        )));
    }

    /// What a client may do, and the generation of the rules that say so.
    #[must_use]
    pub fn rights(&self, client_id: &str, user: Option<&str>) -> (Arc<Rights>, u64) {
        self.access.rights(Client {
            id: client_id,
            user,
            region: self.shards.map.client_region(client_id),
        })
    }

    /// Rules or users have changed: all connections ask for their rights again.
    pub fn rights_changed(&self) {
        self.access.changed();
        for session in self.registry.all() {
            session.tell_of_rights();
        }
    }

    /// Names a connection.
    #[must_use]
    pub fn next_owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// An identifier for a client that brought none: never one that was there before.
    #[must_use]
    pub fn assign_client_id(&self) -> Text {
        let moment = u128::from(self.next_owner()) | (u128::from(self.id) << 112);
        let wall = u128::from(crate::clock::wall_ms().unsigned_abs());
        crate::connection::assigned_client_id(moment | (wall << 40))
    }

    /// How long it has been up.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Follows the changes of the meta group's state.
    #[must_use]
    pub fn meta_changed(&self) -> watch::Receiver<u64> {
        self.meta_changed.subscribe()
    }

    /// The Raft group of the fences and the members.
    #[must_use]
    pub fn meta_group(&self) -> &Group<MetaMachine> {
        &self.meta_group
    }

    /// Changes the fences: in the meta group, and then in every shard. Returns with all shards judging by them, as far as
    /// this node's replicas show.
    ///
    /// # Errors
    /// [`Refused`]; a shard that was missed is given all fences as soon as it can take them.
    pub async fn change_fences(&self, change: log::PutFences) -> Result<log::PutFences, Refused> {
        let entry = log::MetaEntry {
            put_fences: Some(change),
            ..Default::default()
        };
        let MetaReply::Fences(put) = self.change(entry).await? else {
            return Err(Refused::Unknown);
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let behind = |shard: &Shard| shard.state.lock().fences().revision < put.revision;
        while self.shards.iter().any(behind) {
            if Instant::now() > deadline {
                return Err(Refused::Unknown);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(put)
    }

    /// Changes the meta group's state, wherever that is led.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn change(&self, entry: log::MetaEntry) -> Result<MetaReply, Refused> {
        let deadline = Instant::now() + CHANGE_MAX;
        loop {
            let tried = match self.meta_group.status().leader {
                Some(leader) if leader == self.id => self.change_here(entry.clone()).await,
                Some(leader) => self.change_at(leader, &entry).await,
                None => Err(Refused::Unavailable),
            };
            match tried {
                Err(Refused::Unavailable) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done => return done,
            }
        }
    }

    /// Changes the meta group's state as its leader.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn change_here(&self, mut entry: log::MetaEntry) -> Result<MetaReply, Refused> {
        entry.proposed_at_ms = self.meta_clock.lock().stamp();
        let proposed = self.meta_group.propose(Bytes::from(entry.encode_to_vec()));
        match tokio::time::timeout(CHANGE_MAX, proposed).await {
            Ok(Ok(reply)) => reply.ok_or(Refused::Unknown),
            Ok(Err(meridian_raft::ProposeError::NotLeader { .. })) => Err(Refused::Unavailable),
            Ok(Err(_)) | Err(_) => Err(Refused::Unknown),
        }
    }

    async fn change_at(&self, leader: u64, entry: &log::MetaEntry) -> Result<MetaReply, Refused> {
        use v1::reply::Body;
        let request = v1::request::Body::Change(entry.clone());
        match self.ask(leader, request, CHANGE_MAX).await? {
            Body::Fences(put) => Ok(MetaReply::Fences(put)),
            Body::Done(_) => Ok(MetaReply::Done),
            Body::Refusal(refusal) if refusal.r#final => Ok(MetaReply::Removed),
            Body::Refusal(_) => Err(Refused::Unavailable),
            _ => Err(Refused::Unknown),
        }
    }

    /// Asks another node.
    ///
    /// # Errors
    /// [`Refused`]: whether it surely was not reached, or perhaps was.
    pub async fn ask(
        &self,
        node: u64,
        request: v1::request::Body,
        timeout: Duration,
    ) -> Result<v1::reply::Body, Refused> {
        let request = v1::Request {
            body: Some(request),
        };
        let asked = self
            .transport
            .request(node, request.encode_to_vec().into(), timeout)
            .await;
        match asked {
            Ok(reply) => v1::Reply::decode(reply)
                .ok()
                .and_then(|reply| reply.body)
                .ok_or(Refused::Unknown),
            Err(meridian_raft::RequestError::Unsent { .. }) => Err(Refused::Unavailable),
            Err(_) => Err(Refused::Unknown),
        }
    }

    /// Publishes a message of the broker's own or of the HTTP API; returns when it is durable, if it must be.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn publish(&self, message: Outgoing) -> Result<(), Refused> {
        let shard = self.shards.get(self.shards.map.of_topic(&message.topic));
        if self.geo.input(&message.topic).is_some() {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let item = FixesItem {
                message,
                once: None,
                resend: false,
            };
            let waiter = FixesWaiter::Reply(sender);
            shard
                .submit_fixes(Box::new(FixesPublish { item, waiter }))
                .await;
            return receiver.await.unwrap_or(Err(Refused::Unavailable));
        }
        if message.qos == QoS::AtMostOnce && !message.retain {
            self.dispatch.everywhere(&message, None);
            return Ok(());
        }
        let publish = log::Publish {
            message: Some(message.to_message()),
            once: None,
        };
        shard
            .propose(log::command::Body::Publish(publish))
            .await
            .map(|_| ())
    }

    /// Takes publishes of fixes as the leader of their shard, in order; comes back when all are dealt with.
    pub async fn take_fixes(
        &self,
        index: ShardIndex,
        items: Vec<FixesItem>,
    ) -> Vec<Result<(), Refused>> {
        let shard = self.shards.get(index);
        let mut waiting = Vec::with_capacity(items.len());
        for item in items {
            let FixesItem {
                message,
                once,
                resend,
            } = item;
            let Some((region, device)) = self.geo.input(&message.topic) else {
                // Another node's configuration takes it for fixes, and this one's does not.
                waiting.push(Err(Refused::Unavailable));
                continue;
            };
            let (region, device) = (region.to_owned(), device.to_owned());
            let (done, answer) = tokio::sync::oneshot::channel();
            let proposal = match self
                .geo
                .publish(self, index, &message, &region, &device, resend)
            {
                GeoPublish::Changed(mut fixes) => {
                    fixes.raw = Some(message.to_message());
                    fixes.once = once;
                    crate::shards::Proposal {
                        command: log::command::Body::Fixes(fixes),
                        waiter: Waiter::Fixes { device, done },
                    }
                }
                GeoPublish::Unchanged(fixes) => {
                    let seen = self.seen(index, &region, &device, fixes);
                    self.dispatch.everywhere(&message, seen);
                    waiting.push(Ok(None));
                    continue;
                }
                GeoPublish::Plain => crate::shards::Proposal {
                    command: log::command::Body::Publish(log::Publish {
                        message: Some(message.to_message()),
                        once,
                    }),
                    waiter: Waiter::Reply(done),
                },
            };
            shard.submit_with(Box::new(proposal)).await;
            waiting.push(Ok(Some(answer)));
        }
        let mut results = Vec::with_capacity(waiting.len());
        for one in waiting {
            results.push(match one {
                Ok(Some(answer)) => match tokio::time::timeout(FIXES_MAX, answer).await {
                    Ok(Ok(reply)) => reply.map(|_| ()),
                    Ok(Err(_)) | Err(_) => Err(Refused::Unknown),
                },
                Ok(None) => Ok(()),
                Err(refused) => Err(refused),
            });
        }
        results
    }

    /// What other nodes are told of a device whose fixes stand in no log.
    #[must_use]
    pub fn seen(
        &self,
        shard: ShardIndex,
        region: &str,
        device: &str,
        fixes: Vec<log::Fix>,
    ) -> Option<v1::Seen> {
        (!fixes.is_empty()).then(|| v1::Seen {
            shard: self.shards.get(shard).name.clone(),
            device: device.to_owned(),
            region: region.to_owned(),
            fixes,
        })
    }

    /// The leader of a shard says where a device is now.
    pub fn saw(&self, seen: &v1::Seen) {
        let Some(shard) = self.shards.named(&seen.shard) else {
            return;
        };
        let mut state = shard.state.lock();
        for fix in seen.fixes.iter().filter_map(fix_from_log) {
            state.saw(&seen.device, &seen.region, &fix);
        }
    }

    /// Hands over what it leads, ends all connections, lets what is under way finish, and closes the store.
    pub async fn stop(&self) {
        self.hand_over_leads().await;
        for session in self.registry.all() {
            session.end(ReasonCode::ServerShuttingDown);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.counters.connections() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop.send_replace(true);
        for shard in self.shards.iter() {
            shard.group.shutdown().await;
        }
        self.meta_group.shutdown().await;
        self.transport.shutdown().await;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
        }
        self.storage.clone().close();
    }
}

/// What the shards of a node share while they are opened.
struct Shared {
    node: u64,
    boot: u64,
    transport: Transport,
    catalog: FenceCatalog,
    registry: Arc<Registry>,
    dispatch: Arc<Dispatch>,
    map: Arc<ShardMap>,
    errands: Errands,
    stopped: watch::Receiver<bool>,
}

struct OpenedShard {
    shard: Shard,
    fixes: mpsc::Receiver<Box<FixesPublish>>,
    tasks: [JoinHandle<()>; 2],
}

impl Shared {
    async fn open_shard(
        &self,
        index: ShardIndex,
        storage: &Storage,
        options: &GroupOptions,
        birth: Birth,
    ) -> Result<OpenedShard, StartError> {
        let name = self.map.names()[index.at()].clone();
        // Filled by the machine's `restore`.
        let nothing = meridian_shard::MemoryStore::default();
        let state = ShardState::restore(&name, self.catalog.clone(), &nothing);
        let state = Arc::new(Mutex::new(state));
        let tail = Arc::new(EventTail::new(0));
        let admission = Arc::new(Mutex::new(Admission::default()));
        let leading = Arc::new(Leading::new());
        let unapplied = Arc::new(Unapplied::new(Arc::clone(&admission)));
        let clock = Arc::new(Mutex::new(LeaderClock::new(0)));
        let effects = ShardEffects {
            shard: index,
            tail: Arc::clone(&tail),
            dispatch: Arc::clone(&self.dispatch),
            registry: Arc::clone(&self.registry),
            routes: SessionRoutes {
                shard: index,
                state: Arc::clone(&state),
                map: Arc::clone(&self.map),
                registry: Arc::clone(&self.registry),
                dispatch: Arc::clone(&self.dispatch),
                node: self.node,
                boot: self.boot,
            },
            leading: Arc::clone(&leading),
            errands: self.errands.clone(),
        };
        let machine = ShardMachine::new(
            Arc::clone(&state),
            self.catalog.clone(),
            Arc::new(effects),
            (self.node, self.boot),
            Arc::clone(&unapplied),
            Arc::clone(&clock),
        );
        let group = Group::open(storage, &name, options, machine, &self.transport, birth).await?;
        tail.start_at(state.lock().next_offset());
        let leader = Leader::new(
            &name,
            group.clone(),
            Arc::clone(&clock),
            self.transport.clone(),
        );
        let (proposals, queue) = mpsc::channel(QUEUE_MAX);
        let (fixes, fixes_queue) = mpsc::channel(QUEUE_MAX);
        let tasks = [
            tokio::spawn(run_pipeline(
                self.node,
                self.boot,
                leader.clone(),
                unapplied,
                queue,
            )),
            tokio::spawn(follow_leader(
                leader.clone(),
                Arc::clone(&leading),
                Arc::clone(&admission),
                Arc::clone(&clock),
                self.stopped.clone(),
            )),
        ];
        let shard = Shard {
            index,
            name,
            state,
            admission,
            tail,
            group,
            leader,
            leading,
            handed_over: AtomicU64::new(0),
            reader: storage.reader(&self.map.names()[index.at()]),
            proposals,
            fixes,
            fixes_under_way: Default::default(),
        };
        Ok(OpenedShard {
            shard,
            fixes: fixes_queue,
            tasks,
        })
    }
}

/// Brings the settings and the fences into a shard that is led here, and keeps them as the meta group has them.
async fn run_settings(node: Arc<Node>, index: ShardIndex, mut stop: watch::Receiver<bool>) {
    let shard = node.shards.get(index);
    let mut leads = shard.leading.watch();
    let mut changed = node.meta_changed();
    while !*stop.borrow() {
        changed.mark_unchanged();
        leads.mark_unchanged();
        if shard.leading.leads() {
            for command in wanting(&node, shard) {
                if let Err(error) = shard.propose(command).await {
                    tracing::debug!(shard = shard.name, %error, "The settings could not be logged yet.");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(SETTINGS) => {}
            _ = changed.changed() => {}
            _ = leads.changed() => {}
            _ = stop.changed() => {}
        }
    }
}

/// What a shard lacks of the settings and the fences.
fn wanting(node: &Node, shard: &Shard) -> Vec<log::command::Body> {
    let (settings, revision) = {
        let state = shard.state.lock();
        (*state.settings(), state.fences().revision)
    };
    let mut commands = Vec::new();
    if settings != node.settings {
        commands.push(log::command::Body::Settings(node.settings));
    }
    let meta = node.meta.lock();
    if revision < meta.fences().revision {
        commands.push(log::command::Body::PutFences(meta.since(revision)));
    }
    commands
}

/// What names this data directory for ever; made when it is new.
fn incarnation(data_dir: &std::path::Path) -> std::io::Result<u64> {
    use std::hash::{BuildHasher as _, Hasher as _};
    use std::io::Write as _;
    let path = data_dir.join(IDENTITY);
    match std::fs::read_to_string(&path) {
        Ok(text) => u64::from_str_radix(text.trim(), 16)
            .map_err(|_| std::io::Error::other("it does not hold a number")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Different with near certainty; nothing depends on its being a secret.
            let number = std::hash::RandomState::new().build_hasher().finish() | 1;
            let new = data_dir.join(format!("{IDENTITY}.new"));
            let mut file = std::fs::File::create(&new)?;
            writeln!(file, "{number:016x}")?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            std::fs::File::open(data_dir)?.sync_all()?;
            Ok(number)
        }
        Err(error) => Err(error),
    }
}
