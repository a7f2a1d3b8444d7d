//! CONNECT: who is it, where does its session live, and what of it is there?

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use meridian_mqtt::packet::{Connect, PacketId, QoS, Version, Will};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::{Accepted, Resume};
use meridian_mqtt::text::Text;
use meridian_shard::{OpenedSession, Reply, log, packet_id_of};

use super::{Connection, Link, Logged, Stream};
use crate::auth::Credentials;
use crate::clock::wall_ms;
use crate::delivery::{Persistent, SENT_UNKNOWN, SessionHandle};
use crate::router::{Outgoing, qos, text};

impl<S: Stream> Connection<S> {
    pub(super) async fn connect(&mut self, connect: Box<Connect>) {
        self.version = connect.version;
        if let Some(max) = connect.properties.maximum_packet_size {
            self.packet_bytes_max = max;
        }
        let credentials = Credentials {
            certificate: self.standing.peer.user.as_ref(),
            username: connect.username.as_ref(),
            password: connect.password.as_ref(),
        };
        let identity = match self.node.auth.check(credentials).await {
            Ok(identity) => identity,
            Err(reason) => return self.refuse(reason, "credentials"),
        };
        let (client_id, assigned) = match self.node.auth.client_id(&connect.client_id, &identity) {
            Ok(Some(bound)) => (bound, connect.client_id.is_empty()),
            Ok(None) if connect.client_id.is_empty() => (self.node.assign_client_id(), true),
            Ok(None) => (connect.client_id.detach(), false),
            Err(reason) => return self.refuse(reason, "client_id"),
        };
        self.standing.identify(&client_id, identity, &self.node);
        let may_publish = |will: &Will| self.standing.rights.may_publish(&will.topic);
        if !connect.will.as_ref().is_none_or(may_publish) {
            return self.refuse(ReasonCode::NotAuthorized, "will");
        }
        let turn = self.node.registry.turn(&client_id).await;
        match self.open(&connect, &client_id).await {
            Ok((link, opened)) => {
                self.link = Some(Box::new(link));
                self.take_back().await;
                self.accept(&connect, client_id, assigned, opened);
            }
            Err(reason) => self.refuse(reason, "session"),
        }
        drop(turn);
    }

    fn refuse(&mut self, reason: ReasonCode, why: &'static str) {
        metrics::counter!("meridian_connections_refused_total", "reason" => why).increment(1);
        self.session.refuse(reason, None);
    }

    /// Opens the session: in the log of its home shard if anything of it must survive, or did.
    async fn open(
        &mut self,
        connect: &Connect,
        client_id: &Text,
    ) -> Result<(Link, Option<OpenedSession>), ReasonCode> {
        let node = Arc::clone(&self.node);
        let user = self.standing.identity.user.as_ref().map(Text::as_str);
        // A session that has an owner is nobody else's, whatever client id he brings. Its home has the last word; this spares
        // the log, and serves sessions that stand in none.
        let known_handle = node.registry.get(client_id);
        if let Some(handle) = &known_handle
            && let Some(owner) = handle.owner.get()
            && Some(&**owner) != user
        {
            return Err(ReasonCode::NotAuthorized);
        }
        let home = node.shards.map.of_client(client_id);
        let shard = node.shards.get(home);
        let quota = node.session_quota;
        let expiry_s = match connect.version {
            Version::V5 => connect.properties.session_expiry_s.unwrap_or(0),
            // Clean Session 0 has no end of its own [MQTT-3.1.2-4, v3.1.1]; the server's limit ends it.
            Version::V311 if connect.clean_start => 0,
            Version::V311 => u32::MAX,
        };
        let expiry_s = expiry_s.min(node.session_limits.session_expiry_max_s);
        let known = shard.state.lock().session(client_id).is_some();
        let is_new = known_handle.is_none_or(|handle| handle.persistent.is_none());
        if expiry_s > 0 && is_new && !node.registry.has_room(user, quota) {
            return Err(ReasonCode::QuotaExceeded);
        }
        // In a cluster, every client id has one connection, so the log knows of each.
        let opened = if expiry_s > 0 || connect.will.is_some() || known || !node.is_alone() {
            let open = log::OpenSession {
                client_id: client_id.as_str().to_owned(),
                clean_start: connect.clean_start,
                expiry_s,
                owner: user.unwrap_or_default().to_owned(),
                will: connect.will.as_ref().map(|will| log::Will {
                    message: Some(log::Message {
                        publisher_user: user.unwrap_or_default().to_owned(),
                        ..Outgoing {
                            topic: will.topic.clone(),
                            payload: will.payload.clone(),
                            qos: will.qos,
                            retain: will.retain,
                            properties: will.properties.clone(),
                            publisher: client_id.clone(),
                            received_ms: wall_ms(),
                        }
                        .to_message()
                    }),
                    delay_s: will.delay_s,
                }),
                node: node.id,
                boot: node.boot,
            };
            match shard.propose(log::command::Body::OpenSession(open)).await {
                Ok(Reply::Opened(opened)) => Some(*opened),
                Ok(Reply::NotOwner) => return Err(ReasonCode::NotAuthorized),
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
        if let Some(user) = user {
            node.registry.own(&handle, user);
        }
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
        opened: Option<OpenedSession>,
    ) {
        let Some(mut link) = self.link.take() else {
            return;
        };
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
        self.link = Some(link);
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
            let withheld = message
                .as_ref()
                .is_some_and(|message| !self.may_receive(&message.topic));
            link.queue_high = seq;
            if withheld {
                super::rights::count_withheld();
                if queued.is_some_and(|queued| qos(queued.qos) == QoS::AtLeastOnce) {
                    link.settled.push(seq);
                    continue;
                }
                // PUBREL ends a QoS 2 flow that the client may know of, and tells nothing.
            }
            link.queue_taken += 1;
            resume.push(match (queued, message) {
                (Some(queued), Some(message)) if !withheld => Resume::Publish(message.delivery(
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
