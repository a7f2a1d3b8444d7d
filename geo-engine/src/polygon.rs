//! Areas inside rings: the exact point-in-polygon test, and the distance to the nearest edge.
//!
//! The edges lie in an interval tree over their latitudes, so that a point meets only those on its own parallel:
//! O(log n) and a few, also in a coastline of 10,000 vertices.

use crate::coordinate::Coordinate;
use crate::distance::Surroundings;
use crate::ring::{Edge, Ring};

/// An outer ring and its holes. The boundary belongs to the area, a hole's too.
#[derive(Debug, Clone)]
pub struct Polygon {
    /// By least latitude: an implicit balanced tree, the middle of each range its root.
    edges: Box<[Edge]>,
    /// By the place of a root: the greatest latitude in its range.
    lat_max: Box<[i32]>,
    pub(crate) lon_min: i32,
    pub(crate) lon_max: i32,
    pub(crate) lat_min: i32,
    pub(crate) top: i32,
}

impl Polygon {
    /// The area inside an odd number of `rings`. There is at least one.
    #[must_use]
    pub fn new(rings: &[Ring]) -> Self {
        assert!(!rings.is_empty(), "a polygon has an outer ring");
        let mut edges: Vec<Edge> = rings
            .iter()
            .flat_map(Ring::edges)
            .filter(|edge| edge.from != edge.to)
            .collect();
        edges.sort_by_key(|edge| {
            (
                edge.lat_min(),
                edge.lat_max(),
                edge.lon_min(),
                edge.lon_max(),
            )
        });
        let mut lat_max = vec![i32::MIN; edges.len()];
        let top = fill(&edges, &mut lat_max);
        let extreme = |of: fn(&Edge) -> i32| edges.iter().map(of);
        Polygon {
            lon_min: extreme(Edge::lon_min).min().unwrap_or(0),
            lon_max: extreme(Edge::lon_max).max().unwrap_or(0),
            lat_min: edges.first().map_or(0, Edge::lat_min),
            top,
            edges: edges.into_boxed_slice(),
            lat_max: lat_max.into_boxed_slice(),
        }
    }

    /// Whether `at` is inside or on the boundary. On the antimeridian either name of the point counts.
    #[must_use]
    pub fn contains(&self, at: Coordinate) -> bool {
        self.covers(at)
            || at
                .across_antimeridian()
                .is_some_and(|other| self.covers(other))
    }

    fn covers(&self, at: Coordinate) -> bool {
        let (lat, lon) = (at.lat_e7(), at.lon_e7());
        if lon < self.lon_min || lon > self.lon_max {
            return false;
        }
        let (mut inside, mut on_edge) = (false, false);
        self.for_each_between(lat, lat, &mut |edge| {
            if lon > edge.lon_max() || on_edge {
                return;
            }
            let straddles = (edge.from.lat_e7() > lat) != (edge.to.lat_e7() > lat);
            if lon < edge.lon_min() {
                inside ^= straddles;
                return;
            }
            let side = edge.side(at);
            if side == 0 {
                // In the edge's line and in its box: on it.
                on_edge = true;
            } else if straddles {
                // East of the point, for an edge going north, is where the point is on its left.
                inside ^= (side > 0) == (edge.to.lat_e7() > edge.from.lat_e7());
            }
        });
        inside || on_edge
    }

    /// A lower bound of the distance to the nearest edge, metres; infinite beyond the surroundings' reach.
    pub(crate) fn edge_distance_m(&self, around: &Surroundings) -> f64 {
        let mut least = f64::INFINITY;
        let (low, high) = (around.lat - around.lat_reach, around.lat + around.lat_reach);
        self.for_each_between(
            libm::floor(low) as i32,
            libm::ceil(high) as i32,
            &mut |edge| {
                let end = |at: Coordinate| (f64::from(at.lat_e7()), f64::from(at.lon_e7()));
                least = least.min(around.segment_distance_m(end(edge.from), end(edge.to)));
            },
        );
        least
    }

    /// Visits the edges that reach into a range of latitudes.
    fn for_each_between(&self, low: i32, high: i32, visit: &mut impl FnMut(&Edge)) {
        visit_between(&self.edges, &self.lat_max, low, high, visit);
    }
}

fn fill(edges: &[Edge], lat_max: &mut [i32]) -> i32 {
    let middle = edges.len() / 2;
    let Some(root) = edges.get(middle) else {
        return i32::MIN;
    };
    let left = fill(&edges[..middle], &mut lat_max[..middle]);
    let right = fill(&edges[middle + 1..], &mut lat_max[middle + 1..]);
    lat_max[middle] = root.lat_max().max(left).max(right);
    lat_max[middle]
}

fn visit_between(
    edges: &[Edge],
    lat_max: &[i32],
    low: i32,
    high: i32,
    visit: &mut impl FnMut(&Edge),
) {
    let middle = edges.len() / 2;
    let Some(root) = edges.get(middle) else {
        return;
    };
    if lat_max[middle] < low {
        return;
    }
    visit_between(&edges[..middle], &lat_max[..middle], low, high, visit);
    if root.lat_min() > high {
        return;
    }
    if root.lat_max() >= low {
        visit(root);
    }
    visit_between(
        &edges[middle + 1..],
        &lat_max[middle + 1..],
        low,
        high,
        visit,
    );
}
