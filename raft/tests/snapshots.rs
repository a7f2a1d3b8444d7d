//! Followers that are too far behind for the log get the state itself.
#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use meridian_raft::{Birth, GroupOptions};
use support::Cluster;

fn short_log() -> GroupOptions {
    GroupOptions {
        flush_after_entries: 50,
        keep_entries: 5,
        ..GroupOptions::new(0)
    }
}

/// Proposes until the leader's log begins behind `index`.
async fn purge_beyond(cluster: &Cluster, index: u64) {
    let begun = Instant::now();
    let mut number = 0;
    loop {
        let leader = cluster.leader().await;
        if cluster.nodes[&leader].group.status().purged_index > index {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "never purged");
        for _ in 0..20 {
            cluster.propose(&format!("filler {number}")).await;
            number += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_purged_log_gets_the_state_and_then_the_log() {
    let mut cluster = Cluster::start_with(3, short_log()).await;
    cluster.propose("before").await;
    let leader = cluster.leader().await;
    let away = leader % 3 + 1;
    let last = cluster.nodes[&away].group.status().last_index;
    cluster.kill(away).await;
    purge_beyond(&cluster, last + 20).await;
    cluster.open(away, Birth::Join).await;
    let applied = cluster.agreed().await;
    assert_eq!(applied[0], "before");
    let purged = cluster.nodes[&away].group.status().purged_index;
    assert!(purged > last, "it was given the state, not the log");
    // What was installed survives a kill at once.
    cluster.kill(away).await;
    cluster.open(away, Birth::Join).await;
    cluster.propose("after").await;
    assert_eq!(cluster.agreed().await.last().expect("some"), "after");
    // And it can lead with it.
    let leader = cluster.leader().await;
    if leader != away {
        let group = cluster.nodes[&leader].group.clone();
        group.transfer_leader(away).await.expect("handed over");
    }
    cluster.propose("led by it").await;
    cluster.agreed().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_gets_a_state_of_many_chunks_while_others_write() {
    let mut cluster = Cluster::start_with(1, short_log()).await;
    let large = "x".repeat(200_000);
    for number in 0..120 {
        cluster.propose(&format!("{number} {large}")).await;
    }
    purge_beyond(&cluster, 50).await;
    cluster.add(2, Birth::Join).await;
    let group = cluster.nodes[&1].group.clone();
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            let command = format!("meanwhile {number}").into();
            group.propose(command).await.expect("acknowledged");
        }
    });
    cluster.become_members(&[1, 2]).await;
    writing.await.expect("no panic");
    let applied = cluster.agreed().await;
    let large = applied.iter().filter(|command| command.len() > 200_000);
    assert_eq!(large.count(), 120);
    assert!(cluster.nodes[&2].group.status().purged_index > 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_run_of_a_store_has_a_higher_number() {
    let mut cluster = Cluster::start(1).await;
    let mut last = 0;
    for _ in 0..3 {
        let boot = cluster.nodes[&1].storage.boot();
        assert!(boot > last);
        last = boot;
        cluster.kill(1).await;
        cluster.open(1, Birth::Join).await;
    }
    cluster.shutdown().await;
}
