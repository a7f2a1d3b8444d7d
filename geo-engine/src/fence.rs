//! A named area, whom it concerns, and what about it is worth an alert.

use std::sync::Arc;

use crate::bounds::{self, Bounds};
use crate::circle::Circle;
use crate::coordinate::Coordinate;
use crate::corridor::Stretch;
use crate::distance::Surroundings;
use crate::glob;
use crate::polygon::Polygon;

/// One version of a fence. [`Fence::from_geojson`] is the way in; what is here was checked there.
#[derive(Debug, Clone)]
pub struct Fence {
    pub(crate) id: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) rev: u64,
    pub(crate) parts: Vec<Part>,
    pub(crate) regions: Vec<String>,
    pub(crate) devices: Vec<String>,
    pub(crate) dwell_ms: Option<i64>,
    pub(crate) min_samples: u32,
    pub(crate) hysteresis_m: f64,
    pub(crate) speed_limit_mps: Option<f64>,
}

/// A fence is the union of its parts.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Polygon(Polygon),
    Circle(Circle),
    Stretch(Stretch),
}

impl Fence {
    /// Its id: a topic level, at most 128 bytes.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name; the id where it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The caller's revision number.
    #[must_use]
    pub fn rev(&self) -> u64 {
        self.rev
    }

    /// How long a visit lasts before it is worth a `geofenceDwell`, milliseconds.
    #[must_use]
    pub fn dwell_ms(&self) -> Option<i64> {
        self.dwell_ms
    }

    /// The speed above which a visitor is told on, metres per second.
    #[must_use]
    pub fn speed_limit_mps(&self) -> Option<f64> {
        self.speed_limit_mps
    }

    /// Whether it concerns a device: its region is named (or none is), and a pattern matches it (or there is none).
    #[must_use]
    pub fn concerns(&self, region: &str, device: &str) -> bool {
        let here = self.regions.is_empty() || self.regions.iter().any(|name| name == region);
        here && (self.devices.is_empty()
            || self
                .devices
                .iter()
                .any(|pattern| glob::matches(pattern, device)))
    }

    /// Whether `at` is inside or on the boundary.
    #[must_use]
    pub fn contains(&self, at: Coordinate) -> bool {
        self.parts.iter().any(|part| part.contains(at))
    }

    /// Whether somebody who was inside has not yet left: inside, or outside by no more than `hysteresis_m`.
    pub(crate) fn holds(&self, at: Coordinate) -> bool {
        if self.contains(at) {
            return true;
        }
        let around = Surroundings::new(at, self.hysteresis_m);
        self.hysteresis_m > 0.0
            && self
                .parts
                .iter()
                .any(|part| part.outside_m(at, &around) <= self.hysteresis_m)
    }

    /// Boxes that together hold it.
    pub(crate) fn bounds(&self) -> impl Iterator<Item = Bounds> {
        self.parts.iter().flat_map(|part| part.bounds(0.0))
    }
}

impl Part {
    pub(crate) fn contains(&self, at: Coordinate) -> bool {
        match self {
            Part::Polygon(polygon) => polygon.contains(at),
            Part::Circle(circle) => circle.contains(at),
            Part::Stretch(stretch) => stretch.contains(at),
        }
    }

    /// Distance to the boundary, metres: negative inside. A polygon's is a lower bound, and infinite (of either sign)
    /// beyond the surroundings' reach.
    pub(crate) fn outside_m(&self, at: Coordinate, around: &Surroundings) -> f64 {
        match self {
            Part::Polygon(polygon) => {
                let distance = polygon.edge_distance_m(around);
                if polygon.contains(at) {
                    -distance
                } else {
                    distance
                }
            }
            Part::Circle(circle) => circle.outside_m(at),
            Part::Stretch(stretch) => stretch.outside_m(at),
        }
    }

    /// The boxes of all places inside or at most `reach_m` outside.
    pub(crate) fn bounds(&self, reach_m: f64) -> impl Iterator<Item = Bounds> {
        let (a, b, reach_m) = match self {
            Part::Polygon(polygon) => {
                let corner = |lat, lon| {
                    Coordinate::from_e7(lat, lon).expect("a polygon's box is on the globe")
                };
                (
                    corner(polygon.lat_min, polygon.lon_min),
                    corner(polygon.top, polygon.lon_max),
                    reach_m,
                )
            }
            Part::Circle(circle) => (circle.center, circle.center, circle.radius_m + reach_m),
            Part::Stretch(stretch) => (stretch.from, stretch.to, stretch.buffer_m + reach_m),
        };
        bounds::around(a, b, reach_m)
    }
}
