//! A session as this node's shards see it: where to put what it is to be sent.
//!
//! `dispatch ─► **mailbox** ─► connection`. Bounded: a connection that does not keep up loses QoS 0 first, and then
//! the rest of what need not survive; each loss is counted with its reason. What a persistent session is owed stands
//! in its replicated queue, and the mailbox only says that there is more.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use meridian_mqtt::packet::{PacketId, QoS};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::{Delivery, Matched};
use meridian_mqtt::topic::TopicFilter;
use parking_lot::Mutex;

use crate::router::ShardIndex;

/// What a connection finds in its mailbox.
#[derive(Debug)]
pub enum Mail {
    /// A message to send.
    Deliver(Delivery),
    /// A publication of the client is committed, or refused.
    Published {
        /// The client's packet identifier.
        id: PacketId,
        /// What PUBACK or PUBREC is to say.
        result: Result<Matched, ReasonCode>,
    },
    /// PUBREL is committed: PUBCOMP may go.
    Released(PacketId),
    /// That the client has the messages of these QoS 2 flows is committed: PUBREL may go.
    ReceiptsCommitted(Vec<PacketId>),
    /// PUBREL named no publication that is known.
    NotFound(PacketId),
    /// The connection is to end.
    End(ReasonCode),
    /// Rules or users have changed.
    RightsChanged,
}

/// Limits of a mailbox.
#[derive(Debug, Clone, Copy)]
pub struct MailboxLimits {
    /// Messages waiting.
    pub messages_max: usize,
    /// Bytes of topics and payloads waiting.
    pub bytes_max: usize,
}

/// Why a message was not put into a mailbox. Each is a value of `meridian_messages_dropped_total{reason}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// Nobody is connected.
    Offline,
    /// The connection does not keep up.
    SlowConsumer,
}

/// A persistent session's identity in its home shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistent {
    /// Where its state is.
    pub home: ShardIndex,
    /// Its epoch there.
    pub epoch: u64,
}

/// Nobody knows how far the queue was sent.
pub const SENT_UNKNOWN: u64 = u64::MAX;

/// One session on this node, with its mailbox.
#[derive(Debug)]
pub struct SessionHandle {
    /// The client.
    pub client_id: Box<str>,
    /// Whether what it is owed at QoS 1 and 2 stands in a replicated queue.
    pub persistent: Option<Persistent>,
    /// Its epoch in its home shard; 0 if that does not know it.
    pub session_epoch: u64,
    /// The node that the client is connected to, if that is another one; 0 otherwise.
    away: AtomicU64,
    /// The last queue entry that was sent on any connection: a resend of it bears DUP.
    pub sent_upto: AtomicU64,
    /// The user whose it is, once one was proved; nobody else connects as this client.
    pub owner: OnceLock<Box<str>>,
    /// Its subscriptions, by filter.
    pub filters: Mutex<Vec<TopicFilter>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Names the connection that owns the mailbox; 0 while there is none.
    owner: u64,
    /// Names that connection in the whole cluster; 0 if the home shard does not know it.
    connection_epoch: u64,
    /// The newest connection that the home shard knows of.
    newest_epoch: u64,
    mail: VecDeque<Mail>,
    bytes: usize,
    /// When the broker received the first message of `mail`, epoch milliseconds.
    oldest_ms: Option<i64>,
    /// The replicated queue has grown.
    queue_grew: bool,
    waker: Option<Waker>,
}

/// What [`SessionHandle::poll_take`] found.
#[derive(Debug)]
pub enum Taken {
    /// Mail was moved into the caller's list.
    Mail {
        /// The session's replicated queue has grown since the last time.
        queue_grew: bool,
        /// When the broker received the first message of it, epoch milliseconds.
        oldest_ms: Option<i64>,
    },
    /// Another connection owns the session now.
    Overtaken,
}

impl SessionHandle {
    /// A session that nobody is connected to yet. `sent_upto` is 0 for a new one, [`SENT_UNKNOWN`] for one from before
    /// the start of this process.
    #[must_use]
    pub fn new(
        client_id: &str,
        session_epoch: u64,
        persistent: Option<Persistent>,
        sent_upto: u64,
    ) -> Self {
        SessionHandle {
            client_id: client_id.into(),
            persistent,
            session_epoch,
            away: AtomicU64::new(0),
            sent_upto: AtomicU64::new(sent_upto),
            owner: OnceLock::new(),
            filters: Mutex::default(),
            inner: Mutex::default(),
        }
    }

