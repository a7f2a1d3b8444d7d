//! Areas around a point.

use crate::coordinate::Coordinate;
use crate::distance::distance_m;

/// All places within a distance of a centre, that distance included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circle {
    /// The middle.
    pub center: Coordinate,
    /// Metres over the surface.
    pub radius_m: f64,
}

impl Circle {
    /// Whether `at` is inside or on the boundary.
    #[must_use]
    pub fn contains(&self, at: Coordinate) -> bool {
        self.outside_m(at) <= 0.0
    }

    /// Distance to the boundary, metres: negative inside.
    pub(crate) fn outside_m(&self, at: Coordinate) -> f64 {
        distance_m(self.center, at) - self.radius_m
    }
}
