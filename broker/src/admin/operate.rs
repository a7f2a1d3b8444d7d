//! What operators ask and do: nodes, shards, clients, sinks, publish.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use meridian_mqtt::packet::{PublishProperties, QoS};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::text::Text;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{Api, Shared};
use crate::clock::wall_ms;
use crate::router::{Outgoing, topic};

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

pub(super) async fn clients(State(api): Shared) -> Json<Value> {
    let mut sessions = api.node.registry.all();
    sessions.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    let client = |session: &std::sync::Arc<crate::delivery::SessionHandle>| {
        json!({
            "client_id": &*session.client_id, "connected": session.is_online(),
            "persistent": session.persistent.is_some(),
            "home": session.persistent.map(|persistent| api.node.shards.get(persistent.home).name.as_str()),
            "subscriptions": session.filters.lock().iter().map(|filter| filter.as_str().to_owned()).collect::<Vec<_>>(),
        })
    };
    let data: Vec<Value> = sessions.iter().map(client).collect();
    Json(json!({ "data": data, "meta": { "cursor": null } }))
}

pub(super) async fn kick(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
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

pub(super) async fn pause(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    set_paused(&api, &name, true)
}

pub(super) async fn resume(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    set_paused(&api, &name, false)
}

fn set_paused(api: &Api, name: &str, paused: bool) -> Result<StatusCode, Problem> {
    let sink = api.sinks.iter().find(|sink| sink.status().name == name);
    sink.ok_or_else(|| Problem::not_found(format!("there is no sink {name}")))?
        .set_paused(paused);
    Ok(StatusCode::NO_CONTENT)
}

/// `{"topic":…,"payload":…|"payload_base64":…,"qos":0|1,"retain":false}`: returns when it is durable.
pub(super) async fn publish(State(api): Shared, body: Bytes) -> Result<StatusCode, Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request {
        topic: String,
        #[serde(default)]
        payload: Option<String>,
        #[serde(default)]
        payload_base64: Option<String>,
        #[serde(default)]
        qos: u8,
        #[serde(default)]
        retain: bool,
    }
    let request: Request =
        serde_json::from_slice(&body).map_err(|error| Problem::invalid("/", error.to_string()))?;
    let payload = match (request.payload, request.payload_base64) {
        (payload, None) => payload.unwrap_or_default().into_bytes(),
        (None, Some(encoded)) => {
            use base64::Engine as _;
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
            decoded.map_err(|error| Problem::invalid("/payload_base64", error.to_string()))?
        }
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "/payload",
                "give payload or payload_base64, not both",
            ));
        }
    };
    let Some(topic) = topic(&request.topic) else {
        return Err(Problem::invalid(
            "/topic",
            "is no topic name: not empty, without + # and NUL",
        ));
    };
    if !api.node.may_publish(topic.as_str()) {
        return Err(Problem::forbidden("this topic is the broker's own"));
    }
    let qos = match request.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => return Err(Problem::invalid("/qos", "must be 0 or 1")),
    };
    let message = Outgoing {
        topic,
        payload: payload.into(),
        qos,
        retain: request.retain,
        properties: PublishProperties::default(),
        publisher: Text::from_static(""),
        received_ms: wall_ms(),
    };
    let published = api.node.publish(message).await;
    published
        .map(|()| StatusCode::NO_CONTENT)
        .map_err(|error| Problem::unavailable(error.to_string()))
}

pub(super) async fn config(State(api): Shared) -> Json<Value> {
    Json(api.config.clone())
}
