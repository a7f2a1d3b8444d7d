//! Between the values of the parts and the records of the log.

use bytes::Bytes;
use meridian_geo_engine::{Coordinate, Fix, Suppressed};
use meridian_mqtt::packet::{MessageProperties, PublishProperties};
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::TopicName;
use meridian_proto::v1;

use crate::log;

/// A fix as it stands in the log.
#[must_use]
pub fn fix_to_log(fix: &Fix) -> log::Fix {
    log::Fix {
        ts_ms: fix.ts_ms,
        lat_e7: fix.at.lat_e7(),
        lon_e7: fix.at.lon_e7(),
        speed_mps: fix.speed_mps,
        course_deg: fix.course_deg,
        accuracy_m: fix.accuracy_m,
        alt_m: fix.alt_m,
        battery_pct: fix.battery_pct,
        ignition: fix.ignition,
        odometer_m: fix.odometer_m,
        alarm: fix.alarm.clone(),
        attrs_json: fix.attrs.clone(),
    }
}

/// A fix from the log; `None` if its coordinate is out of range, which what was admitted never is.
#[must_use]
pub fn fix_from_log(fix: &log::Fix) -> Option<Fix> {
    Some(Fix {
        ts_ms: fix.ts_ms,
        at: Coordinate::from_e7(fix.lat_e7, fix.lon_e7)?,
        speed_mps: fix.speed_mps,
        course_deg: fix.course_deg,
        accuracy_m: fix.accuracy_m,
        alt_m: fix.alt_m,
        battery_pct: fix.battery_pct,
        ignition: fix.ignition,
        odometer_m: fix.odometer_m,
        alarm: fix.alarm.clone(),
        attrs: fix.attrs_json.clone(),
    })
}

/// A fix as consumers read it.
#[must_use]
pub fn position_from_fix(fix: &Fix) -> v1::Position {
    v1::Position {
        ts_ms: fix.ts_ms,
        lat_deg: fix.at.lat_deg(),
        lon_deg: fix.at.lon_deg(),
        speed_mps: fix.speed_mps,
        course_deg: fix.course_deg,
        accuracy_m: fix.accuracy_m,
        alt_m: fix.alt_m,
        battery_pct: fix.battery_pct,
        ignition: fix.ignition,
        odometer_m: fix.odometer_m,
        alarm: fix.alarm.clone(),
        attrs_json: fix.attrs.clone(),
    }
}

/// The MQTT properties of a message from the log. Texts that are none cannot have been admitted, and are left out.
#[must_use]
pub fn properties_from_message(message: &log::Message) -> PublishProperties {
    let text = |text: &String| Text::new(Bytes::copy_from_slice(text.as_bytes())).ok();
    let properties = MessageProperties {
        payload_is_utf8: message.payload_is_utf8,
        message_expiry_s: message.message_expiry_s,
        content_type: message.content_type.as_ref().and_then(text),
        response_topic: message
            .response_topic
            .as_ref()
            .and_then(text)
            .and_then(|text| TopicName::new(text).ok()),
        correlation_data: message.correlation_data.clone(),
        user: message
            .user
            .iter()
            .filter_map(|pair| Some((text(&pair.name)?, text(&pair.value)?)))
            .collect(),
    };
    PublishProperties((properties != MessageProperties::default()).then(|| Box::new(properties)))
}

pub(crate) fn suppressed_to_log(suppressed: &Suppressed) -> log::Suppressed {
    log::Suppressed {
        count: suppressed.count,
        last: Some(fix_to_log(&suppressed.last)),
        distance_m: suppressed.distance_m,
    }
}

pub(crate) fn suppressed_from_log(suppressed: &log::Suppressed) -> Option<Suppressed> {
    Some(Suppressed {
        count: suppressed.count,
        last: fix_from_log(suppressed.last.as_ref()?)?,
        distance_m: suppressed.distance_m,
    })
}
