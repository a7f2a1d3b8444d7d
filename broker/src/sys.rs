//! `$SYS/broker/…`: how this node is, as mosquitto's set of topics says it, every 10 seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_mqtt::packet::{PublishProperties, QoS};
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::TopicFilter;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::wall_ms;
use crate::node::Node;
use crate::router::{Outgoing, topic};

const INTERVAL: Duration = Duration::from_secs(10);

/// The last value of each topic, for who subscribes between two rounds.
#[derive(Debug, Default)]
pub struct SysTopics(Mutex<BTreeMap<&'static str, Outgoing>>);

impl SysTopics {
    /// Visits the topics that `filter` matches.
    pub fn for_each_match(&self, filter: &TopicFilter, visit: &mut impl FnMut(&Outgoing)) {
        self.0
            .lock()
            .values()
            .filter(|message| filter.matches(&message.topic))
            .for_each(visit);
    }
}

/// Publishes until `stop` says so.
pub async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    loop {
        for (name, value) in values(&node) {
            let Some(topic) = topic(name) else { continue };
            let message = Outgoing {
                topic,
                payload: Bytes::from(value),
                qos: QoS::AtMostOnce,
                retain: true,
                properties: PublishProperties::default(),
                publisher: Text::from_static(""),
                received_ms: wall_ms(),
            };
            node.dispatch.here(&message);
            node.sys.0.lock().insert(name, message);
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = stop.changed() => return,
        }
    }
}

fn values(node: &Node) -> Vec<(&'static str, String)> {
    let retained: usize = node
        .shards
        .iter()
        .map(|shard| shard.state.lock().retained_count())
        .sum();
    let sum = |counts: [u64; 3]| counts.iter().sum::<u64>().to_string();
    vec![
        (
            "$SYS/broker/version",
            format!("meridian version {}", env!("CARGO_PKG_VERSION")),
        ),
        (
            "$SYS/broker/uptime",
            format!("{} seconds", node.uptime().as_secs()),
        ),
        (
            "$SYS/broker/clients/connected",
            node.counters.connections().to_string(),
        ),
        (
            "$SYS/broker/clients/total",
            node.registry.all().len().to_string(),
        ),
        (
            "$SYS/broker/subscriptions/count",
            node.dispatch.subscriptions.len().to_string(),
        ),
        ("$SYS/broker/retained messages/count", retained.to_string()),
        (
            "$SYS/broker/publish/messages/received",
            sum(node.counters.received_by_qos()),
        ),
        (
            "$SYS/broker/publish/messages/sent",
            sum(node.counters.sent_by_qos()),
        ),
    ]
}
