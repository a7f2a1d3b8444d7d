//! A node comes, goes, and is noticed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_proto::cluster::v1::{self, reply, request};
use meridian_shard::{MetaReply, log};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::heard_within;
use crate::node::{Node, StartError};
use crate::router::ShardIndex;
use crate::shards::Refused;

/// How long a seed may take to take a node in.
const ADMIT_MAX: Duration = Duration::from_secs(15);
/// How long a joining node asks its seeds before it gives up.
const JOIN_MAX: Duration = Duration::from_secs(120);
/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A node that was not heard of for so long has lost its clients: their sessions count as disconnected.
const LOST: Duration = Duration::from_secs(6);
/// How often lost nodes are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How long a stopping node tries to hand over what it leads.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

impl Node {
    /// Asks the seeds to take this node in, until one has.
    pub(crate) async fn join(&self, seeds: &[String]) -> Result<(), StartError> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        // A node that was a member before is found by the others, and finds them in its state.
        if self.meta.lock().nodes().contains_key(&self.id) {
            return Ok(());
        }
        let request = v1::Request {
            body: Some(request::Body::Join(v1::Join {
                node: Some(member.clone()),
            })),
        };
        let begun = Instant::now();
        let mut last = "there are no seeds: name a node of the cluster in cluster.seeds".to_owned();
        while begun.elapsed() < JOIN_MAX {
            for seed in seeds.iter().filter(|seed| **seed != member.address) {
                let body = request.encode_to_vec().into();
                let reply = match self.transport.request_addr(seed, body, ADMIT_MAX).await {
                    Ok(reply) => reply,
                    Err(error) => {
                        last = format!("{seed}: {error}");
                        continue;
                    }
                };
                match v1::Reply::decode(reply).map(|reply| reply.body) {
                    Ok(Some(reply::Body::Welcome(welcome))) => {
                        for node in welcome.nodes.iter().filter(|node| node.id != self.id) {
                            self.transport.set_peer(node.id, &node.address);
                        }
                        tracing::info!(
                            seed,
                            nodes = welcome.nodes.len(),
                            "Taken in by the cluster."
                        );
                        return Ok(());
                    }
                    Ok(Some(reply::Body::Refusal(refusal))) if refusal.r#final => {
                        return Err(StartError::NotAdmitted {
                            reason: refusal.reason,
                        });
                    }
                    Ok(Some(reply::Body::Refusal(refusal))) => {
                        last = format!("{seed}: {}", refusal.reason);
                    }
                    _ => last = format!("{seed} answers what this version does not know"),
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Err(StartError::NotAdmitted { reason: last })
    }

    /// Takes a node into the cluster.
    pub(crate) async fn admit(
        &self,
        member: log::ClusterNode,
    ) -> Result<Vec<log::ClusterNode>, v1::Refusal> {
        let refuse = |reason: String, is_final| v1::Refusal {
            reason,
            leader: 0,
            r#final: is_final,
        };
        let known = self.meta.lock().nodes().get(&member.id).cloned();
        if known.is_some_and(|known| known.incarnation != member.incarnation)
            || member.id == self.id
        {
            return Err(refuse(
                format!(
                    "node {} is a member with other data: the number of a node that lost its data is not used again; \
                     remove it with `meridian cluster evict {}`, and give the new one a number of its own",
                    member.id, member.id
                ),
                true,
            ));
        }
        let entry = log::MetaEntry {
            put_node: Some(log::PutNode { node: Some(member) }),
            ..Default::default()
        };
        match self.change(entry).await {
            Ok(MetaReply::Done) => Ok(self.meta.lock().nodes().values().cloned().collect()),
            Ok(_) => Err(refuse(
                "a node of this number was removed: give it a new one".to_owned(),
                true,
            )),
            Err(error) => Err(refuse(error.to_string(), false)),
        }
    }

    /// Whether this node is to be left in peace: it leads nothing and takes no new clients.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        let meta = self.meta.lock();
        meta.nodes()
            .get(&self.id)
            .is_some_and(|member| member.draining || member.leaving)
    }

