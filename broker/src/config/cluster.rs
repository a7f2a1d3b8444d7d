//! `[cluster]`: how nodes find each other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::reader::Reader;
use crate::cluster::ClusterOptions;

/// The port between nodes.
const PORT: u16 = 7883;

/// `[cluster]`
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// How this node finds the others; `None` without `bind`: a cluster of one that nobody can join.
    pub options: Option<ClusterOptions>,
    /// `replication`: copies of each shard, 1…9. Default 3, and never more than there are nodes.
    pub replication: usize,
}

pub(super) fn read(reader: &mut Reader, base: &Path) -> ClusterConfig {
    let name = reader
        .text("cluster.name")
        .unwrap_or_else(|| "meridian".to_owned());
    let bind = reader.parsed("cluster.bind", |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| "must be address:port, such as 0.0.0.0:7883".to_owned())
    });
    let advertise = reader.text("cluster.advertise");
    let seeds = reader.text_list("cluster.seeds", &[]);
    let bootstrap = reader.text_list("cluster.bootstrap", &[]);
    let replication = reader.number("cluster.replication", 3, 1, 9);
    let files = ["cert", "key", "ca"].map(|name| {
        let file = reader.text(&format!("cluster.{name}"));
        file.map(|file| base.join(file))
    });
    for (key, list) in [("cluster.seeds", &seeds), ("cluster.bootstrap", &bootstrap)] {
        for (at, address) in list.iter().enumerate() {
            if !is_address(address) {
                reader.mistake(
                    &format!("{key}[{at}]"),
                    format!("`{address}` is no host:port, such as 10.0.0.1:{PORT}"),
                );
            }
        }
    }
    let tls = match files {
        [Some(cert), Some(key), Some(ca)] => Some((cert, key, ca)),
        [None, None, None] => None,
        _ => {
            reader.mistake(
                "cluster.cert",
                "nodes prove who they are with all three of cluster.cert, cluster.key and cluster.ca".into(),
            );
            None
        }
    };
    let Some(bind) = bind else {
        if !seeds.is_empty() || !bootstrap.is_empty() || advertise.is_some() {
            reader.mistake(
                "cluster.bind",
                format!("is needed to be found by other nodes, such as 0.0.0.0:{PORT}"),
            );
        }
        return ClusterConfig {
            options: None,
            replication: 1,
        };
    };
    let advertise = advertise.unwrap_or_else(|| bind.to_string());
    if !is_address(&advertise) {
        reader.mistake(
            "cluster.advertise",
            format!("must be host:port, such as 10.0.0.1:{PORT}"),
        );
    } else if advertise
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    {
        reader.mistake(
            "cluster.advertise",
            "is needed where cluster.bind names no single address: other nodes must know where to reach this one"
                .into(),
        );
    }
    let others = seeds.iter().any(|seed| *seed != advertise);
    if !others && !bootstrap.is_empty() && !bootstrap.contains(&advertise) {
        reader.mistake(
            "cluster.seeds",
            "is needed by a node that does not found the cluster: name the other nodes".into(),
        );
    }
    ClusterConfig {
        replication: usize::try_from(replication).unwrap_or(3),
        options: Some(ClusterOptions {
            name,
            bind,
            // Whom nobody is named to is alone, and founds.
            bootstrap: bootstrap.contains(&advertise) || bootstrap.is_empty() && !others,
            advertise,
            seeds,
            tls,
        }),
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}
