//! Who the client is and what it may do, while it is connected: rules change, and what they gave is taken back.

use std::sync::Arc;
use std::time::Instant;

use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::topic::{TopicFilter, TopicName};

use super::throttle::Throttle;
use super::{Connection, Peer, Stream};
use crate::access::Rights;
use crate::auth::Identity;
use crate::node::Node;

/// What the broker knows and decides of one client, beside its session.
pub(super) struct Standing {
    pub(super) peer: Peer,
    pub(super) identity: Identity,
    pub(super) rights: Arc<Rights>,
    /// The generation of the rules that gave `rights`.
    generation: u64,
    /// Rights are new, and what they do not give is still to be taken back.
    pub(super) take_back: bool,
    pub(super) throttle: Throttle,
}

impl Standing {
    /// Of somebody who has said nothing yet.
    pub(super) fn new(peer: Peer, node: &Node, now: Instant) -> Self {
        let (rights, generation) = node.rights("", None);
        Standing {
            peer,
            identity: Identity::default(),
            rights,
            generation,
            take_back: false,
            throttle: Throttle::new(node.publish_rates, now),
        }
    }

    /// It is this client.
    pub(super) fn identify(&mut self, client_id: &str, identity: Identity, node: &Node) {
        self.identity = identity;
        self.renew(client_id, node);
    }

    fn renew(&mut self, client_id: &str, node: &Node) {
        let user = self.identity.user.as_deref();
        (self.rights, self.generation) = node.rights(client_id, user);
        self.take_back = true;
    }
}

impl<S: Stream> Connection<S> {
    /// Asks for the client's rights again if the rules have changed since.
    pub(super) fn renew_rights(&mut self) {
        let Some(link) = &self.link else { return };
        if self.standing.generation == self.node.access.generation() {
            return;
        }
        self.standing.renew(&link.client_id, &self.node);
        if !self.node.auth.holds(&self.standing.identity) {
            tracing::info!(client = %link.client_id, "Its credential was taken away: it is disconnected.");
            self.session.disconnect(ReasonCode::NotAuthorized, None);
        }
    }

    /// Takes back the subscriptions that the client may not have, and what waits of them.
    pub(super) async fn take_back(&mut self) {
        self.standing.take_back = false;
        let Some(link) = &self.link else { return };
        let rights = &self.standing.rights;
        let gone: Vec<TopicFilter> = {
            let filters = link.handle.filters.lock();
            let refused = filters
                .iter()
                .filter(|filter| !rights.may_subscribe(filter));
            refused.cloned().collect()
        };
        let withheld = self.session.withdraw(|topic| rights.may_receive(topic));
        (0..withheld).for_each(|_| count_withheld());
        if gone.is_empty() {
            return;
        }
        tracing::info!(client = %link.client_id, filters = gone.len(), "Subscriptions were taken back: not authorized.");
        for filter in &gone {
            self.node
                .dispatch
                .subscriptions
                .remove(&link.handle, filter);
        }
        // If that fails, the connection ends, and the next one begins with the same question.
        let _refused = self.forget(&gone).await;
    }

    pub(super) fn may_receive(&self, topic: &TopicName) -> bool {
        self.standing.rights.may_receive(topic)
    }
}

/// A message that the client is not sent, because it may not have it any more.
pub(super) fn count_withheld() {
    metrics::counter!("meridian_messages_dropped_total", "reason" => "not_authorized").increment(1);
}
