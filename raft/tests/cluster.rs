//! Three voters: they agree, they survive one of them, and a minority promises nothing.
#![allow(missing_docs)]

mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::Cluster;

fn strings(commands: &[Bytes]) -> Vec<String> {
    commands
        .iter()
        .map(|command| String::from_utf8_lossy(command).into_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_applied_in_the_same_order_by_all() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let proposals: Vec<_> = (0..8)
        .map(|proposer| {
            let group = cluster.nodes[&leader].group.clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    let command = format!("{proposer}/{number}");
                    group.propose(command.into()).await.expect("acknowledged");
                }
            })
        })
        .collect();
    for proposal in proposals {
        proposal.await.expect("no panic");
    }
    let applied = strings(&cluster.agreed().await);
    assert_eq!(applied.len(), 400, "none lost, none twice");
    for proposer in 0..8 {
        let own: Vec<_> = applied
            .iter()
            .filter_map(|command| command.strip_prefix(&format!("{proposer}/")))
            .map(|number| number.parse::<u64>().expect("a number"))
            .collect();
        assert_eq!(own, (0..50).collect::<Vec<_>>(), "in the order of proposal");
    }
    let status = cluster.nodes[&leader].group.status();
    assert_eq!(status.voters.len(), 3);
    assert!(!status.joint);
    assert!(status.quorum_acked.expect("it leads") < Duration::from_secs(2));
    assert_eq!(status.matched.len(), 3);
    let follower = if leader == 1 { 2 } else { 1 };
    assert_eq!(
        *cluster.nodes[&follower].group.leader_watch().borrow(),
        Some(leader)
    );
    let refused = cluster.nodes[&follower].group.propose(Bytes::new()).await;
    assert!(
        matches!(refused, Err(meridian_raft::ProposeError::NotLeader { leader: Some(named) }) if named == leader),
        "{refused:?}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_followed_by_another_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for number in 0..30 {
            let command = format!("{round}/{number}");
            cluster.propose(&command).await;
            acknowledged.push(command);
        }
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        let command = format!("{round}/without {leader}");
        let begun = Instant::now();
        cluster.propose(&command).await;
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "two election timeouts and more: {:?}",
            begun.elapsed()
        );
        acknowledged.push(command);
        cluster.open(leader, meridian_raft::Birth::Join).await;
    }
    assert_eq!(
        strings(&cluster.agreed().await),
        acknowledged,
        "each once, in order"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_acknowledges_nothing_and_comes_back_as_a_follower() {
    let cluster = Cluster::start(3).await;
    cluster.propose("before").await;
    let old = cluster.leader().await;
    for other in (1..=3).filter(|other| *other != old) {
        cluster.cut(old, other);
    }
    // It does not know yet, and takes commands; but no majority ever holds them.
    let alone = cluster.nodes[&old].group.clone();
    let waiting: Vec<_> = (0..5)
        .map(|number| {
            let alone = alone.clone();
            tokio::spawn(async move { alone.propose(format!("lost {number}").into()).await })
        })
        .collect();
    assert!(
        alone.linearize(Duration::from_secs(3)).await.is_err(),
        "and no read is current"
    );
    let begun = Instant::now();
    loop {
        let newer = cluster
            .nodes
            .values()
            .any(|node| node.id != old && node.group.is_leader());
        if newer {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "nobody took over"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.propose("after").await;
    assert!(waiting.iter().all(|proposal| !proposal.is_finished()));
    // The dead connections are found although their sockets live.
    let connected = || {
        let peers = cluster.nodes[&old].transport.peers();
        peers.iter().any(|peer| peer.connected)
    };
    let begun = Instant::now();
    while connected() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "nothing was heard for seconds"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.heal();
    for proposal in waiting {
        let outcome = tokio::time::timeout(Duration::from_secs(15), proposal).await;
        let outcome = outcome
            .expect("told once the leader is known")
            .expect("no panic");
        assert!(outcome.is_err(), "not acknowledged: {outcome:?}");
    }
    assert_eq!(strings(&cluster.agreed().await), ["before", "after"]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_the_acknowledged_is_applied_once_everywhere() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(20_261_124);
    let mut random = seed;
    let mut draw = move |below: u64| {
        // Knuth's MMIX generator.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut cluster = Cluster::start_with(
        3,
        meridian_raft::GroupOptions {
            flush_after_entries: 40,
            keep_entries: 5,
            ..meridian_raft::GroupOptions::new(0)
        },
    )
    .await;
    let mut acknowledged = HashSet::new();
    let mut proposed = 0;
    for round in 0..8 {
        let leader = cluster.leader().await;
        let mut running = Vec::new();
        for _ in 0..draw(40) + 10 {
            let command = format!("{proposed}");
            proposed += 1;
            let group = cluster.nodes[&leader].group.clone();
            running.push(tokio::spawn(async move {
                let bytes = Bytes::from(command.clone());
                group.propose(bytes).await.is_ok().then_some(command)
            }));
        }
        tokio::time::sleep(Duration::from_millis(draw(40))).await;
        let victim = draw(3) + 1;
        cluster.kill(victim).await;
        for proposal in running {
            let outcome = tokio::time::timeout(Duration::from_secs(15), proposal).await;
            let outcome =
                outcome.unwrap_or_else(|_| panic!("seed {seed}, round {round}: a proposal hangs"));
            acknowledged.extend(outcome.expect("no panic"));
        }
        if draw(2) == 0 {
            cluster.propose(&format!("{proposed}")).await;
            acknowledged.insert(format!("{proposed}"));
            proposed += 1;
        }
        cluster.open(victim, meridian_raft::Birth::Join).await;
    }
    let applied = strings(&cluster.agreed().await);
    let once: HashSet<_> = applied.iter().cloned().collect();
    assert_eq!(once.len(), applied.len(), "seed {seed}: none twice");
    assert!(
        acknowledged.is_subset(&once),
        "seed {seed}: lost {:?}",
        acknowledged.difference(&once)
    );
    assert!(
        acknowledged.len() > 20,
        "seed {seed}: the test did something"
    );
    cluster.shutdown().await;
}
