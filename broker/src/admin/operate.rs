//! What operators ask and do: nodes, shards, clients, sinks.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use meridian_mqtt::reason::ReasonCode;
use meridian_proto::cluster::v1::{self, reply, request};
use meridian_shard::log;
use serde_json::{Value, json};

use super::problem::Problem;
use super::request::{LIMIT_MAX, Name, Parameters};
use super::{Api, Shared};
use crate::cluster::heard_within;
use crate::node::Node;

/// How long another node may take to say how it is.
const STATUS_MAX: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) async fn nodes(State(api): Shared) -> Json<Value> {
    let node = &api.node;
    let mut data = vec![describe(node, node.own_status())];
    let others = node.dispatch.peers.others();
    let asked = others.iter().map(|id| async move {
        let request = request::Body::Status(v1::Status {});
        let status = match node.ask(*id, request, STATUS_MAX).await {
            Ok(reply::Body::Status(status)) => serde_json::from_slice(&status).ok(),
            _ => None,
        };
        describe(node, status.unwrap_or_else(|| json!({ "id": id })))
    });
    data.extend(futures::future::join_all(asked).await);
    data.sort_by_key(|node| node["id"].as_u64());
    Json(json!({ "data": data, "meta": { "cursor": null } }))
}

/// What the node said of itself, and what this one knows of it.
fn describe(node: &Node, mut status: Value) -> Value {
    let id = status["id"].as_u64().unwrap_or_default();
    let meta = node.meta.lock();
    let member = meta.nodes().get(&id).cloned().unwrap_or_default();
    drop(meta);
    let peers = node.transport.peers();
    let peer = peers.iter().find(|peer| peer.node == id);
    let up = id == node.id || status.get("version").is_some();
    status["up"] = up.into();
    status["address"] = member.address.into();
    status["zone"] = member.zone.into();
    status["draining"] = member.draining.into();
    status["leaving"] = member.leaving.into();
    if let Some(heard) = peer.and_then(|peer| peer.heard) {
        status["heard_ms_ago"] = u64::try_from(heard.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .into();
    }
    status["shards"] = node.shards.map.names().len().into();
    status
}

pub(super) async fn shards(State(api): Shared) -> Json<Value> {
    let nodes = api.node.meta.lock().nodes().clone();
    let wanted = if nodes.is_empty() {
        1
    } else {
        api.node.replication.min(nodes.len())
    };
    let shard = |shard: &crate::shards::Shard| {
        let status = shard.group.status();
        let state = shard.state.lock();
        json!({
            "shard": shard.name, "leader": status.leader, "term": status.term, "last_index": status.last_index,
            "applied_index": status.applied_index, "purged_index": status.purged_index,
            "voters": status.voters, "learners": status.learners, "joint": status.joint,
            "under_replicated": status.voters.len() < wanted,
            "events_first": state.first_offset(), "events_next": state.next_offset(),
            "devices": state.positions().len(), "retained": state.retained_count(),
            "sessions": state.sessions().count(), "fences_revision": state.fences().revision,
        })
    };
    let data: Vec<Value> = api.node.shards.iter().map(shard).collect();
    Json(json!({ "data": data, "meta": { "cursor": null } }))
}

/// `POST nodes/{id}/drain`, `undrain`, `leave` or `evict`. Each can be said again.
pub(super) async fn change_node(
    State(api): Shared,
    Path((id, what)): Path<(u64, String)>,
) -> Result<StatusCode, Problem> {
    let node = &api.node;
    if node.is_alone() {
        return Err(Problem::forbidden(
            "this node is a cluster of one: give it cluster.bind, so that others can join",
        ));
    }
    let change: fn(&mut log::ClusterNode) = match what.as_str() {
        "drain" => |member| member.draining = true,
        "undrain" => |member| member.draining = false,
        "leave" | "evict" => |member| member.leaving = true,
        _ => {
            return Err(Problem::not_found(
                "there are drain, undrain, leave and evict",
            ));
        }
    };
    let takes_out = what == "leave" || what == "evict";
    if takes_out && node.meta.lock().nodes().len() < 2 {
        return Err(Problem::forbidden(
            "the last node of a cluster cannot leave it",
        ));
    }
    if what == "evict" && id != node.id {
        let heard = |peer: &meridian_raft::PeerStatus| {
            peer.node == id && peer.connected && heard_within(peer, STATUS_MAX)
        };
        if node.transport.peers().iter().any(heard) {
            return Err(Problem::forbidden(
                "that node is alive: let it leave, which loses nothing on the way",
            ));
        }
    }
    let changed = node.change_member(id, change).await;
    match changed.map_err(|error| Problem::unavailable(error.to_string()))? {
        Some(()) => Ok(StatusCode::ACCEPTED),
        None => Err(Problem::not_found(format!("there is no node {id}"))),
    }
}

/// `POST shards/{name}/transfer/{to}`: hands the lead over.
pub(super) async fn transfer(
    State(api): Shared,
    Path((name, to)): Path<(String, u64)>,
) -> Result<StatusCode, Problem> {
    let node = &api.node;
    let leader = match node.shards.named(&name) {
        Some(shard) => shard.group.status().leader,
        None if name == "meta" => node.meta_group().status().leader,
        None => return Err(Problem::not_found(format!("there is no shard {name}"))),
    };
    let refused = match leader {
        None => Err("nobody leads it now".to_owned()),
        Some(leader) if leader == to => Ok(()),
        Some(leader) if leader == node.id => node.transfer(&name, to).await,
        Some(leader) => {
            let request = request::Body::Transfer(v1::Transfer { group: name, to });
            match node.ask(leader, request, STATUS_MAX).await {
                Ok(reply::Body::Done(_)) => Ok(()),
                Ok(reply::Body::Refusal(refusal)) => Err(refusal.reason),
                Ok(_) => Err("its leader does not know the request".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    refused
        .map(|()| StatusCode::ACCEPTED)
        .map_err(Problem::unavailable)
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
            "client_id": &*session.client_id, "connected": session.is_online() || session.away() != 0,
            "node": if session.is_online() { Some(api.node.id) } else { Some(session.away()).filter(|node| *node != 0) },
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
    let session = api.node.registry.get(&id);
    let mut ended = session.is_some_and(|session| session.end(ReasonCode::AdministrativeAction));
    if !ended && !api.node.is_alone() {
        let home = api.node.shards.map.of_client(&id);
        // Connected elsewhere, if the home shard knows of it.
        let state = api.node.shards.get(home).state.lock();
        ended = state
            .session(&id)
            .is_some_and(|session| session.record.connected);
        drop(state);
        if ended {
            api.node.dispatch.peers.kick(&id);
        }
    }
    if ended {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found(format!("{id} is not connected")))
    }
}

pub(super) async fn sinks(State(api): Shared) -> Json<Value> {
    Json(json!({ "data": api.sinks.status(), "meta": { "cursor": null } }))
}

pub(super) async fn pause(State(api): Shared, Name(name): Name) -> Result<StatusCode, Problem> {
    set_paused(&api, &name, true)
}

pub(super) async fn resume(State(api): Shared, Name(name): Name) -> Result<StatusCode, Problem> {
    set_paused(&api, &name, false)
}

fn set_paused(api: &Api, name: &str, paused: bool) -> Result<StatusCode, Problem> {
    match api.sinks.set_paused(name, paused) {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(Problem::not_found(format!("there is no sink {name}"))),
        Err(error) => Err(Problem::unavailable(format!(
            "that could not be noted down: {error}"
        ))),
    }
}

pub(super) async fn config(State(api): Shared) -> Json<Value> {
    Json(api.config.clone())
}
