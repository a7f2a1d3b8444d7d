//! Boxes in longitude and latitude that surround something on a sphere, and so may come in two parts.

use rstar::AABB;

use crate::coordinate::{Coordinate, UNITS_PER_DEGREE};
use crate::distance::{METERS_PER_UNIT, RADIANS_PER_UNIT};

/// A box in units of 1e-7 degree, `[lon, lat]`. f64 holds each of them exactly.
pub(crate) type Bounds = AABB<[f64; 2]>;

const LON_MAX: f64 = 180.0 * UNITS_PER_DEGREE as f64;
const LAT_MAX: f64 = 90.0 * UNITS_PER_DEGREE as f64;

/// The boxes of all places within `reach_m` of the box that has `a` and `b` for corners: one, or two at the antimeridian.
pub(crate) fn around(a: Coordinate, b: Coordinate, reach_m: f64) -> impl Iterator<Item = Bounds> {
    let (a_lon, b_lon) = (f64::from(a.lon_e7()), f64::from(b.lon_e7()));
    let (a_lat, b_lat) = (f64::from(a.lat_e7()), f64::from(b.lat_e7()));
    // A little more than asked, for the rounding of what follows.
    let reach = reach_m * 1.000_001 / METERS_PER_UNIT + 2.0;
    let (south, north) = (a_lat.min(b_lat) - reach, a_lat.max(b_lat) + reach);
    let (mut west, mut east) = (a_lon.min(b_lon), a_lon.max(b_lon));
    if south <= -LAT_MAX || north >= LAT_MAX {
        (west, east) = (-LON_MAX, LON_MAX);
    } else {
        // A circle of angle r round a latitude φ reaches asin(sin r / cos φ) to the east.
        let farthest = a_lat.abs().max(b_lat.abs());
        let sine = libm::sin(reach * RADIANS_PER_UNIT) / libm::cos(farthest * RADIANS_PER_UNIT);
        let lon_reach = if sine < 1.0 {
            libm::asin(sine) / RADIANS_PER_UNIT + 2.0
        } else {
            2.0 * LON_MAX
        };
        (west, east) = (west - lon_reach, east + lon_reach);
    }
    let turn = 2.0 * LON_MAX;
    let part = move |west: f64, east: f64| {
        AABB::from_corners([west, south.max(-LAT_MAX)], [east, north.min(LAT_MAX)])
    };
    let parts = if east - west >= turn {
        [Some(part(-LON_MAX, LON_MAX)), None]
    } else if west <= -LON_MAX {
        [Some(part(-LON_MAX, east)), Some(part(west + turn, LON_MAX))]
    } else if east >= LON_MAX {
        [Some(part(west, LON_MAX)), Some(part(-LON_MAX, east - turn))]
    } else {
        [Some(part(west, east)), None]
    };
    parts.into_iter().flatten()
}

/// The box of one point.
pub(crate) fn of_point(at: Coordinate) -> Bounds {
    AABB::from_point([f64::from(at.lon_e7()), f64::from(at.lat_e7())])
}
