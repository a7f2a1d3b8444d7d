//! CONNECT: who is it, where does its session live, and what of it is there?

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use meridian_mqtt::packet::{Connect, PacketId, Version};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::{Accepted, Resume};
use meridian_mqtt::text::Text;
use meridian_shard::{OpenedSession, Reply, log, packet_id_of};

use super::{Connection, Link, Logged, Stream};
use crate::clock::wall_ms;
use crate::delivery::{Persistent, SENT_UNKNOWN, SessionHandle};
use crate::router::{Outgoing, qos, text};

impl<S: Stream> Connection<S> {
    pub(super) async fn connect(&mut self, connect: Box<Connect>) {
        self.version = connect.version;
        if let Some(max) = connect.properties.maximum_packet_size {
            self.packet_bytes_max = max;
        }
        if let Err(reason) = self
            .node
            .auth
            .check(connect.username.as_ref(), connect.password.as_ref())
            .await
        {
            metrics::counter!("meridian_connections_refused_total", "reason" => "credentials")
                .increment(1);
            self.session.refuse(reason, None);
            return;
        }
        if let Some(will) = &connect.will
            && !self.node.may_publish(will.topic.as_str())
        {
            self.session.refuse(ReasonCode::NotAuthorized, None);
            return;
        }
        let (client_id, assigned) = if connect.client_id.is_empty() {
            (self.node.assign_client_id(), true)
        } else {
            (connect.client_id.detach(), false)
        };
        let turn = self.node.registry.turn(&client_id).await;
        match self.open(&connect, &client_id).await {
            Ok((link, opened)) => self.accept(&connect, client_id, assigned, link, opened),
            Err(reason) => self.session.refuse(reason, None),
        }
        drop(turn);
    }

    /// Opens the session: in the log of its home shard if anything of it must survive, or did.
    async fn open(
        &mut self,
        connect: &Connect,
        client_id: &Text,
    ) -> Result<(Link, Option<OpenedSession>), ReasonCode> {
        let node = Arc::clone(&self.node);
        let home = node.shards.map.of_client(client_id);
        let shard = node.shards.get(home);
        let expiry_s = match connect.version {
            Version::V5 => connect.properties.session_expiry_s.unwrap_or(0),
            // Clean Session 0 has no end of its own [MQTT-3.1.2-4, v3.1.1]; the server's limit ends it.
            Version::V311 if connect.clean_start => 0,
            Version::V311 => u32::MAX,
        };
        let expiry_s = expiry_s.min(node.session_limits.session_expiry_max_s);
        let known = shard.state.lock().session(client_id).is_some();
        // In a cluster, every client id has one connection, so the log knows of each.
        let opened = if expiry_s > 0 || connect.will.is_some() || known || !node.is_alone() {
            let open = log::OpenSession {
                client_id: client_id.as_str().to_owned(),
                clean_start: connect.clean_start,
                expiry_s,
                will: connect.will.as_ref().map(|will| log::Will {
                    message: Some(
                        Outgoing {
                            topic: will.topic.clone(),
                            payload: will.payload.clone(),
                            qos: will.qos,
                            retain: will.retain,
                            properties: will.properties.clone(),
                            publisher: client_id.clone(),
                            received_ms: wall_ms(),
                        }
                        .to_message(),
                    ),
                    delay_s: will.delay_s,
                }),
                node: node.id,
                boot: node.boot,
            };
            match shard.propose(log::command::Body::OpenSession(open)).await {
                Ok(Reply::Opened(opened)) => Some(*opened),
                Ok(_) | Err(_) => return Err(ReasonCode::ServerUnavailable),
            }
        } else {
            None
        };
        let persistent = opened
            .as_ref()
            .filter(|opened| opened.present || expiry_s > 0)
            .map(|opened| Persistent {
                home,
                epoch: opened.epoch,
            });
        let session_epoch = opened.as_ref().map_or(0, |opened| opened.epoch);
        let connection_epoch = opened.as_ref().map_or(0, |opened| opened.connection_epoch);
        // A persistent session keeps its handle, and with it its subscriptions.
        let handle = node
            .registry
            .get(client_id)
            .filter(|handle| persistent.is_some() && handle.persistent == persistent)
            .unwrap_or_else(|| {
                Arc::new(SessionHandle::new(client_id, session_epoch, persistent, 0))
            });
        node.registry
            .replace(Arc::clone(&handle), &node.dispatch.subscriptions);
        let owner = node.next_owner();
        handle.open(owner, connection_epoch);
        // Somebody may have connected elsewhere by this name meanwhile; who comes later finds the handle.
        let is_newest = shard
            .state
            .lock()
            .session(client_id)
            .is_some_and(|session| {
                session.record.connected && session.record.connection_epoch == connection_epoch
            });
        if connection_epoch > 0 && !is_newest {
            handle.evict();
        }
        let link = Link {
            handle,
            owner,
            client_id: client_id.clone(),
            home,
            logged: opened.as_ref().map(|opened| Logged {
                epoch: opened.epoch,
                connection_epoch: opened.connection_epoch,
            }),
            queue_high: 0,
            queue_taken: 0,
            queue_more: persistent.is_some(),
            settled: Vec::new(),
            received: Vec::new(),
            names: Default::default(),
        };
        Ok((link, opened))
    }

