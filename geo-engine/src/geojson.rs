//! GeoJSON Features (RFC 7946) to fences, with the place of every mistake.
//!
//! Places are JSON pointers (RFC 6901) into what was given: `/geometry/coordinates/0/17` is vertex 17 of the outer ring.
//! The text of a Feature is the caller's to keep: unknown properties and the geometry as drawn live there.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::circle::Circle;
use crate::coordinate::Coordinate;
use crate::corridor::Stretch;
use crate::fence::{Fence, Part};
use crate::polygon::Polygon;
use crate::ring::{Edge, RING_VERTICES_MAX, Ring, RingError, TooEntangled, first_crossing};

/// The most positions of a whole fence; one ring or line may have [`RING_VERTICES_MAX`].
pub const FENCE_VERTICES_MAX: usize = 50_000;
/// The longest fence id, bytes.
pub const FENCE_ID_BYTES_MAX: usize = 128;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{pointer}: {fault}")]
pub struct FenceError {
    /// JSON pointer to the mistake.
    pub pointer: String,
    /// The mistake.
    pub fault: FenceFault,
}

/// A mistake in a fence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum FenceFault {
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("expected {0}")]
    Expected(&'static str),
    #[error("missing; expected {0}")]
    Missing(&'static str),
    #[error(
        "latitude {lat} or longitude {lon} is out of range; positions are [longitude, latitude]"
    )]
    OutOfRange { lon: f64, lat: f64 },
    #[error("{value} is not between {min} and {max}")]
    NotBetween { value: f64, min: f64, max: f64 },
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Entangled(#[from] TooEntangled),
    #[error("the edge that begins here crosses the edge that begins at {other}")]
    SelfCrossing { other: String },
    #[error("{found} positions; {max} are the most")]
    TooManyPositions { found: usize, max: usize },
    #[error("an id is 1 to {FENCE_ID_BYTES_MAX} bytes without '/', '+', '#' and NUL")]
    BadId,
    #[error("the id {id:?} is that of {other} too")]
    SameId { id: String, other: String },
}

impl FenceError {
    fn new(pointer: impl Into<String>, fault: FenceFault) -> Self {
        FenceError {
            pointer: pointer.into(),
            fault,
        }
    }
}

type Result<T> = std::result::Result<T, FenceError>;

impl Fence {
    /// Reads a Feature. `rev` is the caller's revision number.
    ///
    /// # Errors
    ///
    /// The first mistake, with its place.
    pub fn from_geojson(text: &str, rev: u64) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| FenceError::new("", FenceFault::NotJson(error.to_string())))?;
        let Value::Object(feature) = value else {
            return Err(FenceError::new(
                "",
                FenceFault::Expected("a Feature object"),
            ));
        };
        if feature.get("type").is_none_or(|kind| kind != "Feature") {
            return Err(FenceError::new(
                "/type",
                FenceFault::Expected("\"Feature\""),
            ));
        }
        let none = Map::new();
        let properties = match feature.get("properties") {
            None | Some(Value::Null) => &none,
            Some(Value::Object(properties)) => properties,
            Some(_) => {
                return Err(FenceError::new(
                    "/properties",
                    FenceFault::Expected("an object"),
                ));
            }
        };
        let id = id(&feature, properties)?;
        let name = match properties.get("name") {
            None | Some(Value::Null) => id.clone(),
            Some(Value::String(name)) => name.clone(),
            Some(_) => {
                return Err(FenceError::new(
                    "/properties/name",
                    FenceFault::Expected("a string"),
                ));
            }
        };
        Ok(Fence {
            parts: geometry(&feature, properties)?,
            id: id.into(),
            name: name.into(),
            rev,
            regions: strings(properties, "regions")?,
            devices: strings(properties, "devices")?,
            dwell_ms: number(properties, "dwell_s", 0.0, 1e9)?
                .map(|seconds| libm::round(seconds * 1_000.0) as i64),
            min_samples: match properties.get("min_samples") {
                None | Some(Value::Null) => 1,
                Some(value) => {
                    let samples = value
                        .as_u64()
                        .filter(|samples| (1..=1_000).contains(samples));
                    samples.ok_or_else(|| {
                        FenceError::new(
                            "/properties/min_samples",
                            FenceFault::Expected("an integer of 1 to 1000"),
                        )
                    })? as u32
                }
            },
            hysteresis_m: number(properties, "hysteresis_m", 0.0, 10_000.0)?.unwrap_or(0.0),
            speed_limit_mps: number(properties, "speed_limit_mps", 0.0, 100_000.0)?,
        })
    }
}

