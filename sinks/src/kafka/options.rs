//! Where the cluster is, and what is written to it.

use std::collections::BTreeMap;
use std::time::Duration;

/// Of a record's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// The JSON that MQTT subscribers get.
    #[default]
    Json,
    /// `meridian.v1.EnrichedPosition` and `meridian.v1.Alert`.
    Protobuf,
}

/// Where the cluster is, and what is written to it.
#[derive(Clone)]
pub struct KafkaOptions {
    /// The sink's name: it owns the cursors that bear it.
    pub sink: String,
    /// `host:port`, several parted by commas.
    pub bootstrap_servers: String,
    /// What the topics' names begin with. Default `meridian.`: `meridian.positions`, `meridian.alerts`, `meridian.cursors`.
    pub topic_prefix: String,
    /// Partitions of the topics of events, where they are not there yet; `None` leaves it to the cluster.
    pub partitions: Option<i32>,
    /// Copies of each partition of a topic that is not there yet; `None` leaves it to the cluster.
    pub replication: Option<i32>,
    /// Of a record's value. Default JSON.
    pub format: Format,
    /// Commits records and cursor together. Default false.
    pub transactional: bool,
    /// How long one request may take, and a record until it is acknowledged. Default 30s.
    pub timeout: Duration,
    /// More of librdkafka's properties: TLS and SASL, say.
    properties: BTreeMap<String, String>,
}

/// What the sink's promises hang on.
const OURS: [&str; 12] = [
    "acks",
    "bootstrap.servers",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "metadata.broker.list",
    "partitioner",
    "request.required.acks",
    "transaction.timeout.ms",
    "transactional.id",
];

impl KafkaOptions {
    /// For the cluster at `bootstrap_servers`.
    #[must_use]
    pub fn new(sink: &str, bootstrap_servers: &str) -> Self {
        KafkaOptions {
            sink: sink.to_owned(),
            bootstrap_servers: bootstrap_servers.to_owned(),
            topic_prefix: "meridian.".to_owned(),
            partitions: None,
            replication: None,
            format: Format::default(),
            transactional: false,
            timeout: Duration::from_secs(30),
            properties: BTreeMap::new(),
        }
    }

    /// Adds one of librdkafka's properties.
    ///
    /// # Errors
    /// Says in words what is wrong with it.
    pub fn property(&mut self, name: &str, value: &str) -> Result<(), String> {
        if OURS.contains(&name) {
            return Err("is this sink's own: its promises hang on it".into());
        }
        let known = rdkafka::ClientConfig::new()
            .set(name, value)
            .create_native_config();
        known.map_err(|error| error.to_string())?;
        self.properties.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    pub(super) fn properties(&self) -> &BTreeMap<String, String> {
        &self.properties
    }

    pub(super) fn positions_topic(&self) -> String {
        format!("{}positions", self.topic_prefix)
    }

    pub(super) fn alerts_topic(&self) -> String {
        format!("{}alerts", self.topic_prefix)
    }

    pub(super) fn cursors_topic(&self) -> String {
        format!("{}cursors", self.topic_prefix)
    }
}

impl std::fmt::Debug for KafkaOptions {
    /// Without the properties' values, which may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("sink", &self.sink)
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("topic_prefix", &self.topic_prefix)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("format", &self.format)
            .field("transactional", &self.transactional)
            .field("timeout", &self.timeout)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_known_ones_and_break_no_promise() {
        let mut options = KafkaOptions::new("lake", "127.0.0.1:9092");
        options.property("security.protocol", "SASL_SSL").unwrap();
        options.property("sasl.password", "hunter2").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        for (name, value) in [
            ("acks", "1"),
            ("transactional.id", "x"),
            ("no.such.property", "x"),
            ("linger.ms", "soon"),
        ] {
            assert!(options.property(name, value).is_err(), "{name}");
        }
    }
}
