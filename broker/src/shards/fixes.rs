//! Fixes on their way to the leader of their shard, which alone may judge that they change nothing.
//!
//! `publish ─► **fixes** ─► the leader's admission ─► log`. Where this node leads, nothing is between. Otherwise publishes
//! go in batches, one on its way at a time, so that a device's fixes stay in order. After a failure the batch goes
//! again, marked as a resend: the leader then knows that it may have had them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_mqtt::packet::PacketId;
use meridian_mqtt::session::Matched;
use meridian_proto::cluster::v1::{self, reply, request};
use meridian_raft::{RequestError, Transport};
use meridian_shard::log;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::Refused;
use crate::delivery::{Mail, SessionHandle};
use crate::node::Node;
use crate::router::{Outgoing, ShardIndex};
use meridian_mqtt::reason::ReasonCode;

/// Publishes of one batch.
const BATCH_MAX: usize = 512;
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(50);
/// How long a batch may be under way before its publishers are told that the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(5);
/// One attempt.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
/// How long this node's replica may take to show what was acknowledged.
const VISIBLE_MAX: Duration = Duration::from_millis(500);

/// A publish of fixes, as the leader is given it.
#[derive(Debug, Clone)]
pub struct FixesItem {
    /// The publish as it came.
    pub message: Outgoing,
    /// Its name, if it must happen once.
    pub once: Option<log::Once>,
    /// It may have come before.
    pub resend: bool,
}

/// A publish of fixes and who waits for its end.
pub(crate) struct FixesPublish {
    pub(crate) item: FixesItem,
    pub(crate) waiter: FixesWaiter,
}

pub(crate) enum FixesWaiter {
    Nobody,
    Publisher {
        session: Arc<SessionHandle>,
        owner: u64,
        id: PacketId,
    },
    Reply(oneshot::Sender<Result<(), Refused>>),
}

impl FixesPublish {
    pub(crate) fn tell(self, result: Result<(), Refused>) {
        match self.waiter {
            FixesWaiter::Nobody => {}
            FixesWaiter::Reply(sender) => {
                // Whoever asked may have gone.
                let _gone = sender.send(result);
            }
            FixesWaiter::Publisher { session, owner, id } => session.tell(
                owner,
                match result {
                    Ok(()) => Mail::Published {
                        id,
                        result: Ok(Matched::Some),
                    },
                    Err(Refused::Unavailable) => Mail::Published {
                        id,
                        result: Err(ReasonCode::QuotaExceeded),
                    },
                    Err(Refused::Unknown) => Mail::End(ReasonCode::ServerUnavailable),
                },
            ),
        }
    }
}

/// Runs for one shard until the sending side is gone.
pub(crate) async fn run(
    node: Arc<Node>,
    shard: ShardIndex,
    mut queue: mpsc::Receiver<Box<FixesPublish>>,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut items: Vec<FixesItem> = batch.iter().map(|publish| publish.item.clone()).collect();
        let begun = Instant::now();
        let results = loop {
            match attempt(&node, shard, &items).await {
                Ok(results) => break results,
                Err(known) if begun.elapsed() > PATIENCE => {
                    break vec![Err(known); items.len()];
                }
                Err(known) => {
                    if known == Refused::Unknown {
                        items.iter_mut().for_each(|item| item.resend = true);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let done = batch.len();
        for (publish, result) in batch.drain(..).zip(results) {
            publish.tell(result);
        }
        node.shards
            .get(shard)
            .fixes_under_way
            .fetch_sub(done, Ordering::AcqRel);
    }
}

/// `Err`: nobody took the batch, surely ([`Refused::Unavailable`]) or perhaps.
async fn attempt(
    node: &Arc<Node>,
    index: ShardIndex,
    items: &[FixesItem],
) -> Result<Vec<Result<(), Refused>>, Refused> {
    let shard = node.shards.get(index);
    if shard.leading.leads() {
        return Ok(node.take_fixes(index, items.to_vec()).await);
    }
    let leader = shard
        .group
        .status()
        .leader
        .filter(|leader| *leader != node.id)
        .ok_or(Refused::Unavailable)?;
    // Whoever was asked may have stopped dead: a new leader is asked at once.
    let (accepted, applied_index) = tokio::select! {
        answer = ask(&node.transport, leader, &shard.name, items) => answer?,
        () = shard.leader.changed() => return Err(Refused::Unknown),
    };
    // What is acknowledged here can be read here.
    let deadline = Instant::now() + VISIBLE_MAX;
    while shard.group.status().applied_index < applied_index && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let result = |accepted: bool| {
        if accepted {
            Ok(())
        } else {
            Err(Refused::Unknown)
        }
    };
    Ok(accepted.into_iter().map(result).collect())
}

async fn ask(
    transport: &Transport,
    leader: u64,
    shard: &str,
    items: &[FixesItem],
) -> Result<(Vec<bool>, u64), Refused> {
    let item = |item: &FixesItem| v1::FixesItem {
        message: Some(item.message.to_message()),
        once: item.once.clone(),
        resend: item.resend,
    };
    let request = v1::Request {
        body: Some(request::Body::Fixes(v1::Fixes {
            shard: shard.to_owned(),
            items: items.iter().map(item).collect(),
        })),
    };
    let request = Bytes::from(request.encode_to_vec());
    let reply = match transport.request(leader, request, ATTEMPT_MAX).await {
        Ok(reply) => reply,
        Err(RequestError::Unsent { .. }) => return Err(Refused::Unavailable),
        Err(_) => return Err(Refused::Unknown),
    };
    match v1::Reply::decode(reply).map(|reply| reply.body) {
        Ok(Some(reply::Body::Fixes(fixes))) if fixes.accepted.len() == items.len() => {
            Ok((fixes.accepted, fixes.applied_index))
        }
        Ok(Some(reply::Body::Refusal(_))) => Err(Refused::Unavailable),
        _ => Err(Refused::Unknown),
    }
}
