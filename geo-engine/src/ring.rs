//! Closed rings, and whether the edges of an area cross.

use rstar::{AABB, RTree, RTreeObject};

use crate::coordinate::Coordinate;

/// The most positions in one ring.
pub const RING_VERTICES_MAX: usize = 10_000;

/// What is wrong with a ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// RFC 7946 §3.1.6 asks for four or more.
    #[error("a ring needs 4 positions, this one has {found}")]
    TooFewPositions {
        /// How many there are.
        found: usize,
    },
    /// More than [`RING_VERTICES_MAX`].
    #[error("a ring may have {RING_VERTICES_MAX} positions, this one has {found}")]
    TooManyPositions {
        /// How many there are.
        found: usize,
    },
    /// The last position is not the first.
    #[error("the ring is not closed: position {last} differs from position 0")]
    NotClosed {
        /// The index of the last position.
        last: usize,
    },
    /// It encloses nothing.
    #[error("the ring has no area")]
    NoArea,
}

/// A closed linear ring: four or more positions, the first equal to the last (RFC 7946 §3.1.6), around some area.
#[derive(Debug, Clone, PartialEq)]
pub struct Ring(Box<[Coordinate]>);

impl Ring {
    /// Checks and takes a ring.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn new(positions: Vec<Coordinate>) -> Result<Self, RingError> {
        let found = positions.len();
        if found < 4 {
            return Err(RingError::TooFewPositions { found });
        }
        if found > RING_VERTICES_MAX {
            return Err(RingError::TooManyPositions { found });
        }
        if positions.first() != positions.last() {
            return Err(RingError::NotClosed { last: found - 1 });
        }
        let doubled_area: i128 = positions
            .windows(2)
            .map(|edge| cross(edge[0], edge[1]))
            .sum();
        if doubled_area == 0 {
            return Err(RingError::NoArea);
        }
        Ok(Ring(positions.into_boxed_slice()))
    }

    /// The edges, in order.
    pub fn edges(&self) -> impl Iterator<Item = Edge> {
        self.0.windows(2).map(|edge| Edge {
            from: edge[0],
            to: edge[1],
        })
    }
}

fn cross(a: Coordinate, b: Coordinate) -> i128 {
    i128::from(a.lon_e7()) * i128::from(b.lat_e7())
        - i128::from(b.lon_e7()) * i128::from(a.lat_e7())
}

/// A side of an area, straight in longitude and latitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Its beginning.
    pub from: Coordinate,
    /// Its end.
    pub to: Coordinate,
}

impl Edge {
    pub(crate) fn lat_min(&self) -> i32 {
        self.from.lat_e7().min(self.to.lat_e7())
    }

    pub(crate) fn lat_max(&self) -> i32 {
        self.from.lat_e7().max(self.to.lat_e7())
    }

    pub(crate) fn lon_min(&self) -> i32 {
        self.from.lon_e7().min(self.to.lon_e7())
    }

    pub(crate) fn lon_max(&self) -> i32 {
        self.from.lon_e7().max(self.to.lon_e7())
    }

    /// On which side of the edge `at` lies: positive to its left, zero in its line. Exact.
    pub(crate) fn side(&self, at: Coordinate) -> i128 {
        let delta = |to: i32, from: i32| i128::from(to) - i128::from(from);
        delta(self.to.lon_e7(), self.from.lon_e7()) * delta(at.lat_e7(), self.from.lat_e7())
            - delta(self.to.lat_e7(), self.from.lat_e7()) * delta(at.lon_e7(), self.from.lon_e7())
    }

    fn crosses(&self, other: &Edge) -> bool {
        let opposite = |a: i128, b: i128| (a > 0 && b < 0) || (a < 0 && b > 0);
        opposite(self.side(other.from), self.side(other.to))
            && opposite(other.side(self.from), other.side(self.to))
    }
}

struct Boxed {
    index: usize,
    edge: Edge,
}

impl RTreeObject for Boxed {
    type Envelope = AABB<[f64; 2]>;

    fn envelope(&self) -> Self::Envelope {
        let corner = |at: Coordinate| [f64::from(at.lon_e7()), f64::from(at.lat_e7())];
        AABB::from_corners(corner(self.edge.from), corner(self.edge.to))
    }
}

