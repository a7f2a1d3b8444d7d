//! Fences, as GeoJSON in and out.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use meridian_geo_engine::Fence;
use meridian_shard::log;
use serde_json::Value;
use serde_json::value::RawValue;

use super::problem::Problem;
use super::{Api, Shared};

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

pub(super) async fn get(State(api): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
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
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut feature: Value = serde_json::from_slice(&body)
        .map_err(|error| Problem::invalid("/", format!("no JSON: {error}")))?;
    let own = feature.get("id").or_else(|| {
        feature
            .get("properties")
            .and_then(|properties| properties.get("id"))
    });
    match own {
        None => feature["id"] = id.clone().into(),
        Some(own)
            if own.as_str() == Some(&id)
                || own.as_u64().is_some_and(|own| id.parse() == Ok(own)) => {}
        Some(own) => {
            return Err(Problem::invalid(
                "/id",
                format!("the Feature is {own}, and the path says {id}"),
            ));
        }
    }
    let existed = api.node.meta.lock().fences().get(&id).is_some();
    let record = checked(feature.to_string())?;
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

/// Replaces all fences by those of a FeatureCollection, or none of them.
pub(super) async fn replace(State(api): Shared, body: Bytes) -> Result<Response, Problem> {
    #[derive(serde::Deserialize)]
    struct Collection<'a> {
        r#type: String,
        #[serde(borrow)]
        features: Vec<&'a RawValue>,
    }
    let collection: Collection<'_> = serde_json::from_slice(&body)
        .map_err(|error| Problem::invalid("/", format!("no FeatureCollection: {error}")))?;
    if collection.r#type != "FeatureCollection" {
        return Err(Problem::invalid("/type", "must be FeatureCollection"));
    }
    let mut upserts: Vec<log::FenceRecord> = Vec::with_capacity(collection.features.len());
    let mut ids = std::collections::HashSet::new();
    for (at, feature) in collection.features.iter().enumerate() {
        let fence = Fence::from_geojson(feature.get(), 0)
            .map_err(|error| Problem::invalid(format!("/features/{at}"), error.to_string()))?;
        if !ids.insert(fence.id().to_owned()) {
            return Err(Problem::invalid(
                format!("/features/{at}/id"),
                format!("{} is there twice", fence.id()),
            ));
        }
        upserts.push(log::FenceRecord {
            id: fence.id().to_owned(),
            feature_json: feature.get().to_owned(),
            rev: 0,
        });
    }
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

pub(super) async fn remove(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
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

fn checked(feature_json: String) -> Result<log::FenceRecord, Problem> {
    let fence = Fence::from_geojson(&feature_json, 0)
        .map_err(|error| Problem::invalid("/", error.to_string()))?;
    Ok(log::FenceRecord {
        id: fence.id().to_owned(),
        feature_json,
        rev: 0,
    })
}

async fn change(api: &Api, change: log::PutFences) -> Result<(), Problem> {
    let changed = api.node.change_fences(change).await;
    changed.map(|_| ()).map_err(|error| {
        Problem::unavailable(format!("the fences may or may not have changed: {error}"))
    })
}
