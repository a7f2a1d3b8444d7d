//! One connection that this node dialled: requests out, answers in, matched by their ids.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_proto::raft::v1;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::frame::{self, FRAME_BYTES_MAX, FrameReader};
use super::{Heard, queue};

/// A connection on which nothing was heard for this long is dead.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(3);
/// How often who dialled says that it is there.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// What may wait to be sent, of the Raft groups and of the application each.
const QUEUE_FRAMES_MAX: usize = 8192;
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Frames up to this size are copied into one write.
const COALESCED_BYTES_MAX: usize = 64 << 10;
/// A write is closed at this size.
const WRITE_BYTES: usize = 256 << 10;

/// Anything that carries bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Whose message it is: consensus goes before what the application says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Raft,
    Application,
}

/// The sending side of a connection, in either role.
pub(crate) struct Outgoing {
    raft: queue::Sender,
    application: queue::Sender,
}

/// What [`write_all`] sends.
pub(crate) struct Waiting {
    raft: queue::Receiver,
    application: queue::Receiver,
}

impl Outgoing {
    pub(crate) fn new() -> (Outgoing, Waiting) {
        let (raft, raft_waiting) = queue::bounded(QUEUE_FRAMES_MAX, QUEUE_BYTES_MAX);
        let (application, application_waiting) = queue::bounded(QUEUE_FRAMES_MAX, QUEUE_BYTES_MAX);
        (
            Outgoing { raft, application },
            Waiting {
                raft: raft_waiting,
                application: application_waiting,
            },
        )
    }

    pub(crate) fn push(&self, lane: Lane, frame: Bytes) -> Result<(), queue::Full> {
        match lane {
            Lane::Raft => self.raft.push(frame),
            Lane::Application => self.application.push(frame),
        }
    }
}

/// Sends what waits: all that is ready goes out in one write. Ends with the stream, or when nobody sends any more.
pub(crate) async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut waiting: Waiting,
) -> io::Result<()> {
    let mut batch = BytesMut::new();
    loop {
        let first = tokio::select! {
            biased;
            frame = waiting.raft.pop() => frame,
            frame = waiting.application.pop() => frame,
        };
        let Some(first) = first else { return Ok(()) };
        let mut next = Some(first);
        let mut large = None;
        while let Some(frame) = next {
            if frame.len() > COALESCED_BYTES_MAX {
                large = Some(frame);
                break;
            }
            batch.extend_from_slice(&frame);
            if batch.len() >= WRITE_BYTES {
                break;
            }
            next = waiting
                .raft
                .try_pop()
                .or_else(|| waiting.application.try_pop());
        }
        if !batch.is_empty() {
            writer.write_all(&batch).await?;
            batch.clear();
        }
        if let Some(frame) = large {
            writer.write_all(&frame).await?;
        }
        writer.flush().await?;
        metrics::counter!("meridian_raft_transport_writes_total").increment(1);
    }
}

type Answers = Mutex<Option<HashMap<u64, oneshot::Sender<v1::frame::Body>>>>;

/// See the module.
pub(crate) struct Link {
    outgoing: Outgoing,
    next_id: AtomicU64,
    /// `None` once the connection has ended.
    answers: Answers,
    closed: CancellationToken,
}

/// An answer on its way. Dropped, it is waited for no longer.
pub(crate) struct Answer {
    link: Arc<Link>,
    id: u64,
    receiver: oneshot::Receiver<v1::frame::Body>,
}

/// The connection ended before the answer came: nobody knows what became of the request.
#[derive(Debug)]
pub(crate) struct Lost;

impl Future for Answer {
    type Output = Result<v1::frame::Body, Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(cx)
            .map(|answer| answer.map_err(|_| Lost))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(answers) = self.link.answers.lock().as_mut() {
            answers.remove(&self.id);
        }
    }
}

impl Link {
    /// Takes over an open connection; the future carries it and ends with it.
    pub(crate) fn open(
        reader: FrameReader<impl AsyncRead + Unpin + Send + 'static>,
        writer: impl AsyncWrite + Unpin + Send + 'static,
        heard: Arc<Heard>,
    ) -> (Arc<Link>, impl Future<Output = io::Error>) {
        let (outgoing, waiting) = Outgoing::new();
        let link = Arc::new(Link {
            outgoing,
            next_id: AtomicU64::new(1),
            answers: Mutex::new(Some(HashMap::new())),
            closed: CancellationToken::new(),
        });
        let carried = Arc::clone(&link);
        let carry = async move {
            let ended = tokio::select! {
                ended = write_all(writer, waiting) => ended,
                ended = carried.read(reader, &heard) => ended,
                () = carried.ping() => Ok(()),
                () = carried.closed.cancelled() => Ok(()),
            };
            carried.answers.lock().take();
            ended
                .err()
                .unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())
        };
        (link, carry)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.answers.lock().is_some()
    }

    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Queues a request, in the order of the calls.
    pub(crate) fn ask(
        self: &Arc<Self>,
        lane: Lane,
        body: v1::frame::Body,
    ) -> Result<Answer, &'static str> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = v1::Frame {
            id,
            body: Some(body),
        };
        if prost::Message::encoded_len(&frame) > FRAME_BYTES_MAX {
            return Err("the message is larger than a frame may be");
        }
        let (sender, receiver) = oneshot::channel();
        match self.answers.lock().as_mut() {
            Some(answers) => answers.insert(id, sender),
            None => return Err("the connection has just ended"),
        };
        let answer = Answer {
            link: Arc::clone(self),
            id,
            receiver,
        };
        self.outgoing
            .push(lane, frame::encode(&frame))
            .map_err(|queue::Full| "the queue to it is full")?;
        Ok(answer)
    }

    /// Queues a message that has no answer.
    pub(crate) fn tell(&self, lane: Lane, body: v1::frame::Body) -> Result<(), queue::Full> {
        let frame = v1::Frame {
            id: 0,
            body: Some(body),
        };
        if prost::Message::encoded_len(&frame) > FRAME_BYTES_MAX || !self.is_open() {
            return Err(queue::Full);
        }
        self.outgoing.push(lane, frame::encode(&frame))
    }

    async fn ping(&self) {
        let mut ticks = tokio::time::interval(PING_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A full queue moves, or the peer is found dead without this one.
            let _full = self.tell(Lane::Raft, v1::frame::Body::Ping(true));
        }
    }

    async fn read(
        &self,
        mut reader: FrameReader<impl AsyncRead + Unpin>,
        heard: &Heard,
    ) -> io::Result<()> {
        while let Some(frame) = reader.next::<v1::Frame>(FRAME_BYTES_MAX).await? {
            heard.now();
            match frame.body {
                Some(v1::frame::Body::Pong(_)) => {}
                Some(
                    body @ (v1::frame::Body::Response(_)
                    | v1::frame::Body::Refused(_)
                    | v1::frame::Body::GroupResponse(_)),
                ) => {
                    let waiting = self
                        .answers
                        .lock()
                        .as_mut()
                        .and_then(|answers| answers.remove(&frame.id));
                    if let Some(waiting) = waiting {
                        // Whoever waited may have given up at this very moment.
                        let _gone = waiting.send(body);
                    }
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the peer sent a message that is no answer",
                    ));
                }
            }
        }
        Ok(())
    }
}
