//! Payloads to fixes.
//!
//! `publish ─► **decode** ─► admit ─► log`. Everything here comes from outside: nothing panics, and what is wrong is a
//! value that names the field. Three shapes are read: our own object, OwnTracks' `_type: "location"`, and a GeoJSON
//! Point Feature (RFC 7946 §3.2); an array holds up to [`FIXES_MAX`] of them.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::coordinate::Coordinate;
use crate::fix::Fix;
use crate::timestamp::parse_rfc3339_ms;

/// The most fixes in one payload.
pub const FIXES_MAX: usize = 100;
/// The longest `attrs`, bytes of JSON.
pub const ATTRS_BYTES_MAX: usize = 4_096;
/// The longest `alarm`, bytes.
pub const ALARM_BYTES_MAX: usize = 128;

/// Numbers below this are seconds, others milliseconds.
const SECONDS_BELOW: f64 = 1e11;
/// 2200-01-01: a clock that shows more is broken.
const TS_MS_MAX: i64 = 7_258_118_400_000;

/// Why a whole payload cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is no JSON object or array.
    #[error("malformed")]
    Malformed,
    /// More than [`FIXES_MAX`] fixes.
    #[error("too_many: {found} fixes")]
    TooMany {
        /// How many there are.
        found: usize,
    },
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FixFault {
    /// It is required and absent.
    #[error("missing")]
    Missing,
    /// It has the wrong type or form.
    #[error("malformed")]
    Malformed,
    /// It is a value that cannot be.
    #[error("out_of_range")]
    OutOfRange,
    /// It is longer than its limit.
    #[error("too_long")]
    TooLong,
}

/// Why one fix cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault}: {field}")]
pub struct FixError {
    /// The field, by its name in the payload.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: FixFault,
}

/// Reads the fixes of a JSON payload, in their order.
///
/// # Errors
///
/// When there is nothing to read fix by fix. A fault of one fix leaves the others readable.
pub fn decode_json(payload: &[u8]) -> Result<Vec<Result<Fix, FixError>>, DecodeError> {
    let text = std::str::from_utf8(payload).map_err(|_| DecodeError::Malformed)?;
    match text.trim_start().as_bytes().first() {
        Some(b'[') => {
            let items: Vec<&RawValue> =
                serde_json::from_str(text).map_err(|_| DecodeError::Malformed)?;
            if items.len() > FIXES_MAX {
                return Err(DecodeError::TooMany { found: items.len() });
            }
            Ok(items.iter().map(|item| decode_item(item.get())).collect())
        }
        Some(b'{') => {
            let whole: &RawValue =
                serde_json::from_str(text).map_err(|_| DecodeError::Malformed)?;
            Ok(vec![decode_item(whole.get())])
        }
        _ => Err(DecodeError::Malformed),
    }
}

/// The parser refuses numbers beyond f64, and more than 128 levels.
fn decode_item(text: &str) -> Result<Fix, FixError> {
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        return Err(fault("fix", FixFault::Malformed));
    };
    if let Some(kind) = object.get("_type") {
        return if kind == "location" {
            own_tracks(&object)
        } else {
            Err(fault("_type", FixFault::Malformed))
        };
    }
    match object.get("type") {
        Some(kind) if kind == "Feature" => feature(&object),
        _ => plain(&object, place(&object)?),
    }
}

fn plain(object: &Map<String, Value>, at: Coordinate) -> Result<Fix, FixError> {
    Ok(Fix {
        ts_ms: timestamp(object, "ts")?,
        at,
        speed_mps: number(object, "speed_mps", 0.0, 100_000.0)?,
        course_deg: number(object, "course_deg", 0.0, 360.0)?,
        accuracy_m: number(object, "accuracy_m", 0.0, 1e8)?,
        alt_m: number(object, "alt_m", -20_000.0, 1e8)?,
        battery_pct: number(object, "battery_pct", 0.0, 100.0)?,
        ignition: match object.get("ignition") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(on)) => Some(*on),
            Some(_) => return Err(fault("ignition", FixFault::Malformed)),
        },
        odometer_m: number(object, "odometer_m", 0.0, 1e13)?,
        alarm: match object.get("alarm") {
            None | Some(Value::Null) => None,
            Some(Value::String(alarm)) if alarm.len() > ALARM_BYTES_MAX => {
                return Err(fault("alarm", FixFault::TooLong));
            }
            Some(Value::String(alarm)) => (!alarm.is_empty()).then(|| alarm.clone()),
            Some(_) => return Err(fault("alarm", FixFault::Malformed)),
        },
        attrs: match object.get("attrs") {
            None | Some(Value::Null) => None,
            Some(attrs @ Value::Object(_)) => {
                let attrs = attrs.to_string();
                if attrs.len() > ATTRS_BYTES_MAX {
                    return Err(fault("attrs", FixFault::TooLong));
                }
                Some(attrs)
            }
            Some(_) => return Err(fault("attrs", FixFault::Malformed)),
        },
    })
}

