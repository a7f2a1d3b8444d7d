//! This node among the others: what they say to each other, who is a member, and who leads what.
//!
//! Raft's own messages travel beneath, in `raft`. Here is what brokers ask of each other: an entry for a log that is led
//! elsewhere, fixes for the leader to judge, messages that stand in no log.

mod calls;
mod members;
mod membership;
mod peers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use meridian_raft::PeerStatus;

pub use calls::Calls;
pub(crate) use members::run as run_members;
pub use members::voters;
pub(crate) use membership::run_presence;
pub use peers::Peers;

/// Whether anything was heard of a peer so recently.
#[must_use]
pub fn heard_within(peer: &PeerStatus, recently: Duration) -> bool {
    peer.heard.is_some_and(|heard| heard.elapsed() < recently)
}

/// `[cluster]`: how this node finds the others.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The cluster's name: nodes of another one are refused.
    pub name: String,
    /// Where other nodes reach this one.
    pub bind: SocketAddr,
    /// The same as they see it, `host:port`.
    pub advertise: String,
    /// Nodes to ask when joining, `host:port`.
    pub seeds: Vec<String>,
    /// Whether this node founds the cluster, if its data directory is empty.
    pub bootstrap: bool,
    /// Certificate, key and authority, PEM.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
}
