//! What is left to do when its sign was lost, on a node in this process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian::config::Config;
use meridian::server::Server;
use meridian::shards::Shards;
use meridian_shard::log::{self, command::Body};
use meridian_shard::{OpenedSession, Reply};

/// More than wait for their turn.
const WILLS: usize = 6000;

async fn start(folder: &tempfile::TempDir) -> Server {
    let environment = [
        (
            "MERIDIAN__NODE__DATA_DIR",
            folder.path().display().to_string(),
        ),
        ("MERIDIAN__DURABILITY__FSYNC", "false".to_owned()),
        ("MERIDIAN__LISTENERS__TCP__BIND", "127.0.0.1:0".to_owned()),
        ("MERIDIAN__LISTENERS__HTTP__BIND", "127.0.0.1:0".to_owned()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    let config = Config::load(None, environment).unwrap();
    Server::start(&config).await.unwrap()
}

async fn open(shards: &Shards, client_id: &str, will: Option<log::Message>) -> OpenedSession {
    let open = log::OpenSession {
        client_id: client_id.to_owned(),
        clean_start: false,
        expiry_s: if will.is_some() { 0 } else { 3600 },
        will: will.map(|message| log::Will {
            message: Some(message),
            delay_s: 0,
        }),
        // Nobody's run that is over.
        node: 99,
        boot: 1,
        ..Default::default()
    };
    let home = shards.get(shards.map.of_client(client_id));
    match home.propose(Body::OpenSession(open)).await.unwrap() {
        Reply::Opened(opened) => *opened,
        other => panic!("{other:?}"),
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_whose_owner_is_gone_are_freed_and_a_living_ones_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let shards = &server.node.shards;
    let alive = open(shards, "alive", None).await;
    let once = |client_id: &str, epoch, packet_id| log::Once {
        client_id: client_id.to_owned(),
        epoch,
        packet_id,
    };
    let names = [
        once("alive", alive.epoch, 1),
        // An earlier session of a client that is back, one of whom nobody knows anything, and a confirmed will.
        once("alive", alive.epoch - 1, 2),
        once("gone", 7, 3),
        once("dead", 9, 0),
    ];
    let shard = shards.iter().next().unwrap();
    for name in &names {
        let publish = log::Publish {
            message: None,
            once: Some(name.clone()),
        };
        shard.propose(Body::Publish(publish)).await.unwrap();
    }
    let known = || shard.state.lock().names().collect::<Vec<_>>();
    assert_eq!(known().len(), names.len());
    until("all but one are freed", || known().len() == 1).await;
    assert_eq!(known(), names[..1]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_wills_than_can_wait_all_come_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let shards = &server.node.shards;
    let mut sessions = Vec::new();
    for number in 0..WILLS {
        let shards = std::sync::Arc::clone(shards);
        sessions.push(tokio::spawn(async move {
            let client_id = format!("c{number}");
            let message = log::Message {
                topic: format!("will/{}", number % 16),
                payload: Bytes::from(client_id.clone()),
                ..Default::default()
            };
            let opened = open(&shards, &client_id, Some(message)).await;
            (client_id, opened.connection_epoch)
        }));
    }
    let before: u64 = shards.iter().map(|shard| shard.tail.head()).sum();
    for session in sessions {
        let (client_id, connection_epoch) = session.await.unwrap();
        let home = shards.get(shards.map.of_client(&client_id));
        let close = log::CloseSession {
            client_id,
            connection_epoch,
            publish_will: true,
            expiry_s: 0,
        };
        home.submit(Body::CloseSession(close)).await;
    }
    let head = || shards.iter().map(|shard| shard.tail.head()).sum::<u64>();
    until("all wills come", || head() >= before + WILLS as u64).await;
    let rest = || {
        shards.iter().map(|shard| {
            let state = shard.state.lock();
            state.leaving_wills().count() + state.names().count() + state.sessions().count()
        })
    };
    until("nothing is left over", || rest().sum::<usize>() == 0).await;
    assert_eq!(head(), before + WILLS as u64, "each came once");
    server.stop().await;
}
