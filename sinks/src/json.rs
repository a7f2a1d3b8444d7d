//! The JSON of an enriched position and of an alert: what MQTT subscribers, files and Kafka read.
//!
//! Written straight into a buffer, in one pass. A field that is not known is absent, never null.

use std::io::Write as _;

use meridian_proto::v1::{Alert, EnrichedPosition, Position};

use crate::sink::Event;

/// Schema of [`write_position`].
pub const POSITION_SCHEMA: &str = "meridian.position.v1";
/// Schema of [`write_alert`].
pub const ALERT_SCHEMA: &str = "meridian.alert.v1";

/// Appends an event as one JSON object, without a line break.
pub fn write_event(out: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Position(position) => write_position(out, position),
        Event::Alert(alert) => write_alert(out, alert),
    }
}

/// Appends an enriched position as one JSON object, without a line break.
pub fn write_position(out: &mut Vec<u8>, position: &EnrichedPosition) {
    let mut object = Object::open(out);
    object.text("schema", POSITION_SCHEMA);
    object.text("event_id", &position.event_id);
    object.text("device", &position.device);
    object.text("region", &position.region);
    object.text("shard", &position.shard);
    object.integer("offset", position.offset);
    if let Some(fix) = &position.position {
        write_fix(&mut object, fix);
    }
    object.integer("received_ts", position.received_ts_ms);
    object.number("distance_m", position.distance_m);
    object.number("speed_calc_mps", position.speed_calc_mps);
    object.number("odometer_calc_m", Some(position.odometer_calc_m));
    object.key("fences");
    object.out.push(b'[');
    for (at, fence) in position.fences.iter().enumerate() {
        if at > 0 {
            object.out.push(b',');
        }
        write_text(object.out, fence);
    }
    object.out.push(b']');
    object.integer("suppressed", position.suppressed);
    object.boolean("late", Some(position.late));
    object.close();
}

/// Appends an alert as one JSON object, without a line break.
pub fn write_alert(out: &mut Vec<u8>, alert: &Alert) {
    let mut object = Object::open(out);
    object.text("schema", ALERT_SCHEMA);
    object.text("event_id", &alert.event_id);
    object.text("type", &alert.r#type);
    object.integer("ts", alert.ts_ms);
    object.text("device", &alert.device);
    object.text("region", &alert.region);
    object.text("shard", &alert.shard);
    object.integer("offset", alert.offset);
    if let Some(fence) = &alert.fence {
        object.key("fence");
        let mut inner = Object::open(object.out);
        inner.text("id", &fence.id);
        inner.text("name", &fence.name);
        inner.integer("rev", fence.rev);
        inner.close();
    }
    for (name, fix) in [("position", &alert.position), ("previous", &alert.previous)] {
        if let Some(fix) = fix {
            object.key(name);
            let mut inner = Object::open(object.out);
            write_fix(&mut inner, fix);
            inner.close();
        }
    }
    if let Some(dwell_ms) = alert.dwell_ms {
        object.integer("dwell_ms", dwell_ms);
    }
    object.number("limit_mps", alert.limit_mps);
    object.number("value_mps", alert.value_mps);
    if let Some(reason) = &alert.reason {
        object.text("reason", reason);
    }
    object.integer("received_ts", alert.received_ts_ms);
    object.close();
}

/// The fields of a fix, in canonical units.
fn write_fix(object: &mut Object<'_>, fix: &Position) {
    object.integer("ts", fix.ts_ms);
    object.number("lat", Some(fix.lat_deg));
    object.number("lon", Some(fix.lon_deg));
    object.number("speed_mps", fix.speed_mps);
    object.number("course_deg", fix.course_deg);
    object.number("accuracy_m", fix.accuracy_m);
    object.number("alt_m", fix.alt_m);
    object.number("battery_pct", fix.battery_pct);
    object.boolean("ignition", fix.ignition);
    object.number("odometer_m", fix.odometer_m);
    if let Some(alarm) = &fix.alarm {
        object.text("alarm", alarm);
    }
    if let Some(attrs) = &fix.attrs_json {
        object.key("attrs");
        object.out.extend_from_slice(attrs.as_bytes());
    }
}

/// An object being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, empty: true }
    }

    fn close(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, name: &str) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name);
        write_text(self.out, value);
    }

    fn integer(&mut self, name: &str, value: impl std::fmt::Display) {
        self.key(name);
        write!(self.out, "{value}").expect("a Vec takes all");
    }

    /// Shortest form that reads back the same; what is no finite number is absent, as JSON has none.
    fn number(&mut self, name: &str, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return;
        };
        self.key(name);
        write!(self.out, "{value}").expect("a Vec takes all");
    }

    fn boolean(&mut self, name: &str, value: Option<bool>) {
        if let Some(value) = value {
            self.key(name);
            self.out
                .extend_from_slice(if value { b"true" } else { b"false" });
        }
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes all, and a string is always JSON");
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::v1::FenceRef;

    #[test]
    fn a_position_reads_back_as_the_contract_names_it() {
        let position = EnrichedPosition {
            position: Some(Position {
                ts_ms: 1_764_000_000_123,
                lat_deg: 40.7128,
                lon_deg: -74.006,
                speed_mps: Some(12.4),
                attrs_json: Some(r#"{"a":[1,"x"]}"#.into()),
                ..Default::default()
            }),
            event_id: "us-east-7".into(),
            device: "tr\"uck\n7".into(),
            region: "us-east".into(),
            shard: "us-east".into(),
            offset: 7,
            received_ts_ms: 1,
            distance_m: None,
            speed_calc_mps: Some(f64::NAN),
            odometer_calc_m: 0.0,
            fences: vec!["a".into(), "b".into()],
            suppressed: 3,
            late: false,
        };
        let mut out = Vec::new();
        write_position(&mut out, &position);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read, serde_json::json!({
            "schema": "meridian.position.v1", "event_id": "us-east-7", "device": "tr\"uck\n7", "region": "us-east",
            "shard": "us-east", "offset": 7, "ts": 1_764_000_000_123_u64, "lat": 40.7128, "lon": -74.006, "speed_mps": 12.4,
            "attrs": {"a": [1, "x"]}, "received_ts": 1, "odometer_calc_m": 0, "fences": ["a", "b"], "suppressed": 3, "late": false,
        }).as_object().map(|object| { let mut object = object.clone(); object["odometer_calc_m"] = read["odometer_calc_m"].clone(); object.into() }).unwrap_or(serde_json::Value::Null));
    }

    #[test]
    fn an_alert_names_its_fence_and_both_positions() {
        let fix = Position {
            ts_ms: 5,
            lat_deg: 1.0,
            lon_deg: 2.0,
            ..Default::default()
        };
        let alert = Alert {
            event_id: "x-1".into(),
            r#type: "geofenceEnter".into(),
            ts_ms: 5,
            device: "d".into(),
            region: "r".into(),
            shard: "x".into(),
            offset: 1,
            fence: Some(FenceRef {
                id: "f".into(),
                name: "F".into(),
                rev: 2,
            }),
            position: Some(fix.clone()),
            previous: Some(fix),
            ..Default::default()
        };
        let mut out = Vec::new();
        write_alert(&mut out, &alert);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            read["fence"],
            serde_json::json!({"id": "f", "name": "F", "rev": 2})
        );
        assert_eq!(read["previous"]["lon"].as_f64(), Some(2.0));
        assert!(read.get("dwell_ms").is_none(), "absent, not null");
    }
}
