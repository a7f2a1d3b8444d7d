//! The client's replicated queue: what it is owed, and what it has acknowledged of it.

use std::sync::Arc;
use std::time::Instant;

use meridian_mqtt::packet::PacketId;
use meridian_mqtt::session::Dropped;
use meridian_shard::log;

use super::{Connection, Stream};
use crate::clock::wall_ms;
use crate::router::{Outgoing, ShardIndex, qos};
use crate::shards::{Proposal, Waiter};

/// Entries that the session holds at a time; the rest stays in the queue.
const TAKEN_MAX: usize = 128;

impl<S: Stream> Connection<S> {
    /// Takes from the queue what the session has room for. Whether it took anything.
    pub(super) fn pull_queue(&mut self) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        if !link.queue_more || link.queue_taken >= TAKEN_MAX {
            return false;
        }
        let room = TAKEN_MAX - link.queue_taken;
        let entries: Vec<(u64, log::QueuedMessage)> = {
            let state = self.node.shards.get(link.home).state.lock();
            let Some(session) = state.session(&link.client_id) else {
                return false;
            };
            let after = session.queue.range(link.queue_high + 1..);
            after
                .take(room)
                .filter_map(|(seq, entry)| Some((*seq, entry.queued.clone()?)))
                .collect()
        };
        link.queue_more = entries.len() == room;
        let (now, now_ms) = (Instant::now(), wall_ms());
        for (seq, queued) in &entries {
            link.queue_high = *seq;
            link.queue_taken += 1;
            let message = queued.message.as_ref().and_then(Outgoing::from_message);
            // What an earlier subscription brought, the client may have lost the right to.
            if message
                .as_ref()
                .is_some_and(|message| !self.standing.rights.may_receive(&message.topic))
            {
                super::rights::count_withheld();
                link.settled.push(*seq);
                link.queue_taken -= 1;
                continue;
            }
            let delivered = message.map(|message| {
                let delivery = message.delivery(
                    qos(queued.qos),
                    queued.retain,
                    queued.subscription_ids.clone(),
                    now_ms,
                    (*seq).try_into().ok(),
                );
                self.session.deliver(delivery, now)
            });
            match delivered {
                Some(Ok(())) => link.handle.sent(*seq),
                // It stays in the queue: taken again later, or by the next connection.
                Some(Err(Dropped::Full | Dropped::Closed)) => {
                    link.queue_high = seq - 1;
                    link.queue_taken -= 1;
                    link.queue_more = true;
                    return false;
                }
                // It will never be sent to this client.
                Some(Err(Dropped::Expired | Dropped::TooLarge)) | None => {
                    metrics::counter!("meridian_messages_dropped_total", "reason" => "expired_or_too_large")
                        .increment(1);
                    link.settled.push(*seq);
                    link.queue_taken -= 1;
                }
            }
        }
        !entries.is_empty()
    }

    pub(super) fn settled(&mut self, seq: u64) {
        if let Some(link) = &mut self.link
            && seq > 0
        {
            link.settled.push(seq);
            link.queue_taken = link.queue_taken.saturating_sub(1);
        }
    }

    pub(super) fn received(&mut self, seq: u64, id: PacketId) {
        if let Some(link) = &mut self.link {
            link.received.push((seq, id));
        }
    }

    /// What the client has acknowledged, for its home shard. PUBREL goes when that is applied.
    pub(super) fn settle(&mut self) -> Option<(ShardIndex, Box<Proposal>)> {
        let link = self.link.as_mut()?;
        if link.settled.is_empty() && link.received.is_empty() {
            return None;
        }
        let session_epoch = link.logged?.epoch;
        let (received, ids): (Vec<u64>, Vec<PacketId>) =
            std::mem::take(&mut link.received).into_iter().unzip();
        let command = log::command::Body::Settle(log::Settle {
            client_id: link.client_id.as_str().to_owned(),
            session_epoch,
            settled: std::mem::take(&mut link.settled),
            received,
        });
        let waiter = if ids.is_empty() {
            Waiter::Nobody
        } else {
            Waiter::Receiver {
                session: Arc::clone(&link.handle),
                owner: link.owner,
                ids,
            }
        };
        Some((link.home, Box::new(Proposal { command, waiter })))
    }
}
