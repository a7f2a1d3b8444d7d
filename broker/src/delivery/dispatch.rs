//! What a shard's `apply` brought about, acted on: live subscribers now, everybody else by a sign.
//!
//! `apply ─► **dispatch** ─► mailboxes, event tail`. Runs where `apply` ran, in the order of the log, before the
//! publisher is answered: so what is published next is delivered next.

use std::sync::Arc;

use meridian_mqtt::packet::QoS;
use meridian_proto::cluster::v1;
use meridian_shard::{DropReason, Effect, log};

use super::errands::{Errand, Errands};
use super::mailbox::{MailboxLimits, Undelivered};
use super::routes::SessionRoutes;
use crate::clock::wall_ms;
use crate::cluster::Peers;
use crate::registry::Registry;
use crate::router::{Audience, Outgoing, Recipient, ShardIndex, Source, Subscriptions};
use crate::shards::{EffectSink, EventTail, Leading};

/// Delivers to the live subscribers of this node.
pub struct Dispatch {
    /// The other nodes.
    pub peers: Peers,
    /// All subscriptions on this node.
    pub subscriptions: Subscriptions,
    /// Limits of each session's mailbox.
    pub limits: MailboxLimits,
}

impl Dispatch {
    /// Sends a message that stands in no log to its live subscribers, on all nodes.
    pub fn everywhere(&self, message: &Outgoing, seen: Option<v1::Seen>) {
        let turn = self.subscriptions.next_turn();
        self.peers.live(message, turn, seen);
        self.live(message, Source::Direct { turn });
    }

    /// Sends a message that stands in no log to this node's live subscribers only.
    pub fn here(&self, message: &Outgoing) {
        let turn = self.subscriptions.next_turn();
        self.live(message, Source::Direct { turn });
    }

    /// Sends a message to the live subscribers that it concerns. How many there were.
    pub fn live(&self, message: &Outgoing, source: Source) -> usize {
        let mut recipients = 0;
        self.subscriptions
            .recipients(message, source, Audience::Live, |to| {
                recipients += 1;
                self.send(message, to);
            });
        recipients
    }

    /// Sends a message to one recipient, if it is there and keeps up.
    pub fn send(&self, message: &Outgoing, to: Recipient) {
        // The node that it is connected to sends it.
        if to.session.away() != 0 {
            return;
        }
        let delivery = message.delivery(to.qos, to.retain, to.subscription_ids, wall_ms(), None);
        match to
            .session
            .deliver(delivery, message.received_ms, self.limits)
        {
            // At QoS 0 nothing is kept for who is not there.
            Ok(()) | Err(Undelivered::Offline) => {}
            Err(Undelivered::SlowConsumer) => {
                let reason = if to.qos == QoS::AtMostOnce {
                    "slow_consumer_qos0"
                } else {
                    "slow_consumer"
                };
                metrics::counter!("meridian_messages_dropped_total", "reason" => reason)
                    .increment(1);
            }
        }
    }
}

/// The effects of one shard, acted on.
pub struct ShardEffects {
    pub(crate) shard: ShardIndex,
    pub(crate) tail: Arc<EventTail>,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) routes: SessionRoutes,
    pub(crate) leading: Arc<Leading>,
    pub(crate) errands: Errands,
}

impl EffectSink for ShardEffects {
    fn effects(&self, effects: Vec<Effect>) {
        for effect in &effects {
            self.act(effect);
        }
        self.tail
            .push(effects.into_iter().filter_map(|effect| match effect {
                Effect::Event { offset, event } => Some((offset, event)),
                _ => None,
            }));
    }

    fn restored(&self) {
        self.tail.restart_at(self.routes.state.lock().next_offset());
        self.routes.sync_all();
    }
}

impl ShardEffects {
    /// The leader runs them; who leads later finds in the states what was left.
    fn errand(&self, errand: Errand) {
        if self.leading.leads() {
            self.errands.submit(errand);
        }
    }

    fn act(&self, effect: &Effect) {
        match effect {
            Effect::Event { offset, event } => {
                if let Some(log::event::Body::Alert(alert)) = &event.body {
                    metrics::counter!("meridian_alerts_total", "type" => alert.r#type.clone())
                        .increment(1);
                }
                if let Some(message) = self.dispatch.subscriptions.wanted(event) {
                    self.dispatch.live(
                        &message,
                        Source::Event {
                            shard: self.shard,
                            offset: *offset,
                        },
                    );
                }
            }
            Effect::Queued { client_id, .. } => {
                if let Some(session) = self.registry.get(client_id) {
                    session.queue_grew();
                }
            }
            Effect::Dropped {
                reason: DropReason::QueueFull,
            } => {
                metrics::counter!("meridian_messages_dropped_total", "reason" => "queue_full")
                    .increment(1);
            }
            Effect::WillDue { once } => self.errand(Errand::PublishWill {
                home: self.shard,
                once: once.clone(),
            }),
            Effect::SessionOpened {
                client_id,
                connection_epoch,
            } => {
                if let Some(session) = self.registry.get(client_id) {
                    session.overtaken_by(*connection_epoch);
                }
                self.routes.sync(client_id);
            }
            Effect::SessionClosed {
                client_id,
                connection_epoch,
            } => {
                if let Some(session) = self.registry.get(client_id) {
                    session.closed_elsewhere(*connection_epoch);
                }
                self.routes.sync(client_id);
            }
            Effect::SessionChanged { client_id } => self.routes.sync(client_id),
            Effect::SessionEnded { client_id, epoch } => {
                self.registry
                    .ended(client_id, *epoch, &self.dispatch.subscriptions);
                self.errand(Errand::Forget {
                    client_id: client_id.clone(),
                    epoch: *epoch,
                });
            }
            Effect::Rejected {
                device,
                region,
                ts_ms,
                reason,
            } => {
                // Every node applies it, and tells its own.
                let report = crate::geo::rejected(region, device, Some(*ts_ms), reason);
                report.inspect(|report| self.dispatch.here(report));
            }
            Effect::Classified { result } => {
                metrics::counter!("meridian_positions_total", "result" => *result).increment(1);
            }
        }
    }
}
