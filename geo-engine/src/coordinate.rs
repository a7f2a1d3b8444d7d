//! A place on the earth, in integers.
//!
//! Everything else in this crate takes a [`Coordinate`], so bounds are checked once, here. One unit is 1e-7 degree
//! (11 mm at the equator): every machine then agrees whether a point lies inside an area.

/// Units of a degree.
pub const UNITS_PER_DEGREE: i32 = 10_000_000;

const LAT_MAX: i32 = 90 * UNITS_PER_DEGREE;
const LON_MAX: i32 = 180 * UNITS_PER_DEGREE;

/// A latitude and a longitude on WGS 84, in 1e-7 degree.
///
/// Longitudes 180 and -180 are kept as they came; geometry treats them as one meridian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinate {
    lat_e7: i32,
    lon_e7: i32,
}

impl Coordinate {
    /// From units of 1e-7 degree; `None` outside latitude ±90 or longitude ±180.
    #[must_use]
    pub fn from_e7(lat_e7: i32, lon_e7: i32) -> Option<Self> {
        let valid =
            (-LAT_MAX..=LAT_MAX).contains(&lat_e7) && (-LON_MAX..=LON_MAX).contains(&lon_e7);
        valid.then_some(Coordinate { lat_e7, lon_e7 })
    }

    /// From degrees, rounded to the nearest unit; `None` for NaN, infinities, and what is out of range before rounding.
    #[must_use]
    pub fn from_degrees(lat_deg: f64, lon_deg: f64) -> Option<Self> {
        let valid = (-90.0..=90.0).contains(&lat_deg) && (-180.0..=180.0).contains(&lon_deg);
        if !valid {
            return None;
        }
        let units = |degrees: f64| libm::round(degrees * f64::from(UNITS_PER_DEGREE)) as i32;
        Coordinate::from_e7(units(lat_deg), units(lon_deg))
    }

    /// Latitude, 1e-7 degree.
    #[must_use]
    pub fn lat_e7(self) -> i32 {
        self.lat_e7
    }

    /// Longitude, 1e-7 degree.
    #[must_use]
    pub fn lon_e7(self) -> i32 {
        self.lon_e7
    }

    /// Latitude, degrees north.
    #[must_use]
    pub fn lat_deg(self) -> f64 {
        f64::from(self.lat_e7) / f64::from(UNITS_PER_DEGREE)
    }

    /// Longitude, degrees east.
    #[must_use]
    pub fn lon_deg(self) -> f64 {
        f64::from(self.lon_e7) / f64::from(UNITS_PER_DEGREE)
    }

    /// The other name of a point on the antimeridian; `None` off it.
    #[must_use]
    pub fn across_antimeridian(self) -> Option<Self> {
        (self.lon_e7.abs() == LON_MAX).then_some(Coordinate {
            lat_e7: self.lat_e7,
            lon_e7: -self.lon_e7,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_place_is_refused() {
        for (lat, lon) in [
            (f64::NAN, 0.0),
            (0.0, f64::INFINITY),
            (90.000_000_01, 0.0),
            (0.0, -180.1),
        ] {
            assert_eq!(Coordinate::from_degrees(lat, lon), None, "{lat} {lon}");
        }
        assert_eq!(Coordinate::from_e7(LAT_MAX + 1, 0), None);
        assert_eq!(Coordinate::from_e7(i32::MIN, i32::MIN), None);
    }

    #[test]
    fn six_decimals_survive() {
        let place = Coordinate::from_degrees(-33.856_784, 151.215_297).expect("a place");
        assert_eq!(
            (place.lat_e7(), place.lon_e7()),
            (-338_567_840, 1_512_152_970)
        );
        assert_eq!(
            (place.lat_deg(), place.lon_deg()),
            (-33.856_784, 151.215_297)
        );
    }

    #[test]
    fn the_antimeridian_has_two_names() {
        let east = Coordinate::from_degrees(10.0, 180.0).expect("a place");
        assert_eq!(
            east.across_antimeridian(),
            Coordinate::from_degrees(10.0, -180.0)
        );
        assert_eq!(
            Coordinate::from_degrees(10.0, 179.9).and_then(Coordinate::across_antimeridian),
            None
        );
    }
}