/// Splits a FeatureCollection into the ids and the texts of its Features, each a valid fence: all or nothing.
///
/// # Errors
///
/// The first mistake; its place is one in the collection.
pub fn split_collection(text: &str) -> Result<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct Collection<'a> {
        r#type: String,
        #[serde(borrow)]
        features: Vec<&'a RawValue>,
    }
    let collection: Collection<'_> = serde_json::from_str(text)
        .map_err(|error| FenceError::new("", FenceFault::NotJson(error.to_string())))?;
    if collection.r#type != "FeatureCollection" {
        return Err(FenceError::new(
            "/type",
            FenceFault::Expected("\"FeatureCollection\""),
        ));
    }
    let mut places = BTreeMap::new();
    let mut features = Vec::with_capacity(collection.features.len());
    for (index, feature) in collection.features.iter().enumerate() {
        let place = format!("/features/{index}");
        let inside =
            |error: FenceError| FenceError::new(format!("{place}{}", error.pointer), error.fault);
        let id = Fence::from_geojson(feature.get(), 0)
            .map_err(inside)?
            .id()
            .to_owned();
        if let Some(other) = places.insert(id.clone(), place.clone()) {
            return Err(FenceError::new(place, FenceFault::SameId { id, other }));
        }
        features.push((id, feature.get().to_owned()));
    }
    Ok(features)
}

fn id(feature: &Map<String, Value>, properties: &Map<String, Value>) -> Result<String> {
    let given = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    let (pointer, value) = match (given(feature.get("id")), given(properties.get("id"))) {
        (Some(id), _) => ("/id", id),
        (None, Some(id)) => ("/properties/id", id),
        (None, None) => {
            return Err(FenceError::new(
                "/id",
                FenceFault::Missing("an id, here or in properties"),
            ));
        }
    };
    let id = match value {
        Value::String(id) => id,
        Value::Number(id) => id.to_string(),
        _ => {
            return Err(FenceError::new(
                pointer,
                FenceFault::Expected("a string or a number"),
            ));
        }
    };
    // An id is a level of alert topics.
    let fits = (1..=FENCE_ID_BYTES_MAX).contains(&id.len()) && !id.contains(['/', '+', '#', '\0']);
    if fits {
        Ok(id)
    } else {
        Err(FenceError::new(pointer, FenceFault::BadId))
    }
}

fn strings(properties: &Map<String, Value>, key: &str) -> Result<Vec<String>> {
    let wrong =
        |pointer: String| FenceError::new(pointer, FenceFault::Expected("an array of strings"));
    match properties.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                value
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| wrong(format!("/properties/{key}/{index}")))
            })
            .collect(),
        Some(_) => Err(wrong(format!("/properties/{key}"))),
    }
}

fn number(properties: &Map<String, Value>, key: &str, min: f64, max: f64) -> Result<Option<f64>> {
    let fault = match properties.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => match value.as_f64() {
            Some(value) if (min..=max).contains(&value) => return Ok(Some(value)),
            Some(value) => FenceFault::NotBetween { value, min, max },
            None => FenceFault::Expected("a number"),
        },
    };
    Err(FenceError::new(format!("/properties/{key}"), fault))
}

/// Metres that a point or a line needs to be an area.
fn extent_m(properties: &Map<String, Value>, key: &'static str, max: f64) -> Result<f64> {
    let expected = if key == "radius_m" {
        "a Point's radius in metres"
    } else {
        "a line's buffer in metres"
    };
    number(properties, key, 0.01, max)?
        .ok_or_else(|| FenceError::new(format!("/properties/{key}"), FenceFault::Missing(expected)))
}

fn geometry(feature: &Map<String, Value>, properties: &Map<String, Value>) -> Result<Vec<Part>> {
    let Some(Value::Object(geometry)) = feature.get("geometry") else {
        return Err(FenceError::new(
            "/geometry",
            FenceFault::Expected("a geometry object"),
        ));
    };
    let pointer = "/geometry/coordinates";
    let coordinates = geometry.get("coordinates").unwrap_or(&Value::Null);
    let mut positions = 0;
    let parts = match geometry.get("type").and_then(Value::as_str) {
        Some("Point") => {
            let radius_m = extent_m(properties, "radius_m", 20_100_000.0)?;
            vec![Part::Circle(Circle {
                center: position(coordinates, pointer)?,
                radius_m,
            })]
        }
        Some("LineString") => stretches(
            coordinates,
            pointer,
            extent_m(properties, "buffer_m", 1e6)?,
            &mut positions,
        )?,
        Some("MultiLineString") => {
            let buffer_m = extent_m(properties, "buffer_m", 1e6)?;
            let mut parts = Vec::new();
            for (index, line) in array(coordinates, pointer, "an array of lines")?
                .iter()
                .enumerate()
            {
                parts.extend(stretches(
                    line,
                    &format!("{pointer}/{index}"),
                    buffer_m,
                    &mut positions,
                )?);
            }
            parts
        }
        Some("Polygon") => vec![polygon(coordinates, pointer, &mut positions)?],
        Some("MultiPolygon") => {
            let polygons = array(coordinates, pointer, "an array of polygons")?
                .iter()
                .enumerate();
            polygons
                .map(|(index, part)| polygon(part, &format!("{pointer}/{index}"), &mut positions))
                .collect::<Result<_>>()?
        }
        _ => {
            let kinds = "Polygon, MultiPolygon, Point, LineString or MultiLineString";
            return Err(FenceError::new(
                "/geometry/type",
                FenceFault::Expected(kinds),
            ));
        }
    };
    Ok(parts)
}

