//! The last position of every device, and who is near a place.
//!
//! Positions lie in an R-tree as points of the unit sphere: there is no antimeridian and no pole there, and the nearer
//! of two chords is the nearer of two great circles. [`PositionCache::update`] takes fixes from the log and fixes that
//! the leader suppressed; an older one never replaces a newer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rstar::primitives::GeomWithData;
use rstar::{AABB, RTree};

use crate::coordinate::{Coordinate, UNITS_PER_DEGREE};
use crate::distance::{EARTH_RADIUS_M, distance_m};
use crate::fence::Fence;
use crate::fix::Fix;

/// A device's last position.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// Which device.
    pub device: String,
    /// Its region.
    pub region: String,
    /// Its last fix.
    pub fix: Fix,
    /// From the place that was asked about, metres.
    pub distance_m: Option<f64>,
}

type Point = GeomWithData<[f64; 3], Arc<str>>;

#[derive(Debug)]
struct Entry {
    region: Box<str>,
    fix: Fix,
}

/// Last positions by device and by place. Results by distance where there is one, then by device.
#[derive(Debug, Default)]
pub struct PositionCache {
    entries: HashMap<Arc<str>, Entry>,
    points: RTree<Point>,
}

impl PositionCache {
    /// Takes a fix, unless a newer one of the device is here.
    pub fn update(&mut self, device: &str, region: &str, fix: &Fix) {
        if self
            .entries
            .get(device)
            .is_none_or(|entry| entry.fix.ts_ms <= fix.ts_ms)
        {
            self.put(device, region, fix);
        }
    }

    /// Takes a fix, whatever is here.
    pub(crate) fn put(&mut self, device: &str, region: &str, fix: &Fix) {
        let point = |device: &Arc<str>, at| GeomWithData::new(unit_vector(at), Arc::clone(device));
        if let Some((device, entry)) = self.entries.get_key_value(device) {
            if entry.fix.at != fix.at {
                let removed = self.points.remove(&point(device, entry.fix.at));
                assert!(removed.is_some(), "each device has one point");
                self.points.insert(point(device, fix.at));
            }
        } else {
            let device: Arc<str> = device.into();
            self.points.insert(point(&device, fix.at));
            self.entries.insert(
                device,
                Entry {
                    region: region.into(),
                    fix: fix.clone(),
                },
            );
            return;
        }
        let entry = self.entries.get_mut(device).expect("found above");
        entry.fix.clone_from(fix);
        if *entry.region != *region {
            entry.region = region.into();
        }
    }

    /// How many devices are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where `device` is.
    #[must_use]
    pub fn get(&self, device: &str) -> Option<Located> {
        self.entries
            .get(device)
            .map(|entry| located(device, entry, None))
    }

    /// The `k` devices nearest to `at`, the nearest first.
    #[must_use]
    pub fn nearest(&self, at: Coordinate, k: usize) -> Vec<Located> {
        let nearest = self.points.nearest_neighbor_iter(&unit_vector(at)).take(k);
        by_distance(nearest.map(|point| self.from(at, &point.data)).collect())
    }

    /// The devices within `radius_m` of `at`, the nearest first.
    #[must_use]
    pub fn within(&self, at: Coordinate, radius_m: f64) -> Vec<Located> {
        let angle = (radius_m / EARTH_RADIUS_M).clamp(0.0, std::f64::consts::PI);
        let chord = 2.0 * libm::sin(angle * 0.5) + 1e-9;
        let near = self
            .points
            .locate_within_distance(unit_vector(at), chord * chord);
        let near = near.map(|point| self.from(at, &point.data));
        by_distance(
            near.filter(|located| {
                located
                    .distance_m
                    .is_some_and(|distance| distance <= radius_m)
            })
            .collect(),
        )
    }

