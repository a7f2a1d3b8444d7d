//! `meridian serve`: a configuration to a running node, until it is told to stop.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use meridian_mqtt::session::Limits;
use meridian_shard::log;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::access::{Access, Rules};
use crate::admin::{self, Api, HttpServer};
use crate::auth::{Auth, Tokens, Users};
use crate::config::{Config, PlainListener, is_loopback};
use crate::delivery::MailboxLimits;
use crate::listener::{Doors, Inside, Listener, SeatLimits, Tls, TlsError, TlsFiles, Transport};
use crate::node::{Node, NodeOptions, StartError};
use crate::registry::SessionQuota;
use crate::reload;
use crate::sinks::Sinks;
use crate::telemetry;

/// Messages that wait for one connection, in memory.
const MAILBOX_MESSAGES_MAX: usize = 100_000;
/// Bytes that wait for one connection, in memory.
const MAILBOX_BYTES_MAX: usize = 64 << 20;
/// QoS 1 and 2 messages that wait for a client's receive maximum.
const OUTBOX_MESSAGES_MAX: usize = 100_000;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The node.
    #[error(transparent)]
    Node(#[from] StartError),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address.
    #[error("{what} cannot listen on {address}: {source}; is another broker running there?")]
    Bind {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// SIGHUP cannot be heard.
    #[error("signals cannot be heard: {0}")]
    Signals(std::io::Error),
}

/// A node with its listeners, API and sinks.
pub struct Server {
    /// The node.
    pub node: Arc<Node>,
    /// What listens where: `tcp`, `tls`, `ws`, `wss`, `http`.
    pub addresses: Vec<(&'static str, SocketAddr)>,
    listeners: Vec<Listener>,
    http: Option<HttpServer>,
    sinks: Arc<Sinks>,
    upkeep: JoinHandle<()>,
    watcher: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Starts everything that `config` names.
    ///
    /// # Errors
    /// [`ServeError`]; what had started ends with the process.
    pub async fn start(config: &Config) -> Result<Server, ServeError> {
        let metrics = telemetry::install();
        // Certificates first: a wrong one should not wait for a replay.
        let mut secured = Vec::new();
        let mut certificates = Vec::new();
        for (name, listener) in [
            ("tls", &config.listeners.tls),
            ("wss", &config.listeners.wss),
        ] {
            if let Some(listener) = listener {
                let files = TlsFiles {
                    cert: listener.cert.clone(),
                    key: listener.key.clone(),
                    client_ca: listener.client_ca.clone(),
                    client_crl: listener.client_crl.clone(),
                    identity: listener.identity,
                    tls12: listener.tls12,
                    inside: if name == "tls" {
                        Inside::Mqtt
                    } else {
                        Inside::WebSocket
                    },
                };
                let tls = Arc::new(Tls::load(files)?);
                certificates.push((name, Arc::clone(&tls)));
                secured.push((name, listener.bind, listener.proxy_protocol, tls));
            }
        }
        let node = Node::start(node_options(config)).await?;
        let sinks = Arc::new(Sinks::start(config, &node.shards));
        let (stop, stopped) = watch::channel(false);
        let mut sources = watched(config, &node);
        for (name, _, _, tls) in &secured {
            let (files, tls) = (tls.files(), Arc::clone(tls));
            sources.push(reload::Source {
                what: format!("certificates of listeners.{name}"),
                files,
                read: tls.look().clone(),
                reload: Box::new(move || tls.reload().map_err(|error| error.to_string())),
            });
        }
        let watcher = reload::watch(sources, stopped);
        let mut server = Server {
            watcher: watcher.map_err(ServeError::Signals)?,
            node,
            addresses: Vec::new(),
            listeners: Vec::new(),
            http: None,
            sinks,
            stop,
            upkeep: tokio::spawn(keep_up(metrics.clone())),
        };
        let doors = Doors::new(SeatLimits {
            total_max: config.limits.max_connections,
            elsewhere: config.limits.per_address,
            loopback: config.limits.per_loopback_address,
        });
        let plain = [
            ("tcp", config.listeners.tcp, Transport::Tcp),
            ("ws", config.listeners.ws, Transport::WebSocket),
        ];
        let plain = plain.into_iter().filter_map(|(name, listener, transport)| {
            let PlainListener {
                bind,
                proxy_protocol,
            } = listener?;
            Some((name, bind, proxy_protocol, transport))
        });
        let secured = secured.into_iter().map(|(name, bind, proxied, tls)| {
            let transport = if name == "tls" {
                Transport::Tls(tls)
            } else {
                Transport::SecureWebSocket(tls)
            };
            (name, bind, proxied, transport)
        });
        for (name, bind, proxied, transport) in plain.chain(secured) {
            let listener = Listener::start(
                bind,
                transport,
                proxied,
                doors.clone(),
                Arc::clone(&server.node),
            );
            let listener = listener.map_err(|source| ServeError::Bind {
                what: name,
                address: bind,
                source,
            })?;
            server.addresses.push((name, listener.address));
            server.listeners.push(listener);
        }
        if let Some(bind) = config.listeners.http {
            let api = Arc::new(Api {
                node: Arc::clone(&server.node),
                sinks: Arc::clone(&server.sinks),
                metrics,
                certificates,
                token: config.auth.api_token.clone(),
                loopback: is_loopback(bind.ip()),
                config: shown(config),
            });
            let http = HttpServer::start(bind, admin::router(api)).await;
            let http = http.map_err(|source| ServeError::Bind {
                what: "http",
                address: bind,
                source,
            })?;
            server.addresses.push(("http", http.address));
            server.http = Some(http);
        }
        Ok(server)
    }

    /// Where `name` listens.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, address)| *address)
    }

    /// Stops in the reverse order: nobody new, nobody old, sinks, store.
    pub async fn stop(self) {
        for listener in self.listeners {
            listener.stop().await;
        }
        if let Some(http) = self.http {
            http.stop().await;
        }
        self.stop.send_replace(true);
        if let Err(error) = self.watcher.await {
            tracing::error!(%error, "Watching files ended badly.");
        }
        self.sinks.stop().await;
        self.node.stop().await;
        self.upkeep.abort();
    }
}

/// Gathers the samples of histograms, for ever.
async fn keep_up(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(telemetry::UPKEEP).await;
        metrics.run_upkeep();
    }
}

