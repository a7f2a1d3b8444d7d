//! The configuration: one TOML file, `MERIDIAN__SECTION__KEY` in the environment over it, and every mistake at once.
//!
//! Every key is read by exactly one call of the reader, which knows its path; what nobody has read at the end is a
//! mistake that names the nearest key.

mod cluster;
mod reader;
mod sinks;
pub mod units;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::access::Rules;
use crate::auth::{Demands, Tokens, Users};
use crate::connection::PublishRates;
use crate::geo::InputPattern;
use crate::listener::{AddressLimits, IdentityField};
use crate::reload::{self, Looks};
use crate::router::ShardMap;
pub use cluster::ClusterConfig;
pub use reader::Mistake;
use reader::Reader;
pub(crate) use sinks::FOLDER as SINKS_FOLDER;
use sinks::read_sinks;
pub use sinks::{SinkConfig, SinkKind};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// The largest `geo.max_future`: no fix is ever logged with a time that is later than the log's by more.
pub const MAX_FUTURE_MAX: Duration = DAY;
/// The largest `limits.max_packet`, bytes: the largest remaining length [MQTT-1.5.5].
const MAX_PACKET_MAX: u64 = 268_435_455;

/// A node's configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[node]`
    pub node: NodeConfig,
    /// `[cluster]`
    pub cluster: ClusterConfig,
    /// `[sharding]`
    pub sharding: Sharding,
    /// `[listeners]`
    pub listeners: Listeners,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[durability] fsync`: flush to disk before acknowledging. Default true.
    pub fsync: bool,
    /// `[geo]`
    pub geo: GeoConfig,
    /// `[sinks.NAME]`
    pub sinks: BTreeMap<String, SinkConfig>,
}

/// `[node]`: who this is.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `id`, 1…; names the node for life. Default 1.
    pub id: u64,
    /// `data_dir`. Default `./meridian-data`.
    pub data_dir: PathBuf,
    /// `zone`, free text. Default none.
    pub zone: Option<String>,
}

/// `[sharding]`: which topic belongs where.
#[derive(Debug, Clone)]
pub struct Sharding {
    /// `roots`: topics whose second level is a region. Default `gps`, `geo`, `cmd`.
    pub roots: Vec<String>,
    /// `regions`: one shard each. Default none.
    pub regions: Vec<String>,
    /// `default_shards`, 1…64: everything else, by hash. Default 4.
    pub default_shards: u16,
    /// `client_region`: a pattern with a group `region`, for the region of a client id. Default none.
    pub client_region: Option<regex::Regex>,
}

impl Sharding {
    /// The shard map that this describes.
    #[must_use]
    pub fn map(&self) -> ShardMap {
        ShardMap::new(
            self.roots.clone(),
            &self.regions,
            self.default_shards,
            self.client_region.clone(),
        )
    }
}

/// `[listeners]`: where clients come in. Without the section: TCP, WebSocket and HTTP on loopback.
#[derive(Debug, Clone, Default)]
pub struct Listeners {
    /// MQTT over TCP.
    pub tcp: Option<PlainListener>,
    /// MQTT over TLS.
    pub tls: Option<TlsListener>,
    /// MQTT over WebSocket, path `/mqtt`.
    pub ws: Option<PlainListener>,
    /// MQTT over WebSocket over TLS.
    pub wss: Option<TlsListener>,
    /// The HTTP API.
    pub http: Option<SocketAddr>,
}

/// A listener without a certificate.
#[derive(Debug, Clone, Copy)]
pub struct PlainListener {
    /// `bind`
    pub bind: SocketAddr,
    /// `proxy_protocol`: each connection begins with a PROXY header of version 2, which a load balancer writes; the
    /// address in it counts as the client's. Default false.
    pub proxy_protocol: bool,
}

/// A listener with a certificate.
#[derive(Debug, Clone)]
pub struct TlsListener {
    /// `bind`
    pub bind: SocketAddr,
    /// `cert`: PEM, the chain, leaf first.
    pub cert: PathBuf,
    /// `key`: PEM.
    pub key: PathBuf,
    /// `client_ca`: PEM; with it, client certificates are required.
    pub client_ca: Option<PathBuf>,
    /// `client_crl`: PEM; certificates that are not taken any more.
    pub client_crl: Option<PathBuf>,
    /// `identity`: the field of a client certificate that names the user: `cn`, `san_dns`, `san_uri` or `off`. Default cn.
    pub identity: IdentityField,
    /// `min_version`: `1.3` or `1.2`. Default 1.3.
    pub tls12: bool,
    /// `proxy_protocol`, before the handshake. Default false.
    pub proxy_protocol: bool,
}

/// `[auth]`: who may connect.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// `allow_anonymous`. Default: only if all listeners are on loopback.
    pub allow_anonymous: bool,
    /// `users_file`: who may connect by password. Default none.
    pub users: Option<FromFile<Users>>,
    /// `jwt_keys`: a JSON Web Key Set; passwords that are tokens signed by one of its keys prove their subject, if they
    /// say `jwt_issuer` and `jwt_audience` of themselves where these are set. Default none.
    pub tokens: Option<FromFile<Tokens>>,
    /// `acl_file`: who may publish and subscribe where. Default none: everybody, but for what is the broker's own.
    pub acl: Option<FromFile<Rules>>,
    /// `bind_client_id`: a client's id is its user's name. Default false.
    pub bind_client_id: bool,
    /// `publish_geo`: whether clients may publish under `geo/`. Default false.
    pub publish_geo: bool,
    /// `api_token`: what the HTTP API asks for off loopback.
    pub api_token: Option<String>,
}

/// What a file said at the start, and where it can be read anew.
#[derive(Debug)]
pub struct FromFile<T> {
    /// The file.
    pub path: PathBuf,
    /// What it looked like before it was read.
    pub look: Looks,
    /// What is in it.
    pub content: Arc<T>,
}

impl<T> Clone for FromFile<T> {
    fn clone(&self) -> Self {
        FromFile {
            path: self.path.clone(),
            look: self.look.clone(),
            content: Arc::clone(&self.content),
        }
    }
}

impl<T> FromFile<T> {
    fn load<E: ToString>(
        path: PathBuf,
        load: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<Self, String> {
        let look = reload::look(std::slice::from_ref(&path));
        let content = Arc::new(load(&path).map_err(|error| error.to_string())?);
        Ok(FromFile {
            path,
            look,
            content,
        })
    }
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// `max_packet`, bytes. Default 256KB.
    pub max_packet: u32,
    /// `max_inflight`, messages to one client without acknowledgement, 1…65535. Default 32.
    pub max_inflight: u16,
    /// `receive_maximum`, messages from one client without acknowledgement, 1…65535. Default 1000.
    pub receive_maximum: u16,
    /// `max_queued`, messages of one session's queue, 1…65000. Default 1000.
    pub max_queued: u64,
    /// `max_queued_bytes` of one session's queue. Default 64MB.
    pub max_queued_bytes: u64,
    /// `max_connections`. Default 1,000,000.
    pub max_connections: u64,
    /// `max_sessions` that outlive their connections. Default 1,000,000.
    pub max_sessions: u64,
    /// `max_sessions_per_user`, of those. Default 10,000, since a fleet may share a credential.
    pub max_sessions_per_user: Option<u64>,
    /// `max_connections_per_address`, 4096 by default, and `connection_rate_per_address`, 500/s by default: of one IPv4
    /// address or /64 network of IPv6. This machine's own addresses are bound only by figures that are written down.
    pub per_address: AddressLimits,
    /// The same for this machine's own addresses.
    pub per_loopback_address: AddressLimits,
    /// `publish_rate` and `publish_bytes_rate` of one client. Default off.
    pub publish_rates: PublishRates,
    /// `max_subscriptions` of one session. Default 1000.
    pub max_subscriptions: usize,
    /// `max_session_expiry`: no session outlives its client's absence by more. Default 7d.
    pub max_session_expiry: Duration,
    /// `connect_timeout`: for the whole CONNECT. Default 10s.
    pub connect_timeout: Duration,
    /// `max_keep_alive`: the server's cap. Default 5m.
    pub max_keep_alive: Duration,
    /// `max_events`: events that each shard keeps. Default 1,000,000.
    pub max_events: u64,
}

/// `[geo]`
#[derive(Debug, Clone)]
pub struct GeoConfig {
    /// `input`: topics that carry fixes. Default `gps/{region}/{device}/position`.
    pub input: Vec<InputPattern>,
    /// `min_distance`: a device is reported when it has moved by more. Default 50m.
    pub min_distance_m: f64,
    /// `max_silence`: a report passes at least this often; off for never. Default 300s.
    pub max_silence: Option<Duration>,
    /// `max_speed`: faster is an outlier; off for no such rule. Default 100m/s.
    pub max_speed_mps: Option<f64>,
    /// `max_future`: what is later than the clock by more is refused. Default 120s.
    pub max_future: Duration,
}

/// All mistakes of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Mistake>);

impl Config {
    /// Reads `file`, if one is named, with `environment` over it.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = match file {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file).map_err(|error| {
                ConfigError(vec![Mistake::new(
                    file.display().to_string(),
                    format!("cannot be read: {error}"),
                )])
            })?,
        };
        let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let mut reader =
            Reader::parse(&text, environment).map_err(|mistake| ConfigError(vec![mistake]))?;
        let config = read(&mut reader, base);
        let mistakes = reader.finish();
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError(mistakes))
        }
    }
}

fn read(reader: &mut Reader, base: &Path) -> Config {
    let listeners = read_listeners(reader, base);
    let loopback = [
        listeners.tcp.map(|plain| plain.bind),
        listeners.ws.map(|plain| plain.bind),
        listeners.tls.as_ref().map(|tls| tls.bind),
        listeners.wss.as_ref().map(|tls| tls.bind),
    ]
    .into_iter()
    .flatten()
    .all(|bind| is_loopback(bind.ip()));
    let cluster = cluster::read(reader, base);
    let data_dir = reader
        .text("node.data_dir")
        .map_or_else(|| PathBuf::from("./meridian-data"), PathBuf::from);
    let config = Config {
        cluster,
        sinks: read_sinks(reader, base, &data_dir),
        node: NodeConfig {
            id: reader.number("node.id", 1, 1, u64::from(u32::MAX)),
            data_dir,
            zone: reader.text("node.zone"),
        },
        sharding: Sharding {
            roots: reader.level_list("sharding.roots", &["gps", "geo", "cmd"]),
            regions: reader.level_list("sharding.regions", &[]),
            default_shards: u16::try_from(reader.number("sharding.default_shards", 4, 1, 64))
                .unwrap_or(4),
            client_region: reader.parsed("sharding.client_region", |text| {
                let pattern = regex::Regex::new(text).map_err(|error| error.to_string())?;
                let named = pattern
                    .capture_names()
                    .flatten()
                    .any(|name| name == "region");
                if named {
                    Ok(pattern)
                } else {
                    Err("the pattern needs a group (?<region>…)".to_owned())
                }
            }),
        },
        auth: AuthConfig {
            allow_anonymous: reader.boolean("auth.allow_anonymous", loopback),
            users: reader.parsed("auth.users_file", |path| {
                FromFile::load(base.join(path), Users::load)
            }),
            tokens: {
                let demands = Demands {
                    issuer: reader.text("auth.jwt_issuer"),
                    audience: reader.text("auth.jwt_audience"),
                };
                reader.parsed("auth.jwt_keys", |path| {
                    FromFile::load(base.join(path), |path| Tokens::load(path, demands.clone()))
                })
            },
            acl: reader.parsed("auth.acl_file", |path| {
                FromFile::load(base.join(path), Rules::load)
            }),
            bind_client_id: reader.boolean("auth.bind_client_id", false),
            publish_geo: reader.boolean("auth.publish_geo", false),
            api_token: reader.text("auth.api_token"),
        },
        listeners,
        limits: read_limits(reader),
        fsync: reader.boolean("durability.fsync", true),
        geo: GeoConfig {
            input: {
                let patterns = reader.text_list("geo.input", &["gps/{region}/{device}/position"]);
                let read = |(at, pattern): (usize, &String)| {
                    InputPattern::new(pattern).map_err(|error| (at, error.to_string()))
                };
                let (good, bad): (Vec<_>, Vec<_>) = patterns
                    .iter()
                    .enumerate()
                    .map(read)
                    .partition(Result::is_ok);
                for (at, error) in bad.into_iter().filter_map(Result::err) {
                    reader.mistake(&format!("geo.input[{at}]"), error);
                }
                good.into_iter().flatten().collect()
            },
            min_distance_m: reader
                .measured("geo.min_distance", &units::METRES, 0.0..=1_000_000.0)
                .unwrap_or(50.0),
            max_silence: reader.measured_or_off(
                "geo.max_silence",
                &units::DURATION,
                SECOND..=365 * DAY,
                Some(Duration::from_secs(300)),
            ),
            max_speed_mps: reader.measured_or_off(
                "geo.max_speed",
                &units::SPEED,
                0.1..=100_000.0,
                Some(100.0),
            ),
            max_future: reader
                .measured("geo.max_future", &units::DURATION, SECOND..=MAX_FUTURE_MAX)
                .unwrap_or(Duration::from_secs(120)),
        },
    };
    if config.auth.acl.is_some() && config.auth.publish_geo {
        reader.mistake(
            "auth.publish_geo",
            "with auth.acl_file, its rules say who publishes under geo/: take the key out".into(),
        );
    }
    config
}

fn read_listeners(reader: &mut Reader, base: &Path) -> Listeners {
    let on_loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    if !reader.has_section("listeners") {
        let plain = |port| PlainListener {
            bind: on_loopback(port),
            proxy_protocol: false,
        };
        return Listeners {
            tcp: Some(plain(1883)),
            tls: None,
            ws: Some(plain(8083)),
            wss: None,
            http: Some(on_loopback(18083)),
        };
    }
    let plain = |reader: &mut Reader, name: &str, port| {
        let section = format!("listeners.{name}");
        reader.has_section(&section).then(|| PlainListener {
            bind: bind(reader, &section, on_loopback(port)),
            proxy_protocol: reader.boolean(&format!("{section}.proxy_protocol"), false),
        })
    };
    let secured = |reader: &mut Reader, name: &str, port| {
        let section = format!("listeners.{name}");
        if !reader.has_section(&section) {
            return None;
        }
        let bind = bind(reader, &section, on_loopback(port));
        let mut file = |key: &str, needed: bool| {
            let path = reader.text(&format!("{section}.{key}"));
            if path.is_none() && needed {
                reader.mistake(
                    &format!("{section}.{key}"),
                    "is needed for TLS: the path of a PEM file".into(),
                );
            }
            path.map(|path| base.join(path))
        };
        let (cert, key, client_ca, client_crl) = (
            file("cert", true),
            file("key", true),
            file("client_ca", false),
            file("client_crl", false),
        );
        if client_crl.is_some() && client_ca.is_none() {
            reader.mistake(
                &format!("{section}.client_crl"),
                "means nothing without client_ca".into(),
            );
        }
        let identity = reader.parsed(&format!("{section}.identity"), IdentityField::named);
        let tls12 = reader.parsed(&format!("{section}.min_version"), |text| match text {
            "1.3" => Ok(false),
            "1.2" => Ok(true),
            other => Err(format!(
                "`{other}` is no version that is offered: write 1.3 or 1.2"
            )),
        });
        Some(TlsListener {
            bind,
            cert: cert.unwrap_or_default(),
            key: key.unwrap_or_default(),
            client_ca,
            client_crl,
            identity: identity.unwrap_or(IdentityField::CommonName),
            tls12: tls12.unwrap_or(false),
            proxy_protocol: reader.boolean(&format!("{section}.proxy_protocol"), false),
        })
    };
    Listeners {
        tcp: plain(reader, "tcp", 1883),
        tls: secured(reader, "tls", 8883),
        ws: plain(reader, "ws", 8083),
        wss: secured(reader, "wss", 8084),
        http: reader
            .has_section("listeners.http")
            .then(|| bind(reader, "listeners.http", on_loopback(18083))),
    }
}

fn bind(reader: &mut Reader, section: &str, default: SocketAddr) -> SocketAddr {
    let read = |text: &str| {
        text.parse()
            .map_err(|_| format!("`{text}` is no address: write 127.0.0.1:1883 or [::]:1883"))
    };
    reader
        .parsed(&format!("{section}.bind"), read)
        .unwrap_or(default)
}

fn read_limits(reader: &mut Reader) -> LimitsConfig {
    let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let seconds = |count: u32| Duration::from_secs(u64::from(count));
    // A default does not bind this machine's own addresses; what is written down does.
    let seats_given = reader.is_given("limits.max_connections_per_address");
    let seats = reader.measured_or_off(
        "limits.max_connections_per_address",
        &units::COUNT,
        1..=100_000_000,
        Some(4096),
    );
    let rate_given = reader.is_given("limits.connection_rate_per_address");
    let rate = reader.measured_or_off(
        "limits.connection_rate_per_address",
        &units::RATE,
        1..=1_000_000,
        Some(500),
    );
    let max_sessions = reader.number("limits.max_sessions", 1_000_000, 1, 100_000_000);
    LimitsConfig {
        max_sessions,
        max_sessions_per_user: reader.measured_or_off(
            "limits.max_sessions_per_user",
            &units::COUNT,
            1..=100_000_000,
            Some(10_000),
        ),
        per_address: AddressLimits { max: seats, rate },
        per_loopback_address: AddressLimits {
            max: seats.filter(|_| seats_given),
            rate: rate.filter(|_| rate_given),
        },
        publish_rates: PublishRates {
            messages: reader.measured_or_off(
                "limits.publish_rate",
                &units::RATE,
                1..=1_000_000,
                None,
            ),
            bytes: reader.measured_or_off(
                "limits.publish_bytes_rate",
                &units::BYTES_RATE,
                1..=64 << 30,
                None,
            ),
        },
        max_packet: u32::try_from(
            reader
                .measured("limits.max_packet", &units::BYTES, 1024..=MAX_PACKET_MAX)
                .unwrap_or(256 << 10),
        )
        .unwrap_or(u32::MAX),
        max_inflight: small(reader.number("limits.max_inflight", 32, 1, 65_535)),
        receive_maximum: small(reader.number("limits.receive_maximum", 1000, 1, 65_535)),
        max_queued: reader.number("limits.max_queued", 1000, 1, 65_000),
        max_queued_bytes: reader
            .measured("limits.max_queued_bytes", &units::BYTES, 1024..=64 << 30)
            .unwrap_or(64 << 20),
        max_connections: reader.number("limits.max_connections", max_sessions, 1, 100_000_000),
        max_subscriptions: usize::try_from(reader.number(
            "limits.max_subscriptions",
            1000,
            1,
            1_000_000,
        ))
        .unwrap_or(1000),
        // 2^32 - 1 would be for ever [MQTT-3.1.2.11.2].
        max_session_expiry: reader
            .measured(
                "limits.max_session_expiry",
                &units::DURATION,
                SECOND..=seconds(u32::MAX - 1),
            )
            .unwrap_or(7 * DAY),
        connect_timeout: reader
            .measured(
                "limits.connect_timeout",
                &units::DURATION,
                Duration::from_millis(100)..=seconds(600),
            )
            .unwrap_or(Duration::from_secs(10)),
        max_keep_alive: reader
            .measured(
                "limits.max_keep_alive",
                &units::DURATION,
                SECOND..=seconds(65_535),
            )
            .unwrap_or(Duration::from_secs(300)),
        max_events: reader.number("limits.max_events", 1_000_000, 1000, 1_000_000_000),
    }
}

/// Whether only this machine reaches `address`.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

#[cfg(test)]
mod tests;
