//! Connections that others dialled: their requests are answered here.
//!
//! Nothing that takes long runs in the loop that reads: Raft messages are handed to their group in the order in which
//! they came, and answered when the group is ready; the application's requests run each for itself, its one-way messages
//! one after the other.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_proto::raft::v1;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::frame::{self, FRAME_BYTES_MAX, FrameReader};
use super::hello::{self, HelloError};
use super::link::{self, IDLE_MAX, Lane, Outgoing, Stream};
use super::{Heard, Shared, queue};

/// For TLS and the Hello.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Connections that have not yet said who they are. More wait to be accepted.
const STRANGERS_MAX: usize = 64;

/// Raft messages of one peer that wait for their group.
const RAFT_WAITING_MAX: usize = 4096;
/// The application's requests of one peer that are being answered, by count and, in this unit, by size.
const REQUESTS_MAX: usize = 1024;
const REQUEST_UNIT_BYTES: usize = 64 << 10;
/// One-way messages of one peer that were not yet taken. More are dropped and counted.
const NOTIFICATIONS_MAX: usize = 8192;
const NOTIFICATIONS_BYTES_MAX: usize = 64 << 20;

/// A node that dialled this one.
pub(crate) struct Caller {
    run: u64,
    pub(crate) heard: Arc<Heard>,
    replaced: CancellationToken,
}

