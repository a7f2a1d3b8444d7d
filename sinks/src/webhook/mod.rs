//! Events as signed HTTP requests, some of them in each.
//!
//! `pipeline ─► **webhook** ─► POST, confirmed by 2xx ─► cursor file`. At least once: `event_id` tells repeats. Follows no
//! redirect, and connects to no address that a URL of ours should never lead to.

mod address;
mod options;
mod sink;

pub use options::WebhookOptions;
pub use sink::WebhookSink;
