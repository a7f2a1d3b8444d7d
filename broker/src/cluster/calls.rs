//! What other nodes ask of this one, answered.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use meridian_mqtt::reason::ReasonCode;
use meridian_proto::cluster::v1::{self, notice, reply, request};
use meridian_raft::Handler;
use meridian_shard::MetaReply;
use prost::Message as _;

use crate::node::Node;
use crate::router::{Outgoing, Recipient, Source, qos};
use crate::shards::FixesItem;

/// See the module. Made before the node, because the groups of the node need the transport.
#[derive(Default)]
pub struct Calls {
    node: OnceLock<Weak<Node>>,
}

impl Calls {
    /// From now on, there is somebody to answer.
    pub fn serve(&self, node: &Arc<Node>) {
        // Set once, by the node's start.
        let _set = self.node.set(Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get().and_then(Weak::upgrade)
    }
}

impl Handler for Calls {
    fn request(&self, from: u64, body: Bytes) -> BoxFuture<'static, Bytes> {
        let node = self.node();
        async move {
            let body = match (node, v1::Request::decode(body).map(|request| request.body)) {
                (Some(node), Ok(Some(request))) => answer(&node, from, request).await,
                (None, _) => refuse("this node is starting", 0),
                (_, Ok(None)) => refuse("this version does not know the request", 0),
                (_, Err(error)) => refuse(&error.to_string(), 0),
            };
            Bytes::from(v1::Reply { body: Some(body) }.encode_to_vec())
        }
        .boxed()
    }

    fn notify(&self, from: u64, body: Bytes) {
        let Some(node) = self.node() else { return };
        match v1::Notice::decode(body).map(|notice| notice.body) {
            Ok(Some(notice)) => heed(&node, notice),
            Ok(None) => {}
            Err(error) => tracing::warn!(from, %error, "A notice cannot be read."),
        }
    }
}

fn refuse(reason: &str, leader: u64) -> reply::Body {
    reply::Body::Refusal(v1::Refusal {
        reason: reason.to_owned(),
        leader,
        r#final: false,
    })
}

async fn answer(node: &Arc<Node>, from: u64, request: request::Body) -> reply::Body {
    match request {
        request::Body::Append(append) => {
            let Some(shard) = node.shards.named(&append.shard) else {
                return refuse("no such shard here", 0);
            };
            match shard.leader.append_here(append.entry).await {
                Ok(()) => reply::Body::Done(true),
                Err(_) => refuse(
                    "not led here, or not now",
                    shard.group.status().leader.unwrap_or(0),
                ),
            }
        }
        request::Body::Fixes(fixes) => {
            let Some(shard) = node.shards.named(&fixes.shard) else {
                return refuse("no such shard here", 0);
            };
            if !shard.leading.leads() {
                return refuse("not led here", shard.group.status().leader.unwrap_or(0));
            }
            let items = fixes.items.into_iter().filter_map(|item| {
                Some(FixesItem {
                    message: Outgoing::from_message(&item.message?)?,
                    once: item.once,
                    resend: item.resend,
                })
            });
            let accepted = node.take_fixes(shard.index, items.collect()).await;
            reply::Body::Fixes(v1::FixesReply {
                accepted: accepted.iter().map(Result::is_ok).collect(),
                applied_index: shard.group.status().applied_index,
            })
        }
        request::Body::Change(entry) => match node.change_here(entry).await {
            Ok(MetaReply::Fences(put)) => reply::Body::Fences(put),
            Ok(MetaReply::Done) => reply::Body::Done(true),
            Ok(MetaReply::Removed) => reply::Body::Refusal(v1::Refusal {
                reason: "a node of this number was removed: give it a new one".to_owned(),
                leader: 0,
                r#final: true,
            }),
            Err(_) => refuse(
                "the meta group is not led here",
                node.meta_group().status().leader.unwrap_or(0),
            ),
        },
        request::Body::Join(join) => {
            let Some(member) = join.node else {
                return refuse("a node without a description", 0);
            };
            match node.admit(member).await {
                Ok(nodes) => reply::Body::Welcome(v1::Welcome { nodes }),
                Err(refusal) => reply::Body::Refusal(refusal),
            }
        }
        request::Body::Status(_) => {
            reply::Body::Status(node.own_status().to_string().into_bytes().into())
        }
        request::Body::ReadIndex(shard) => {
            let shard = node.shards.named(&shard);
            match shard {
                Some(shard) => match shard.leader.read_index(&shard.leading).await {
                    Some(index) => reply::Body::Index(index),
                    None => refuse("not led here, or not now", 0),
                },
                None => refuse("no such shard here", 0),
            }
        }
        request::Body::Transfer(transfer) => {
            match node.transfer(&transfer.group, transfer.to).await {
                Ok(()) => reply::Body::Done(true),
                Err(reason) => {
                    tracing::debug!(from, group = transfer.group, reason, "No transfer.");
                    refuse(&reason, 0)
                }
            }
        }
    }
}

fn heed(node: &Node, notice: notice::Body) {
    match notice {
        notice::Body::Live(live) => {
            if let Some(seen) = live.seen {
                node.saw(&seen);
            }
            if let Some(message) = live.message.as_ref().and_then(Outgoing::from_message) {
                node.dispatch
                    .live(&message, Source::Direct { turn: live.turn });
            }
        }
        notice::Body::Kick(kick) => {
            if let Some(session) = node.registry.get(&kick.client_id) {
                session.end(ReasonCode::AdministrativeAction);
            }
        }
        notice::Body::Deliver(deliver) => {
            let Some(queued) = deliver.queued else { return };
            let message = queued.message.as_ref().and_then(Outgoing::from_message);
            if let (Some(message), Some(session)) = (message, node.registry.get(&deliver.client_id))
            {
                let to = Recipient {
                    session,
                    qos: qos(queued.qos),
                    retain: queued.retain,
                    subscription_ids: queued.subscription_ids,
                };
                node.dispatch.send(&message, to);
            }
        }
    }
}