/// The most pairs of edges that [`first_crossing`] looks at: some 0.3 s. A coastline of 10,000 edges needs fewer than
/// 100,000; thousands of long edges side by side and aslant, whose boxes all overlap, would need the square.
pub const EDGE_PAIRS_MAX: usize = 10_000_000;

/// The edges lie so that looking for a crossing would take more than [`EDGE_PAIRS_MAX`] pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many long edges side by side to tell whether they cross")]
pub struct TooEntangled;

/// The first two edges that cross, by their places in `edges`. Edges that only touch are fine: the area is the same
/// whichever way a ring runs through a shared point.
///
/// # Errors
///
/// Work is bounded, since every replica reads a fence again when it applies it.
pub fn first_crossing(edges: &[Edge]) -> Result<Option<(usize, usize)>, TooEntangled> {
    let boxed = edges
        .iter()
        .enumerate()
        .map(|(index, edge)| Boxed { index, edge: *edge })
        .collect();
    let tree = RTree::bulk_load(boxed);
    let mut pairs = 0;
    for (index, edge) in edges.iter().enumerate() {
        let mut first: Option<usize> = None;
        for other in tree.locate_in_envelope_intersecting(&Boxed { index, edge: *edge }.envelope())
        {
            pairs += 1;
            if pairs > EDGE_PAIRS_MAX {
                return Err(TooEntangled);
            }
            let sooner = other.index > index && first.is_none_or(|first| other.index < first);
            if sooner && edge.crosses(&other.edge) {
                first = Some(other.index);
            }
        }
        if let Some(other) = first {
            return Ok(Some((index, other)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(positions: &[(i32, i32)]) -> Result<Ring, RingError> {
        Ring::new(
            positions
                .iter()
                .map(|(lon, lat)| Coordinate::from_e7(*lat, *lon).expect("a place"))
                .collect(),
        )
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        assert_eq!(
            ring(&[(0, 0), (1, 0), (0, 0)]),
            Err(RingError::TooFewPositions { found: 3 })
        );
        assert_eq!(
            ring(&[(0, 0), (1, 0), (1, 1), (0, 1)]),
            Err(RingError::NotClosed { last: 3 })
        );
        assert_eq!(
            ring(&[(0, 0), (1, 1), (2, 2), (0, 0)]),
            Err(RingError::NoArea)
        );
    }

    #[test]
    fn a_bow_tie_crosses_itself() {
        let tie: Vec<Edge> = ring(&[(0, 0), (10, 10), (10, 0), (0, 9), (0, 0)])
            .expect("a ring")
            .edges()
            .collect();
        assert_eq!(first_crossing(&tie), Ok(Some((0, 2))));
        let square: Vec<Edge> = ring(&[(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)])
            .expect("a ring")
            .edges()
            .collect();
        assert_eq!(first_crossing(&square), Ok(None));
    }

    #[test]
    fn ten_thousand_edges_are_checked_at_once() {
        let mut comb = vec![(0, -10)];
        for tooth in 0..4_999 {
            comb.extend([(tooth * 20, 100_000_000), (tooth * 20 + 10, 0)]);
        }
        comb.push((0, -10));
        let edges: Vec<Edge> = ring(&comb).expect("a ring").edges().collect();
        assert_eq!((edges.len(), first_crossing(&edges)), (9_999, Ok(None)));
    }

    #[test]
    fn edges_that_all_overlap_are_refused_in_bounded_time() {
        let slant = |step: i32, up: bool| {
            let (lon, lat) = (step * 1_000, step * 500);
            if up {
                (lon + 100_000_100, lat + 90_000_000)
            } else {
                (lon, lat)
            }
        };
        let mut zigzag: Vec<(i32, i32)> = (0..4_998)
            .flat_map(|step| [slant(step, false), slant(step, true)])
            .collect();
        zigzag.extend([(6_000_000, 2_900_000), slant(0, false)]);
        let edges: Vec<Edge> = ring(&zigzag).expect("a ring").edges().collect();
        assert_eq!(first_crossing(&edges), Err(TooEntangled));
    }
}
