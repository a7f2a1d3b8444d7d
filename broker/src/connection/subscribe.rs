//! SUBSCRIBE and UNSUBSCRIBE of the client.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use meridian_mqtt::packet::{QoS, RetainHandling, Subscribe, Subscription, Unsubscribe};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::session::Delivery;
use meridian_mqtt::topic::TopicFilter;
use meridian_shard::{Reply, log};

use super::{Connection, Stream};
use crate::clock::wall_ms;
use crate::node::Node;
use crate::router::{Outgoing, Route, RouteOptions, ShardIndex};
use crate::shards::Refused;

/// What SUBSCRIBE brought for one session.
#[derive(Default)]
struct Gathered {
    /// For the log, if the session is persistent.
    subscriptions: Vec<log::Subscription>,
    /// Retained messages for the replicated queue.
    queued: Vec<log::QueuedMessage>,
    /// Retained messages to be sent as they are.
    direct: Vec<Delivery>,
}

impl<S: Stream> Connection<S> {
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) {
        let Some(link) = &self.link else { return };
        let (home, logged, handle) = (link.home, link.logged, Arc::clone(&link.handle));
        let client_id = link.client_id.clone();
        if !self.node.is_alone() {
            Box::pin(catch_up(&self.node, &subscribe)).await;
        }
        let mut gathered = Gathered::default();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        for wanted in &subscribe.filters {
            reasons.push(self.add(wanted, subscribe.subscription_id, &mut gathered));
        }
        if let (Some(logged), false) = (logged, gathered.subscriptions.is_empty()) {
            let command = log::command::Body::Subscribe(log::Subscribe {
                client_id: client_id.as_str().to_owned(),
                session_epoch: logged.epoch,
                subscriptions: gathered.subscriptions,
                retained: gathered.queued,
            });
            // SUBACK says that no later publish is missed, so the home shard must know of it.
            match self.node.shards.get(home).propose(command).await {
                Ok(Reply::Done) => {}
                Ok(_) | Err(_) => {
                    self.session.disconnect(ReasonCode::ServerUnavailable, None);
                    return;
                }
            }
        }
        self.session.subscribed(subscribe.packet_id, reasons);
        let now = Instant::now();
        for delivery in gathered.direct {
            if self.session.deliver(delivery, now).is_err() {
                metrics::counter!("meridian_messages_dropped_total", "reason" => "outbox")
                    .increment(1);
            }
        }
        if let Some(link) = &mut self.link {
            link.queue_more |= handle.persistent.is_some();
        }
    }

    /// Puts one subscription in place, and gathers what it brings.
    fn add(
        &self,
        wanted: &Subscription,
        subscription_id: Option<u32>,
        gathered: &mut Gathered,
    ) -> ReasonCode {
        let Some(link) = &self.link else {
            return ReasonCode::UnspecifiedError;
        };
        let Ok(filter) = &wanted.filter else {
            return ReasonCode::TopicFilterInvalid;
        };
        if !self.standing.rights.may_subscribe(filter) {
            metrics::counter!("meridian_subscriptions_refused_total", "reason" => "not_authorized")
                .increment(1);
            return ReasonCode::NotAuthorized;
        }
        let filter = filter.detach();
        let handle = &link.handle;
        let is_new = !handle.filters.lock().contains(&filter);
        if is_new && handle.filters.lock().len() >= self.node.subscriptions_max {
            return ReasonCode::QuotaExceeded;
        }
        let options = RouteOptions {
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            subscription_id,
        };
        let shards = &self.node.shards;
        let reach = shards.map.of_filter(&filter);
        let route = Arc::new(Route::new(
            Arc::clone(handle),
            filter.clone(),
            options,
            &reach,
        ));
        // First the route, then the cut: what is published behind the cut finds the route.
        self.node.dispatch.subscriptions.insert(Arc::clone(&route));
        if is_new {
            handle.filters.lock().push(filter.clone());
        }
        let wants_retained = filter.share().is_none()
            && match wanted.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => is_new,
                RetainHandling::Never => false,
            };
        let now_ms = wall_ms();
        let ids: Vec<u32> = subscription_id.into_iter().collect();
        let mut take = |retained: &Outgoing| {
            let qos = wanted.qos.min(retained.qos);
            if handle.persistent.is_some() && qos > QoS::AtMostOnce {
                gathered.queued.push(log::QueuedMessage {
                    message: Some(retained.to_message()),
                    qos: qos as u32,
                    retain: true,
                    subscription_ids: ids.clone(),
                });
            } else {
                gathered
                    .direct
                    .push(retained.delivery(qos, true, ids.clone(), now_ms, None));
            }
        };
        for shard in reach.shards() {
            let state = shards.get(*shard).state.lock();
            if wants_retained {
                state.for_each_retained(&filter, now_ms, |_, retained| {
                    if let Some(retained) = Outgoing::from_retained(retained) {
                        take(&retained);
                    }
                });
            }
            route.place(*shard, state.next_offset());
        }
        if wants_retained && filter.pattern().starts_with("$SYS") {
            self.node.sys.for_each_match(&filter, &mut take);
        }
        // All nodes must know who shares a subscription, so that one of them gets a message.
        if handle.persistent.is_some() || filter.share().is_some() && link.logged.is_some() {
            gathered.subscriptions.push(subscription_to_log(
                &filter,
                options,
                wanted.retain_handling,
                &route,
                shards.map.names(),
            ));
        }
        ReasonCode::granted(wanted.qos)
    }

    pub(super) async fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let Some(link) = &self.link else { return };
        let handle = Arc::clone(&link.handle);
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        let mut gone: Vec<TopicFilter> = Vec::new();
        for filter in &unsubscribe.filters {
            reasons.push(match filter {
                Err(_) => ReasonCode::TopicFilterInvalid,
                Ok(filter) if self.node.dispatch.subscriptions.remove(&handle, filter) => {
                    gone.push(filter.detach());
                    ReasonCode::Success
                }
                Ok(_) => ReasonCode::NoSubscriptionExisted,
            });
        }
        if self.forget(&gone).await.is_ok() {
            self.session.unsubscribed(unsubscribe.packet_id, reasons);
        }
    }

    /// Takes filters that match no more out of the session, and out of the log if they stand there. If that fails, the
    /// connection ends.
    pub(super) async fn forget(&mut self, gone: &[TopicFilter]) -> Result<(), Refused> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        let (home, logged, handle) = (link.home, link.logged, &link.handle);
        handle
            .filters
            .lock()
            .retain(|filter| !gone.contains(filter));
        let known = handle.persistent.is_some() || gone.iter().any(|gone| gone.share().is_some());
        let (Some(logged), true) = (logged, known && !gone.is_empty()) else {
            return Ok(());
        };
        let command = log::command::Body::Unsubscribe(log::Unsubscribe {
            client_id: link.client_id.as_str().to_owned(),
            session_epoch: logged.epoch,
            filters: gone
                .iter()
                .map(|filter| filter.as_str().to_owned())
                .collect(),
        });
        let forgotten = self.node.shards.get(home).propose(command).await;
        if forgotten.is_err() {
            self.session.disconnect(ReasonCode::ServerUnavailable, None);
        }
        forgotten.map(|_| ())
    }
}

