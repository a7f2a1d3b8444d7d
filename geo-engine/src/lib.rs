//! Pure geography: fixes in, reports and crossings out.
//!
//! ```text
//! payload ─► decode ─► Fix ─► admit ─► (the log) ─► observe ─► Report, AlertFacts
//!                             leader                 │
//!                                          movement, fence index ─► visits, position cache
//! ```
//!
//! No I/O, no clock, no randomness, and `libm` for all trigonometry: the same fixes in the same order give the same
//! answers on every machine.
#![forbid(unsafe_code)]

mod alert;
mod bounds;
mod bytes;
mod circle;
mod coordinate;
mod corridor;
mod decode;
mod device;
mod distance;
mod engine;
mod fence;
mod fence_index;
mod fix;
mod geojson;
mod glob;
mod movement;
mod polygon;
mod position_cache;
mod ring;
mod timestamp;
mod visit;

pub use alert::{AlertFacts, AlertKind, FenceName};
pub use circle::Circle;
pub use coordinate::{Coordinate, UNITS_PER_DEGREE};
pub use corridor::Stretch;
pub use decode::{
    ALARM_BYTES_MAX, ATTRS_BYTES_MAX, DecodeError, FIXES_MAX, FixError, FixFault, decode_json,
};
pub use device::StateError;
pub use distance::{EARTH_RADIUS_M, distance_m};
pub use engine::{Class, GeoEngine, Observation, Report, Suppressed, Verdict};
pub use fence::Fence;
pub use fence_index::{Containing, FENCES_PER_PLACE_MAX, FenceIndex};
pub use fix::Fix;
pub use geojson::{
    FENCE_ID_BYTES_MAX, FENCE_VERTICES_MAX, FenceError, FenceFault, split_collection,
};
pub use movement::{RejectReason, STOP_AFTER_MS, STOP_RADIUS_M, Settings};
pub use polygon::Polygon;
pub use position_cache::{Located, PositionCache};
pub use ring::{
    EDGE_PAIRS_MAX, Edge, RING_VERTICES_MAX, Ring, RingError, TooEntangled, first_crossing,
};
