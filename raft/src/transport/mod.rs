//! The way between nodes: one connection a peer and direction, which carries all groups and the application's messages.
//!
//! `group, application ─► **transport** ─► TCP, TLS ─► peer's transport ─► its group, its application`. Messages are
//! those of `node.proto`. Every queue is bounded, and what does not fit is refused at once: consensus repeats itself,
//! and the application is told. A peer that says nothing for three seconds is dead, whatever its sockets pretend.

mod frame;
mod hello;
mod link;
mod peer;
mod queue;
mod serve;
mod tls;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_proto::raft::v1;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use hello::Identity;
pub(crate) use link::{Answer, Lane, Link};
use peer::{Address, Peer};
use serve::Caller;
use tls::Tls;
pub use tls::{TlsError, TransportTls};

/// How long [`Transport::shutdown`] waits for what is under way.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// How a node is reached, and reaches others.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// This node, for life; not 0.
    pub node: u64,
    /// Nodes of other clusters are refused. With TLS, one label of a DNS name.
    pub cluster: String,
    /// Where to listen for other nodes. Off loopback only with `tls`.
    pub bind: SocketAddr,
    /// Where others reach this node (host and port), as they are told by who adds it to a group.
    pub advertise: String,
    /// How nodes prove who they are, and keep what they say to themselves.
    pub tls: Option<TransportTls>,
}

/// Why a node cannot listen for others.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Anybody could vote.
    #[error(
        "refusing to listen for other nodes on {bind} without TLS, because anybody who reaches it could take part in the \
         cluster: configure a certificate, its key and the cluster's CA, or bind to a loopback address"
    )]
    Unprotected {
        /// The address.
        bind: SocketAddr,
    },
    /// The certificate, key or CA.
    #[error("TLS between nodes cannot be set up")]
    Tls(#[from] TlsError),
    /// The address.
    #[error("cannot listen for other nodes on {bind}")]
    Listen {
        /// The address.
        bind: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// 0 means "not known".
    #[error("a node's id must not be 0")]
    Node,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The peer surely did not handle it: it may be sent elsewhere.
    #[error("the request was not handled: {reason}")]
    Unsent {
        /// In words.
        reason: String,
    },
    /// Nobody knows: the peer may have handled it, or may do so still.
    #[error("the outcome of the request is unknown: {reason}")]
    Unknown {
        /// In words.
        reason: String,
    },
}

/// What the application answers to other nodes.
pub trait Handler: Send + Sync + 'static {
    /// Answers node `from`. Requests run side by side; the future is dropped when the transport ends.
    fn request(&self, from: u64, body: Bytes) -> BoxFuture<'static, Bytes>;

    /// Takes a one-way message, in the order in which node `from` sent them. Must not block: the next one waits.
    fn notify(&self, from: u64, body: Bytes);
}

/// For a node without peers, whom nobody asks.
struct Nobody;

impl Handler for Nobody {
    fn request(&self, _from: u64, _body: Bytes) -> BoxFuture<'static, Bytes> {
        Box::pin(async { Bytes::new() })
    }

    fn notify(&self, _from: u64, _body: Bytes) {}
}

/// A group of this node, as its peers see it.
pub(crate) trait Inbound: Send + Sync {
    /// Answers a message. The first poll takes it in, so that messages keep their order.
    fn handle(
        &self,
        from: u64,
        request: v1::group_request::Body,
    ) -> BoxFuture<'static, v1::GroupResponse>;
}

/// How a peer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub node: u64,
    /// Where it is dialled.
    pub addr: String,
    /// Whether this node has a connection to it now.
    pub connected: bool,
    /// When anything was last heard from it, over its connection or ours.
    pub heard: Option<Instant>,
}

/// When something was last heard.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Option<Instant>>);

