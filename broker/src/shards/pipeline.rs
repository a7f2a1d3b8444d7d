//! This node's commands on their way into a shard's log, wherever that is led.
//!
//! `admission ─► **pipeline** ─► the leader's log ─► apply, here`. Commands are numbered without gaps and go in batches, one
//! batch on its way at a time; what comes meanwhile is the next one. So a lone publish waits for nobody, and many share
//! one flush. A batch goes again, with the same numbers and to whoever leads by then, until this node has applied it:
//! through a failover nothing is lost, and what was in the log already is passed over there. Whoever waits for a
//! command is answered when this node's own replica has applied it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_mqtt::packet::PacketId;
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::Matched;
use meridian_shard::{Admission, Applied, Reply, log};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::leader::{AppendError, Leader};
use crate::delivery::{Mail, SessionHandle};
use crate::telemetry;

/// Commands of one entry.
const COMMANDS_MAX: usize = 1024;
/// Payload bytes of one entry, as soon as which it is closed.
const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Commands waiting for the next entry.
pub(crate) const QUEUE_MAX: usize = 4096;
/// Commands that are in the log, or on their way there, and not applied on this node.
const UNAPPLIED_MAX: usize = 4 * QUEUE_MAX;
/// Between two attempts, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(200);
/// After which publishers are told that the outcome is unknown: they connect again and resend.
const PUBLISHER_PATIENCE: Duration = Duration::from_secs(5);

/// A command and who wants to know its end.
pub(crate) struct Proposal {
    pub(crate) command: log::command::Body,
    pub(crate) waiter: Waiter,
}

/// Who is told when a command is applied.
pub(crate) enum Waiter {
    Nobody,
    Reply(oneshot::Sender<Result<Reply, Refused>>),
    /// The publisher's connection, by its mailbox; and the admission of the device, if the publish holds fixes.
    Publisher {
        session: Arc<SessionHandle>,
        owner: u64,
        id: Option<PacketId>,
        device: Option<String>,
    },
    /// PUBREL's connection.
    Releaser {
        session: Arc<SessionHandle>,
        owner: u64,
        id: PacketId,
    },
    /// The connection whose client has the messages of these QoS 2 flows.
    Receiver {
        session: Arc<SessionHandle>,
        owner: u64,
        ids: Vec<PacketId>,
    },
    /// Another node's publish of a device's fixes.
    Fixes {
        device: String,
        done: oneshot::Sender<Result<Reply, Refused>>,
    },
    /// Devices whose `last seen` went along.
    Seen(Vec<String>),
}

/// Why a command was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It certainly was not, and can be tried again.
    #[error("the shard cannot take commands now")]
    Unavailable,
    /// It may still be: nobody knows.
    #[error("the outcome of the command is unknown")]
    Unknown,
}

/// Who waits for which of this node's commands to one shard.
pub(crate) struct Unapplied {
    waiting: Mutex<Waiting>,
    /// The number of the first command that is not applied here.
    next: watch::Sender<u64>,
    admission: Arc<Mutex<Admission>>,
}

struct Waiting {
    /// The number of the first of `waiters`.
    first: u64,
    waiters: VecDeque<Waiter>,
}

impl Unapplied {
    pub(crate) fn new(admission: Arc<Mutex<Admission>>) -> Self {
        Unapplied {
            waiting: Mutex::new(Waiting {
                first: 1,
                waiters: VecDeque::new(),
            }),
            next: watch::channel(1).0,
            admission,
        }
    }

    /// Commands of this node and this run of it were applied here.
    pub(crate) fn applied(&self, applied: Applied) {
        if applied.replies.is_empty() {
            return;
        }
        let upto = applied.first + applied.replies.len() as u64;
        self.passed(applied.first);
        let mut ended = Vec::with_capacity(applied.replies.len());
        {
            let mut waiting = self.waiting.lock();
            for reply in applied.replies {
                if let Some(waiter) = waiting.waiters.pop_front() {
                    waiting.first += 1;
                    ended.push((waiter, reply));
                }
            }
        }
        for (waiter, reply) in ended {
            waiter.answer(Ok(reply), &self.admission);
        }
        self.next.send_replace(upto);
    }

