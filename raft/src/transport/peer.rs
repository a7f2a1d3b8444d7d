//! Another node, as this one reaches it: dialled again and again, from when it is known until it is forgotten.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::frame::FrameReader;
use super::hello::{self, HelloError, Identity};
use super::link::{IDLE_MAX, Link, Stream};
use super::tls::Tls;
use super::{Heard, random};

/// For a connection, TLS and the two Hellos.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// The pause before a peer is dialled again: doubled from the first to the second, each with jitter.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where a peer is, and who said so.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) addr: String,
    /// By [`super::Transport::set_peer`], which goes before what a group's membership says.
    pub(crate) given: bool,
}

/// How a peer stands.
#[derive(Clone)]
pub(crate) enum State {
    /// The first attempt since it was known or lost.
    Dialling,
    Up(Arc<Link>),
    /// The last attempt failed.
    Down,
}

/// See the module.
pub(crate) struct Peer {
    pub(crate) node: u64,
    pub(crate) address: watch::Sender<Address>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) forgotten: CancellationToken,
}

impl Peer {
    pub(crate) fn new(node: u64, address: Address, forgotten: CancellationToken) -> Peer {
        Peer {
            node,
            address: watch::Sender::new(address),
            state: watch::Sender::new(State::Dialling),
            heard: Arc::default(),
            forgotten,
        }
    }

    /// The connection, if there is one now.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        match &*self.state.borrow() {
            State::Up(link) if link.is_open() => Some(Arc::clone(link)),
            _ => None,
        }
    }

    /// The connection, once the attempt that may be under way has ended.
    pub(crate) async fn link_or_dialled(&self) -> Option<Arc<Link>> {
        let mut state = self.state.subscribe();
        let decided = state
            .wait_for(|state| !matches!(state, State::Dialling))
            .await;
        drop(decided);
        self.link()
    }

    /// Keeps the connection up until the peer is forgotten.
    pub(crate) async fn keep(self: Arc<Self>, own: Identity, tls: Option<Tls>) {
        let mut address = self.address.subscribe();
        let kept = async {
            let mut pause = PAUSE_MIN;
            let mut last_reason = String::new();
            loop {
                let addr = address.borrow_and_update().addr.clone();
                match dial(&own, tls.as_ref(), &addr, self.node, false).await {
                    Ok((reader, writer)) => {
                        let (link, carry) = Link::open(reader, writer, Arc::clone(&self.heard));
                        self.heard.now();
                        self.state.send_replace(State::Up(link));
                        tracing::info!(peer = self.node, addr, "Connected to a node.");
                        pause = PAUSE_MIN;
                        last_reason.clear();
                        let ended = tokio::select! {
                            ended = carry => ended.to_string(),
                            _ = address.changed() => "its address has changed".to_owned(),
                        };
                        self.state.send_replace(State::Dialling);
                        tracing::warn!(
                            peer = self.node,
                            addr,
                            reason = ended,
                            "The connection to a node has ended."
                        );
                    }
                    Err(error) => {
                        self.state.send_replace(State::Down);
                        let reason = error.to_string();
                        if reason != last_reason {
                            tracing::warn!(
                                peer = self.node,
                                addr,
                                reason,
                                "A node cannot be reached; it is tried again and again."
                            );
                            last_reason = reason;
                        }
                        tokio::select! {
                            () = tokio::time::sleep(jittered(pause)) => {}
                            _ = address.changed() => {
                                self.state.send_replace(State::Dialling);
                            }
                        }
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
        };
        self.forgotten.run_until_cancelled(kept).await;
        if let State::Up(link) = self.state.send_replace(State::Down) {
            link.close();
        }
    }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    #[allow(clippy::cast_possible_truncation, reason = "at most a second")]
    let nanos = half.as_nanos() as u64;
    half + Duration::from_nanos(random() % nanos.max(1))
}

pub(crate) type Reader = FrameReader<tokio::io::ReadHalf<Box<dyn Stream>>>;
pub(crate) type Writer = tokio::io::WriteHalf<Box<dyn Stream>>;

/// Connects to `addr` and has itself welcomed there.
pub(crate) async fn dial(
    own: &Identity,
    tls: Option<&Tls>,
    addr: &str,
    to: u64,
    once: bool,
) -> Result<(Reader, Writer), HelloError> {
    let dialled = async {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(tls.connector.connect(tls.name.clone(), tcp).await?),
        };
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, IDLE_MAX);
        hello::dial(own, to, once, &mut reader, &mut writer).await?;
        Ok((reader, writer))
    };
    tokio::time::timeout(DIAL_MAX, dialled)
        .await
        .map_err(|_| HelloError::Io(io::ErrorKind::TimedOut.into()))?
}
