//! `/healthz`, `/readyz`, `/metrics`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use super::Shared;
use crate::clock::wall_ms;
use crate::telemetry;

/// The process is there.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Every group has a leader that this node hears of, so clients can be served.
pub(super) async fn ready(State(api): Shared) -> impl IntoResponse {
    let waiting = api.node.waiting_for();
    if api.node.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
    } else if waiting.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no leader: {}\n", waiting.join(" ")),
        )
    }
}

pub(super) async fn metrics(State(api): Shared) -> impl IntoResponse {
    let node = &api.node;
    metrics::gauge!("meridian_connections").set(node.counters.connections() as f64);
    metrics::counter!("meridian_connections_total").absolute(node.counters.connections_total());
    for (qos, count) in node.counters.received_by_qos().into_iter().enumerate() {
        metrics::counter!("meridian_messages_received_total", "qos" => qos.to_string())
            .absolute(count);
    }
    for (qos, count) in node.counters.sent_by_qos().into_iter().enumerate() {
        metrics::counter!("meridian_messages_sent_total", "qos" => qos.to_string()).absolute(count);
    }
    for (listener, tls) in &api.certificates {
        telemetry::certificate_expiry(listener, tls.expires_at_s() - wall_ms().div_euclid(1000));
    }
    metrics::gauge!("meridian_fences").set(node.meta.lock().fences().len() as f64);
    metrics::gauge!("meridian_subscriptions").set(node.dispatch.subscriptions.len() as f64);
    for shard in node.shards.iter() {
        let status = shard.group.status();
        let leads = if shard.group.is_leader() { 1.0 } else { 0.0 };
        metrics::gauge!("meridian_raft_leader", "shard" => shard.name.clone()).set(leads);
        metrics::gauge!("meridian_raft_applied_index", "shard" => shard.name.clone())
            .set(status.applied_index as f64);
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        api.metrics.render(),
    )
}
