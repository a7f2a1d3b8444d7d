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
use meridian_mqtt::topic::TopicFilter;
use meridian_raft::{
    Birth, Group, GroupOptions, OpenError, OpenGroupError, Storage, StorageOptions, Transport,
};
use meridian_shard::{Admission, FenceCatalog, MetaState, ShardState, log};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::auth::Auth;
use crate::clock::LeaderClock;
use crate::counters::Counters;
use crate::delivery::{
    Dispatch, Errand, Errands, MailboxLimits, Persistent, SENT_UNKNOWN, SessionHandle,
    ShardEffects, run_errands, run_handover,
};
use crate::geo::{GeoInputs, GeoPublish, InputPattern};
use crate::registry::Registry;
use crate::router::{Outgoing, Route, RouteOptions, ShardMap, Source, Subscriptions, qos, text};
use crate::shards::{
    EventTail, MetaMachine, QUEUE_MAX, Shard, ShardMachine, Shards, run_proposer, run_upkeep,
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
    /// Whether clients may publish under `geo/`.
    pub publish_geo: bool,
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
    /// A group found no leader.
    #[error("{group} did not elect this node within {waited_s} s")]
    NoLeader {
        /// The group.
        group: String,
        /// How long it was waited for.
        waited_s: u64,
    },
    /// The settings could not be logged.
    #[error("{shard} did not take its settings")]
    Settings {
        /// The shard.
        shard: String,
    },
}

/// See the module.
pub struct Node {
    /// Its number.
    pub id: u64,
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
    /// One change of the fences at a time, so that shards see them in order.
    fence_turn: tokio::sync::Mutex<()>,
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
    publish_geo: bool,
    owners: AtomicU64,
    started: Instant,
    storage: Storage,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// How long a group of one may take to elect itself.
const ELECTION_MAX: Duration = Duration::from_secs(30);

impl Node {
    /// Opens the data directory, replays what is there, and takes up its sessions.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: NodeOptions) -> Result<Arc<Node>, StartError> {
        let fsync = options.fsync;
        let storage = Storage::open(
            &options.data_dir,
            StorageOptions {
                fsync,
                ..Default::default()
            },
        )?;
        let group_options = GroupOptions::new(options.id);
        let catalog = FenceCatalog::default();
        let registry = Arc::new(Registry::default());
        let dispatch = Arc::new(Dispatch {
            subscriptions: Subscriptions::default(),
            limits: options.mailbox_limits,
        });
        let (errands, errand_queue) = Errands::channel();
        let (stop, stopped) = watch::channel(false);

        let transport = Transport::alone(group_options.node);
        let meta = Arc::new(Mutex::new(MetaState::default()));
        let meta_group = Group::open(
            &storage,
            "meta",
            &group_options,
            MetaMachine::new(Arc::clone(&meta)),
            &transport,
            Birth::Alone,
        )
        .await?;
        lead(&meta_group).await?;

