//! PUBLISH and PUBREL of the client.

use meridian_mqtt::packet::{PacketId, Publish, QoS};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::Matched;
use meridian_shard::{Reply, log};

use super::{Connection, Stream};
use crate::clock::wall_ms;
use crate::delivery::Mail;
use crate::geo::GeoPublish;
use crate::router::{Outgoing, ShardIndex};
use crate::shards::{FixesItem, FixesPublish, FixesWaiter, Proposal, Waiter};

/// What is to be brought into a shard's log.
pub(super) enum Submission {
    Command(ShardIndex, Box<Proposal>),
    /// For the shard's leader to judge.
    Fixes(ShardIndex, Box<FixesPublish>),
}

impl<S: Stream> Connection<S> {
    /// Takes a publication; what comes out is to be proposed.
    pub(super) fn publish(&mut self, publish: Publish) -> Option<Submission> {
        let link = self.link.as_mut()?;
        let topic = publish.topic?;
        let id = publish.packet_id;
        self.node.counters.received(publish.qos);
        if !self.standing.rights.may_publish(&topic) {
            metrics::counter!("meridian_messages_dropped_total", "reason" => "not_authorized")
                .increment(1);
            tracing::debug!(client = %link.client_id, topic = %topic, "A publication was refused: not authorized.");
            if let Some(id) = id {
                self.session.published(id, Err(ReasonCode::NotAuthorized));
            }
            return None;
        }
        let message = Outgoing {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
            publisher: link.client_id.clone(),
            received_ms: wall_ms(),
        };
        let input = self.node.geo.input(&message.topic);
        if input.is_none() && message.qos == QoS::AtMostOnce && !message.retain {
            // Nothing of it must survive.
            self.node.dispatch.everywhere(&message, None);
            return None;
        }
        let shard_index = self.node.shards.map.of_topic(&message.topic);
        // A QoS 2 publication of a session that survives is known by name, so that its resend is known too.
        let once = match (id, link.logged, link.handle.persistent) {
            (Some(id), Some(logged), Some(_)) if message.qos == QoS::ExactlyOnce => {
                Some(log::Once {
                    client_id: link.client_id.as_str().to_owned(),
                    epoch: logged.epoch,
                    packet_id: u32::from(id.0.get()),
                })
            }
            _ => None,
        };
        if let (Some(id), Some(_)) = (id, &once) {
            link.names.insert(id, shard_index);
        }
        let (body, device) = match input {
            Some(_) if !self.node.shards.get(shard_index).judges_here() => {
                let waiter = id.map_or(FixesWaiter::Nobody, |id| FixesWaiter::Publisher {
                    session: link.handle.clone(),
                    owner: link.owner,
                    id,
                });
                let item = FixesItem {
                    message,
                    once,
                    resend: publish.dup,
                };
                let fixes = Box::new(FixesPublish { item, waiter });
                return Some(Submission::Fixes(shard_index, fixes));
            }
            Some((region, device)) => {
                let (region, device) = (region.to_owned(), device.to_owned());
                match self.node.geo.publish(
                    &self.node,
                    shard_index,
                    &message,
                    &region,
                    &device,
                    publish.dup,
                ) {
                    GeoPublish::Changed(mut fixes) => {
                        fixes.raw = Some(message.to_message());
                        fixes.once = once;
                        (log::command::Body::Fixes(fixes), Some(device))
                    }
                    GeoPublish::Unchanged(fixes) => {
                        let seen = self.node.seen(shard_index, &region, &device, fixes);
                        self.node.dispatch.everywhere(&message, seen);
                        if let Some(id) = id {
                            self.session.published(id, Ok(Matched::Some));
                        }
                        return None;
                    }
                    GeoPublish::Plain => (plain(&message, once), None),
                }
            }
            None => (plain(&message, once), None),
        };
        let waiter = Waiter::Publisher {
            session: link.handle.clone(),
            owner: link.owner,
            id,
            device,
        };
        let proposal = Proposal {
            command: body,
            waiter,
        };
        Some(Submission::Command(shard_index, Box::new(proposal)))
    }

    /// PUBREL: the publication's name may be used again, as soon as the log says so [MQTT-4.3.3-12].
    pub(super) fn release(&mut self, id: PacketId) -> Option<Submission> {
        let link = self.link.as_mut()?;
        let (Some(logged), Some(_)) = (link.logged, link.handle.persistent) else {
            self.session.not_found(id);
            return None;
        };
        let shards = &self.node.shards;
        let holder = link.names.remove(&id).or_else(|| {
            let holds = |shard| {
                shards
                    .get(shard)
                    .state
                    .lock()
                    .holds_name(&link.client_id, logged.epoch, id.0.get())
            };
            shards.map.all().find(|shard| holds(*shard))
        });
        let once = log::Once {
            client_id: link.client_id.as_str().to_owned(),
            epoch: logged.epoch,
            packet_id: u32::from(id.0.get()),
        };
        let Some(shard) = holder else {
            if self.node.is_alone() {
                self.session.not_found(id);
            } else {
                self.release_everywhere(id, once);
            }
            return None;
        };
        let waiter = Waiter::Releaser {
            session: link.handle.clone(),
            owner: link.owner,
            id,
        };
        let command = log::command::Body::Release(log::Release { once: Some(once) });
        Some(Submission::Command(
            shard,
            Box::new(Proposal { command, waiter }),
        ))
    }

    /// This node's replicas may not have come as far as another node's, which took the publication: the logs know.
    fn release_everywhere(&self, id: PacketId, once: log::Once) {
        let Some(link) = &self.link else { return };
        let (node, session, owner) = (self.node.clone(), link.handle.clone(), link.owner);
        tokio::spawn(async move {
            let mut mail = Mail::NotFound(id);
            for shard in node.shards.iter() {
                let release = log::Release {
                    once: Some(once.clone()),
                };
                match shard.propose(log::command::Body::Release(release)).await {
                    Ok(Reply::Done) => mail = Mail::Released(id),
                    Ok(_) => {}
                    Err(_) => mail = Mail::End(ReasonCode::ServerUnavailable),
                }
                if !matches!(mail, Mail::NotFound(_)) {
                    break;
                }
            }
            session.tell(owner, mail);
        });
    }
}

fn plain(message: &Outgoing, once: Option<log::Once>) -> log::command::Body {
    log::command::Body::Publish(log::Publish {
        message: Some(message.to_message()),
        once,
    })
}
