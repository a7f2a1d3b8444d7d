//! Great-circle distance, and distances to lines: the only trigonometry of the crate.
//!
//! `libm` gives the same bits on every machine, where the platform's `sin` need not.

use crate::coordinate::{Coordinate, UNITS_PER_DEGREE};

/// The mean radius of the earth, metres. On a sphere of this size no distance is off by more than 0.56 %.
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// Radians in a unit of [`Coordinate`].
pub(crate) const RADIANS_PER_UNIT: f64 = std::f64::consts::PI / (180.0 * UNITS_PER_DEGREE as f64);

/// Metres of a unit of latitude.
pub(crate) const METERS_PER_UNIT: f64 = EARTH_RADIUS_M * RADIANS_PER_UNIT;

/// Units in a full turn.
pub(crate) const TURN_UNITS: f64 = 360.0 * UNITS_PER_DEGREE as f64;

/// Distance over the surface, metres (haversine).
#[must_use]
pub fn distance_m(a: Coordinate, b: Coordinate) -> f64 {
    if a == b {
        return 0.0;
    }
    haversine_m(
        f64::from(a.lat_e7()),
        f64::from(a.lon_e7()),
        f64::from(b.lat_e7()),
        f64::from(b.lon_e7()),
    )
}

/// As [`distance_m`], for points between the units; longitudes may lie beyond ±180.
pub(crate) fn haversine_m(a_lat: f64, a_lon: f64, b_lat: f64, b_lon: f64) -> f64 {
    let sin_half = |units: f64| libm::sin(units * RADIANS_PER_UNIT * 0.5);
    let (lat, lon) = (sin_half(b_lat - a_lat), sin_half(b_lon - a_lon));
    let cosines = libm::cos(a_lat * RADIANS_PER_UNIT) * libm::cos(b_lat * RADIANS_PER_UNIT);
    let square = (lat * lat + cosines * lon * lon).min(1.0);
    2.0 * EARTH_RADIUS_M * libm::asin(libm::sqrt(square))
}

/// A point's surroundings, flattened so that no flat distance is longer than the true one.
///
/// Between two parallels the metric is `dφ² + cos²φ dλ²`. With the least cosine of the band within `reach_m` of the
/// point, a flat distance below `reach_m` is a lower bound of the great circle's, and exact in the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    pub(crate) lat: f64,
    pub(crate) lon: f64,
    /// Half the height of the band, units.
    pub(crate) lat_reach: f64,
    /// Half the width, units; a full turn at the poles.
    pub(crate) lon_reach: f64,
    lon_scale: f64,
}

impl Surroundings {
    pub(crate) fn new(at: Coordinate, reach_m: f64) -> Self {
        let lat = f64::from(at.lat_e7());
        let lat_reach = reach_m / METERS_PER_UNIT + 1.0;
        let farthest = (lat.abs() + lat_reach) * RADIANS_PER_UNIT;
        let lon_scale = if farthest >= std::f64::consts::FRAC_PI_2 {
            0.0
        } else {
            libm::cos(farthest).max(0.0)
        };
        let lon_reach = if lon_scale * TURN_UNITS <= lat_reach {
            TURN_UNITS
        } else {
            (lat_reach / lon_scale).min(TURN_UNITS)
        };
        Surroundings {
            lat,
            lon: f64::from(at.lon_e7()),
            lat_reach,
            lon_reach,
            lon_scale,
        }
    }

    /// A lower bound of the distance to the line from `a` to `b`, straight in longitude and latitude; metres. Beyond
    /// the reach it only says "beyond".
    pub(crate) fn segment_distance_m(&self, a: (f64, f64), b: (f64, f64)) -> f64 {
        let mut least = f64::INFINITY;
        for turn in [0.0, -TURN_UNITS, TURN_UNITS] {
            let lon = self.lon + turn;
            let (west, east) = (a.1.min(b.1), a.1.max(b.1));
            if lon + self.lon_reach < west || lon - self.lon_reach > east {
                continue;
            }
            least = least.min(self.flat_m((a.0, a.1 - lon), (b.0, b.1 - lon)));
        }
        least
    }

    fn flat_m(&self, a: (f64, f64), b: (f64, f64)) -> f64 {
        let (ay, ax) = (a.0 - self.lat, a.1 * self.lon_scale);
        let (by, bx) = (b.0 - self.lat, b.1 * self.lon_scale);
        let (dy, dx) = (by - ay, bx - ax);
        let length = dx * dx + dy * dy;
        let along = if length > 0.0 {
            (-(ax * dx + ay * dy) / length).clamp(0.0, 1.0)
        } else {
            0.0
        };
        let (y, x) = (ay + along * dy, ax + along * dx);
        libm::sqrt(x * x + y * y) * METERS_PER_UNIT
    }
}