        let mut list = Vec::new();
        let mut tasks = Vec::new();
        for index in options.map.all() {
            let name = options.map.names()[index.at()].clone();
            let reader = storage.reader(&name);
            // Filled by the machine's `restore`.
            let state = ShardState::restore(
                &name,
                catalog.clone(),
                &meridian_shard::MemoryStore::default(),
            );
            let state = Arc::new(Mutex::new(state));
            let tail = Arc::new(EventTail::new(0));
            let effects = ShardEffects {
                shard: index,
                tail: Arc::clone(&tail),
                dispatch: Arc::clone(&dispatch),
                registry: Arc::clone(&registry),
                errands: errands.clone(),
            };
            let machine = ShardMachine::new(Arc::clone(&state), catalog.clone(), Arc::new(effects));
            let group = Group::open(
                &storage,
                &name,
                &group_options,
                machine,
                &transport,
                Birth::Alone,
            )
            .await?;
            lead(&group).await?;
            tail.start_at(state.lock().next_offset());
            let admission = Arc::new(Mutex::new(Admission::default()));
            let (proposals, queue) = mpsc::channel(QUEUE_MAX);
            let clock = LeaderClock::new(state.lock().now_ms());
            let settled = Arc::clone(&admission);
            tasks.push(tokio::spawn(run_proposer(
                group.clone(),
                Mutex::new(clock),
                queue,
                move |device: &str| {
                    settled.lock().settled(device);
                },
            )));
            list.push(Shard {
                index,
                name,
                state,
                admission,
                tail,
                group,
                handed_over: AtomicU64::new(0),
                reader,
                proposals,
            });
        }
        let shards = Arc::new(Shards::new(options.map, Arc::clone(&dispatch), list));
        let meta_clock = Mutex::new(LeaderClock::new(0));
        let node = Arc::new(Node {
            id: options.id,
            shards,
            dispatch,
            registry,
            meta,
            meta_group,
            meta_clock,
            fence_turn: tokio::sync::Mutex::default(),
            session_limits: Arc::new(options.session_limits),
            subscriptions_max: options.subscriptions_max,
            auth: options.auth,
            geo: GeoInputs {
                patterns: options.inputs,
            },
            sys: SysTopics::default(),
            counters: Counters::default(),
            publish_geo: options.publish_geo,
            owners: AtomicU64::new(1),
            started: Instant::now(),
            storage,
            stop,
            tasks: Mutex::new(tasks),
        });
        node.take_up(&options.settings).await?;
        node.run_beside(errand_queue, &stopped, options.events_kept);
        Ok(node)
    }

    /// Gives shards what they missed, and takes up the sessions that were there before.
    async fn take_up(self: &Arc<Self>, settings: &log::Settings) -> Result<(), StartError> {
        let everything = self.meta.lock().everything();
        for shard in self.shards.iter() {
            let refused = |_| StartError::Settings {
                shard: shard.name.clone(),
            };
            let (known, revision) = {
                let state = shard.state.lock();
                (*state.settings(), state.fences().revision)
            };
            if known != *settings {
                shard
                    .propose(log::command::Body::Settings(*settings))
                    .await
                    .map_err(refused)?;
            }
            if revision < everything.revision {
                shard
                    .propose(log::command::Body::PutFences(everything.clone()))
                    .await
                    .map_err(refused)?;
            }
            let sessions: Vec<log::Session> = shard
                .state
                .lock()
                .sessions()
                .map(|session| session.record.clone())
                .collect();
            for session in &sessions {
                self.take_up_session(shard, session);
            }
            // Their connections died with the process that had them.
            for session in sessions.into_iter().filter(|session| session.connected) {
                shard
                    .propose(log::command::Body::CloseSession(log::CloseSession {
                        client_id: session.client_id,
                        connection_epoch: session.connection_epoch,
                        publish_will: true,
                        expiry_s: session.expiry_s,
                    }))
                    .await
                    .map_err(refused)?;
            }
        }
        Ok(())
    }

    fn take_up_session(&self, shard: &Shard, session: &log::Session) {
        let persistent = Persistent {
            home: shard.index,
            epoch: session.epoch,
        };
        let handle = Arc::new(SessionHandle::new(
            &session.client_id,
            Some(persistent),
            SENT_UNKNOWN,
        ));
        self.registry
            .replace(Arc::clone(&handle), &self.dispatch.subscriptions);
        for subscription in &session.subscriptions {
            let Some(filter) =
                text(&subscription.filter).and_then(|text| TopicFilter::new(text).ok())
            else {
                continue;
            };
            let wanted = subscription.options.unwrap_or_default();
            let options = RouteOptions {
                qos: qos(wanted.qos),
                no_local: wanted.no_local,
                retain_as_published: wanted.retain_as_published,
                subscription_id: wanted.subscription_id,
            };
            let reach = self.shards.map.of_filter(&filter);
            let route = Route::new(Arc::clone(&handle), filter.clone(), options, &reach);
            for of in reach.shards() {
                let shard = self.shards.get(*of);
                // A shard that came later has everything from its beginning on for it.
                route.place(
                    *of,
                    subscription.since.get(&shard.name).copied().unwrap_or(0),
                );
            }
            self.dispatch.subscriptions.insert(Arc::new(route));
            handle.filters.lock().push(filter);
        }
    }