    /// Changes what the cluster knows of a member.
    ///
    /// # Errors
    /// [`Refused`]; `None` if there is no such member.
    pub async fn change_member(
        &self,
        id: u64,
        change: impl FnOnce(&mut log::ClusterNode),
    ) -> Result<Option<()>, Refused> {
        let Some(mut member) = self.meta.lock().nodes().get(&id).cloned() else {
            return Ok(None);
        };
        change(&mut member);
        let entry = log::MetaEntry {
            put_node: Some(log::PutNode { node: Some(member) }),
            ..Default::default()
        };
        self.change(entry).await.map(|_| Some(()))
    }

    /// Tells the transport and the delivery who the other nodes are.
    pub(crate) fn know_members(&self) {
        let nodes = self.meta.lock().nodes().clone();
        for node in nodes.values().filter(|node| node.id != self.id) {
            self.transport.set_peer(node.id, &node.address);
        }
        for peer in self.transport.peers() {
            if self.meta.lock().is_removed(peer.node) {
                self.transport.forget_peer(peer.node);
            }
        }
        self.dispatch
            .peers
            .set(nodes.into_keys().filter(|id| *id != self.id).collect());
    }

    /// Gives the lead of a group to another node.
    pub(crate) async fn transfer(&self, group: &str, to: u64) -> Result<(), String> {
        let transferred = if group == "meta" {
            self.meta_group().transfer_leader(to).await
        } else {
            let shard = self.shards.named(group).ok_or("no such group")?;
            shard.group.transfer_leader(to).await
        };
        transferred.map_err(|error| error.to_string())
    }

