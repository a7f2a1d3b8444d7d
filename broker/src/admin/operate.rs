//! What operators ask and do: nodes, shards, clients, sinks.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use meridian_mqtt::reason::ReasonCode;
use serde_json::{Value, json};

use super::problem::Problem;
use super::request::{LIMIT_MAX, Name, Parameters};
use super::{Api, Shared};

pub(super) async fn nodes(State(api): Shared) -> Json<Value> {
    let node = &api.node;
    Json(json!({ "data": [{
        "id": node.id, "version": env!("CARGO_PKG_VERSION"), "uptime_s": node.uptime().as_secs(),
        "connections": node.counters.connections(), "shards": node.shards.map.names().len(),
    }], "meta": { "cursor": null } }))
}

pub(super) async fn shards(State(api): Shared) -> Json<Value> {
    let shard = |shard: &crate::shards::Shard| {
        let status = shard.group.status();
        let state = shard.state.lock();
        json!({
            "shard": shard.name, "leader": status.leader, "term": status.term, "last_index": status.last_index,
            "applied_index": status.applied_index, "purged_index": status.purged_index,
            "events_first": state.first_offset(), "events_next": state.next_offset(),
            "devices": state.positions().len(), "retained": state.retained_count(),
            "sessions": state.sessions().count(), "fences_revision": state.fences().revision,
        })
    };
    let data: Vec<Value> = api.node.shards.iter().map(shard).collect();
    Json(json!({ "data": data, "meta": { "cursor": null } }))
}

/// Sessions in the order of their client ids; the cursor is the last one's.
pub(super) async fn clients(State(api): Shared, uri: Uri) -> Result<Json<Value>, Problem> {
    let parameters = Parameters::read(&uri, &["limit", "cursor"])?;
    let limit = parameters.limit(LIMIT_MAX)?;
    let mut sessions = api.node.registry.all();
    if let Some(after) = parameters.get("cursor") {
        sessions.retain(|session| *session.client_id > *after);
    }
    let more = sessions.len() > limit;
    if more {
        // Only what is answered needs an order.
        sessions.select_nth_unstable_by(limit, |a, b| a.client_id.cmp(&b.client_id));
        sessions.truncate(limit);
    }
    sessions.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
    let client = |session: &std::sync::Arc<crate::delivery::SessionHandle>| {
        json!({
            "client_id": &*session.client_id, "connected": session.is_online(),
            "persistent": session.persistent.is_some(),
            "home": session.persistent.map(|persistent| api.node.shards.get(persistent.home).name.as_str()),
            "subscriptions": session.filters.lock().iter().map(|filter| filter.as_str().to_owned()).collect::<Vec<_>>(),
        })
    };
    let data: Vec<Value> = sessions.iter().map(client).collect();
    let last = sessions.last().filter(|_| more);
    let cursor = last.map(|session| &*session.client_id);
    Ok(Json(json!({ "data": data, "meta": { "cursor": cursor } })))
}

pub(super) async fn kick(State(api): Shared, Name(id): Name) -> Result<StatusCode, Problem> {
    let ended = api
        .node
        .registry
        .get(&id)
        .is_some_and(|session| session.end(ReasonCode::AdministrativeAction));
    if ended {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found(format!("{id} is not connected")))
    }
}

pub(super) async fn sinks(State(api): Shared) -> Json<Value> {
    let data: Vec<_> = api
        .sinks
        .iter()
        .map(meridian_sinks::Pipeline::status)
        .collect();
    Json(json!({ "data": data, "meta": { "cursor": null } }))
}

pub(super) async fn pause(State(api): Shared, Name(name): Name) -> Result<StatusCode, Problem> {
    set_paused(&api, &name, true)
}

pub(super) async fn resume(State(api): Shared, Name(name): Name) -> Result<StatusCode, Problem> {
    set_paused(&api, &name, false)
}

fn set_paused(api: &Api, name: &str, paused: bool) -> Result<StatusCode, Problem> {
    let sink = api.sinks.iter().find(|sink| sink.status().name == name);
    sink.ok_or_else(|| Problem::not_found(format!("there is no sink {name}")))?
        .set_paused(paused);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn config(State(api): Shared) -> Json<Value> {
    Json(api.config.clone())
}