/// What of `config` may change while the node runs.
fn watched(config: &Config, node: &Arc<Node>) -> Vec<reload::Source> {
    let mut sources = Vec::new();
    if let Some(acl) = &config.auth.acl {
        let (node, path) = (Arc::clone(node), acl.path.clone());
        sources.push(reload::Source {
            what: "access rules".into(),
            files: vec![path.clone()],
            read: acl.look.clone(),
            reload: Box::new(move || {
                node.access
                    .replace(Rules::load(&path).map_err(|error| error.to_string())?);
                node.rights_changed();
                Ok(())
            }),
        });
    }
    if let Some(users) = &config.auth.users {
        let (node, path) = (Arc::clone(node), users.path.clone());
        sources.push(reload::Source {
            what: "users".into(),
            files: vec![path.clone()],
            read: users.look.clone(),
            reload: Box::new(move || {
                node.auth.replace_users(Users::load(&path)?);
                node.rights_changed();
                Ok(())
            }),
        });
    }
    if let Some(keys) = &config.auth.tokens {
        let (node, path) = (Arc::clone(node), keys.path.clone());
        let demands = keys.content.demands().clone();
        sources.push(reload::Source {
            what: "keys of tokens".into(),
            files: vec![path.clone()],
            read: keys.look.clone(),
            reload: Box::new(move || {
                node.auth
                    .replace_tokens(Tokens::load(&path, demands.clone())?);
                node.rights_changed();
                Ok(())
            }),
        });
    }
    sources
}