    /// The devices in a box, edges included; with `west > east` it crosses the antimeridian. Degrees.
    #[must_use]
    pub fn in_box(&self, west: f64, south: f64, east: f64, north: f64) -> Vec<Located> {
        let units = |degrees: f64| degrees * f64::from(UNITS_PER_DEGREE);
        let (west_e7, east_e7) = (units(west), units(east));
        let (south_e7, north_e7) = (units(south), units(north));
        let mut found: Vec<Located> = self
            .points
            .locate_in_envelope_intersecting(&box_on_sphere(west, south, east, north))
            .filter_map(|point| {
                let entry = self.entries.get(&point.data)?;
                let at = entry.fix.at;
                let between = |lon: f64| {
                    if west_e7 <= east_e7 {
                        west_e7 <= lon && lon <= east_e7
                    } else {
                        lon >= west_e7 || lon <= east_e7
                    }
                };
                let names = [Some(at), at.across_antimeridian()].into_iter().flatten();
                let inside = (south_e7..=north_e7).contains(&f64::from(at.lat_e7()))
                    && names
                        .into_iter()
                        .any(|name| between(f64::from(name.lon_e7())));
                inside.then(|| located(&point.data, entry, None))
            })
            .collect();
        found.sort_by(|a, b| a.device.cmp(&b.device));
        found
    }

    /// The devices that `fence` concerns and contains.
    #[must_use]
    pub fn in_fence(&self, fence: &Fence) -> Vec<Located> {
        let degrees = |units: f64| units / f64::from(UNITS_PER_DEGREE);
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        for bounds in fence.bounds() {
            let ([west, south], [east, north]) = (bounds.lower(), bounds.upper());
            let sphere =
                box_on_sphere(degrees(west), degrees(south), degrees(east), degrees(north));
            names.extend(
                self.points
                    .locate_in_envelope_intersecting(&sphere)
                    .map(|point| Arc::clone(&point.data)),
            );
        }
        let known = names
            .iter()
            .filter_map(|device| Some((device, self.entries.get(device)?)));
        known
            .filter(|(device, entry)| {
                fence.concerns(&entry.region, device) && fence.contains(entry.fix.at)
            })
            .map(|(device, entry)| located(device, entry, None))
            .collect()
    }

    fn from(&self, at: Coordinate, device: &Arc<str>) -> Located {
        let entry = self.entries.get(device).expect("each point has a device");
        located(device, entry, Some(distance_m(at, entry.fix.at)))
    }
}

fn located(device: &str, entry: &Entry, distance_m: Option<f64>) -> Located {
    Located {
        device: device.to_owned(),
        region: entry.region.to_string(),
        fix: entry.fix.clone(),
        distance_m,
    }
}

fn by_distance(mut found: Vec<Located>) -> Vec<Located> {
    let distance = |located: &Located| located.distance_m.unwrap_or(0.0);
    found.sort_by(|a, b| {
        distance(a)
            .total_cmp(&distance(b))
            .then_with(|| a.device.cmp(&b.device))
    });
    found
}

fn unit_vector(at: Coordinate) -> [f64; 3] {
    let (sin_lat, cos_lat) = libm::sincos(at.lat_deg().to_radians());
    let (sin_lon, cos_lon) = libm::sincos(at.lon_deg().to_radians());
    [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]
}

/// The box in space that holds a box of longitudes and latitudes.
fn box_on_sphere(west: f64, south: f64, east: f64, north: f64) -> AABB<[f64; 3]> {
    const ROUNDING: f64 = 1e-9;
    let east = if west <= east { east } else { east + 360.0 };
    let radians = f64::to_radians;
    // Distance from the axis: least at the parallel nearer to a pole, most at the one nearer to the equator.
    let (a, b) = (libm::cos(radians(south)), libm::cos(radians(north)));
    let near_axis = a.min(b);
    let off_axis = if south <= 0.0 && north >= 0.0 {
        1.0
    } else {
        a.max(b)
    };
    let extent = |turned: f64| {
        // The cosine over the longitudes: its ends, and its extremes where a multiple of 180 degrees lies between.
        let (west, east) = (west - turned, east - turned);
        let (first, second) = (libm::cos(radians(west)), libm::cos(radians(east)));
        let passes = |degrees: f64| libm::ceil((west - degrees) / 360.0) * 360.0 + degrees <= east;
        let low = if passes(180.0) {
            -1.0
        } else {
            first.min(second)
        };
        let high = if passes(0.0) { 1.0 } else { first.max(second) };
        let low = low * if low < 0.0 { off_axis } else { near_axis };
        let high = high * if high > 0.0 { off_axis } else { near_axis };
        (low - ROUNDING, high + ROUNDING)
    };
    let (x, y) = (extent(0.0), extent(90.0));
    let z = (
        libm::sin(radians(south)) - ROUNDING,
        libm::sin(radians(north)) + ROUNDING,
    );
    AABB::from_corners([x.0, y.0, z.0], [x.1, y.1, z.1])
}
