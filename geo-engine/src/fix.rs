//! A position at a time, as a device tells it.

use crate::coordinate::Coordinate;

/// What a device says of itself at one instant, in canonical units.
#[derive(Debug, Clone, PartialEq)]
pub struct Fix {
    /// When, epoch milliseconds, by the device's clock.
    pub ts_ms: i64,
    /// Where.
    pub at: Coordinate,
    /// Speed over ground, metres per second, not negative.
    pub speed_mps: Option<f64>,
    /// Course over ground, degrees from north, 0 to 360.
    pub course_deg: Option<f64>,
    /// Radius of the error, metres.
    pub accuracy_m: Option<f64>,
    /// Altitude, metres.
    pub alt_m: Option<f64>,
    /// Charge, 0 to 100.
    pub battery_pct: Option<f64>,
    /// Whether the ignition is on.
    pub ignition: Option<bool>,
    /// The vehicle's own odometer, metres.
    pub odometer_m: Option<f64>,
    /// An alarm that the device raises, such as `sos`.
    pub alarm: Option<String>,
    /// What else it says: the text of a JSON object.
    pub attrs: Option<String>,
}

impl Fix {
    /// A fix of which only time and place are known.
    #[must_use]
    pub fn new(ts_ms: i64, at: Coordinate) -> Self {
        Fix {
            ts_ms,
            at,
            speed_mps: None,
            course_deg: None,
            accuracy_m: None,
            alt_m: None,
            battery_pct: None,
            ignition: None,
            odometer_m: None,
            alarm: None,
            attrs: None,
        }
    }

    /// Whether `other` tells of the same instant and place.
    #[must_use]
    pub fn repeats(&self, other: &Fix) -> bool {
        self.ts_ms == other.ts_ms && self.at == other.at
    }
}
