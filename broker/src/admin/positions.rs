//! Last positions.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use meridian_geo_engine::{Coordinate, Located};
use serde_json::{Value, json};

use super::problem::Problem;
use super::request::{LIMIT_MAX, Name, Parameters, wrong_cursor};
use super::{Api, Shared};

/// Results of one answer, unless it is asked for another number.
const LIMIT: usize = 100;
/// Half the earth's circumference and a little more, metres: everything is within it.
const RADIUS_MAX_M: f64 = 20_100_000.0;

pub(super) async fn get(State(api): Shared, Name(device): Name) -> Result<Json<Value>, Problem> {
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

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    Nearest(Coordinate),
    Within(Coordinate, f64),
    /// West, south, east, north; with west above east it crosses the antimeridian (RFC 7946 §5.2).
    Box([f64; 4]),
    Fence(String),
}

/// `near=lon,lat&limit=k`, `near=lon,lat&radius_m=r`, `bbox=w,s,e,n`, or `fence=id`.
pub(super) async fn query(State(api): Shared, uri: Uri) -> Result<Json<Value>, Problem> {
    let known = ["near", "radius_m", "bbox", "fence", "limit", "cursor"];
    let parameters = Parameters::read(&uri, &known)?;
    let limit = parameters.limit(LIMIT)?;
    let place = place(&parameters)?;
    let skip = skip(&parameters)?;
    let mut found = match &place {
        Place::Nearest(at) => each(&api, |state| state.positions().nearest(*at, limit)),
        Place::Within(at, radius_m) => each(&api, |state| state.positions().within(*at, *radius_m)),
        Place::Box([west, south, east, north]) => each(&api, |state| {
            state.positions().in_box(*west, *south, *east, *north)
        }),
        Place::Fence(id) => {
            if api.node.meta.lock().fences().get(id).is_none() {
                return Err(Problem::not_found(format!("there is no fence {id}")).at("fence"));
            }
            each(&api, |state| state.positions_in_fence(id))
        }
    };
    let by_distance = |located: &Located| located.distance_m.unwrap_or(0.0);
    found.sort_by(|a, b| {
        by_distance(a)
            .total_cmp(&by_distance(b))
            .then_with(|| a.device.cmp(&b.device))
    });
    let more = !matches!(place, Place::Nearest(_)) && found.len() > skip + limit;
    let page: Vec<Value> = found.iter().skip(skip).take(limit).map(position).collect();
    let next = more.then(|| (skip + limit).to_string());
    Ok(Json(json!({ "data": page, "meta": { "cursor": next } })))
}

fn place(parameters: &Parameters) -> Result<Place, Problem> {
    let radius_m = parameters
        .numbers::<1>("radius_m")?
        .map(|[radius_m]| radius_m);
    let near = parameters.numbers::<2>("near")?;
    let bbox = parameters.numbers::<4>("bbox")?;
    let fence = parameters.get("fence");
    if radius_m.is_some() && near.is_none() {
        return Err(Problem::invalid("radius_m", "needs near=lon,lat"));
    }
    match (near, bbox, fence) {
        (Some(near), None, None) => {
            let at = at("near", near)?;
            match radius_m {
                None if parameters.get("cursor").is_some() => Err(Problem::invalid(
                    "cursor",
                    "the nearest come in one answer; ask for more with limit",
                )),
                None => Ok(Place::Nearest(at)),
                Some(radius_m) if (0.0..=RADIUS_MAX_M).contains(&radius_m) => {
                    Ok(Place::Within(at, radius_m))
                }
                Some(_) => Err(Problem::invalid(
                    "radius_m",
                    format!("must be from 0 to {RADIUS_MAX_M} metres"),
                )),
            }
        }
        (None, Some([west, south, east, north]), None) => {
            at("bbox", [west, south])?;
            at("bbox", [east, north])?;
            if south > north {
                return Err(Problem::invalid(
                    "bbox",
                    "must be west,south,east,north with south not above north",
                ));
            }
            Ok(Place::Box([west, south, east, north]))
        }
        (None, None, Some(fence)) => Ok(Place::Fence(fence.to_owned())),
        (None, None, None) => Err(Problem::invalid(
            "near",
            "is missing: ask with near=lon,lat, bbox=w,s,e,n or fence=id",
        )),
        (Some(_), Some(_), _) | (None, Some(_), Some(_)) => Err(Problem::invalid(
            "bbox",
            "ask with one of near, bbox and fence",
        )),
        (Some(_), None, Some(_)) => Err(Problem::invalid(
            "fence",
            "ask with one of near, bbox and fence",
        )),
    }
}

fn at(field: &str, [lon, lat]: [f64; 2]) -> Result<Coordinate, Problem> {
    Coordinate::from_degrees(lat, lon).ok_or_else(|| {
        Problem::invalid(
            field,
            format!(
                "{lon},{lat} is no place: longitude is from -180 to 180 and comes first, latitude is from -90 to 90"
            ),
        )
    })
}

/// How many results the answers before this one gave: what `cursor` says.
fn skip(parameters: &Parameters) -> Result<usize, Problem> {
    let Some(cursor) = parameters.get("cursor") else {
        return Ok(0);
    };
    // The sum with a limit must stay a number.
    let skip = cursor.parse().ok();
    skip.filter(|skip| *skip <= usize::MAX - LIMIT_MAX)
        .ok_or_else(wrong_cursor)
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
