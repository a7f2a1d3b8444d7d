//! What this node says to the others without waiting for an answer.

use std::sync::Arc;

use bytes::Bytes;
use meridian_proto::cluster::v1::{self, notice};
use meridian_raft::Transport;
use meridian_shard::log;
use parking_lot::RwLock;
use prost::Message as _;

use crate::router::Outgoing;

/// The other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    transport: Transport,
    others: Arc<RwLock<Arc<[u64]>>>,
}

impl Peers {
    /// Nobody yet, reached by `transport`.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Peers {
            transport,
            others: Arc::new(RwLock::new(Arc::new([]))),
        }
    }

    /// Sets who the others are.
    pub fn set(&self, others: Vec<u64>) {
        *self.others.write() = others.into();
    }

    /// The others.
    #[must_use]
    pub fn others(&self) -> Arc<[u64]> {
        Arc::clone(&self.others.read())
    }

    /// A message that stands in no log, for those who listen elsewhere.
    pub fn live(&self, message: &Outgoing, turn: u64, seen: Option<v1::Seen>) {
        let others = self.others();
        if others.is_empty() {
            return;
        }
        let notice = encode(notice::Body::Live(v1::Live {
            message: Some(message.to_message()),
            turn,
            seen,
        }));
        for node in others.iter() {
            self.notify(*node, notice.clone());
        }
    }

    /// A message for one session that is connected to `node`.
    pub fn deliver(&self, node: u64, client_id: &str, queued: log::QueuedMessage) {
        let notice = encode(notice::Body::Deliver(v1::Deliver {
            client_id: client_id.to_owned(),
            queued: Some(queued),
        }));
        self.notify(node, notice);
    }

    /// A client is to be disconnected, wherever it is.
    pub fn kick(&self, client_id: &str) {
        let notice = encode(notice::Body::Kick(v1::Kick {
            client_id: client_id.to_owned(),
        }));
        for node in self.others().iter() {
            self.notify(*node, notice.clone());
        }
    }

    fn notify(&self, node: u64, notice: Bytes) {
        if !self.transport.notify(node, notice) {
            metrics::counter!("meridian_messages_dropped_total", "reason" => "peer_away")
                .increment(1);
        }
    }
}

fn encode(body: notice::Body) -> Bytes {
    v1::Notice { body: Some(body) }.encode_to_vec().into()
}