/// <https://owntracks.org/booklet/tech/json/>: `tst` in seconds, `vel` in km/h. Its apps write -1 for an unknown course or speed.
fn own_tracks(object: &Map<String, Value>) -> Result<Fix, FixError> {
    let known = |value: Option<f64>| value.filter(|value| *value >= 0.0);
    let fix = Fix::new(timestamp(object, "tst")?, place(object)?);
    Ok(Fix {
        speed_mps: known(number(object, "vel", -1.0, 360_000.0)?).map(|kmh| kmh / 3.6),
        course_deg: known(number(object, "cog", -1.0, 360.0)?),
        accuracy_m: number(object, "acc", 0.0, 1e8)?,
        alt_m: number(object, "alt", -20_000.0, 1e8)?,
        battery_pct: known(number(object, "batt", -1.0, 100.0)?),
        ..fix
    })
}

/// A Feature whose geometry is a Point, `[lon, lat]` or `[lon, lat, alt]`; the rest is in `properties` under our names.
fn feature(object: &Map<String, Value>) -> Result<Fix, FixError> {
    let Some(Value::Object(geometry)) = object.get("geometry") else {
        return Err(fault("geometry", FixFault::Malformed));
    };
    if geometry.get("type").is_none_or(|kind| kind != "Point") {
        return Err(fault("geometry", FixFault::Malformed));
    }
    let Some(Value::Array(position)) = geometry.get("coordinates") else {
        return Err(fault("coordinates", FixFault::Malformed));
    };
    let axis = |index: usize| position.get(index).and_then(Value::as_f64);
    let (Some(lon), Some(lat)) = (axis(0), axis(1)) else {
        return Err(fault("coordinates", FixFault::Malformed));
    };
    let at =
        Coordinate::from_degrees(lat, lon).ok_or(fault("coordinates", FixFault::OutOfRange))?;
    let Some(Value::Object(properties)) = object.get("properties") else {
        return Err(fault("properties", FixFault::Malformed));
    };
    let fix = plain(properties, at)?;
    Ok(Fix {
        alt_m: fix.alt_m.or(axis(2)),
        ..fix
    })
}

fn place(object: &Map<String, Value>) -> Result<Coordinate, FixError> {
    let required =
        |field, max: f64| number(object, field, -max, max)?.ok_or(fault(field, FixFault::Missing));
    let (lat, lon) = (required("lat", 90.0)?, required("lon", 180.0)?);
    Coordinate::from_degrees(lat, lon).ok_or(fault("lat", FixFault::OutOfRange))
}

fn number(
    object: &Map<String, Value>,
    field: &'static str,
    min: f64,
    max: f64,
) -> Result<Option<f64>, FixError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(fault(field, FixFault::OutOfRange)),
        },
        Some(_) => Err(fault(field, FixFault::Malformed)),
    }
}

fn timestamp(object: &Map<String, Value>, field: &'static str) -> Result<i64, FixError> {
    let ts_ms = match object.get(field) {
        None | Some(Value::Null) => return Err(fault(field, FixFault::Missing)),
        Some(Value::String(text)) => {
            parse_rfc3339_ms(text).ok_or(fault(field, FixFault::Malformed))?
        }
        Some(Value::Number(number)) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let ms = if number < SECONDS_BELOW {
                libm::round(number * 1_000.0)
            } else {
                libm::round(number)
            };
            if !(0.0..TS_MS_MAX as f64).contains(&ms) {
                return Err(fault(field, FixFault::OutOfRange));
            }
            ms as i64
        }
        Some(_) => return Err(fault(field, FixFault::Malformed)),
    };
    if (0..TS_MS_MAX).contains(&ts_ms) {
        Ok(ts_ms)
    } else {
        Err(fault(field, FixFault::OutOfRange))
    }
}

fn fault(field: &'static str, fault: FixFault) -> FixError {
    FixError { field, fault }
}

#[cfg(test)]
mod tests;
