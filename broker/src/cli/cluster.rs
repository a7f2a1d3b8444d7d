//! The commands for operators of a cluster: how it is, and what is to become of its nodes.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Outcome;
use super::api::{ApiArgs, escaped, rows, word};

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List nodes
    List(#[command(flatten)] ApiArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum ShardCommand {
    /// List shards, with their leaders and what they hold
    List(#[command(flatten)] ApiArgs),
    /// Hand the lead of a shard to another node; the cluster may hand it back, unless that one is drained
    Transfer {
        /// The shard, or meta
        shard: String,
        /// The node
        to: u64,
        #[command(flatten)]
        api: ApiArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Show in one screen: nodes, who leads what, who lags, and what is wrong
    Status(#[command(flatten)] ApiArgs),
    /// Take the leads from a node, and show it as not ready, so that clients go elsewhere; nothing is moved
    Drain(#[command(flatten)] Of),
    /// Take a drained node back
    Undrain(#[command(flatten)] Of),
    /// Let a node leave for good: it gives up its copies one by one, and is then no member any more
    Leave(#[command(flatten)] Of),
    /// Strike out a node that is dead and will not come back; its number is not used again
    Evict(#[command(flatten)] Of),
}

/// A node, and whom to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Of {
    /// The node's number
    node: u64,
    #[command(flatten)]
    api: ApiArgs,
}

const SHARD_COLUMNS: &[&str] = &[
    "shard",
    "leader",
    "applied_index",
    "devices",
    "sessions",
    "retained",
    "events_next",
];

pub(super) fn node(NodeCommand::List(api): NodeCommand) -> Outcome {
    rows(
        &api,
        "/api/v1/nodes",
        &[
            "id",
            "up",
            "address",
            "zone",
            "version",
            "uptime_s",
            "connections",
        ],
    )
}

pub(super) fn shard(command: ShardCommand) -> Outcome {
    match command {
        ShardCommand::List(api) => rows(&api, "/api/v1/shards", SHARD_COLUMNS),
        ShardCommand::Transfer { shard, to, api } => {
            let path = format!("/api/v1/shards/{}/transfer/{to}", escaped(&shard));
            api.send("POST", &path, None)
        }
    }
}

pub(super) fn cluster(command: ClusterCommand) -> Outcome {
    let change = |of: &Of, what: &str| {
        of.api
            .send("POST", &format!("/api/v1/nodes/{}/{what}", of.node), None)
    };
    match command {
        ClusterCommand::Status(api) => status(&api),
        ClusterCommand::Drain(of) => change(&of, "drain"),
        ClusterCommand::Undrain(of) => change(&of, "undrain"),
        ClusterCommand::Leave(of) => change(&of, "leave"),
        ClusterCommand::Evict(of) => change(&of, "evict"),
    }
}

fn status(api: &ApiArgs) -> Outcome {
    let nodes = api.list("/api/v1/nodes")?;
    let shards = api.list("/api/v1/shards")?;
    if api.json {
        say!(
            "{}",
            json!({ "nodes": nodes["data"], "shards": shards["data"] })
        );
        return Ok(());
    }
    let nodes = list(&nodes);
    let shards = list(&shards);
    let up = nodes.iter().filter(|node| node["up"] == true).count();
    say!("{} nodes, {up} up; {} shards", nodes.len(), shards.len());
    for trouble in troubles(&nodes, &shards) {
        say!("! {trouble}");
    }
    let mut table = vec![words(&[
        "node", "state", "leads", "lag", "clients", "zone", "address", "version",
    ])];
    table.extend(nodes.iter().map(|node| {
        let leads = shards.iter().filter(|shard| shard["leader"] == node["id"]);
        vec![
            word(&node["id"]),
            state(node).to_owned(),
            leads.count().to_string(),
            lag(node, &nodes).map_or("-".to_owned(), |lag| lag.to_string()),
            word(&node["connections"]),
            word(&node["zone"]),
            word(&node["address"]),
            word(&node["version"]),
        ]
    }));
    say!("\n{}", aligned(&table));
    let mut table = vec![words(&[
        "shard", "leader", "voters", "learners", "applied", "devices", "sessions", "retained",
        "events",
    ])];
    table.extend(shards.iter().map(|shard| {
        vec![
            word(&shard["shard"]),
            word(&shard["leader"]),
            keys(&shard["voters"]),
            keys(&shard["learners"]),
            word(&shard["applied_index"]),
            word(&shard["devices"]),
            word(&shard["sessions"]),
            word(&shard["retained"]),
            word(&shard["events_next"]),
        ]
    }));
    say!("\n{}", aligned(&table));
    Ok(())
}

fn list(answer: &Value) -> Vec<Value> {
    answer["data"].as_array().cloned().unwrap_or_default()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn keys(map: &Value) -> String {
    let keys: Vec<&str> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    if keys.is_empty() {
        "-".to_owned()
    } else {
        keys.join(",")
    }
}

fn state(node: &Value) -> &'static str {
    match (&node["up"], &node["leaving"], &node["draining"]) {
        (Value::Bool(false), ..) => "DOWN",
        (_, Value::Bool(true), _) => "leaving",
        (.., Value::Bool(true)) => "draining",
        _ => "up",
    }
}

/// Entries of all groups that other nodes have applied and this one has not.
fn lag(node: &Value, nodes: &[Value]) -> Option<u64> {
    let applied = |node: &Value, group: &Value| {
        let mut groups = node["groups"].as_array()?.iter();
        groups.find(|found| found["group"] == group["group"])?["applied_index"].as_u64()
    };
    let groups = node["groups"].as_array()?;
    let behind = groups.iter().map(|group| {
        let most = nodes.iter().filter_map(|other| applied(other, group)).max();
        most.unwrap_or(0)
            .saturating_sub(group["applied_index"].as_u64().unwrap_or(0))
    });
    Some(behind.sum())
}

/// What an operator should know at a glance.
fn troubles(nodes: &[Value], shards: &[Value]) -> Vec<String> {
    let mut troubles = Vec::new();
    let down: Vec<String> = nodes
        .iter()
        .filter(|node| node["up"] == false)
        .map(|node| node["id"].to_string())
        .collect();
    if !down.is_empty() {
        troubles.push(format!(
            "node {} does not answer: what it voted for has one copy less; if it will not come back, \
             `meridian cluster evict` it and start a new one",
            down.join(", ")
        ));
    }
    for shard in shards {
        let name = word(&shard["shard"]);
        if shard["leader"].is_null() {
            troubles.push(format!(
                "{name} has no leader: a majority of its voters must be up"
            ));
        }
        if shard["joint"] == true {
            troubles.push(format!("{name} is changing its members"));
        }
        if shard["under_replicated"] == true {
            troubles.push(format!(
                "{name} has too few voters ({}): the others are still catching up",
                keys(&shard["voters"])
            ));
        }
    }
    for node in nodes {
        let waiting: Vec<String> = node["waiting_for"]
            .as_array()
            .into_iter()
            .flatten()
            .map(word)
            .collect();
        if !waiting.is_empty() {
            troubles.push(format!(
                "node {} waits for a majority of {}",
                node["id"],
                waiting.join(", ")
            ));
        }
    }
    troubles
}

/// Columns with two blanks between.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            table
                .iter()
                .map(|row| row[at].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let group = |applied: u64| json!([{ "group": "hel", "applied_index": applied }]);
        let nodes = [
            json!({ "id": 1, "up": true, "groups": group(9), "waiting_for": ["hel"] }),
            json!({ "id": 2, "up": false }),
            json!({ "id": 3, "up": true, "draining": true, "groups": group(4) }),
        ];
        let shards = [json!({
            "shard": "hel", "leader": null, "voters": { "1": "a" }, "under_replicated": true
        })];
        let told = troubles(&nodes, &shards).join("\n");
        for part in [
            "node 2 does not answer",
            "evict",
            "hel has no leader",
            "too few voters (1)",
            "node 1 waits",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert_eq!(nodes.each_ref().map(state), ["up", "DOWN", "draining"]);
        assert_eq!(lag(&nodes[2], &nodes), Some(5));
        assert_eq!(lag(&nodes[1], &nodes), None);
        let nothing = troubles(&nodes[..0], &[]);
        assert!(nothing.is_empty());
    }

    #[test]
    fn columns_stand_below_each_other() {
        let table = [words(&["a", "bb"]), words(&["ccc", "d"])];
        assert_eq!(aligned(&table), "a    bb\nccc  d");
    }
}
