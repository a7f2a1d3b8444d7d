//! One client's connection: the tokio shell around one [`Session`].
//!
//! `bytes ─► codec ─► session ─► **acts**`. A loop that a reader sees whole: read, decode, hand to the session, do what
//! it says, write. What the client may do is the session's business; where a message goes is the router's.

mod connect;
mod publish;
mod queue;
mod rights;
mod subscribe;
mod throttle;

pub(crate) use connect::assigned_client_id;
use rights::Standing;
pub use throttle::PublishRates;

use std::collections::{HashMap, VecDeque};
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use meridian_mqtt::codec::{self, Decoder};
use meridian_mqtt::packet::{Packet, PacketId, Version};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::{Output, Session, WillFate};
use meridian_mqtt::text::Text;
use meridian_shard::log;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::delivery::{Mail, SessionHandle, Taken};
use crate::node::Node;
use crate::router::ShardIndex;
use publish::Submission;

/// Bytes waiting to be written, as many as which stop the reading: who does not listen is not listened to.
const OUTPUT_HIGH: usize = 256 << 10;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// How long a closing connection may take to accept its last packet.
const LINGER: Duration = Duration::from_secs(2);

/// Any byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What is known of a client once it is accepted.
struct Link {
    handle: Arc<SessionHandle>,
    /// Names this connection to the handle.
    owner: u64,
    client_id: Text,
    home: ShardIndex,
    /// The session's and the connection's epoch, if the home shard knows the session.
    logged: Option<Logged>,
    /// The last entry of the replicated queue that went to the session.
    queue_high: u64,
    /// Entries of the queue that the session has.
    queue_taken: usize,
    /// There may be more in the queue.
    queue_more: bool,
    /// Entries that the client has acknowledged.
    settled: Vec<u64>,
    /// Entries of QoS 2 that the client has. Their flows wait until the log knows it.
    received: Vec<(u64, PacketId)>,
    /// Where the client's unreleased QoS 2 publications went.
    names: HashMap<PacketId, ShardIndex>,
}

#[derive(Debug, Clone, Copy)]
struct Logged {
    epoch: u64,
    connection_epoch: u64,
}

/// How a connection ended.
struct Ended {
    will: WillFate,
    session_expiry_s: u32,
}

/// Where a connection comes from.
#[derive(Debug)]
pub struct Peer {
    /// Its address, a proxy in between left out.
    pub address: SocketAddr,
    /// When its socket was accepted: CONNECT is waited for from here on.
    pub since: Instant,
    /// The user that its certificate names.
    pub user: Option<Text>,
}

struct Connection<S> {
    stream: S,
    node: Arc<Node>,
    standing: Box<Standing>,
    decoder: Decoder,
    session: Session,
    version: Version,
    /// The largest packet that the client takes, bytes.
    packet_bytes_max: u32,
    input: BytesMut,
    output: BytesMut,
    mail: VecDeque<Mail>,
    link: Option<Box<Link>>,
    timer: Pin<Box<Sleep>>,
    ended: Option<Ended>,
    /// There is mail, and others are let run once before it is taken.
    gathering: bool,
}

/// What the loop woke up for.
enum Event {
    Read,
    Wrote,
    Eof,
    Failed(io::Error),
    Mail {
        queue_grew: bool,
        oldest_ms: Option<i64>,
    },
    Overtaken,
    Timeout,
}

/// Serves one client from its first byte to its last.
pub async fn serve<S: Stream>(stream: S, peer: Box<Peer>, node: Arc<Node>) {
    let now = Instant::now();
    let session = Session::new(Arc::clone(&node.session_limits), peer.since);
    let deadline = session
        .poll_timeout()
        .unwrap_or(now + Duration::from_secs(3600));
    let mut connection = Connection {
        stream,
        standing: Box::new(Standing::new(*peer, &node, now)),
        decoder: Decoder::server(node.session_limits.max_packet),
        session,
        version: Version::V5,
        packet_bytes_max: codec::PACKET_BYTES_MAX,
        input: BytesMut::new(),
        output: BytesMut::new(),
        mail: VecDeque::new(),
        link: None,
        timer: Box::pin(tokio::time::sleep_until(deadline.into())),
        ended: None,
        gathering: false,
        node,
    };
    let node = Arc::clone(&connection.node);
    node.counters.connected();
    let reason = connection.run().await;
    tracing::debug!(peer = %connection.standing.peer.address, reason, "The connection ended.");
    connection.finish().await;
    node.counters.disconnected();
}