    fn run_beside(
        self: &Arc<Self>,
        errands: mpsc::Receiver<Errand>,
        stopped: &watch::Receiver<bool>,
        events_kept: u64,
    ) {
        let mut tasks = self.tasks.lock();
        tasks.push(tokio::spawn(run_errands(
            Arc::clone(&self.shards),
            errands,
            stopped.clone(),
        )));
        for index in self.shards.map.all() {
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
        }
        tasks.push(tokio::spawn(crate::sys::run(
            Arc::clone(self),
            stopped.clone(),
        )));
    }

    /// Whether a client may publish to `topic`: not to the broker's own.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        !topic.starts_with('$') && (self.publish_geo || !topic.starts_with("geo/"))
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

    /// The Raft group of the fences.
    #[must_use]
    pub fn meta_group(&self) -> &Group<MetaMachine> {
        &self.meta_group
    }

    /// Changes the fences: in the meta group, and then in every shard. Returns with all shards judging by them.
    ///
    /// # Errors
    /// [`crate::shards::Refused`]; a shard that was missed is given all fences at the next start.
    pub async fn change_fences(
        &self,
        change: log::PutFences,
    ) -> Result<log::PutFences, crate::shards::Refused> {
        let _turn = self.fence_turn.lock().await;
        let entry = log::MetaEntry {
            proposed_at_ms: self.meta_clock.lock().stamp(),
            put_fences: Some(change),
        };
        let reply = self
            .meta_group
            .propose(Bytes::from(entry.encode_to_vec()))
            .await;
        let put = match reply {
            Ok(Some(reply)) => reply.put_fences,
            Ok(None) | Err(_) => return Err(crate::shards::Refused::Unknown),
        };
        for shard in self.shards.iter() {
            shard
                .propose(log::command::Body::PutFences(put.clone()))
                .await?;
        }
        Ok(put)
    }

    /// Publishes a message of the broker's own or of the HTTP API; returns when it is durable, if it must be.
    ///
    /// # Errors
    /// [`crate::shards::Refused`].
    pub async fn publish(&self, message: Outgoing) -> Result<(), crate::shards::Refused> {
        let index = self.shards.map.of_topic(&message.topic);
        let shard = self.shards.get(index);
        if let Some((region, device)) = self.geo.input(&message.topic) {
            let (region, device) = (region.to_owned(), device.to_owned());
            match self
                .geo
                .publish(self, index, &message, &region, &device, false)
            {
                GeoPublish::Changed(mut fixes) => {
                    fixes.raw = Some(message.to_message());
                    let applied = shard.propose(log::command::Body::Fixes(fixes)).await;
                    shard.admission.lock().settled(&device);
                    return applied.map(|_| ());
                }
                GeoPublish::Unchanged => {
                    self.dispatch.live(&message, Source::Direct);
                    return Ok(());
                }
                GeoPublish::Plain => {}
            }
        } else if message.qos == QoS::AtMostOnce && !message.retain {
            self.dispatch.live(&message, Source::Direct);
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

    /// Ends all connections, lets what is under way finish, and closes the store.
    pub async fn stop(&self) {
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
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
        }
        self.storage.clone().close();
    }
}

async fn lead<S: meridian_raft::StateMachine + Sync>(group: &Group<S>) -> Result<(), StartError> {
    group
        .wait_until_leader(ELECTION_MAX)
        .await
        .map_err(|_| StartError::NoLeader {
            group: group.name().to_owned(),
            waited_s: ELECTION_MAX.as_secs(),
        })
}