    /// Commands below `upto` were applied, and a snapshot kept their replies from this node.
    pub(crate) fn passed(&self, upto: u64) {
        loop {
            let waiter = {
                let mut waiting = self.waiting.lock();
                if waiting.first >= upto {
                    break;
                }
                let Some(waiter) = waiting.waiters.pop_front() else {
                    break;
                };
                waiting.first += 1;
                waiter
            };
            match waiter {
                // It is in the log, which is all that they ask.
                Waiter::Publisher { .. }
                | Waiter::Releaser { .. }
                | Waiter::Receiver { .. }
                | Waiter::Fixes { .. } => {
                    waiter.answer(Ok(Reply::Done), &self.admission);
                }
                _ => waiter.answer(Err(Refused::Unknown), &self.admission),
            }
        }
        self.next.send_if_modified(|next| {
            let newer = upto > *next;
            *next = upto.max(*next);
            newer
        });
    }

    fn add(&self, waiters: impl Iterator<Item = Waiter>) {
        self.waiting.lock().waiters.extend(waiters);
    }

    /// Tells those who publish that the outcome is unknown. Their commands stay on their way.
    fn give_up_on_publishers(&self) {
        let given_up: Vec<Waiter> = {
            let mut waiting = self.waiting.lock();
            let give_up = |waiter: &mut Waiter| {
                let stays = match waiter {
                    Waiter::Publisher { device, .. } => device
                        .clone()
                        .map_or(Waiter::Nobody, |device| Waiter::Seen(vec![device])),
                    Waiter::Releaser { .. } | Waiter::Receiver { .. } => Waiter::Nobody,
                    Waiter::Fixes { device, .. } => Waiter::Seen(vec![device.clone()]),
                    Waiter::Nobody | Waiter::Reply(_) | Waiter::Seen(_) => return None,
                };
                Some(std::mem::replace(waiter, stays))
            };
            waiting.waiters.iter_mut().filter_map(give_up).collect()
        };
        for waiter in given_up {
            waiter.tell(Err(Refused::Unknown));
        }
    }
}

/// Runs until the sending side is gone. `node` and `boot` name this run of this node.
pub(crate) async fn run(
    node: u64,
    boot: u64,
    leader: Leader,
    unapplied: Arc<Unapplied>,
    mut queue: mpsc::Receiver<(Instant, Box<Proposal>)>,
) {
    let publish_commit = telemetry::publish_commit();
    let mut proposals = Vec::with_capacity(COMMANDS_MAX);
    let mut first = 1;
    let mut applied = unapplied.next.subscribe();
    while queue.recv_many(&mut proposals, COMMANDS_MAX).await > 0 {
        while !proposals.is_empty() {
            let count = entry_length(&proposals);
            let mut commands = Vec::with_capacity(count);
            let mut first_publish = None;
            let waiters = proposals.drain(..count).map(|(arrived, proposal)| {
                if is_publish(&proposal.command) {
                    first_publish.get_or_insert(arrived);
                }
                commands.push(log::Command {
                    body: Some(proposal.command),
                });
                proposal.waiter
            });
            unapplied.add(waiters.collect::<Vec<_>>().into_iter());
            let entry = log::Entry {
                proposed_at_ms: 0,
                commands,
                node,
                boot,
                first,
            };
            first += count as u64;
            let entry = Bytes::from(entry.encode_to_vec());
            if !put(&leader, &unapplied, &mut applied, &entry, first).await {
                return;
            }
            if let Some(arrived) = first_publish {
                publish_commit.record(arrived.elapsed());
            }
            // Committed; that it is applied here as well is waited for only when too much is not.
            let behind = first.saturating_sub(UNAPPLIED_MAX as u64);
            if applied.wait_for(|next| *next >= behind).await.is_err() {
                return;
            }
        }
    }
}

