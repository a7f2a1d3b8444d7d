//! The topics: made where they are missing, and looked at where they are not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::RDKafkaErrorCode;

use super::KafkaOptions;
use super::client::{Quiet, admin, sink_error};
use crate::sink::SinkError;

/// The cluster's own choice, as the protocol writes it.
const BY_THE_CLUSTER: i32 = -1;
/// Where the topic does not say: what Kafka brokers come with.
const RECORD_BYTES_MAX: usize = 1_048_588;

/// What the topics of events take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of one record, bytes.
    pub(super) record_bytes_max: usize,
    /// How far a record's time may lie ahead of the broker's clock, milliseconds.
    pub(super) ahead_ms_max: i64,
}

/// How long to wait before a topic is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Makes what is missing.
pub(super) async fn prepare(options: &KafkaOptions) -> Result<Limits, SinkError> {
    let admin: AdminClient<Quiet> = admin(options)?;
    let patience = AdminOptions::new().request_timeout(Some(options.timeout));
    let (positions, alerts, cursors) = (
        options.positions_topic(),
        options.alerts_topic(),
        options.cursors_topic(),
    );
    let copies = options.replication.unwrap_or(BY_THE_CLUSTER);
    let replication = || TopicReplication::Fixed(copies);
    let partitions = options.partitions.unwrap_or(BY_THE_CLUSTER);
    let topics = [
        NewTopic::new(&positions, partitions, replication()),
        NewTopic::new(&alerts, partitions, replication()),
        NewTopic::new(&cursors, 1, replication()).set("cleanup.policy", "compact"),
    ];
    let until_made = AdminOptions::new()
        .request_timeout(Some(options.timeout))
        .operation_timeout(Some(options.timeout));
    let made = admin.create_topics(&topics, &until_made).await;
    let mut forbidden = false;
    for made in made.map_err(|error| sink_error("the topics could not be asked for", &error))? {
        match made {
            Ok(topic) => tracing::info!(sink = %options.sink, topic, "A topic was made."),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            // Perhaps it is there all the same; if not, the description below says so.
            Err((_, RDKafkaErrorCode::TopicAuthorizationFailed)) => forbidden = true,
            Err((topic, error)) => {
                return Err(SinkError::Retry(format!(
                    "the topic {topic} could not be made: {error}"
                )));
            }
        }
    }
    let names = [&*positions, &alerts, &cursors];
    let deadline = Instant::now() + options.timeout;
    let found = loop {
        match describe(&admin, &patience, &names).await? {
            Ok(found) => break found,
            // Just made: the broker that was asked does not know yet.
            Err(_) if !forbidden && Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(topic) => {
                return Err(SinkError::Blocked(format!(
                    "the topic {topic} is missing, or this user may not describe it: make it, or grant \
                     Create on the cluster and DescribeConfigs on the topic"
                )));
            }
        }
    };
    let setting = |topic: &str, name: &str| {
        let told: Option<&ConfigResource> = found.get(topic);
        told.and_then(|told| told.get(name)?.value.clone())
    };
    let policy = setting(&cursors, "cleanup.policy").unwrap_or_default();
    if policy != "compact" {
        return Err(SinkError::Blocked(format!(
            "the topic {cursors} has cleanup.policy={policy}, which forgets cursors: set it to compact"
        )));
    }
    let least = |name: &str| {
        let values = [&positions, &alerts].map(|topic| setting(topic, name)?.parse::<i64>().ok());
        values.into_iter().flatten().min()
    };
    let bytes = least("max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok());
    Ok(Limits {
        record_bytes_max: bytes.unwrap_or(RECORD_BYTES_MAX),
        ahead_ms_max: least("message.timestamp.after.max.ms").unwrap_or(i64::MAX),
    })
}

/// The settings of all topics by name, or the first topic that has none to tell: a broker that does not know a topic, or
/// may not speak of it, answers with nothing.
async fn describe<'a>(
    admin: &AdminClient<Quiet>,
    patience: &AdminOptions,
    names: &[&'a str],
) -> Result<Result<BTreeMap<String, ConfigResource>, &'a str>, SinkError> {
    let asked: Vec<_> = names
        .iter()
        .map(|&topic| ResourceSpecifier::Topic(topic))
        .collect();
    let told = admin.describe_configs(&asked, patience).await;
    let told = told.map_err(|error| sink_error("the topics could not be looked at", &error))?;
    let mut found = BTreeMap::new();
    for told in told
        .into_iter()
        .flatten()
        .filter(|told| !told.entries.is_empty())
    {
        if let OwnedResourceSpecifier::Topic(name) = &told.specifier {
            found.insert(name.clone(), told);
        }
    }
    let missing = names.iter().find(|&&name| !found.contains_key(name));
    Ok(match missing {
        Some(name) => Err(name),
        None => Ok(found),
    })
}
