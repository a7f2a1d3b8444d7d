//! Fences, as GeoJSON in and out.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use meridian_geo_engine::{Fence, FenceError, split_collection};
use meridian_shard::log;
use serde_json::{Map, Value};

use super::problem::Problem;
use super::request::{self, Name};
use super::{Api, Shared};

/// Largest body, bytes: a collection of fences.
const BODY_MAX: usize = 64 << 20;

/// A FeatureCollection of all fences.
pub(super) async fn list(State(api): Shared) -> Response {
    let meta = api.node.meta.lock();
    let features: Vec<&str> = meta
        .fences()
        .records()
        .map(|record| record.feature_json.as_str())
        .collect();
    let body = format!(
        r#"{{"type":"FeatureCollection","features":[{features}],"data":[{features}],"meta":{{"cursor":null,"revision":{revision}}}}}"#,
        features = features.join(","),
        revision = meta.fences().revision,
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(super) async fn get(State(api): Shared, Name(id): Name) -> Result<Response, Problem> {
    let meta = api.node.meta.lock();
    let (record, _) = meta
        .fences()
        .get(&id)
        .ok_or_else(|| Problem::not_found(format!("there is no fence {id}")))?;
    Ok((
        [(header::CONTENT_TYPE, "application/geo+json")],
        record.feature_json.clone(),
    )
        .into_response())
}

/// Puts one fence; a Feature without an id gets the path's.
pub(super) async fn put(
    State(api): Shared,
    Name(id): Name,
    body: Body,
) -> Result<Response, Problem> {
    let body = request::bytes(body, BODY_MAX).await?;
    let mut feature: Map<String, Value> = request::object(&body)?;
    let given = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    let own = given(feature.get("id"));
    let own = own.map(|own| ("/id", own)).or_else(|| {
        let below = given(feature.get("properties")?.get("id"))?;
        Some(("/properties/id", below))
    });
    match own {
        None => {
            feature.insert("id".to_owned(), id.clone().into());
        }
        Some((place, own)) if !names(&own, &id) => {
            return Err(Problem::invalid(
                place,
                format!("the Feature is {own}, and the path says {id}"),
            ));
        }
        Some(_) => {}
    }
    let feature_json = Value::Object(feature).to_string();
    let fence = Fence::from_geojson(&feature_json, 0);
    let fence = fence.map_err(|error| wrong(&error, feature_json.as_bytes()))?;
    let record = log::FenceRecord {
        id: fence.id().to_owned(),
        feature_json,
        rev: 0,
    };
    let existed = api.node.meta.lock().fences().get(&id).is_some();
    change(
        &api,
        log::PutFences {
            upserts: vec![record],
            ..Default::default()
        },
    )
    .await?;
    Ok(if existed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    }
    .into_response())
}

/// Whether a Feature's `id`, a string or a number (RFC 7946 §3.2), is the fence that a path names.
fn names(id: &Value, path: &str) -> bool {
    match id {
        Value::String(id) => id == path,
        Value::Number(id) => id.to_string() == path,
        _ => false,
    }
}

/// Replaces all fences by those of a FeatureCollection, or none of them.
pub(super) async fn replace(State(api): Shared, body: Body) -> Result<Response, Problem> {
    let body = request::bytes(body, BODY_MAX).await?;
    let features = read_collection(&body)?;
    let upserts: Vec<log::FenceRecord> = features
        .into_iter()
        .map(|(id, feature_json)| log::FenceRecord {
            id,
            feature_json,
            rev: 0,
        })
        .collect();
    let count = upserts.len();
    change(
        &api,
        log::PutFences {
            upserts,
            replace_all: true,
            ..Default::default()
        },
    )
    .await?;
    Ok(Json(serde_json::json!({ "fences": count })).into_response())
}

/// Ids and texts of a collection's Features. The text is what is kept, so it is split and not written anew.
fn read_collection(body: &[u8]) -> Result<Vec<(String, String)>, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Problem::malformed("/", format!("no UTF-8: {error}")))?;
    split_collection(text).or_else(|error| {
        // Its frame may be what is wrong; this says where, and what was found.
        let collection: Collection = request::object(body)?;
        if collection.r#type != "FeatureCollection" {
            let found = format!("must be FeatureCollection, and is {:?}", collection.r#type);
            return Err(Problem::invalid("/type", found));
        }
        Err(wrong(&error, body))
    })
}

#[derive(serde::Deserialize)]
struct Collection {
    r#type: String,
    #[serde(rename = "features")]
    _features: Vec<Value>,
}

/// A mistake of a fence, with its place and, where that holds something, what it holds.
fn wrong(error: &FenceError, body: &[u8]) -> Problem {
    let place = match error.pointer.as_str() {
        "" => "/",
        pointer => pointer,
    };
    let found = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| value.pointer(&error.pointer).map(request::kind));
    match found {
        Some(found) => Problem::invalid(place, format!("{error} (found {found})")),
        None => Problem::invalid(place, error.to_string()),
    }
}

pub(super) async fn remove(State(api): Shared, Name(id): Name) -> Result<StatusCode, Problem> {
    if api.node.meta.lock().fences().get(&id).is_none() {
        return Err(Problem::not_found(format!("there is no fence {id}")));
    }
    change(
        &api,
        log::PutFences {
            removes: vec![id],
            ..Default::default()
        },
    )
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn change(api: &Api, change: log::PutFences) -> Result<(), Problem> {
    let changed = api.node.change_fences(change).await;
    changed.map(|_| ()).map_err(|error| {
        Problem::unavailable(format!("the fences may or may not have changed: {error}"))
    })
}
