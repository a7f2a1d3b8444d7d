//! Sockets to byte streams: TCP, TLS and WebSocket.
//!
//! `socket ─► **listener** ─► connection`. A handshake has its time, and there is a bound to how many are under way, so
//! that who does not finish one keeps nobody else out.

mod tls;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use tls::{TlsError, TlsFiles, acceptor, expires_at_s};
pub(crate) use websocket::connect as connect_websocket;

use crate::connection;
use crate::node::Node;

/// How long a TLS or WebSocket handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes under way.
const HANDSHAKES_MAX: usize = 512;
/// Connections that the kernel keeps for us.
const BACKLOG: u32 = 4096;
/// After a refusal of the kernel, such as no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken below MQTT.
#[derive(Clone)]
pub enum Transport {
    /// Nothing: plain TCP.
    Tcp,
    /// TLS.
    Tls(tokio_rustls::TlsAcceptor),
    /// WebSocket.
    WebSocket,
    /// WebSocket over TLS.
    SecureWebSocket(tokio_rustls::TlsAcceptor),
}

/// A listener that accepts clients.
pub struct Listener {
    /// Where it listens; with the port that was found where 0 was asked for.
    pub address: SocketAddr,
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Listener {
    /// Binds `address` and serves whoever comes.
    ///
    /// # Errors
    /// The system's, if the address cannot be bound.
    pub fn start(
        address: SocketAddr,
        transport: Transport,
        connections_max: u64,
        node: Arc<Node>,
    ) -> io::Result<Listener> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, transport, connections_max, node, stopped));
        Ok(Listener {
            address,
            task,
            stop,
        })
    }

    /// Accepts nobody any more. Connections that are there go on.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "A listener ended badly.");
        }
    }
}

async fn accept(
    listener: TcpListener,
    transport: Transport,
    connections_max: u64,
    node: Arc<Node>,
    mut stop: watch::Receiver<bool>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection could not be accepted.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if u64::try_from(node.counters.connections()).unwrap_or(0) >= connections_max {
            metrics::counter!("meridian_connections_refused_total", "reason" => "full")
                .increment(1);
            continue;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "A connection was gone at once.");
            continue;
        }
        let node = Arc::clone(&node);
        if matches!(transport, Transport::Tcp) {
            tokio::spawn(connection::serve(stream, peer.to_string(), node));
            continue;
        }
        // Who waits here waits in the kernel's queue.
        let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let transport = transport.clone();
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_MAX, shake(stream, &transport)).await;
            drop(turn);
            match shaken {
                Ok(Ok(stream)) => connection::serve(stream, peer.to_string(), node).await,
                Ok(Err(error)) => {
                    metrics::counter!("meridian_handshakes_failed_total").increment(1);
                    tracing::debug!(%peer, %error, "A handshake failed.");
                }
                Err(_) => {
                    metrics::counter!("meridian_handshakes_failed_total").increment(1);
                    tracing::debug!(%peer, "A handshake took too long.");
                }
            }
        });
    }
}

type AnyStream = Box<dyn connection::Stream>;

async fn shake(stream: TcpStream, transport: &Transport) -> io::Result<AnyStream> {
    match transport {
        Transport::Tcp => Ok(Box::new(stream)),
        Transport::Tls(acceptor) => Ok(Box::new(acceptor.accept(stream).await?)),
        Transport::WebSocket => Ok(Box::new(websocket::accept(stream).await?)),
        Transport::SecureWebSocket(acceptor) => Ok(Box::new(
            websocket::accept(acceptor.accept(stream).await?).await?,
        )),
    }
}