    /// Gives away all that this node leads, so that nobody waits for an election.
    pub(crate) async fn hand_over_leads(&self) {
        let deadline = Instant::now() + HAND_OVER_MAX;
        if self.member.is_none() {
            return;
        }
        loop {
            let heard = |peer: &meridian_raft::PeerStatus| {
                peer.connected && heard_within(peer, Duration::from_secs(2))
            };
            let peers: Vec<u64> = self
                .transport
                .peers()
                .iter()
                .filter(|peer| heard(peer))
                .map(|peer| peer.node)
                .collect();
            let mut led = 0;
            let groups = std::iter::once("meta".to_owned())
                .chain(self.shards.iter().map(|shard| shard.name.clone()));
            for (at, name) in groups.enumerate() {
                let status = match self.shards.named(&name) {
                    Some(shard) => shard.group.status(),
                    None => self.meta_group().status(),
                };
                let able: Vec<u64> = status
                    .voters
                    .keys()
                    .copied()
                    .filter(|voter| peers.contains(voter))
                    .collect();
                if status.leader == Some(self.id) && !able.is_empty() {
                    led += 1;
                    if let Err(reason) = self.transfer(&name, able[at % able.len()]).await {
                        tracing::debug!(group = name, reason, "No transfer.");
                    }
                }
            }
            if led == 0 || Instant::now() > deadline {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How this node sees itself and its groups.
    #[must_use]
    pub fn own_status(&self) -> Value {
        let group = |name: &str, status: meridian_raft::GroupStatus| {
            json!({
                "group": name, "leader": status.leader, "term": status.term, "voters": status.voters,
                "learners": status.learners, "joint": status.joint, "last_index": status.last_index,
                "applied_index": status.applied_index,
            })
        };
        let mut groups = vec![group("meta", self.meta_group().status())];
        groups.extend(
            self.shards
                .iter()
                .map(|shard| group(&shard.name, shard.group.status())),
        );
        json!({
            "id": self.id, "version": env!("CARGO_PKG_VERSION"), "uptime_s": self.uptime().as_secs(),
            "connections": self.counters.connections(), "boot": self.boot,
            "waiting_for": self.waiting_for(), "groups": groups,
        })
    }
}

/// Keeps the members known, and this node's own entry true; closes the sessions of connections that died with their node.
pub(crate) async fn run_presence(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    let mut changed = node.meta_changed();
    let begun = Instant::now();
    let mut own_are_closed = false;
    while !*stop.borrow() {
        changed.mark_unchanged();
        node.know_members();
        node.say_where().await;
        if !own_are_closed {
            own_are_closed = close_own(&node).await;
        }
        if begun.elapsed() > LOST {
            close_lost(&node).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = changed.changed() => {}
            _ = stop.changed() => {}
        }
    }
}

impl Node {
    /// Sees to it that the others know this node as it is configured.
    async fn say_where(&self) {
        let Some(member) = &self.member else { return };
        let known = self.meta.lock().nodes().get(&self.id).cloned();
        let wanted = log::ClusterNode {
            draining: known.as_ref().is_some_and(|known| known.draining),
            leaving: known.as_ref().is_some_and(|known| known.leaving),
            ..member.clone()
        };
        // Who was never taken in waits to be; the founder takes itself in.
        let founds = known.is_none() && self.meta_group().is_leader();
        if known.is_some_and(|known| known != wanted) || founds {
            let entry = log::MetaEntry {
                put_node: Some(log::PutNode { node: Some(wanted) }),
                ..Default::default()
            };
            if let Err(error) = self.change(entry).await {
                tracing::debug!(%error, "The cluster could not be told where this node is.");
            }
        }
    }
}

/// Closes the connections that died with earlier runs of this node. Whether all shards were looked at.
async fn close_own(node: &Node) -> bool {
    let mut all = true;
    for index in node.shards.map.all() {
        let shard = node.shards.get(index);
        // What this replica has not caught up with may hold more of them.
        if shard.group.status().leader.is_none() {
            all = false;
            continue;
        }
        let own = |record: &log::Session| {
            record.node == 0 || record.node == node.id && record.boot != node.boot
        };
        all &= close(node, index, own).await == 0;
    }
    all
}

/// Closes the connections of nodes that are lost, in the shards that are led here.
async fn close_lost(node: &Node) {
    let members = node.meta.lock().nodes().clone();
    let peers = node.transport.peers();
    let is_lost = |id: u64| {
        let silent = peers
            .iter()
            .find(|peer| peer.node == id)
            .is_none_or(|peer| !heard_within(peer, LOST));
        id != node.id && id != 0 && (silent || !members.contains_key(&id))
    };
    if !members.keys().any(|id| is_lost(*id)) && members.len() < 2 {
        return;
    }
    for index in node.shards.map.all() {
        if node.shards.get(index).leading.has_lease() {
            close(node, index, |record| is_lost(record.node)).await;
        }
    }
}

/// Closes the sessions that say they are connected and are not. How many there were.
async fn close(node: &Node, index: ShardIndex, dead: impl Fn(&log::Session) -> bool) -> usize {
    let shard = node.shards.get(index);
    let sessions: Vec<log::Session> = shard
        .state
        .lock()
        .sessions()
        .filter(|session| session.record.connected && dead(&session.record))
        .map(|session| session.record.clone())
        .collect();
    let count = sessions.len();
    let mut last: Result<_, Refused> = Ok(meridian_shard::Reply::Done);
    for (at, session) in sessions.into_iter().enumerate() {
        let command = log::command::Body::CloseSession(log::CloseSession {
            client_id: session.client_id,
            connection_epoch: session.connection_epoch,
            publish_will: true,
            expiry_s: session.expiry_s,
        });
        if at + 1 == count {
            last = shard.propose(command).await;
        } else {
            shard.submit(command).await;
        }
    }
    if let Err(error) = last {
        tracing::debug!(shard = shard.name, %error, "Dead connections could not be closed yet.");
    }
    count
}
