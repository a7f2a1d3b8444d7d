//! Areas along a line.

use crate::coordinate::Coordinate;
use crate::distance::to_line_m;

/// All places within a distance of one straight piece of a line, round ends included. A corridor is some of these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// The beginning.
    pub from: Coordinate,
    /// The end.
    pub to: Coordinate,
    /// Metres over the surface, to either side.
    pub buffer_m: f64,
}

impl Stretch {
    /// Whether `at` is inside or on the boundary.
    #[must_use]
    pub fn contains(&self, at: Coordinate) -> bool {
        self.outside_m(at) <= 0.0
    }

    /// Distance to the boundary, metres: negative inside.
    pub(crate) fn outside_m(&self, at: Coordinate) -> f64 {
        to_line_m(at, self.from, self.to) - self.buffer_m
    }
}