/// Accepts until the transport ends.
pub(crate) async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let Ok(stranger) = Arc::clone(&strangers).acquire_owned().await else {
            return;
        };
        let (tcp, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A node's connection could not be accepted.");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = Arc::clone(&shared);
        let ended = shared.ended.clone();
        shared.tasks.spawn(async move {
            let answered = answer(connection, tcp, stranger);
            if let Some(Err(error)) = ended.run_until_cancelled(answered).await {
                tracing::warn!(%addr, reason = %error, "The connection of a node was closed.");
            }
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    tcp: TcpStream,
    stranger: OwnedSemaphorePermit,
) -> Result<(), HelloError> {
    let welcomed = tokio::time::timeout(HELLO_MAX, welcome(&shared, tcp)).await;
    let (hello, reader, writer) =
        welcomed.map_err(|_| HelloError::Io(io::ErrorKind::TimedOut.into()))??;
    drop(stranger);
    let heard = Arc::<Heard>::default();
    heard.now();
    let replaced = CancellationToken::new();
    if !hello.once {
        let caller = Caller {
            run: hello.run,
            heard: Arc::clone(&heard),
            replaced: replaced.clone(),
        };
        if let Some(before) = shared.callers.lock().insert(hello.node, caller) {
            before.replaced.cancel();
        }
    }
    let (outgoing, waiting) = Outgoing::new();
    let connection = Connection {
        shared: Arc::clone(&shared),
        from: hello.node,
        outgoing: Arc::new(outgoing),
        heard: Arc::clone(&heard),
        closed: CancellationToken::new(),
    };
    let closed = connection.closed.clone();
    let ended = tokio::select! {
        ended = link::write_all(writer, waiting) => ended,
        ended = connection.read(reader) => ended,
        () = closed.cancelled() => Err(io::Error::other("it does not take its answers")),
        () = replaced.cancelled() => Ok(()),
    };
    closed.cancel();
    if !hello.once && !replaced.is_cancelled() {
        let mut callers = shared.callers.lock();
        if callers
            .get(&hello.node)
            .is_some_and(|caller| Arc::ptr_eq(&caller.heard, &heard))
        {
            callers.remove(&hello.node);
        }
    }
    match ended {
        // A node that ends, or that dials anew.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        ended => Ok(ended?),
    }
}

type Welcomed = (
    v1::Hello,
    FrameReader<tokio::io::ReadHalf<Box<dyn Stream>>>,
    tokio::io::WriteHalf<Box<dyn Stream>>,
);

async fn welcome(shared: &Shared, tcp: TcpStream) -> Result<Welcomed, HelloError> {
    tcp.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match &shared.tls {
        None => Box::new(tcp),
        Some(tls) => {
            let stream = tls.acceptor.accept(tcp).await?;
            if !tls.is_ours(stream.get_ref().1.peer_certificates()) {
                return Err(HelloError::Refused(format!(
                    "its certificate is not of this cluster: it lacks the DNS name {:?}",
                    tls.name
                )));
            }
            Box::new(stream)
        }
    };
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, IDLE_MAX);
    let hello = hello::receive(&mut reader).await?;
    let objection =
        hello::objection(&shared.own, &hello).or_else(|| second_of_its_id(shared, &hello));
    hello::answer(&shared.own, objection.as_deref(), &mut writer).await?;
    match objection {
        Some(reason) => Err(HelloError::Refused(reason)),
        None => Ok((hello, reader, writer)),
    }
}

/// Two nodes with one id would be one voter with two votes.
fn second_of_its_id(shared: &Shared, hello: &v1::Hello) -> Option<String> {
    let callers = shared.callers.lock();
    let other = callers
        .get(&hello.node)
        .filter(|caller| caller.run != hello.run)?;
    let alive = other
        .heard
        .last()
        .is_some_and(|heard| heard > Instant::now() - IDLE_MAX);
    alive.then(|| {
        format!(
            "another process is connected as node {}: each node needs an id of its own",
            hello.node
        )
    })
}

struct Connection {
    shared: Arc<Shared>,
    from: u64,
    outgoing: Arc<Outgoing>,
    heard: Arc<Heard>,
    closed: CancellationToken,
}

/// Sends answers, for as long as they are taken.
#[derive(Clone)]
struct Answerer {
    outgoing: Arc<Outgoing>,
    closed: CancellationToken,
}

impl Answerer {
    fn send(&self, lane: Lane, id: u64, body: v1::frame::Body) {
        let frame = v1::Frame {
            id,
            body: Some(body),
        };
        if self.outgoing.push(lane, frame::encode(&frame)).is_err() {
            self.closed.cancel();
        }
    }

    fn refuse(&self, lane: Lane, id: u64, reason: &str) {
        let reason = reason.to_owned();
        self.send(lane, id, v1::frame::Body::Refused(v1::Refused { reason }));
    }
}

impl Connection {
    async fn read<R: tokio::io::AsyncRead + Unpin>(
        &self,
        mut reader: FrameReader<R>,
    ) -> io::Result<()> {
        let answerer = Answerer {
            outgoing: Arc::clone(&self.outgoing),
            closed: self.closed.clone(),
        };
        let raft_waiting = Arc::new(Semaphore::new(RAFT_WAITING_MAX));
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let (notify, notifications) = queue::bounded(NOTIFICATIONS_MAX, NOTIFICATIONS_BYTES_MAX);
        self.shared
            .tasks
            .spawn(take(Arc::clone(&self.shared), self.from, notifications));
        while let Some(frame) = reader.next::<v1::Frame>(FRAME_BYTES_MAX).await? {
            self.heard.now();
            match frame.body {
                Some(v1::frame::Body::Ping(_)) => {
                    answerer.send(Lane::Raft, frame.id, v1::frame::Body::Pong(true));
                }
                Some(v1::frame::Body::GroupRequest(request)) => {
                    self.group_request(frame.id, request, &raft_waiting, &answerer);
                }
                Some(v1::frame::Body::Request(body)) => {
                    self.request(frame.id, body, &requests, &answerer);
                }
                Some(v1::frame::Body::Notify(body)) => {
                    if notify.push(body).is_err() {
                        metrics::counter!("meridian_raft_notifications_dropped_total", "reason" => "receiver_full")
                            .increment(1);
                    }
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it sent a message that is no request",
                    ));
                }
            }
        }
        Ok(())
    }

    fn group_request(
        &self,
        id: u64,
        request: v1::GroupRequest,
        waiting: &Arc<Semaphore>,
        answerer: &Answerer,
    ) {
        let group = self.shared.groups.read().get(&request.group).cloned();
        let (Some(group), Some(body)) = (group, request.body) else {
            return answerer.refuse(
                Lane::Raft,
                id,
                &format!("this node has no group {:?}", request.group),
            );
        };
        let Ok(permit) = Arc::clone(waiting).try_acquire_owned() else {
            return answerer.refuse(Lane::Raft, id, "too many messages wait for their groups");
        };
        let mut handled = group.handle(self.from, body);
        let answerer = answerer.clone();
        let send = move |response| {
            let body = v1::frame::Body::GroupResponse(response);
            answerer.send(Lane::Raft, id, body);
        };
        // The first poll hands the message over, so that the group gets them in their order. Who polls later does not
        // matter: a task is woken by its own poll.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let first = {
            let once = tokio::task::coop::unconstrained(&mut handled);
            std::future::Future::poll(std::pin::pin!(once), &mut context)
        };
        if let std::task::Poll::Ready(response) = first {
            return send(response);
        }
        let closed = self.closed.clone();
        self.shared.tasks.spawn(async move {
            let _permit = permit;
            if let Some(response) = closed.run_until_cancelled(handled).await {
                send(response);
            }
        });
    }

    fn request(&self, id: u64, body: Bytes, running: &Arc<Semaphore>, answerer: &Answerer) {
        let units = body
            .len()
            .div_ceil(REQUEST_UNIT_BYTES)
            .clamp(1, REQUESTS_MAX);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(running).try_acquire_many_owned(units) else {
            return answerer.refuse(
                Lane::Application,
                id,
                "too many requests are being answered",
            );
        };
        let handled = self.shared.handler.request(self.from, body);
        let answerer = answerer.clone();
        let ended = self.shared.ended.clone();
        self.shared.tasks.spawn(async move {
            let _permit = permit;
            if let Some(response) = ended.run_until_cancelled(handled).await {
                answerer.send(Lane::Application, id, v1::frame::Body::Response(response));
            }
        });
    }
}

/// Hands one-way messages to the application, one after the other.
async fn take(shared: Arc<Shared>, from: u64, mut notifications: queue::Receiver) {
    let ended = shared.ended.clone();
    let taken = async {
        while let Some(body) = notifications.pop().await {
            shared.handler.notify(from, body);
        }
    };
    ended.run_until_cancelled(taken).await;
}
