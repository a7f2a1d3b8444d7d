//! Who is a member of which group, and who should lead it: each group's leader makes it so, step by step.
//!
//! `meta group: nodes ─► **members** ─► each group's voters and learners`. What is to be follows from the nodes that the
//! meta group knows, by a function that every node computes alike. Each step can be repeated; only a group's leader takes
//! one, one at a time.

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_raft::{Group, MembersProgress, StateMachine};
use meridian_shard::log::ClusterNode;
use tokio::sync::watch;

use super::heard_within;
use crate::node::Node;

/// Between two looks at a group.
const LOOK: Duration = Duration::from_millis(500);
/// A group's lead is not handed on more often.
const TRANSFER_EVERY: Duration = Duration::from_secs(5);
/// A node that was heard of so recently may be given a lead.
const HEARD: Duration = Duration::from_secs(1);
/// Entries that a new leader may still lack.
const LAG_MAX: u64 = 64;

/// The nodes that vote in a group, best first: of as many zones as there are, `replication` of them at most.
#[must_use]
pub fn voters(group: &str, nodes: &BTreeMap<u64, ClusterNode>, replication: usize) -> Vec<u64> {
    let mut candidates: Vec<(u64, &ClusterNode)> = nodes
        .values()
        .filter(|node| !node.leaving)
        .map(|node| (weight(group, node.id), node))
        .collect();
    candidates.sort_by_key(|(weight, node)| (std::cmp::Reverse(*weight), node.id));
    let mut chosen: Vec<u64> = Vec::new();
    // Each round takes at most one of a zone that was not taken as often yet.
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < replication.min(candidates.len()) {
        let free = candidates
            .iter()
            .filter(|(_, node)| !chosen.contains(&node.id));
        let best = free.min_by_key(|(_, node)| taken.get(node.zone.as_str()).copied().unwrap_or(0));
        let Some((_, node)) = best else { break };
        chosen.push(node.id);
        *taken.entry(node.zone.as_str()).or_default() += 1;
    }
    chosen
}