/// Brings an entry into the log, however often the leader changes. `upto` is the number behind its last command. False
/// if this node stops.
async fn put(
    leader: &Leader,
    unapplied: &Unapplied,
    applied: &mut watch::Receiver<u64>,
    entry: &Bytes,
    upto: u64,
) -> bool {
    let begun = Instant::now();
    let mut pause = RETRY_MIN;
    loop {
        // Whoever was asked may have stopped dead: a new leader is asked at once.
        let appended = tokio::select! {
            appended = leader.append(entry.clone()) => appended,
            () = leader.changed() => Err(AppendError::NotNow),
        };
        match appended {
            Ok(()) => return true,
            Err(AppendError::Stopped) => return false,
            // Known or unknown, it goes again: what is in the log twice is applied once.
            Err(AppendError::NotNow) => {}
        }
        if begun.elapsed() > PUBLISHER_PATIENCE {
            unapplied.give_up_on_publishers();
        }
        tokio::select! {
            reached = applied.wait_for(|next| *next >= upto) => return reached.is_ok(),
            () = leader.changed() => pause = RETRY_MIN,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
        }
    }
}

/// How many of the waiting commands make one entry: at least one.
fn entry_length(proposals: &[(Instant, Box<Proposal>)]) -> usize {
    let mut bytes = 0;
    let mut fits = |proposal: &Proposal| {
        bytes += size_hint(&proposal.command);
        bytes <= ENTRY_BYTES_MAX
    };
    let fitting = proposals.iter().take_while(|(_, proposal)| fits(proposal));
    fitting.count().max(1)
}

fn is_publish(command: &log::command::Body) -> bool {
    matches!(
        command,
        log::command::Body::Publish(_) | log::command::Body::Fixes(_)
    )
}

fn size_hint(command: &log::command::Body) -> usize {
    let message = |message: &Option<log::Message>| {
        message.as_ref().map_or(0, |message| message.payload.len())
    };
    match command {
        log::command::Body::Publish(publish) => message(&publish.message),
        log::command::Body::Fixes(fixes) => message(&fixes.raw),
        other => other.encoded_len(),
    }
}

impl Waiter {
    /// The command is applied, or surely never will be.
    pub(crate) fn answer(self, reply: Result<Reply, Refused>, admission: &Mutex<Admission>) {
        match &self {
            Waiter::Publisher {
                device: Some(device),
                ..
            }
            | Waiter::Fixes { device, .. } => admission.lock().settled(device),
            Waiter::Seen(devices) => {
                let mut admission = admission.lock();
                devices.iter().for_each(|device| admission.settled(device));
            }
            _ => {}
        }
        self.tell(reply);
    }

    fn tell(self, reply: Result<Reply, Refused>) {
        match self {
            Waiter::Nobody | Waiter::Seen(_) => {}
            Waiter::Reply(sender) | Waiter::Fixes { done: sender, .. } => {
                // Whoever asked may have gone.
                let _gone = sender.send(reply);
            }
            Waiter::Publisher {
                session, owner, id, ..
            } => {
                let Some(id) = id else { return };
                match reply {
                    Ok(_) => session.tell(
                        owner,
                        Mail::Published {
                            id,
                            result: Ok(Matched::Some),
                        },
                    ),
                    // Certainly in no log: the client may know.
                    Err(Refused::Unavailable) => {
                        session.tell(
                            owner,
                            Mail::Published {
                                id,
                                result: Err(ReasonCode::QuotaExceeded),
                            },
                        );
                    }
                    // No negative acknowledgement for what may still commit: the client resends after the close.
                    Err(Refused::Unknown) => {
                        session.tell(owner, Mail::End(ReasonCode::ServerUnavailable))
                    }
                }
            }
            Waiter::Releaser { session, owner, id } => match reply {
                Ok(_) => session.tell(owner, Mail::Released(id)),
                Err(_) => session.tell(owner, Mail::End(ReasonCode::ServerUnavailable)),
            },
            Waiter::Receiver {
                session,
                owner,
                ids,
            } => match reply {
                Ok(Reply::Done) => session.tell(owner, Mail::ReceiptsCommitted(ids)),
                // The queue is another session's now, or may not know of the receipts: nothing is released here.
                Ok(_) | Err(_) => session.tell(owner, Mail::End(ReasonCode::ServerUnavailable)),
            },
        }
    }
}
