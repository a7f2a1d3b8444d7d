//! The same rules on every node of a cluster: who owns a session, and what is taken away, wherever somebody is connected.

use std::time::Duration;

use meridian_mqtt::packet::{QoS, Version};
use meridian_mqtt::reason::ReasonCode;

use crate::access::{Files, REVOKED, connected, topics};
use crate::support::Cluster;
use crate::support::client::{Client, Login};

/// How long something that must not come is waited for.
const SILENCE: Duration = Duration::from_secs(1);

fn cluster(files: &Files, rules: &str) -> Cluster {
    let users = files.users(&[("anna", "pa"), ("bert", "pb")]);
    let acl = files.write("acl.toml", rules);
    Cluster::start(
        3,
        &format!(
            "[auth]\nusers_file = {users:?}\nacl_file = {acl:?}\n[sharding]\nregions = [\"hel\"]\ndefault_shards = 2\n"
        ),
    )
}

#[test]
fn s19_a_session_is_its_owners_on_every_node_and_over_the_death_of_one() {
    let files = Files::new();
    let mut cluster = cluster(&files, "[[rule]]\nsubscribe = [\"#\"]\npublish = [\"#\"]\n");
    let all_are_refused = |cluster: &Cluster, nodes: &[usize]| {
        for at in nodes {
            for clean in [true, false] {
                let stranger = Login {
                    clean,
                    ..Login::with("truck-7", "bert", "pb")
                };
                let mut refused = Client::tcp(cluster.nodes[*at].mqtt, Version::V5);
                let reason = refused.login(stranger).reason;
                assert_eq!(reason, ReasonCode::NotAuthorized, "node {}", at + 1);
            }
        }
    };
    // While a session ends with its connection, and while it is to outlive it.
    for expiry_s in [0, 600] {
        let mine = Login {
            expiry_s,
            clean: false,
            ..Login::with("truck-7", "anna", "pa")
        };
        let mut victim = connected(&cluster.nodes[0], Version::V5, mine);
        victim.subscribe(&["cmd/#"], QoS::AtLeastOnce);
        all_are_refused(&cluster, &[0, 1, 2]);
        let mut writer = connected(
            &cluster.nodes[1],
            Version::V5,
            Login::with("w", "bert", "pb"),
        );
        writer.publish("cmd/1", "", QoS::AtLeastOnce);
        assert_eq!(topics(victim.messages(SILENCE)), ["cmd/1"]);
    }
    cluster.nodes[0].kill();
    all_are_refused(&cluster, &[1, 2]);
    let mut victim = Client::tcp(cluster.nodes[2].mqtt, Version::V5);
    let connack = victim.login(Login {
        expiry_s: 600,
        clean: false,
        ..Login::with("truck-7", "anna", "pa")
    });
    assert_eq!(
        (connack.reason, connack.session_present),
        (ReasonCode::Success, true)
    );
}

#[test]
fn s20_s21_rights_taken_away_are_gone_wherever_the_client_and_the_publisher_are() {
    let files = Files::new();
    let writing = "[[rule]]\nusers = [\"bert\"]\npublish = [\"open/#\", \"secret/#\"]\nsubscribe = [\"wills/#\"]\n";
    let both = "[[rule]]\nusers = [\"anna\"]\nsubscribe = [\"open/#\", \"secret/#\"]\npublish = [\"wills/%c\"]\n";
    let open = "[[rule]]\nusers = [\"anna\"]\nsubscribe = [\"open/#\"]\n";
    let cluster = cluster(&files, &format!("{writing}{both}"));
    let mut writers: Vec<Client> = cluster
        .nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let id = format!("writer-{at}");
            connected(node, Version::V5, Login::with(&id, "bert", "pb"))
        })
        .collect();
    let readers = |id: &str, expiry_s: u32| -> Vec<Client> {
        cluster
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| {
                let id = format!("{id}-{at}");
                let will = format!("wills/{id}");
                let login = Login {
                    expiry_s,
                    will: Some((&will, 0)),
                    ..Login::with(&id, "anna", "pa")
                };
                let mut reader = connected(node, Version::V5, login);
                let granted = reader.subscribe(&["open/#", "secret/#"], QoS::AtLeastOnce);
                assert_eq!(granted, [ReasonCode::GrantedQoS1; 2]);
                reader
            })
            .collect()
    };
    let mut live = readers("live", 0);
    live.extend(readers("persistent", 600));
    let mut write = |word: &str| {
        for (at, writer) in writers.iter_mut().enumerate() {
            for topic in ["open", "secret"] {
                let topic = format!("{topic}/{word}/{at}");
                // In a log, and past all logs.
                assert_eq!(
                    writer.publish(&topic, "", QoS::AtLeastOnce),
                    ReasonCode::Success
                );
                writer.send(&topic, "").unwrap();
            }
            // The leader of the shard judges fixes; who may publish them is judged here.
            assert_eq!(
                writer.publish("gps/hel/car/position", "{}", QoS::AtLeastOnce),
                ReasonCode::NotAuthorized
            );
        }
    };
    write("before");
    for reader in &mut live {
        assert_eq!(reader.messages(SILENCE).len(), 12);
    }
    files.write("acl.toml", &format!("{writing}{open}"));
    std::thread::sleep(REVOKED);
    write("after");
    for reader in &mut live {
        let mut got = topics(reader.messages(SILENCE));
        got.sort();
        let expected = [0, 0, 1, 1, 2, 2].map(|at| format!("open/after/{at}"));
        assert_eq!(got, expected);
    }
    let mut heir = connected(
        &cluster.nodes[1],
        Version::V5,
        Login::with("heir", "bert", "pb"),
    );
    let granted = heir.subscribe(&["wills/#"], QoS::AtLeastOnce);
    assert_eq!(granted, [ReasonCode::GrantedQoS1]);
    drop(live);
    assert_eq!(topics(heir.messages(Duration::from_secs(6))), [""; 0]);
}