/// How much a node is meant to have a group: the same on every node, and spread evenly.
fn weight(group: &str, node: u64) -> u64 {
    // FNV-1a: a fixed function, as the standard hasher is not promised to be.
    struct Fnv(u64);
    impl std::hash::Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    group.as_bytes().hash(&mut hasher);
    hasher.write(&node.to_be_bytes());
    // Mixed once more, so that neighbouring numbers differ in all bits.
    let mut hash = hasher.finish();
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// The voter that should lead the group number `at`: the voters take turns, so that every one leads as many as another.
fn preferred(at: usize, voters: &[u64], nodes: &BTreeMap<u64, ClusterNode>) -> Option<u64> {
    let mut able: Vec<u64> = voters
        .iter()
        .copied()
        .filter(|id| {
            nodes
                .get(id)
                .is_some_and(|node| !node.draining && !node.leaving)
        })
        .collect();
    able.sort_unstable();
    (!able.is_empty()).then(|| able[at % able.len()])
}

/// Runs for all groups of the node until `stop` says so.
pub(crate) async fn run(node: Arc<Node>, replication: usize, mut stop: watch::Receiver<bool>) {
    let mut transfers: Vec<Option<Instant>> = vec![None; node.shards.map.names().len() + 1];
    while !*stop.borrow() {
        let nodes = node.meta.lock().nodes().clone();
        if nodes.len() > 1 {
            step(
                &node,
                0,
                node.meta_group(),
                &nodes,
                replication,
                &mut transfers[0],
            )
            .await;
            for shard in node.shards.iter() {
                let at = shard.index.at() + 1;
                step(
                    &node,
                    at,
                    &shard.group,
                    &nodes,
                    replication,
                    &mut transfers[at],
                )
                .await;
            }
        }
        if node.meta_group().is_leader() {
            remove_left(&node, &nodes).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.changed() => return,
        }
    }
}

/// Strikes out the nodes that were to leave and have no copy of anything any more.
async fn remove_left(node: &Node, nodes: &BTreeMap<u64, ClusterNode>) {
    for leaving in nodes.values().filter(|member| member.leaving) {
        let holds = |status: meridian_raft::GroupStatus| {
            status.joint
                || status.voters.contains_key(&leaving.id)
                || status.learners.contains_key(&leaving.id)
        };
        let held = holds(node.meta_group().status())
            || node.shards.iter().any(|shard| holds(shard.group.status()));
        if held {
            continue;
        }
        let entry = meridian_shard::log::MetaEntry {
            remove_node: leaving.id,
            ..Default::default()
        };
        match node.change_here(entry).await {
            Ok(_) => tracing::info!(node = leaving.id, "The node has left the cluster."),
            Err(error) => {
                tracing::warn!(node = leaving.id, %error, "The node could not be removed yet.")
            }
        }
    }
}

async fn step<S: StateMachine + Sync>(
    node: &Node,
    at: usize,
    group: &Group<S>,
    nodes: &BTreeMap<u64, ClusterNode>,
    replication: usize,
    transferred: &mut Option<Instant>,
) {
    if !group.is_leader() {
        return;
    }
    let voters = voters(group.name(), nodes, replication);
    let address = |id: &u64| (*id, nodes[id].address.clone());
    let voting: BTreeMap<u64, String> = voters.iter().map(address).collect();
    let learning: BTreeMap<u64, String> = nodes
        .iter()
        .filter(|(id, member)| !voting.contains_key(id) && !member.leaving)
        .map(|(id, _)| address(id))
        .collect();
    if voting.is_empty() {
        return;
    }
    // A leader that goes hands over before it is taken out.
    if !voting.contains_key(&node.id)
        && let Some(to) = preferred(at, &voters, nodes)
        && group.status().voters.contains_key(&to)
        && is_ready(node, group, to)
    {
        hand_over(group, to).await;
        return;
    }
    match group.set_members(&voting, &learning).await {
        Ok(MembersProgress::Done) => {}
        Ok(MembersProgress::Pending(why)) => {
            tracing::debug!(group = group.name(), why, "The members change.");
            return;
        }
        Err(error) => {
            tracing::warn!(group = group.name(), %error, "The members could not be changed yet.");
            return;
        }
    }
    let Some(to) = preferred(at, &voters, nodes).filter(|to| *to != node.id) else {
        return;
    };
    let recently = transferred.is_some_and(|when| when.elapsed() < TRANSFER_EVERY);
    if recently || !is_ready(node, group, to) {
        return;
    }
    *transferred = Some(Instant::now());
    hand_over(group, to).await;
}

async fn hand_over<S: StateMachine + Sync>(group: &Group<S>, to: u64) {
    match group.transfer_leader(to).await {
        Ok(()) => tracing::info!(group = group.name(), to, "The lead is handed over."),
        Err(error) => tracing::debug!(group = group.name(), to, %error, "No transfer."),
    }
}

/// Whether `to` could lead at once.
fn is_ready<S: StateMachine + Sync>(node: &Node, group: &Group<S>, to: u64) -> bool {
    let heard = node
        .transport
        .peers()
        .iter()
        .any(|peer| peer.node == to && peer.connected && heard_within(peer, HEARD));
    let status = group.status();
    let matched = status.matched.get(&to).copied().flatten().unwrap_or(0);
    heard && matched + LAG_MAX >= status.last_index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(zones: &[&str]) -> BTreeMap<u64, ClusterNode> {
        (1..)
            .zip(zones)
            .map(|(id, zone)| {
                let node = ClusterNode {
                    id,
                    zone: (*zone).to_owned(),
                    ..Default::default()
                };
                (id, node)
            })
            .collect()
    }

    #[test]
    fn the_copies_of_a_shard_are_in_different_zones() {
        let nodes = nodes(&["a", "a", "a", "b", "b", "c"]);
        for shard in 0..200 {
            let chosen = voters(&format!("shard-{shard}"), &nodes, 3);
            let mut zones: Vec<&str> = chosen.iter().map(|id| &*nodes[id].zone).collect();
            zones.sort_unstable();
            assert_eq!(zones, ["a", "b", "c"], "shard {shard}: {chosen:?}");
        }
    }

    #[test]
    fn copies_are_spread_evenly_and_most_stay_when_a_node_comes() {
        let five = nodes(&["", "", "", "", ""]);
        let six = nodes(&["", "", "", "", "", ""]);
        let mut held: BTreeMap<u64, usize> = BTreeMap::new();
        let mut moved = 0;
        for shard in 0..500 {
            let before = voters(&format!("shard-{shard}"), &five, 3);
            let after = voters(&format!("shard-{shard}"), &six, 3);
            moved += before.iter().filter(|id| !after.contains(id)).count();
            before
                .iter()
                .for_each(|id| *held.entry(*id).or_default() += 1);
        }
        for (id, shards) in held {
            assert!(
                (250..=350).contains(&shards),
                "node {id} holds {shards} of 300"
            );
        }
        assert!(moved <= 350, "{moved} copies moved, 250 had to");
    }

    #[test]
    fn a_draining_node_leads_nothing() {
        let mut nodes = nodes(&["", "", ""]);
        let mut leads: BTreeMap<u64, usize> = BTreeMap::new();
        for at in 0..9 {
            let leader = preferred(at, &[3, 1, 2], &nodes).expect("one of them");
            *leads.entry(leader).or_default() += 1;
        }
        assert_eq!(leads, BTreeMap::from([(1, 3), (2, 3), (3, 3)]));
        nodes.get_mut(&2).expect("there").draining = true;
        assert!((0..9).all(|at| preferred(at, &[3, 1, 2], &nodes) != Some(2)));
    }
}
