//! Who is in a group can be changed while it works.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_raft::{Birth, MembersProgress, ProposeError};
use support::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_grows_from_one_shrinks_and_replaces_a_node() {
    let mut cluster = Cluster::start(1).await;
    let mut expected = Vec::new();
    for (step, voters) in [
        vec![1],
        vec![1, 2, 3],
        vec![1, 2],
        vec![2],
        vec![2, 4],
        vec![4, 5, 6],
    ]
    .into_iter()
    .enumerate()
    {
        for id in &voters {
            if !cluster.nodes.contains_key(id) {
                cluster.add(*id, Birth::Join).await;
            }
        }
        cluster.become_members(&voters).await;
        let leader = cluster.leader().await;
        assert!(voters.contains(&leader), "{leader} leads {voters:?}");
        let status = cluster.nodes[&leader].group.status();
        assert_eq!(status.voters.keys().copied().collect::<Vec<_>>(), voters);
        assert!(status.learners.is_empty() && !status.joint, "{status:?}");
        let gone: Vec<u64> = cluster
            .nodes
            .keys()
            .filter(|id| !voters.contains(id))
            .copied()
            .collect();
        for id in gone {
            cluster.stop(id).await;
        }
        for number in 0..5 {
            let command = format!("{step}/{number}");
            cluster.propose(&command).await;
            expected.push(command);
        }
        assert_eq!(cluster.agreed().await, expected);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_becomes_a_learner_and_never_holds_up_the_rest() {
    let mut cluster = Cluster::start(2).await;
    let leader = cluster.leader().await;
    let named = |ids: &[u64]| -> BTreeMap<u64, String> {
        let named = ids.iter().map(|id| (*id, format!("127.0.0.1:{id}")));
        named.collect()
    };
    let goal = named(&[1, 2, 3]);
    let none = BTreeMap::new();
    let group = cluster.nodes[&leader].group.clone();
    for _ in 0..3 {
        let progress = group.set_members(&goal, &none).await.expect("it leads");
        assert!(
            matches!(&progress, MembersProgress::Pending(why) if why.contains("node 3")),
            "{progress:?}"
        );
    }
    let status = group.status();
    assert!(!status.joint);
    assert_eq!(status.voters.len(), 2);
    assert_eq!(status.learners, named(&[3]));
    cluster.propose("without it").await;
    // Once it is there it votes; and as a learner, it does not.
    cluster.add(3, Birth::Join).await;
    cluster.become_members(&[1, 2, 3]).await;
    cluster.pursue(&[1, 2], &[3]).await;
    let leader = cluster.leader().await;
    let status = cluster.nodes[&leader].group.status();
    assert_eq!((status.voters.len(), status.learners), (2, named(&[3])));
    cluster.propose("it learns").await;
    assert_eq!(cluster.agreed().await, ["without it", "it learns"]);
    // Addresses follow.
    let group = cluster.nodes[&leader].group.clone();
    let mut moved = named(&[1, 2]);
    moved.insert(2, "127.0.0.2:2".to_owned());
    let progress = group.set_members(&moved, &named(&[3])).await;
    assert_eq!(progress.expect("it leads"), MembersProgress::Done);
    assert_eq!(group.status().voters, moved);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_moves_to_whom_it_is_given() {
    let cluster = Cluster::start(3).await;
    for round in 0..4 {
        let leader = cluster.leader().await;
        let next = leader % 3 + 1;
        let group = cluster.nodes[&leader].group.clone();
        group.transfer_leader(next).await.expect("handed over");
        assert_eq!(cluster.leader().await, next, "round {round}");
        let refused = group.transfer_leader(next).await;
        assert!(
            matches!(refused, Err(ProposeError::NotLeader { .. })),
            "{refused:?}"
        );
        cluster.propose(&format!("{round}")).await;
    }
    let leader = cluster.leader().await;
    let group = cluster.nodes[&leader].group.clone();
    assert!(
        matches!(group.transfer_leader(9).await, Err(ProposeError::Unknown)),
        "node 9 does not vote"
    );
    group
        .linearize(Duration::from_secs(5))
        .await
        .expect("it leads still");
    assert_eq!(cluster.agreed().await, ["0", "1", "2", "3"]);
    cluster.shutdown().await;
}