/// Distance over the surface from `at` to the nearest point of a line that is straight in longitude and latitude, metres.
///
/// The line is cut into pieces of at most a degree, on each of which the distance has one minimum; golden-section
/// search finds it to a few centimetres along the line, which is far less across it.
pub(crate) fn to_line_m(at: Coordinate, a: Coordinate, b: Coordinate) -> f64 {
    const STEPS: usize = 32;
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let (lat, lon) = (f64::from(at.lat_e7()), f64::from(at.lon_e7()));
    let (a, b) = (
        (f64::from(a.lat_e7()), f64::from(a.lon_e7())),
        (f64::from(b.lat_e7()), f64::from(b.lon_e7())),
    );
    let distance = |along: f64| {
        haversine_m(
            lat,
            lon,
            a.0 + along * (b.0 - a.0),
            a.1 + along * (b.1 - a.1),
        )
    };
    let extent = (b.0 - a.0).abs().max((b.1 - a.1).abs());
    let pieces = libm::ceil(extent / f64::from(UNITS_PER_DEGREE)).max(1.0);
    let mut least = distance(0.0).min(distance(1.0));
    for piece in 0..pieces as u32 {
        let (mut low, mut high) = (f64::from(piece) / pieces, f64::from(piece + 1) / pieces);
        // No point of a piece is nearer than its middle, less half of what the piece measures at most.
        let half_m = (extent + extent) / pieces * METERS_PER_UNIT * 0.5;
        if distance((low + high) * 0.5) - half_m > least {
            continue;
        }
        let (mut left, mut right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        let (mut at_left, mut at_right) = (distance(left), distance(right));
        for _ in 0..STEPS {
            if at_left < at_right {
                (high, right, at_right) = (right, left, at_left);
                left = high - GOLDEN * (high - low);
                at_left = distance(left);
            } else {
                (low, left, at_left) = (left, right, at_right);
                right = low + GOLDEN * (high - low);
                at_right = distance(right);
            }
        }
        least = least.min(at_left).min(at_right);
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lat: f64, lon: f64) -> Coordinate {
        Coordinate::from_degrees(lat, lon).expect("a place")
    }

    #[test]
    fn paris_to_new_york() {
        let distance = distance_m(place(48.8566, 2.3522), place(40.7128, -74.006));
        assert!((distance - 5_837_240.0).abs() < 5_000.0, "{distance}");
    }

    #[test]
    fn over_the_antimeridian_and_the_pole_is_near() {
        assert!(distance_m(place(0.0, 179.999_9), place(0.0, -179.999_9)) < 23.0);
        assert!(distance_m(place(89.999_9, 0.0), place(89.999_9, 180.0)) < 23.0);
        assert!(
            (distance_m(place(90.0, 0.0), place(-90.0, 50.0))
                - std::f64::consts::PI * EARTH_RADIUS_M)
                .abs()
                < 1.0
        );
    }

    #[test]
    fn the_flat_distance_is_a_close_lower_bound() {
        for lat in [-89.99, -60.0, 0.0, 30.25, 70.0, 89.0] {
            for (dlat, dlon) in [(0.000_5, 0.0), (0.0, 0.000_7), (-0.000_3, 0.000_9)] {
                let (from, to) = (
                    place(lat, 179.999_8),
                    place(
                        lat + dlat,
                        if dlon > 0.0 { -180.0 + dlon } else { 179.999_8 },
                    ),
                );
                let around = Surroundings::new(from, 2_000.0);
                let end = (f64::from(to.lat_e7()), f64::from(to.lon_e7()));
                let (flat, exact) = (around.segment_distance_m(end, end), distance_m(from, to));
                assert!(flat <= exact + 1e-6, "{lat}: {flat} > {exact}");
                if lat.abs() < 80.0 {
                    assert!(flat > exact * 0.99, "{lat}: {flat} < {exact}");
                }
            }
        }
    }

    #[test]
    fn a_line_is_as_near_as_its_nearest_sample() {
        let (a, b) = (place(59.0, 10.0), place(61.5, 14.0));
        let at = place(60.4, 11.0);
        let sampled = (0..=100_000u32)
            .map(|step| f64::from(step) / 100_000.0)
            .map(|along| distance_m(at, place(59.0 + 2.5 * along, 10.0 + 4.0 * along)))
            .fold(f64::INFINITY, f64::min);
        assert!((to_line_m(at, a, b) - sampled).abs() < 0.01);
    }
}