fn node_options(config: &Config) -> NodeOptions {
    let limits = &config.limits;
    let ms =
        |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let seconds = |duration: std::time::Duration| duration.as_secs();
    NodeOptions {
        id: config.node.id,
        data_dir: config.node.data_dir.clone(),
        fsync: config.fsync,
        map: config.sharding.map(),
        inputs: config.geo.input.clone(),
        settings: log::Settings {
            min_distance_m: config.geo.min_distance_m,
            max_silence_ms: config.geo.max_silence.map(ms),
            max_speed_mps: config.geo.max_speed_mps,
            max_future_ms: ms(config.geo.max_future),
            queue_messages_max: limits.max_queued,
            queue_bytes_max: limits.max_queued_bytes,
        },
        session_limits: Limits {
            connect_timeout: limits.connect_timeout,
            receive_maximum: NonZeroU16::new(limits.receive_maximum).unwrap_or(NonZeroU16::MIN),
            max_inflight: limits.max_inflight,
            max_packet: limits.max_packet,
            topic_alias_maximum: 64,
            server_keep_alive_max_s: u16::try_from(seconds(limits.max_keep_alive))
                .unwrap_or(u16::MAX),
            session_expiry_max_s: u32::try_from(seconds(limits.max_session_expiry))
                .unwrap_or(u32::MAX),
            outbox_messages_max: OUTBOX_MESSAGES_MAX,
        },
        mailbox_limits: MailboxLimits {
            messages_max: MAILBOX_MESSAGES_MAX,
            bytes_max: MAILBOX_BYTES_MAX,
        },
        subscriptions_max: limits.max_subscriptions,
        events_kept: limits.max_events,
        auth: Auth::new(
            config.auth.allow_anonymous,
            config
                .auth
                .users
                .as_ref()
                .map(|users| Arc::clone(&users.content)),
        )
        .with_tokens(
            config
                .auth
                .tokens
                .as_ref()
                .map(|keys| Arc::clone(&keys.content)),
        )
        .with_bound_client_ids(config.auth.bind_client_id),
        publish_rates: limits.publish_rates,
        session_quota: SessionQuota {
            total_max: limits.max_sessions,
            per_user_max: limits.max_sessions_per_user,
        },
        access: Access::new(
            config.auth.acl.as_ref().map(|acl| Arc::clone(&acl.content)),
            config.auth.publish_geo,
        ),
        cluster: config.cluster.options.clone(),
        replication: config.cluster.replication,
        zone: config.node.zone.clone().unwrap_or_default(),
        client_address: String::new(),
    }
}

/// The configuration as operators may see it: no hash, no token.
fn shown(config: &Config) -> serde_json::Value {
    let seconds = |duration: std::time::Duration| duration.as_secs_f64();
    json!({
        "node": { "id": config.node.id, "data_dir": config.node.data_dir, "zone": config.node.zone },
        "sharding": {
            "roots": config.sharding.roots, "regions": config.sharding.regions,
            "default_shards": config.sharding.default_shards,
        },
        "auth": {
            "allow_anonymous": config.auth.allow_anonymous, "users": config.auth.users.as_ref().map(|users| users.content.len()),
            "acl_file": config.auth.acl.as_ref().map(|acl| &acl.path),
            "api_token": config.auth.api_token.as_ref().map(|_| "***"),
        },
        "limits": {
            "max_packet": config.limits.max_packet, "max_inflight": config.limits.max_inflight,
            "receive_maximum": config.limits.receive_maximum, "max_queued": config.limits.max_queued,
            "max_connections": config.limits.max_connections,
        },
        "durability": { "fsync": config.fsync },
        "geo": {
            "min_distance_m": config.geo.min_distance_m, "max_silence_s": config.geo.max_silence.map(seconds),
            "max_speed_mps": config.geo.max_speed_mps, "max_future_s": seconds(config.geo.max_future),
        },
        "sinks": config.sinks.keys().collect::<Vec<_>>(),
    })
}