impl<S: Stream> Connection<S> {
    /// Runs until the connection is over; says why.
    async fn run(&mut self) -> &'static str {
        loop {
            self.act().await;
            // Once for all that one read brought: many acknowledgements are one command.
            if let Some((shard, proposal)) = self.settle() {
                self.node.shards.get(shard).submit_with(proposal).await;
            }
            if self.ended.is_some() {
                return "closed by the session";
            }
            self.arm_timer();
            let event = std::future::poll_fn(|context| self.poll_event(context)).await;
            self.renew_rights();
            match event {
                Event::Read => self.decode().await,
                Event::Wrote => {}
                Event::Eof => {
                    self.lost();
                    return "closed by the client";
                }
                Event::Failed(error) => {
                    tracing::debug!(peer = %self.standing.peer.address, %error, "The connection failed.");
                    self.lost();
                    return "failed";
                }
                Event::Mail {
                    queue_grew,
                    oldest_ms,
                } => self.take_mail(queue_grew, oldest_ms),
                Event::Overtaken => {
                    self.session.disconnect(ReasonCode::SessionTakenOver, None);
                }
                Event::Timeout if self.timeout(Instant::now()) => self.decode().await,
                Event::Timeout => {}
            }
        }
    }

    /// Looks at the clock. Whether the client has been held back for long enough.
    fn timeout(&mut self, now: Instant) -> bool {
        if self.expires().is_some_and(|expires| expires <= now) {
            tracing::info!(peer = %self.standing.peer.address, "A credential has expired: its client is disconnected.");
            self.session.disconnect(ReasonCode::NotAuthorized, None);
        } else if self.held_until().is_none() {
            self.session.handle_timeout(now);
        } else {
            let is_time = self.standing.throttle.release(now);
            if is_time {
                self.session.listened(now);
            }
            return is_time;
        }
        false
    }

    /// When the client's credential ends by itself.
    fn expires(&self) -> Option<Instant> {
        self.standing.identity.expires()
    }

    /// Until when nothing is read from the client, because it publishes too fast.
    fn held_until(&self) -> Option<Instant> {
        self.standing.throttle.held_until()
    }

    /// The network is gone, and nobody said DISCONNECT [MQTT-3.1.2-8].
    fn lost(&mut self) {
        let session_expiry_s = self.session.session_expiry_s();
        self.ended.get_or_insert(Ended {
            will: WillFate::Publish,
            session_expiry_s,
        });
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Event::Failed(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(written)) => {
                    if written == self.output.len() {
                        // An idle connection holds no buffer.
                        self.output = BytesMut::new();
                    } else {
                        let _written = self.output.split_to(written);
                    }
                    return Poll::Ready(Event::Wrote);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Failed(error)),
                Poll::Pending => {}
            }
        } else {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Failed(error)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if self.output.len() < OUTPUT_HIGH {
            // Who publishes too fast is not read from: TCP tells the client to wait.
            if self.held_until().is_none() {
                match self.poll_read(context) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Event::Eof),
                    Poll::Ready(Ok(_)) => return Poll::Ready(Event::Read),
                    Poll::Ready(Err(error)) => return Poll::Ready(Event::Failed(error)),
                    Poll::Pending => {}
                }
            }
            if let Some(link) = &self.link {
                // Whoever publishes now may have more for us: one write then serves all of it.
                if !self.gathering && link.handle.has_mail() {
                    self.gathering = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.gathering = false;
                match link.handle.poll_take(link.owner, &mut self.mail, context) {
                    Poll::Ready(Taken::Mail {
                        queue_grew,
                        oldest_ms,
                    }) => {
                        return Poll::Ready(Event::Mail {
                            queue_grew,
                            oldest_ms,
                        });
                    }
                    Poll::Ready(Taken::Overtaken) => return Poll::Ready(Event::Overtaken),
                    Poll::Pending => {}
                }
            }
        }
        self.timer.as_mut().poll(context).map(|()| Event::Timeout)
    }

    /// Reads into a buffer that the thread owns, so that a connection that says nothing holds none.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_BYTES]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut self.stream).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) => {
                    self.input.extend_from_slice(read.filled());
                    Poll::Ready(Ok(read.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
    }

    async fn decode(&mut self) {
        while self.ended.is_none() && self.held_until().is_none() {
            let before = self.input.len();
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => {
                    if matches!(packet, Packet::Publish(_)) {
                        let bytes = before - self.input.len();
                        self.standing
                            .throttle
                            .published(bytes as u64, Instant::now());
                    }
                    self.session.receive(packet, Instant::now());
                    self.act().await;
                }
                Ok(None) => break,
                Err(error) => {
                    metrics::counter!("meridian_malformed_packets_total").increment(1);
                    tracing::debug!(peer = %self.standing.peer.address, rule = error.rule, "A packet was refused.");
                    if let (None, Some(version)) = (&self.link, error.version) {
                        self.version = version;
                    }
                    self.session.malformed(&error);
                    self.input.clear();
                    return;
                }
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Does all that the session says.
    async fn act(&mut self) {
        loop {
            if self.standing.take_back {
                Box::pin(self.take_back()).await;
            }
            while let Some(output) = self.session.poll_output() {
                match output {
                    Output::Send(packet) => self.send(&packet),
                    Output::Connect(connect) => Box::pin(self.connect(connect)).await,
                    Output::Publish { publish } => {
                        let submission = self.publish(publish);
                        submit(&self.node, submission).await;
                    }
                    Output::Release(id) => {
                        let submission = self.release(id);
                        submit(&self.node, submission).await;
                    }
                    Output::Subscribe(subscribe) => Box::pin(self.subscribe(subscribe)).await,
                    Output::Unsubscribe(unsubscribe) => {
                        Box::pin(self.unsubscribe(unsubscribe)).await
                    }
                    Output::Acknowledged { handle } => self.settled(handle),
                    Output::Received { handle, packet_id } => self.received(handle, packet_id),
                    Output::Close {
                        will,
                        session_expiry_s,
                    } => {
                        self.ended.get_or_insert(Ended {
                            will,
                            session_expiry_s,
                        });
                    }
                }
            }
            let settled = self
                .settle()
                .map(|(shard, proposal)| Submission::Command(shard, proposal));
            submit(&self.node, settled).await;
            if self.ended.is_some() || !self.pull_queue() {
                return;
            }
        }
    }

    fn send(&mut self, packet: &Packet) {
        if let Packet::Publish(publish) = packet {
            self.node.counters.sent(publish.qos);
        }
        let before = self.output.len();
        if let Err(error) = codec::encode(
            packet,
            self.version,
            self.packet_bytes_max,
            &mut self.output,
        ) {
            self.output.truncate(before);
            tracing::debug!(peer = %self.standing.peer.address, %error, "A packet was not sent.");
        }
    }

    fn take_mail(&mut self, queue_grew: bool, oldest_ms: Option<i64>) {
        if let Some(received_ms) = oldest_ms {
            self.node.counters.delivered(received_ms);
        }
        let now = Instant::now();
        for mail in std::mem::take(&mut self.mail) {
            match mail {
                Mail::Deliver(delivery) => {
                    if !self.may_receive(&delivery.topic) {
                        rights::count_withheld();
                    } else if self.session.deliver(delivery, now).is_err() {
                        metrics::counter!("meridian_messages_dropped_total", "reason" => "outbox")
                            .increment(1);
                    }
                }
                Mail::Published { id, result } => self.session.published(id, result),
                Mail::Released(id) => self.session.released(id),
                Mail::ReceiptsCommitted(ids) => {
                    for id in ids {
                        self.session.receipt_committed(id);
                    }
                }
                Mail::NotFound(id) => self.session.not_found(id),
                Mail::End(reason) => self.session.disconnect(reason, None),
                // They were asked for before this was taken.
                Mail::RightsChanged => {}
            }
        }
        if let Some(link) = &mut self.link {
            link.queue_more |= queue_grew;
        }
    }

    /// Wakes no later than the session asks; a later deadline is looked at when the old one comes.
    fn arm_timer(&mut self) {
        // While the client is not listened to, it is not its silence that is measured.
        let held = self.held_until();
        let next = held.or_else(|| self.session.poll_timeout());
        let Some(deadline) = [next, self.expires()].into_iter().flatten().min() else {
            return;
        };
        let deadline = deadline.into();
        if deadline < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Writes what is left, ends the session, and closes.
    async fn finish(&mut self) {
        let last = std::future::poll_fn(|context| {
            while !self.output.is_empty() {
                match Pin::new(&mut self.stream).poll_write(context, &self.output) {
                    Poll::Ready(Ok(written)) if written > 0 => {
                        let _written = self.output.split_to(written);
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Pin::new(&mut self.stream)
                .poll_shutdown(context)
                .map(|_| ())
        });
        // A client that takes nothing any more loses its last packet, not our time.
        let _slow = tokio::time::timeout(LINGER, last).await;
        Box::pin(self.end_session()).await;
        // What the client had sent meanwhile is read, so that the system does not take our last packet back for it.
        let drained = std::future::poll_fn(|context| {
            loop {
                self.input.clear();
                match self.poll_read(context) {
                    Poll::Ready(Ok(read)) if read > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _slow = tokio::time::timeout(LINGER, drained).await;
    }

    /// Says to the home shard how the connection ended.
    async fn end_session(&mut self) {
        let Some(link) = self.link.take() else { return };
        let Some(_rest) = link.handle.close(link.owner) else {
            return;
        };
        let ended = self.ended.take().unwrap_or(Ended {
            will: WillFate::Publish,
            session_expiry_s: 0,
        });
        if link.handle.persistent.is_none() {
            self.node
                .registry
                .remove(&link.handle, &self.node.dispatch.subscriptions);
        }
        if let Some(logged) = link.logged {
            let close = log::CloseSession {
                client_id: link.client_id.as_str().to_owned(),
                connection_epoch: logged.connection_epoch,
                publish_will: ended.will == WillFate::Publish,
                expiry_s: ended.session_expiry_s,
            };
            let home = self.node.shards.get(link.home);
            if home
                .propose(log::command::Body::CloseSession(close))
                .await
                .is_err()
            {
                tracing::debug!(client = %link.client_id, "The end of a session could not be logged.");
            }
        }
    }
}

/// Waits only where there is no room, and only then needs room for the waiting.
async fn submit(node: &Node, submission: Option<Submission>) {
    match submission {
        Some(Submission::Command(shard, proposal)) => {
            let shard = node.shards.get(shard);
            if let Err(proposal) = shard.try_submit(proposal) {
                Box::pin(shard.submit_with(proposal)).await;
            }
        }
        Some(Submission::Fixes(shard, fixes)) => {
            let shard = node.shards.get(shard);
            Box::pin(shard.submit_fixes(fixes)).await;
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future that serves a connection lives as long as the connection does.
    #[test]
    fn an_idle_connection_is_small() {
        fn size_of_future<F>(
            _serve: impl Fn(tokio::net::TcpStream, Box<Peer>, Arc<Node>) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let sizes = [
            ("future", size_of_future(serve)),
            ("session", size_of::<Session>()),
            ("link", size_of::<Link>()),
            ("handle", size_of::<SessionHandle>()),
        ];
        let sum: usize = sizes.iter().map(|(_, size)| size).sum();
        assert!(sum < 2560, "{sizes:?}");
    }
}
