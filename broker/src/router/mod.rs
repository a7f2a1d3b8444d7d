//! Topic to shard, message to subscribers.

mod outgoing;
mod shard_map;
mod subscriptions;

pub use outgoing::{Outgoing, alert_topic, position_topic};
pub(crate) use outgoing::{qos, text, topic};
pub use shard_map::{Reach, ShardIndex, ShardMap};
pub use subscriptions::{Audience, Recipient, Route, RouteOptions, Source, Subscriptions};