fn polygon(value: &Value, pointer: &str, positions: &mut usize) -> Result<Part> {
    let mut rings = Vec::new();
    for (index, ring) in array(value, pointer, "an array of rings")?
        .iter()
        .enumerate()
    {
        let pointer = format!("{pointer}/{index}");
        let ring = Ring::new(line(ring, &pointer, positions)?);
        rings.push(ring.map_err(|error| match error {
            RingError::NotClosed { last } => {
                FenceError::new(format!("{pointer}/{last}"), error.into())
            }
            _ => FenceError::new(pointer, error.into()),
        })?);
    }
    let edges: Vec<Edge> = rings.iter().flat_map(Ring::edges).collect();
    let crossing =
        first_crossing(&edges).map_err(|error| FenceError::new(pointer, error.into()))?;
    if let Some((first, second)) = crossing {
        let place = |mut edge: usize| {
            let ring = rings.iter().position(|ring| {
                let here = ring.edges().count();
                let found = edge < here;
                edge -= if found { 0 } else { here };
                found
            });
            format!("{pointer}/{}/{edge}", ring.unwrap_or(0))
        };
        return Err(FenceError::new(
            place(first),
            FenceFault::SelfCrossing {
                other: place(second),
            },
        ));
    }
    Ok(Part::Polygon(Polygon::new(&rings)))
}

fn stretches(
    value: &Value,
    pointer: &str,
    buffer_m: f64,
    positions: &mut usize,
) -> Result<Vec<Part>> {
    let line = line(value, pointer, positions)?;
    if line.len() < 2 {
        return Err(FenceError::new(
            pointer,
            FenceFault::Expected("two or more positions"),
        ));
    }
    if line.len() > RING_VERTICES_MAX {
        let fault = FenceFault::TooManyPositions {
            found: line.len(),
            max: RING_VERTICES_MAX,
        };
        return Err(FenceError::new(pointer, fault));
    }
    Ok(line
        .windows(2)
        .map(|pair| {
            Part::Stretch(Stretch {
                from: pair[0],
                to: pair[1],
                buffer_m,
            })
        })
        .collect())
}

fn line(value: &Value, pointer: &str, positions: &mut usize) -> Result<Vec<Coordinate>> {
    let values = array(value, pointer, "an array of positions")?;
    *positions += values.len();
    if *positions > FENCE_VERTICES_MAX {
        let fault = FenceFault::TooManyPositions {
            found: *positions,
            max: FENCE_VERTICES_MAX,
        };
        return Err(FenceError::new(pointer, fault));
    }
    let indexed = values.iter().enumerate();
    indexed
        .map(|(index, value)| position_at(value, || format!("{pointer}/{index}")))
        .collect()
}

fn array<'a>(value: &'a Value, pointer: &str, expected: &'static str) -> Result<&'a [Value]> {
    match value {
        Value::Array(values) if !values.is_empty() => Ok(values),
        _ => Err(FenceError::new(pointer, FenceFault::Expected(expected))),
    }
}

fn position(value: &Value, pointer: &str) -> Result<Coordinate> {
    position_at(value, || pointer.to_owned())
}

/// `[longitude, latitude]`; an altitude behind them is ignored (RFC 7946 §3.1.1).
fn position_at(value: &Value, pointer: impl Fn() -> String) -> Result<Coordinate> {
    let axis = |index: usize| {
        value
            .as_array()
            .and_then(|axes| axes.get(index))
            .and_then(Value::as_f64)
    };
    let (Some(lon), Some(lat)) = (axis(0), axis(1)) else {
        return Err(FenceError::new(
            pointer(),
            FenceFault::Expected("a position: [longitude, latitude]"),
        ));
    };
    Coordinate::from_degrees(lat, lon)
        .ok_or_else(|| FenceError::new(pointer(), FenceFault::OutOfRange { lon, lat }))
}