    /// A connection takes the mailbox; whoever had it finds itself overtaken, and so does this one if the home shard
    /// knows a newer one by now. `owner` is not 0.
    pub fn open(&self, owner: u64, connection_epoch: u64) {
        let waker = {
            let mut inner = self.inner.lock();
            let stale = inner.newest_epoch > connection_epoch && connection_epoch > 0;
            inner.owner = if stale { u64::MAX } else { owner };
            inner.connection_epoch = connection_epoch;
            inner.mail.clear();
            inner.oldest_ms = None;
            inner.bytes = 0;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The connection `owner` is gone. Returns what it had not taken, unless it was overtaken.
    pub fn close(&self, owner: u64) -> Option<VecDeque<Mail>> {
        let mut inner = self.inner.lock();
        (inner.owner == owner).then(|| {
            inner.owner = 0;
            inner.oldest_ms = None;
            inner.bytes = 0;
            inner.waker = None;
            std::mem::take(&mut inner.mail)
        })
    }

    /// Takes the session from whoever has it: it is over.
    pub fn evict(&self) {
        self.open(u64::MAX, 0);
    }

    /// The home shard knows of the connection `epoch`: an older one is taken over.
    pub fn overtaken_by(&self, epoch: u64) {
        let older = {
            let mut inner = self.inner.lock();
            inner.newest_epoch = inner.newest_epoch.max(epoch);
            !matches!(inner.owner, 0 | u64::MAX) && inner.connection_epoch < epoch
        };
        if older {
            self.evict();
        }
    }

    /// The home shard closed the connection `epoch`: if it is here, it must go.
    pub fn closed_elsewhere(&self, epoch: u64) {
        let here = {
            let inner = self.inner.lock();
            !matches!(inner.owner, 0 | u64::MAX) && inner.connection_epoch == epoch
        };
        if here {
            self.evict();
        }
    }

    /// Notes the other node that the client is connected to; 0 for none.
    pub fn set_away(&self, node: u64) {
        self.away.store(node, Ordering::Release);
        if node != 0 {
            // What that node sends, nobody here knows.
            self.sent_upto.store(SENT_UNKNOWN, Ordering::Relaxed);
        }
    }

    /// The other node that the client is connected to; 0 if there is none.
    #[must_use]
    pub fn away(&self) -> u64 {
        self.away.load(Ordering::Acquire)
    }

    /// Whether a client is connected.
    #[must_use]
    pub fn is_online(&self) -> bool {
        !matches!(self.inner.lock().owner, 0 | u64::MAX)
    }

    /// Puts a message in, if there is room. `received_ms`: when the broker received it, epoch milliseconds.
    ///
    /// # Errors
    /// [`Undelivered`]: nobody is there, or does not keep up.
    pub fn deliver(
        &self,
        delivery: Delivery,
        received_ms: i64,
        limits: MailboxLimits,
    ) -> Result<(), Undelivered> {
        let size = delivery.topic.as_str().len() + delivery.payload.len();
        let waker = {
            let mut inner = self.inner.lock();
            if matches!(inner.owner, 0 | u64::MAX) {
                return Err(Undelivered::Offline);
            }
            // QoS 0 leaves the last quarter to what was asked to arrive.
            let room = |max: usize| {
                if delivery.qos == QoS::AtMostOnce {
                    max - max / 4
                } else {
                    max
                }
            };
            let too_many = inner.mail.len() >= room(limits.messages_max);
            let too_large = inner.bytes + size > room(limits.bytes_max) && inner.bytes > 0;
            if too_many || too_large {
                return Err(Undelivered::SlowConsumer);
            }
            inner.bytes += size;
            inner.oldest_ms.get_or_insert(received_ms);
            inner.mail.push_back(Mail::Deliver(delivery));
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Tells the connection `owner` something; a later one is not meant.
    pub fn tell(&self, owner: u64, mail: Mail) {
        let waker = {
            let mut inner = self.inner.lock();
            if inner.owner != owner {
                return;
            }
            inner.mail.push_back(mail);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tells whichever connection there is that it is to end. Whether there was one.
    pub fn end(&self, reason: ReasonCode) -> bool {
        let owner = self.inner.lock().owner;
        if matches!(owner, 0 | u64::MAX) {
            return false;
        }
        self.tell(owner, Mail::End(reason));
        true
    }

    /// Tells whichever connection there is to ask for its rights again.
    pub fn tell_of_rights(&self) {
        let owner = self.inner.lock().owner;
        if !matches!(owner, 0 | u64::MAX) {
            self.tell(owner, Mail::RightsChanged);
        }
    }

    /// Says that the replicated queue has grown.
    pub fn queue_grew(&self) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.queue_grew = true;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        let inner = self.inner.lock();
        !inner.mail.is_empty() || inner.queue_grew
    }

    /// Moves all mail into `into`, which is empty; pending while there is none.
    pub fn poll_take(
        &self,
        owner: u64,
        into: &mut VecDeque<Mail>,
        context: &mut Context<'_>,
    ) -> Poll<Taken> {
        let mut inner = self.inner.lock();
        if inner.owner != owner {
            return Poll::Ready(Taken::Overtaken);
        }
        if inner.mail.is_empty() && !inner.queue_grew {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        inner.bytes = 0;
        std::mem::swap(&mut inner.mail, into);
        Poll::Ready(Taken::Mail {
            queue_grew: std::mem::take(&mut inner.queue_grew),
            oldest_ms: inner.oldest_ms.take(),
        })
    }

    /// Notes that the queue entry `seq` was sent.
    pub fn sent(&self, seq: u64) {
        self.sent_upto.fetch_max(seq, Ordering::Relaxed);
    }
}
