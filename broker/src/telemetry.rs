//! The metrics: their names, what each says, and the recorder that counts them.
//!
//! What is counted on the message path is in [`crate::counters`] and becomes a metric when it is asked for. Labels are
//! small closed sets, never a client or a device.

use std::time::Duration;

use metrics::{Histogram, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// How often the samples of histograms are gathered into their buckets, so that they take no memory if nobody asks.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// See [`publish_commit`].
const PUBLISH_COMMIT: &str = "meridian_publish_commit_seconds";
/// See [`delivery`].
const DELIVERY: &str = "meridian_delivery_seconds";
/// See [`certificate_expiry`].
const CERTIFICATE_EXPIRY: &str = "meridian_certificate_expiry_seconds";

/// Upper bounds of the histograms' buckets, seconds: from a flush to a fast disk to an answer that nobody awaits.
const BUCKETS_S: [f64; 15] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    30.0,
];

/// What a metric is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric, with its help text.
#[rustfmt::skip]
const METRICS: &[(&str, Kind, &str)] = &[
    ("meridian_alerts_total", Kind::Counter, "Alerts, by type."),
    (CERTIFICATE_EXPIRY, Kind::Gauge, "Time until the listener's certificate expires; below zero once it has."),
    ("meridian_connections", Kind::Gauge, "Clients connected now."),
    ("meridian_connections_refused_total", Kind::Counter, "Connections that were refused, by reason."),
    ("meridian_connections_total", Kind::Counter, "Connections since the start."),
    (DELIVERY, Kind::Histogram, "From the receipt of a message to its writing to a live subscriber's connection, in whole milliseconds; of the messages that one write takes, the oldest."),
    ("meridian_fences", Kind::Gauge, "Fences."),
    ("meridian_handshakes_failed_total", Kind::Counter, "TLS and WebSocket handshakes that failed or took too long."),
    ("meridian_malformed_packets_total", Kind::Counter, "Packets that break the protocol."),
    ("meridian_messages_dropped_total", Kind::Counter, "Messages let go, by reason."),
    ("meridian_messages_received_total", Kind::Counter, "PUBLISH packets from clients, by QoS."),
    ("meridian_messages_sent_total", Kind::Counter, "PUBLISH packets to clients, by QoS."),
    ("meridian_positions_total", Kind::Counter, "Fixes, by what became of them."),
    (PUBLISH_COMMIT, Kind::Histogram, "From a publication's arrival at its shard to its commit; of the publications that one log entry takes, the oldest."),
    ("meridian_publish_throttled_total", Kind::Counter, "Times that a client was not read from, because it published too fast."),
    ("meridian_raft_applied_index", Kind::Gauge, "The last log entry that this node has applied, by shard."),
    ("meridian_raft_flushes_total", Kind::Counter, "Flushes of the log to disk."),
    ("meridian_raft_leader", Kind::Gauge, "Whether this node leads the shard: 1 or 0."),
    ("meridian_raft_notifications_dropped_total", Kind::Counter, "One-way messages to other nodes that were let go: the node was away, or too many waited."),
    ("meridian_raft_snapshots_installed_total", Kind::Counter, "Snapshots of other nodes that replaced a shard's state here."),
    ("meridian_raft_transport_writes_total", Kind::Counter, "Writes to other nodes; each takes all messages that are ready."),
    ("meridian_reloads_total", Kind::Counter, "Changed files that were read anew, by result."),
    ("meridian_shard_entries_total", Kind::Counter, "Log entries proposed to shards."),
    ("meridian_sink_dead_letters_total", Kind::Counter, "Events that the far side of a sink will never take, put aside with the reason."),
    ("meridian_sink_failed_total", Kind::Counter, "Failed attempts of a sink."),
    ("meridian_sink_lag_events", Kind::Gauge, "Records of the event logs that a sink has not passed yet."),
    ("meridian_sink_lag_seconds", Kind::Gauge, "Age of the oldest of them."),
    ("meridian_sink_missed_total", Kind::Counter, "Events that were gone before a sink could read them."),
    ("meridian_sink_written_total", Kind::Counter, "Events that the far side of a sink has confirmed."),
    ("meridian_subscriptions", Kind::Gauge, "Subscriptions of this node's sessions."),
    ("meridian_subscriptions_refused_total", Kind::Counter, "Subscriptions that were refused, by reason."),
];

/// Makes the recorder of this process, and describes every metric. A second server of one process counts into the first
/// one's recorder, and shows nothing of its own.
pub fn install() -> PrometheusHandle {
    let buckets = |builder: PrometheusBuilder, name: &str| {
        builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), &BUCKETS_S)
            .expect("there are buckets")
    };
    let recorder = [PUBLISH_COMMIT, DELIVERY]
        .into_iter()
        .fold(PrometheusBuilder::new(), buckets)
        .build_recorder();
    let handle = recorder.handle();
    let _already_set = metrics::set_global_recorder(recorder);
    for (name, kind, help) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, *help),
        }
    }
    handle
}

/// How long publications wait for their commit, seconds: one sample a log entry.
pub fn publish_commit() -> Histogram {
    metrics::histogram!(PUBLISH_COMMIT)
}

/// How long messages take through the broker, seconds: one sample for what a connection takes at a time.
pub fn delivery() -> Histogram {
    metrics::histogram!(DELIVERY)
}

/// Says how long a listener's certificate is good for, seconds.
pub fn certificate_expiry(listener: &'static str, left_s: i64) {
    metrics::gauge!(CERTIFICATE_EXPIRY, "listener" => listener).set(left_s as f64);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn sources(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_metric_that_is_counted_anywhere_has_a_help_text() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut texts = Vec::new();
        for folder in [
            "src",
            "shard/src",
            "mqtt/src",
            "../raft/src",
            "../sinks/src",
        ] {
            sources(&here.join(folder), &mut texts);
        }
        let known: BTreeSet<&str> = METRICS.iter().map(|(name, ..)| *name).collect();
        let counted = regex::Regex::new(r#"(?:counter|gauge|histogram)!\(\s*"(\w+)""#).unwrap();
        let mut seen = 0;
        for text in &texts {
            for name in counted.captures_iter(text) {
                seen += 1;
                assert!(known.contains(&name[1]), "{} has no help text", &name[1]);
            }
        }
        assert!(seen > 15, "only {seen} places were found");
    }

    #[test]
    fn names_are_of_one_grammar() {
        for (name, kind, help) in METRICS {
            assert!(name.starts_with("meridian_"), "{name}");
            assert_eq!(
                matches!(kind, Kind::Counter),
                name.ends_with("_total"),
                "{name}"
            );
            let gauge = name.ends_with("expiry_seconds") || name.ends_with("lag_seconds");
            assert_eq!(
                matches!(kind, Kind::Histogram),
                !gauge && name.ends_with("_seconds"),
                "{name}"
            );
            assert!(help.ends_with('.'), "{name}");
        }
    }
}