impl Heard {
    fn now(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

pub(crate) struct Shared {
    own: Identity,
    local_addr: Option<SocketAddr>,
    advertise: String,
    tls: Option<Tls>,
    handler: Arc<dyn Handler>,
    groups: RwLock<HashMap<String, Arc<dyn Inbound>>>,
    peers: RwLock<HashMap<u64, Arc<Peer>>>,
    callers: Mutex<HashMap<u64, Caller>>,
    ended: CancellationToken,
    tasks: TaskTracker,
}

/// See the module. One a node; cheap to clone.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

impl Transport {
    /// For a cluster of one: no listener, no peers.
    #[must_use]
    pub fn alone(node: u64) -> Transport {
        let own = Identity {
            cluster: String::new(),
            node,
            run: random(),
        };
        Self::new(own, None, String::new(), None, Arc::new(Nobody))
    }

    /// Listens for other nodes. They are dialled once [`Transport::set_peer`] or a group's membership names them.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(
        options: TransportOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<Transport, BindError> {
        let bind = options.bind;
        if options.node == 0 {
            return Err(BindError::Node);
        }
        if options.tls.is_none() && !bind.ip().is_loopback() {
            return Err(BindError::Unprotected { bind });
        }
        let tls = options
            .tls
            .as_ref()
            .map(|files| Tls::load(files, &options.cluster))
            .transpose()?;
        let listen = |source| BindError::Listen { bind, source };
        let listener = tokio::net::TcpListener::bind(bind).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;
        let own = Identity {
            cluster: options.cluster,
            node: options.node,
            run: random(),
        };
        let transport = Self::new(own, Some(local_addr), options.advertise, tls, handler);
        let shared = Arc::clone(&transport.shared);
        let ended = shared.ended.clone();
        transport.shared.tasks.spawn(async move {
            ended
                .run_until_cancelled(serve::listen(shared, listener))
                .await;
        });
        Ok(transport)
    }

    fn new(
        own: Identity,
        local_addr: Option<SocketAddr>,
        advertise: String,
        tls: Option<Tls>,
        handler: Arc<dyn Handler>,
    ) -> Transport {
        let shared = Shared {
            own,
            local_addr,
            advertise,
            tls,
            handler,
            groups: RwLock::default(),
            peers: RwLock::default(),
            callers: Mutex::default(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Transport {
            shared: Arc::new(shared),
        }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.shared.own.node
    }

    /// Where it listens; `None` if it is alone.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.local_addr
    }

    /// Where others reach this node, as configured.
    #[must_use]
    pub fn advertise(&self) -> &str {
        &self.shared.advertise
    }

    /// Names a peer, or where it is now. Goes before what a group's membership says of it.
    pub fn set_peer(&self, node: u64, addr: &str) {
        let given = true;
        self.know(node, addr, given);
    }

    /// As a group's membership has it.
    pub(crate) fn learn_peer(&self, node: u64, addr: &str) {
        let given = false;
        if !addr.is_empty() {
            self.know(node, addr, given);
        }
    }

    fn know(&self, node: u64, addr: &str, given: bool) {
        let alone = self.shared.local_addr.is_none();
        if node == self.node() || node == 0 || alone || self.shared.ended.is_cancelled() {
            return;
        }
        let address = Address {
            addr: addr.to_owned(),
            given,
        };
        let mut peers = self.shared.peers.write();
        if let Some(peer) = peers.get(&node) {
            peer.address.send_if_modified(|known| {
                if known.given && !given {
                    return false;
                }
                let moved = known.addr != address.addr;
                *known = address;
                moved
            });
            return;
        }
        let peer = Arc::new(Peer::new(node, address, self.shared.ended.child_token()));
        peers.insert(node, Arc::clone(&peer));
        let own = self.shared.own.clone();
        self.shared
            .tasks
            .spawn(peer.keep(own, self.shared.tls.clone()));
    }

    /// Ends the connection to a peer and dials it no more. A group that still counts it as a member names it again.
    pub fn forget_peer(&self, node: u64) {
        if let Some(peer) = self.shared.peers.write().remove(&node) {
            peer.forgotten.cancel();
        }
    }

    fn peer(&self, node: u64) -> Option<Arc<Peer>> {
        self.shared.peers.read().get(&node).cloned()
    }

    /// Asks the application of node `node`. While the peer is being dialled for the first time, or again just after it
    /// was lost, the request waits for that; a peer that is known to be away is not waited for.
    ///
    /// # Errors
    /// [`RequestError`], which says whether it was surely not handled.
    pub async fn request(
        &self,
        node: u64,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let unsent = |reason: &str| RequestError::Unsent {
            reason: format!("node {node}: {reason}"),
        };
        let until = tokio::time::Instant::now() + timeout;
        let peer = self.peer(node).ok_or_else(|| unsent("it is not known"))?;
        let link = tokio::time::timeout_at(until, peer.link_or_dialled())
            .await
            .ok()
            .flatten()
            .ok_or_else(|| unsent("it is not connected"))?;
        let answer = link
            .ask(Lane::Application, v1::frame::Body::Request(body))
            .map_err(unsent)?;
        response(&format!("node {node}"), until, answer).await
    }

    /// Asks the application of whatever node is at `addr`, over a connection of its own.
    ///
    /// # Errors
    /// As [`Transport::request`].
    pub async fn request_addr(
        &self,
        addr: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let unsent = |reason: &dyn ToString| RequestError::Unsent {
            reason: format!("{addr}: {}", reason.to_string()),
        };
        let until = tokio::time::Instant::now() + timeout;
        let dialled = peer::dial(&self.shared.own, self.shared.tls.as_ref(), addr, 0, true);
        let (reader, writer) = tokio::time::timeout_at(until, dialled)
            .await
            .map_err(|_| unsent(&"it does not answer"))?
            .map_err(|error| unsent(&error))?;
        let (link, carry) = Link::open(reader, writer, Arc::default());
        let answer = link
            .ask(Lane::Application, v1::frame::Body::Request(body))
            .map_err(|reason| unsent(&reason))?;
        tokio::select! {
            answered = response(addr, until, answer) => answered,
            ended = carry => Err(RequestError::Unknown { reason: format!("{addr}: {ended}") }),
        }
    }

    /// Sends node `node` a message that nobody answers; in order with others to the same node. False, and counted, if the
    /// peer is away or its queue is full; true promises nothing.
    pub fn notify(&self, node: u64, body: Bytes) -> bool {
        let dropped = |reason: &'static str| {
            metrics::counter!("meridian_raft_notifications_dropped_total", "reason" => reason)
                .increment(1);
            false
        };
        let Some(link) = self.peer(node).and_then(|peer| peer.link()) else {
            return dropped("away");
        };
        match link.tell(Lane::Application, v1::frame::Body::Notify(body)) {
            Ok(()) => true,
            Err(queue::Full) => dropped("queue_full"),
        }
    }

    /// The peers that are known, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let callers = self.shared.callers.lock();
        let mut peers: Vec<_> = self
            .shared
            .peers
            .read()
            .values()
            .map(|peer| PeerStatus {
                node: peer.node,
                addr: peer.address.borrow().addr.clone(),
                connected: peer.link().is_some(),
                heard: peer.heard.last().max(
                    callers
                        .get(&peer.node)
                        .and_then(|caller| caller.heard.last()),
                ),
            })
            .collect();
        peers.sort_by_key(|peer| peer.node);
        peers
    }

    /// Ends all connections, and waits a little for what is being answered. The groups should be shut down before.
    pub async fn shutdown(&self) {
        self.shared.ended.cancel();
        self.shared.tasks.close();
        let ended = tokio::time::timeout(SHUTDOWN_MAX, self.shared.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("Some tasks of the transport have not ended.");
        }
        self.shared.peers.write().clear();
        self.shared.groups.write().clear();
    }

    pub(crate) fn register(&self, group: &str, inbound: Arc<dyn Inbound>) {
        self.shared.groups.write().insert(group.to_owned(), inbound);
    }

    pub(crate) fn unregister(&self, group: &str) {
        self.shared.groups.write().remove(group);
    }

    /// The connection to a peer, if there is one or will be very soon.
    pub(crate) async fn link(&self, node: u64, timeout: Duration) -> Option<Arc<Link>> {
        let peer = self.peer(node)?;
        tokio::time::timeout(timeout, peer.link_or_dialled())
            .await
            .ok()?
    }
}

/// The application's answer.
async fn response(
    whom: &str,
    until: tokio::time::Instant,
    answer: Answer,
) -> Result<Bytes, RequestError> {
    let unknown = |reason: &str| RequestError::Unknown {
        reason: format!("{whom}: {reason}"),
    };
    let answer = tokio::time::timeout_at(until, answer)
        .await
        .map_err(|_| unknown("it has not answered in time"))?
        .map_err(|link::Lost| unknown("the connection was lost"))?;
    match answer {
        v1::frame::Body::Response(body) => Ok(body),
        v1::frame::Body::Refused(refused) => Err(RequestError::Unsent {
            reason: format!("{whom}: {}", refused.reason),
        }),
        _ => Err(unknown("it has answered something else")),
    }
}

/// Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
