//! Gathers the commands for a shard into entries of its log.
//!
//! `admission ─► **proposer** ─► log`. One entry is on its way at a time; what comes meanwhile is the next one. So a
//! lone publish waits for nobody, and many share one flush.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use meridian_mqtt::packet::PacketId;
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::Matched;
use meridian_raft::{Group, ProposeError};
use meridian_shard::{Reply, log};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::machine::ShardMachine;
use crate::clock::LeaderClock;
use crate::delivery::{Mail, SessionHandle};
use crate::telemetry;

/// Commands of one entry.
const COMMANDS_MAX: usize = 1024;
/// Payload bytes of one entry, as soon as which it is closed.
const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Commands waiting for the next entry.
pub(crate) const QUEUE_MAX: usize = 4096;

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

/// Runs until the sending side is gone. `settled` is told each device whose fixes came back.
pub(crate) async fn run(
    group: Group<ShardMachine>,
    clock: Mutex<LeaderClock>,
    mut queue: mpsc::Receiver<(Instant, Box<Proposal>)>,
    settled: impl Fn(&str) + Send + 'static,
) {
    let publish_commit = telemetry::publish_commit();
    let mut proposals = Vec::with_capacity(COMMANDS_MAX);
    while queue.recv_many(&mut proposals, COMMANDS_MAX).await > 0 {
        while !proposals.is_empty() {
            let count = entry_length(&proposals);
            let mut commands = Vec::with_capacity(count);
            let mut waiters = Vec::with_capacity(count);
            let mut first_publish = None;
            for (arrived, proposal) in proposals.drain(..count) {
                if is_publish(&proposal.command) {
                    first_publish.get_or_insert(arrived);
                }
                commands.push(log::Command {
                    body: Some(proposal.command),
                });
                waiters.push(proposal.waiter);
            }
            let entry = log::Entry {
                proposed_at_ms: clock.lock().stamp(),
                commands,
            };
            let outcome = group
                .propose(Bytes::from(entry.encode_to_vec()))
                .await
                .map_err(|error| refusal(&error));
            metrics::counter!("meridian_shard_entries_total").increment(1);
            if let (Ok(_), Some(arrived)) = (&outcome, first_publish) {
                publish_commit.record(arrived.elapsed());
            }
            for (at, waiter) in waiters.into_iter().enumerate() {
                let reply = match &outcome {
                    Ok(replies) => replies.get(at).cloned().ok_or(Refused::Unknown),
                    Err(refused) => Err(*refused),
                };
                waiter.answer(reply, &settled);
            }
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

fn refusal(error: &ProposeError) -> Refused {
    match error {
        ProposeError::Unknown => Refused::Unknown,
        _ => Refused::Unavailable,
    }
}

impl Waiter {
    fn answer(self, reply: Result<Reply, Refused>, settled: &impl Fn(&str)) {
        match self {
            Waiter::Nobody => {}
            Waiter::Reply(sender) => {
                // Whoever asked may have gone.
                let _gone = sender.send(reply);
            }
            Waiter::Publisher {
                session,
                owner,
                id,
                device,
            } => {
                if let Some(device) = device {
                    settled(&device);
                }
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
            Waiter::Seen(devices) => devices.iter().for_each(|device| settled(device)),
        }
    }
}
