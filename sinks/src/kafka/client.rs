//! librdkafka's clients, set up for what this sink promises.

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaOptions;
use crate::sink::SinkError;

/// Says at `debug` what librdkafka says: what matters comes back as an error of a call, and is said once by the pipeline.
#[derive(Clone, Copy)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "Kafka's client says something.");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka's client met an error.");
    }
}

impl ConsumerContext for Quiet {}

/// What every client has.
fn common(options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", format!("meridian-{}", options.sink));
    for (name, value) in options.properties() {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &options.bootstrap_servers);
    config
}

/// A producer; with `transactional_id`, one that fences off whoever else bears it.
pub(super) fn producer<T: FromClientConfigAndContext<Quiet>>(
    options: &KafkaOptions,
    transactional_id: Option<&str>,
) -> Result<T, SinkError> {
    let mut config = common(options);
    let timeout_ms = options.timeout.as_millis().max(1000).to_string();
    for (name, default) in [("compression.type", "zstd"), ("linger.ms", "5")] {
        if config.get(name).is_none() {
            config.set(name, default);
        }
    }
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // As Kafka's own clients place keys, so that theirs and ours meet in one partition.
        .set("partitioner", "murmur2_random")
        // The topics' own limits decide.
        .set("message.max.bytes", "100000000")
        .set("message.timeout.ms", &timeout_ms);
    if let Some(id) = transactional_id {
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", &timeout_ms);
    }
    create(&config)
}

/// A consumer that commits nothing. `isolation_level`: `read_committed` or `read_uncommitted`.
pub(super) fn consumer<T: FromClientConfigAndContext<Quiet>>(
    options: &KafkaOptions,
    isolation_level: &str,
) -> Result<T, SinkError> {
    let mut config = common(options);
    config
        .set("group.id", format!("meridian-{}", options.sink))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", isolation_level);
    create(&config)
}

pub(super) fn admin<T: FromClientConfigAndContext<Quiet>>(
    options: &KafkaOptions,
) -> Result<T, SinkError> {
    create(&common(options))
}

fn create<T: FromClientConfigAndContext<Quiet>>(config: &ClientConfig) -> Result<T, SinkError> {
    let created = config.create_with_context(Quiet);
    created.map_err(|error| SinkError::Blocked(error.to_string()))
}

/// Blocked where waiting does not help: credentials and rights.
pub(super) fn sink_error(what: &str, error: &KafkaError) -> SinkError {
    let said = format!("{what}: {error}");
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
            | RDKafkaErrorCode::UnsupportedForMessageFormat
            | RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidRecord,
        ) => SinkError::Blocked(said),
        _ => SinkError::Retry(said),
    }
}
