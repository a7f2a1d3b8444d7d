//! Last positions and past alerts.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use meridian_geo_engine::{Coordinate, Located};
use meridian_shard::log;
use meridian_sinks::json as event_json;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{Api, Shared};

/// Results of one answer, at most.
const LIMIT_MAX: usize = 10_000;
const LIMIT: usize = 100;

pub(super) async fn get(
    State(api): Shared,
    Path(device): Path<String>,
) -> Result<Json<Value>, Problem> {
    let newest = api
        .node
        .shards
        .iter()
        .filter_map(|shard| shard.state.lock().positions().get(&device));
    // A device that changed its region is known to both; the newer fix is the last one.
    let newest = newest.max_by_key(|located| located.fix.ts_ms);
    newest
        .map(|located| Json(position(&located)))
        .ok_or_else(|| Problem::not_found(format!("{device} is not known")))
}

/// `near=lon,lat&limit=k`, `near=lon,lat&radius_m=r`, `bbox=w,s,e,n`, or `fence=id`.
pub(super) async fn query(
    State(api): Shared,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Problem> {
    let known = ["near", "limit", "radius_m", "bbox", "fence", "cursor"];
    if let Some(unknown) = query.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Problem::invalid(
            unknown.clone(),
            format!("is not known; there are {}", known.join(", ")),
        ));
    }
    let limit = match query.get("limit") {
        None => LIMIT,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| Problem::invalid("limit", format!("must be from 1 to {LIMIT_MAX}")))?,
    };
    let mut found = if let Some(near) = query.get("near") {
        let [lon, lat] = numbers::<2>("near", near)?;
        let at = Coordinate::from_degrees(lat, lon)
            .ok_or_else(|| Problem::invalid("near", "must be lon,lat, in degrees"))?;
        match query.get("radius_m") {
            Some(radius) => {
                let [radius] = numbers::<1>("radius_m", radius)?;
                each(&api, |state| state.positions().within(at, radius))
            }
            None => each(&api, |state| state.positions().nearest(at, limit)),
        }
    } else if let Some(bbox) = query.get("bbox") {
        let [west, south, east, north] = numbers::<4>("bbox", bbox)?;
        if south > north {
            return Err(Problem::invalid(
                "bbox",
                "must be west,south,east,north with south below north",
            ));
        }
        each(&api, |state| {
            state.positions().in_box(west, south, east, north)
        })
    } else if let Some(fence) = query.get("fence") {
        if api.node.meta.lock().fences().get(fence).is_none() {
            return Err(Problem::not_found(format!("there is no fence {fence}")));
        }
        each(&api, |state| state.positions_in_fence(fence))
    } else {
        return Err(Problem::invalid(
            "near",
            "ask with near=lon,lat, bbox=w,s,e,n or fence=id",
        ));
    };
    let by_distance = |located: &Located| located.distance_m.unwrap_or(0.0);
    found.sort_by(|a, b| {
        by_distance(a)
            .total_cmp(&by_distance(b))
            .then_with(|| a.device.cmp(&b.device))
    });
    let nearest_only = query.contains_key("near") && !query.contains_key("radius_m");
    let skip = if nearest_only { 0 } else { cursor(&query)? };
    let more = !nearest_only && found.len() > skip + limit;
    let page: Vec<Value> = found.iter().skip(skip).take(limit).map(position).collect();
    let next = more.then(|| (skip + limit).to_string());
    Ok(Json(json!({ "data": page, "meta": { "cursor": next } })))
}

/// `since=` epoch milliseconds; newest page by `cursor`.
pub(super) async fn alerts(
    State(api): Shared,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Problem> {
    let since: i64 = match query.get("since") {
        None => i64::MIN,
        Some(since) => since
            .parse()
            .map_err(|_| Problem::invalid("since", "must be epoch milliseconds"))?,
    };
    let skip = cursor(&query)?;
    let mut found: Vec<(i64, Value)> = Vec::new();
    for shard in api.node.shards.iter() {
        let mut next = shard.state.lock().first_offset();
        loop {
            let events = shard
                .events(next, 4096)
                .map_err(|error| Problem::unavailable(error.to_string()))?;
            let Some((last, _)) = events.last() else {
                break;
            };
            next = last + 1;
            for (_, event) in &events {
                if let Some(log::event::Body::Alert(alert)) = &event.body
                    && alert.ts_ms >= since
                {
                    let mut text = Vec::new();
                    event_json::write_alert(&mut text, alert);
                    found.push((
                        alert.ts_ms,
                        serde_json::from_slice(&text).unwrap_or(Value::Null),
                    ));
                }
            }
        }
    }
    found.sort_by_key(|(ts_ms, _)| *ts_ms);
    let more = found.len() > skip + LIMIT_MAX;
    let page: Vec<Value> = found
        .into_iter()
        .skip(skip)
        .take(LIMIT_MAX)
        .map(|(_, alert)| alert)
        .collect();
    let next = more.then(|| (skip + LIMIT_MAX).to_string());
    Ok(Json(json!({ "data": page, "meta": { "cursor": next } })))
}

fn each(api: &Api, ask: impl Fn(&meridian_shard::ShardState) -> Vec<Located>) -> Vec<Located> {
    api.node
        .shards
        .iter()
        .flat_map(|shard| ask(&shard.state.lock()))
        .collect()
}

fn position(located: &Located) -> Value {
    let fix = &located.fix;
    let mut value = json!({
        "device": located.device, "region": located.region, "ts": fix.ts_ms,
        "lat": fix.at.lat_deg(), "lon": fix.at.lon_deg(),
    });
    let numbers = [
        ("speed_mps", fix.speed_mps),
        ("course_deg", fix.course_deg),
        ("accuracy_m", fix.accuracy_m),
        ("alt_m", fix.alt_m),
        ("battery_pct", fix.battery_pct),
        ("odometer_m", fix.odometer_m),
        ("distance_m", located.distance_m),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            value[name] = number.into();
        }
    }
    if let Some(ignition) = fix.ignition {
        value["ignition"] = ignition.into();
    }
    value
}

fn cursor(query: &HashMap<String, String>) -> Result<usize, Problem> {
    let Some(cursor) = query.get("cursor") else {
        return Ok(0);
    };
    cursor
        .parse()
        .map_err(|_| Problem::invalid("cursor", "must be one that an answer gave"))
}

fn numbers<const N: usize>(field: &str, text: &str) -> Result<[f64; N], Problem> {
    let read: Result<Vec<f64>, _> = text
        .split(',')
        .map(|number| number.trim().parse())
        .collect();
    let read = read
        .ok()
        .filter(|read| read.iter().all(|number: &f64| number.is_finite()));
    read.and_then(|read| read.try_into().ok())
        .ok_or_else(|| Problem::invalid(field, format!("must be {N} numbers with commas between")))
}