    fn accept(
        &mut self,
        connect: &Connect,
        client_id: Text,
        assigned: bool,
        mut link: Link,
        opened: Option<OpenedSession>,
    ) {
        let present = opened.as_ref().is_some_and(|opened| opened.present);
        let resume = opened.map_or_else(Vec::new, |opened| self.resume(connect, &mut link, opened));
        let expiry_s = link.handle.persistent.map_or(0, |_| {
            connect
                .properties
                .session_expiry_s
                .unwrap_or(if connect.version == Version::V311 {
                    u32::MAX
                } else {
                    0
                })
        });
        self.link = Some(Box::new(link));
        self.session.accept(
            Accepted {
                session_present: present,
                client_id,
                assigned,
                session_expiry_s: expiry_s.min(self.node.session_limits.session_expiry_max_s),
                resume,
            },
            Instant::now(),
        );
    }

    /// What of the queue the client may have seen on an earlier connection: it is sent again as such.
    fn resume(&self, connect: &Connect, link: &mut Link, opened: OpenedSession) -> Vec<Resume> {
        let sent_upto = link.handle.sent_upto.load(Ordering::Relaxed);
        // After a restart nobody knows: no more than the window was ever under way.
        let receive_maximum = connect.properties.receive_maximum;
        let window = self.node.session_limits.flows_max(receive_maximum);
        let now_ms = wall_ms();
        let mut resume = Vec::new();
        for (at, (seq, entry)) in opened.queue.into_iter().enumerate() {
            let seen = if sent_upto == SENT_UNKNOWN {
                at < window
            } else {
                seq <= sent_upto
            };
            if !seen && !entry.released {
                break;
            }
            let packet_id = PacketId(packet_id_of(seq));
            let queued = entry.queued.as_ref();
            let message = queued
                .and_then(|queued| queued.message.as_ref())
                .and_then(Outgoing::from_message);
            resume.push(match (queued, message) {
                (Some(queued), Some(message)) => Resume::Publish(message.delivery(
                    qos(queued.qos),
                    queued.retain,
                    queued.subscription_ids.clone(),
                    now_ms,
                    seq.try_into().ok(),
                )),
                _ => Resume::Released {
                    packet_id,
                    handle: seq,
                },
            });
            link.queue_high = seq;
            link.queue_taken += 1;
        }
        link.handle
            .sent_upto
            .store(link.queue_high, Ordering::Relaxed);
        resume
    }
}

/// An identifier for a client that brought none [MQTT-3.1.3-6].
pub(crate) fn assigned_client_id(number: u128) -> Text {
    text(&format!("auto-{number:032x}")).unwrap_or_else(|| Text::from_static("auto"))
}
