//! Fixes on their way in: which publishes are fixes, what is wrong with them, and which need the log.
//!
//! `publish ─► **decode** ─► admission ─► log`. What cannot be read is still delivered as it came; it is counted, and
//! the reason goes out on `geo/{region}/{device}/rejected`.

mod input;

use bytes::Bytes;
use meridian_geo_engine::decode_json;
use meridian_mqtt::packet::{PublishProperties, QoS};
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::TopicName;
use meridian_shard::{fix_to_log, log};

pub use input::{InputPattern, PatternError};

use crate::node::Node;
use crate::router::{Outgoing, ShardIndex, topic};

/// The inputs of this node.
#[derive(Debug)]
pub struct GeoInputs {
    /// What input topics look like.
    pub patterns: Vec<InputPattern>,
}

/// What is to become of a publish that may hold fixes.
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart in one breath"
)]
pub enum GeoPublish {
    /// Something could change: to be proposed.
    Changed(log::Fixes),
    /// Nothing about it must survive: it is delivered and acknowledged at once. The fixes are what other nodes are told of
    /// where the device is.
    Unchanged(Vec<log::Fix>),
    /// No fix in it, but it must survive.
    Plain,
}

impl GeoInputs {
    /// The region and the device, if `topic` is an input.
    #[must_use]
    pub fn input<'a>(&self, topic: &'a TopicName) -> Option<(&'a str, &'a str)> {
        self.patterns.iter().find_map(|pattern| pattern.read(topic))
    }

    /// Reads the fixes of a publish and asks the leader's admission about them.
    #[must_use]
    pub fn publish(
        &self,
        node: &Node,
        shard: ShardIndex,
        message: &Outgoing,
        region: &str,
        device: &str,
        resend: bool,
    ) -> GeoPublish {
        let must_log = message.retain || node.dispatch.subscriptions.wants_queued(message);
        let mut fixes = Vec::new();
        match decode_json(&message.payload) {
            Ok(read) => {
                for fix in read {
                    match fix {
                        Ok(fix) => fixes.push(fix),
                        Err(error) => {
                            count("rejected", 1);
                            let report = rejected(region, device, None, &error.to_string());
                            report.inspect(|report| node.dispatch.everywhere(report, None));
                        }
                    }
                }
            }
            Err(error) => {
                count("rejected", 1);
                let report = rejected(region, device, None, &error.to_string());
                report.inspect(|report| node.dispatch.everywhere(report, None));
            }
        }
        if fixes.is_empty() {
            return if must_log {
                GeoPublish::Plain
            } else {
                GeoPublish::Unchanged(Vec::new())
            };
        }
        let shard = node.shards.get(shard);
        let mut admission = shard.admission.lock();
        // A leader that may have been deposed without knowing it decides nothing alone.
        if must_log || !shard.leading.has_lease() {
            return GeoPublish::Changed(admission.follow(device, region, &fixes, resend));
        }
        let told = if node.dispatch.peers.others().is_empty() {
            Vec::new()
        } else {
            fixes.iter().map(fix_to_log).collect()
        };
        let admitted = admission.admit(
            &mut shard.state.lock(),
            device,
            region,
            fixes,
            resend,
            message.received_ms,
        );
        drop(admission);
        count("suppressed", admitted.suppressed);
        count("duplicate", admitted.duplicates);
        count("rejected", admitted.rejected.len());
        for unusable in &admitted.rejected {
            let report = rejected(region, device, Some(unusable.ts_ms), &unusable.reason);
            report.inspect(|report| node.dispatch.everywhere(report, None));
        }
        let usable = admitted.rejected.is_empty();
        match admitted.command {
            Some(fixes) => GeoPublish::Changed(fixes),
            None => GeoPublish::Unchanged(if usable { told } else { Vec::new() }),
        }
    }
}

fn count(result: &'static str, fixes: usize) {
    if fixes > 0 {
        metrics::counter!("meridian_positions_total", "result" => result).increment(fixes as u64);
    }
}

/// Says why a fix was unusable, at QoS 0, for whoever listens now.
#[must_use]
pub fn rejected(region: &str, device: &str, ts_ms: Option<i64>, reason: &str) -> Option<Outgoing> {
    let topic = topic(&format!("geo/{region}/{device}/rejected"))?;
    let mut report = serde_json::json!({
        "schema": "meridian.rejected.v1", "device": device, "region": region, "reason": reason,
    });
    if let Some(ts_ms) = ts_ms {
        report["ts"] = ts_ms.into();
    }
    Some(Outgoing {
        topic,
        payload: Bytes::from(report.to_string()),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: PublishProperties::default(),
        publisher: Text::from_static(""),
        received_ms: crate::clock::wall_ms(),
    })
}