/// Lets this node's replicas come as far as what was acknowledged anywhere, so that the retained messages are the last
/// ones. Where nobody leads there is nothing to wait for: what comes later is seen as an event.
async fn catch_up(node: &Node, subscribe: &Subscribe) {
    let shards = &node.shards;
    let filters = subscribe.filters.iter();
    let reached: BTreeSet<ShardIndex> = filters
        .filter_map(|wanted| wanted.filter.as_ref().ok())
        .flat_map(|filter| shards.map.of_filter(filter).shards().to_vec())
        .collect();
    let caught_up = reached.into_iter().map(|index| {
        let shard = shards.get(index);
        shard.leader.catch_up(&shard.leading)
    });
    futures::future::join_all(caught_up).await;
}

fn subscription_to_log(
    filter: &TopicFilter,
    options: RouteOptions,
    retain_handling: RetainHandling,
    route: &Route,
    names: &[String],
) -> log::Subscription {
    log::Subscription {
        filter: filter.as_str().to_owned(),
        options: Some(log::SubscriptionOptions {
            qos: options.qos as u32,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            retain_handling: retain_handling as u32,
            subscription_id: options.subscription_id,
        }),
        since: route
            .placed()
            .map(|(shard, first)| (names[shard.at()].clone(), first))
            .collect(),
        // The home shard's to say.
        revision: 0,
    }
}
