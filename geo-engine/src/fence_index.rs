//! From a place to the few fences that could matter there.
//!
//! `fix ─► **fence index** ─► visits`. Immutable: one index for one version of the fences, shared by the shards of a
//! node. An R-tree holds the boxes of all parts (polygons of a multipolygon, stretches of a corridor), so a point
//! costs the same among 100 fences and among 100,000.

use std::sync::Arc;

use rstar::{RTree, RTreeObject};

use crate::bounds::{self, Bounds};
use crate::coordinate::Coordinate;
use crate::distance::Surroundings;
use crate::fence::Fence;

/// The most fences that one place can be inside of; the first by id count.
pub const FENCES_PER_PLACE_MAX: usize = 256;

/// Beyond this many parts near a place no safe radius is computed there: each fix is evaluated.
const PARTS_NEAR_MAX: usize = 1_024;

/// Above this latitude flat distances vary too much for hysteresis to have a safe radius, 1e-7 degree.
const HYSTERESIS_LAT_MAX: i32 = 850_000_000;

/// Kept off from a safe radius, metres: more than all rounding of distances.
const MARGIN_M: f64 = 0.05;

/// All fences of one version.
#[derive(Debug, Default)]
pub struct FenceIndex {
    /// By id.
    fences: Vec<Arc<Fence>>,
    parts: RTree<PartBox>,
    has_speed_limits: bool,
}

#[derive(Debug)]
struct PartBox {
    bounds: Bounds,
    fence: u32,
    part: u32,
}

impl RTreeObject for PartBox {
    type Envelope = Bounds;

    fn envelope(&self) -> Bounds {
        self.bounds
    }
}

/// The fences around a place.
#[derive(Debug, Default)]
pub struct Containing<'a> {
    /// At most [`FENCES_PER_PLACE_MAX`], by id.
    pub fences: Vec<&'a Arc<Fence>>,
    /// Fences that were not looked at because of that limit.
    pub omitted: usize,
}

impl FenceIndex {
    /// Indexes fences. Of two with the same id the later one counts.
    #[must_use]
    pub fn new(mut fences: Vec<Arc<Fence>>) -> Self {
        fences.reverse();
        fences.sort_by(|a, b| a.id.cmp(&b.id));
        fences.dedup_by(|a, b| a.id == b.id);
        let mut boxes = Vec::new();
        for (fence, index) in fences.iter().zip(0u32..) {
            for (part, number) in fence.parts.iter().zip(0u32..) {
                let bounds = part.bounds(fence.hysteresis_m);
                boxes.extend(bounds.map(|bounds| PartBox {
                    bounds,
                    fence: index,
                    part: number,
                }));
            }
        }
        let has_speed_limits = fences.iter().any(|fence| fence.speed_limit_mps.is_some());
        FenceIndex {
            fences,
            parts: RTree::bulk_load(boxes),
            has_speed_limits,
        }
    }

    /// How many fences there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fences.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }

    /// The fence `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Fence>> {
        let place = self
            .fences
            .binary_search_by(|fence| (*fence.id).cmp(id))
            .ok()?;
        self.fences.get(place)
    }

    /// All fences, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Fence>> {
        self.fences.iter()
    }

    /// All fences that `at` is inside of, or on the boundary of.
    #[must_use]
    pub fn containing(&self, at: Coordinate) -> Containing<'_> {
        self.containing_where(at, |_| true)
    }

    /// As [`FenceIndex::containing`], among the fences that pass `concerns`.
    pub fn containing_where(
        &self,
        at: Coordinate,
        concerns: impl Fn(&Fence) -> bool,
    ) -> Containing<'_> {
        let mut near: Vec<(u32, u32)> = Vec::new();
        for name in [Some(at), at.across_antimeridian()].into_iter().flatten() {
            let found = self
                .parts
                .locate_in_envelope_intersecting(&bounds::of_point(name));
            near.extend(found.map(|part| (part.fence, part.part)));
        }
        near.sort_unstable();
        near.dedup();
        let mut containing = Containing::default();
        for group in near.chunk_by(|a, b| a.0 == b.0) {
            let Some(fence) = self.fences.get(group[0].0 as usize) else {
                continue;
            };
            if containing.fences.len() == FENCES_PER_PLACE_MAX {
                containing.omitted += 1;
            } else if concerns(fence)
                && group
                    .iter()
                    .any(|(_, part)| fence.parts[*part as usize].contains(at))
            {
                containing.fences.push(fence);
            }
        }
        containing
    }

    /// How far one can go from `at` in any direction without any fence's answer changing: a lower bound, at most `max_m`
    /// metres.
    #[must_use]
    pub fn safe_radius_m(&self, at: Coordinate, max_m: f64) -> f64 {
        self.safe_radius_where(at, max_m, |_| true)
    }

    /// As [`FenceIndex::safe_radius_m`], among the fences that pass `concerns`.
    pub fn safe_radius_where(
        &self,
        at: Coordinate,
        max_m: f64,
        concerns: impl Fn(&Fence) -> bool,
    ) -> f64 {
        // A pole is one place with all longitudes, and areas are tested as drawn: nobody crosses it unseen.
        let to_pole_m = (90.0 - at.lat_deg().abs()) * 111_000.0;
        let mut safe_m = max_m.min(to_pole_m - MARGIN_M);
        let mut near: Vec<(u32, u32)> = Vec::new();
        for bounds in bounds::around(at, at, max_m) {
            for part in self.parts.locate_in_envelope_intersecting(&bounds) {
                near.push((part.fence, part.part));
                if near.len() > PARTS_NEAR_MAX {
                    return 0.0;
                }
            }
        }
        near.sort_unstable();
        near.dedup();
        let around = Surroundings::new(at, max_m);
        for group in near.chunk_by(|a, b| a.0 == b.0) {
            let Some(fence) = self.fences.get(group[0].0 as usize) else {
                continue;
            };
            if !concerns(fence) {
                continue;
            }
            let outside_m = |around: &Surroundings| {
                let parts = group
                    .iter()
                    .map(|(_, part)| fence.parts[*part as usize].outside_m(at, around));
                parts.fold(f64::INFINITY, f64::min)
            };
            if fence.hysteresis_m == 0.0 {
                safe_m = safe_m.min(outside_m(&around).abs() - MARGIN_M);
            } else if at.lat_e7().abs() > HYSTERESIS_LAT_MAX {
                return 0.0;
            } else {
                let outside_m = outside_m(&Surroundings::new(at, max_m + fence.hysteresis_m));
                let to_exit_m = (outside_m - fence.hysteresis_m).abs() * 0.98;
                safe_m = safe_m
                    .min(outside_m.abs().min(to_exit_m) - 0.02 * fence.hysteresis_m - MARGIN_M);
            }
        }
        safe_m.max(0.0)
    }

    /// Whether any fence limits speed.
    pub(crate) fn has_speed_limits(&self) -> bool {
        self.has_speed_limits
    }
}
