//! Sockets to byte streams: TCP, TLS and WebSocket.
//!
//! `socket ─► **listener** ─► connection`. Each socket needs a seat; a handshake needs a turn, once its first byte is there,
//! and has its time. So who does not finish one keeps nobody else out, and nobody waits for him, not even the end.

mod handshakes;
mod identity;
mod proxy;
mod seats;
mod tls;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_mqtt::text::Text;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use handshakes::Handshakes;
pub use identity::IdentityField;
pub use seats::{AddressLimits, NoSeat, SeatLimits, Seats};
use seats::{Origin, Seat};
pub use tls::{Inside, Tls, TlsError, TlsFiles};
pub(crate) use websocket::connect as connect_websocket;

use crate::connection::{self, Peer};
use crate::node::Node;

/// How long it may take until MQTT begins, from the first byte of the network on.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections that the kernel keeps for us.
const BACKLOG: u32 = 4096;
/// After a refusal of the kernel, such as no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which the kernel asks whether the other side is still there, and how often it asks again. A client of
/// 3.1.1 may have no keep alive; who is gone without a word is found out all the same.
const PROBE: Duration = Duration::from_secs(60);

/// What is spoken below MQTT.
#[derive(Clone)]
pub enum Transport {
    /// Nothing: plain TCP.
    Tcp,
    /// TLS.
    Tls(Arc<Tls>),
    /// WebSocket.
    WebSocket,
    /// WebSocket over TLS.
    SecureWebSocket(Arc<Tls>),
}

/// What all listeners of a node share.
#[derive(Clone)]
pub struct Doors {
    seats: Arc<Seats>,
    handshakes: Arc<Handshakes>,
}

impl Doors {
    /// With room for so many.
    #[must_use]
    pub fn new(limits: SeatLimits) -> Self {
        Doors {
            seats: Seats::new(limits),
            handshakes: Arc::default(),
        }
    }
}

/// One way in.
#[derive(Clone)]
struct Entrance {
    transport: Transport,
    /// Each connection begins with a PROXY header.
    proxy_protocol: bool,
    doors: Doors,
    node: Arc<Node>,
    stop: watch::Receiver<bool>,
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
        proxy_protocol: bool,
        doors: Doors,
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
        let entrance = Entrance {
            transport,
            proxy_protocol,
            doors,
            node,
            stop: stopped,
        };
        let task = tokio::spawn(accept(listener, entrance));
        Ok(Listener {
            address,
            task,
            stop,
        })
    }

    /// Accepts nobody any more. Connections that are there go on; handshakes are given up.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "A listener ended badly.");
        }
    }
}

async fn accept(listener: TcpListener, entrance: Entrance) {
    let mut stop = entrance.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection could not be accepted.");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                    _ = stop.changed() => return,
                }
            }
        };
        let since = Instant::now();
        let seat = entrance.doors.seats.take().and_then(|mut seat| {
            if !entrance.proxy_protocol {
                seat.assign(address.ip(), since)?;
            }
            Ok(seat)
        });
        let seat = match seat {
            Ok(seat) => seat,
            Err(none) => {
                refused(none, address);
                continue;
            }
        };
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "A connection was gone at once.");
            continue;
        }
        let guest = Guest {
            stream,
            address,
            seat,
            since,
        };
        tokio::spawn(receive(guest, entrance.clone()));
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = socket2::TcpKeepalive::new()
        .with_time(PROBE)
        .with_interval(PROBE / 4);
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}

fn refused(none: NoSeat, address: SocketAddr) {
    metrics::counter!("meridian_connections_refused_total", "reason" => none.reason()).increment(1);
    tracing::debug!(%address, reason = none.reason(), "A connection was refused.");
}

/// A socket that has a seat.
struct Guest {
    stream: TcpStream,
    address: SocketAddr,
    seat: Seat,
    since: Instant,
}

type AnyStream = Box<dyn connection::Stream>;

/// From the socket to MQTT.
async fn receive(mut guest: Guest, entrance: Entrance) {
    let mut stop = entrance.stop.clone();
    let deadline = (guest.since + HANDSHAKE_MAX).into();
    if entrance.proxy_protocol {
        let read = proxy::read(&mut guest.stream, guest.address);
        let address = tokio::select! {
            read = tokio::time::timeout_at(deadline, read) => read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            _ = stop.changed() => return,
        };
        guest.address = match address {
            Ok(address) => address,
            Err(error) => return failed(guest.address, &error),
        };
        if let Err(none) = guest.seat.assign(guest.address.ip(), guest.since) {
            return refused(none, guest.address);
        }
    }
    let mut peer = Box::new(Peer {
        address: guest.address,
        since: guest.since,
        user: None,
    });
    if matches!(entrance.transport, Transport::Tcp) {
        connection::serve(guest.stream, peer, entrance.node).await;
    } else {
        let turned = Box::pin(take_turn(guest.stream, guest.address, &entrance));
        let shaken = tokio::select! {
            shaken = tokio::time::timeout_at(deadline, turned) => shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            _ = stop.changed() => return,
        };
        match shaken {
            Ok((stream, user)) => {
                peer.user = user;
                connection::serve(stream, peer, entrance.node).await;
            }
            Err(error) => failed(guest.address, &error),
        }
    }
    drop(guest.seat);
}

fn failed(address: SocketAddr, error: &io::Error) {
    metrics::counter!("meridian_handshakes_failed_total").increment(1);
    tracing::debug!(%address, %error, "A handshake failed.");
}

/// Does the handshake in its turn. Who says nothing at all needs none.
async fn take_turn(
    stream: TcpStream,
    address: SocketAddr,
    entrance: &Entrance,
) -> io::Result<(AnyStream, Option<Text>)> {
    stream.readable().await?;
    let origin = Origin::of(address.ip());
    let mut turn = entrance.doors.handshakes.enter(origin).await;
    tokio::select! {
        shaken = shake(stream, &entrance.transport) => shaken,
        () = turn.expelled() => Err(io::Error::other("others had waited longer for their turn")),
    }
}

async fn shake(stream: TcpStream, transport: &Transport) -> io::Result<(AnyStream, Option<Text>)> {
    Ok(match transport {
        Transport::Tcp => (Box::new(stream), None),
        Transport::WebSocket => (Box::new(websocket::accept(stream).await?), None),
        Transport::Tls(tls) => {
            let stream = tls.current().accept(stream).await?;
            let user = tls.user(stream.get_ref().1);
            (Box::new(stream), user)
        }
        Transport::SecureWebSocket(tls) => {
            let stream = tls.current().accept(stream).await?;
            let user = tls.user(stream.get_ref().1);
            (Box::new(websocket::accept(stream).await?), user)
        }
    })
}
