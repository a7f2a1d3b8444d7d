//! What nodes say to each other, and whom they refuse to talk to.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_raft::{BindError, Handler, RequestError, Transport, TransportOptions, TransportTls};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SOON: Duration = Duration::from_secs(5);

/// Answers with who asked, after as many milliseconds as the request's first byte says; keeps one-way messages.
#[derive(Default)]
struct Answers {
    taken: Mutex<Vec<(u64, Bytes)>>,
}

impl Handler for Answers {
    fn request(&self, from: u64, body: Bytes) -> BoxFuture<'static, Bytes> {
        Box::pin(async move {
            let wait = body.first().copied().unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(u64::from(wait))).await;
            [&from.to_be_bytes()[..], &body].concat().into()
        })
    }

    fn notify(&self, from: u64, body: Bytes) {
        self.taken.lock().push((from, body));
    }
}

fn options(node: u64, cluster: &str) -> TransportOptions {
    TransportOptions {
        node,
        cluster: cluster.to_owned(),
        bind: "127.0.0.1:0".parse().expect("an address"),
        advertise: String::new(),
        tls: None,
    }
}

async fn bind(options: TransportOptions) -> (Transport, Arc<Answers>) {
    let answers = Arc::<Answers>::default();
    let transport = Transport::bind(options, answers.clone()).await;
    (transport.expect("binds"), answers)
}

fn addr(transport: &Transport) -> String {
    transport.local_addr().expect("listens").to_string()
}

#[tokio::test]
async fn requests_are_answered_side_by_side_and_one_way_messages_keep_their_order() {
    let (one, _) = bind(options(1, "a")).await;
    let (two, taken) = bind(options(2, "a")).await;
    one.set_peer(2, &addr(&two));
    // Waits for the first connection; the slow one holds up nobody.
    let begun = Instant::now();
    let slow = one.request(2, Bytes::from_static(&[250]), SOON);
    let fast = one.request(2, Bytes::from_static(&[0, 7]), SOON);
    let (slow, fast) = tokio::join!(slow, async {
        let answer = fast.await;
        (answer, begun.elapsed())
    });
    assert_eq!(
        fast.0.expect("answered"),
        [&1_u64.to_be_bytes()[..], &[0, 7]].concat()
    );
    assert!(fast.1 < Duration::from_millis(250));
    assert!(slow.is_ok());
    for number in 0..1000_u32 {
        assert!(one.notify(2, Bytes::from(number.to_be_bytes().to_vec())));
    }
    // Behind all of them in the same queue.
    one.request(2, Bytes::new(), SOON).await.expect("answered");
    let begun = Instant::now();
    while taken.taken.lock().len() < 1000 {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (number, (from, body)) in taken.taken.lock().iter().enumerate() {
        assert_eq!(*from, 1);
        assert_eq!(
            &body[..],
            u32::try_from(number).expect("small").to_be_bytes()
        );
    }
    let large = Bytes::from(vec![0; 3 << 20]);
    let whole = one.request_addr(&addr(&two), large, SOON).await;
    assert_eq!(whole.expect("answered").len(), 8 + (3 << 20));
    let status = &one.peers()[0];
    assert!(status.node == 2 && status.connected && status.heard.is_some());
    // Too late is unknown; an unknown or ended peer surely did nothing.
    let late = one.request(2, Bytes::from_static(&[200]), Duration::from_millis(20));
    assert!(matches!(late.await, Err(RequestError::Unknown { .. })));
    let nobody = one.request(9, Bytes::new(), SOON).await;
    assert!(matches!(nobody, Err(RequestError::Unsent { .. })));
    two.shutdown().await;
    let begun = Instant::now();
    while one.peers()[0].connected {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gone = one.request(2, Bytes::new(), SOON).await;
    assert!(matches!(gone, Err(RequestError::Unsent { .. })), "{gone:?}");
    assert!(!one.notify(2, Bytes::new()));
    one.shutdown().await;
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_found_dead_and_holds_no_request() {
    let (one, _) = bind(options(1, "a")).await;
    // Says Welcome as node 2, then nothing more, as a stopped process would.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    one.set_peer(2, &listener.local_addr().expect("bound").to_string());
    let (mut socket, _) = listener.accept().await.expect("dialled");
    let mut hello = vec![0; 1024];
    assert!(socket.read(&mut hello).await.expect("a Hello") > 4);
    // Welcome { protocol: 1, cluster: "a", node: 2 }
    let welcome = [0, 0, 0, 7, 0x08, 1, 0x12, 1, b'a', 0x18, 2];
    socket.write_all(&welcome).await.expect("sent");
    let begun = Instant::now();
    while !one.peers()[0].connected {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    let lost = one.request(2, Bytes::new(), Duration::from_secs(30)).await;
    assert!(
        matches!(lost, Err(RequestError::Unknown { .. })),
        "{lost:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    one.shutdown().await;
}

async fn refusal(transport: &Transport, addr: &str) -> String {
    match transport.request_addr(addr, Bytes::new(), SOON).await {
        Err(RequestError::Unsent { reason }) => reason,
        other => panic!("{addr} answers: {other:?}"),
    }
}

#[tokio::test]
async fn a_node_of_another_cluster_the_node_itself_and_a_twin_are_refused_by_name() {
    let (one, _) = bind(options(1, "a")).await;
    let (foreign, _) = bind(options(2, "b")).await;
    let reason = refusal(&foreign, &addr(&one)).await;
    assert!(reason.contains("cluster \"b\""), "{reason}");
    let reason = refusal(&one, &addr(&one)).await;
    assert!(reason.contains("dialled itself"), "{reason}");
    let (twin, _) = bind(options(1, "a")).await;
    let reason = refusal(&twin, &addr(&one)).await;
    assert!(reason.contains("node 1 already"), "{reason}");
    // Two processes that call themselves node 3: the one that is connected stays.
    let (three, _) = bind(options(3, "a")).await;
    three.set_peer(1, &addr(&one));
    three
        .request(1, Bytes::new(), SOON)
        .await
        .expect("answered");
    let (impostor, _) = bind(options(3, "a")).await;
    let reason = refusal(&impostor, &addr(&one)).await;
    assert!(
        reason.contains("another process is connected as node 3"),
        "{reason}"
    );
    three
        .request(1, Bytes::new(), SOON)
        .await
        .expect("answered still");
    // Once it has ended, its successor is welcome.
    three.shutdown().await;
    let begun = Instant::now();
    impostor.set_peer(1, &addr(&one));
    while impostor.request(1, Bytes::new(), SOON).await.is_err() {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Where node 2 was expected, node 1 answers.
    impostor.set_peer(2, &addr(&one));
    let wrong = impostor.request(2, Bytes::new(), SOON).await;
    assert!(
        matches!(wrong, Err(RequestError::Unsent { .. })),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn garbage_and_oversized_frames_end_the_connection() {
    let (one, _) = bind(options(1, "a")).await;
    let hello = [0, 0, 0, 9, 0x08, 1, 0x12, 1, b'a', 0x18, 2, 0x20, 1];
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xFF; 64],
        // A Hello may be 4 KiB long.
        &[0, 0, 0x10, 1, 0],
        &[0, 0, 0, 4, 0xFF, 0xFF, 0xFF, 0xFF],
        // After a good Hello: a frame of 4 GiB, and one that cannot be read.
        &[&hello[..], &[0xFF, 0xFF, 0xFF, 0xFF]].concat(),
        &[&hello[..], &[0, 0, 0, 2, 0x0A, 0x7F]].concat(),
    ];
    for bytes in garbage {
        let mut socket = tokio::net::TcpStream::connect(addr(&one))
            .await
            .expect("connects");
        socket.write_all(bytes).await.expect("sent");
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(SOON, socket.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{bytes:?} is not answered by closing");
    }
    let (two, _) = bind(options(2, "a")).await;
    let fine = two.request_addr(&addr(&one), Bytes::new(), SOON).await;
    assert!(fine.is_ok(), "others are served: {fine:?}");
    let larger = Bytes::from(vec![0; 65 << 20]);
    let refused = two.request_addr(&addr(&one), larger, SOON).await;
    assert!(
        matches!(refused, Err(RequestError::Unsent { .. })),
        "{refused:?}"
    );
}

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for `name`, and this authority as the one to trust.
    fn files(&self, folder: &Path, name: &str) -> TransportTls {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let write = |file: &str, text: &str| {
            let path = folder.join(file);
            std::fs::write(&path, text).expect("written");
            path
        };
        let id = key.serialize_pem().len() + folder.read_dir().expect("listed").count();
        TransportTls {
            cert: write(&format!("{id}.crt"), &certificate.pem()),
            key: write(&format!("{id}.key"), &key.serialize_pem()),
            ca: write(&format!("{id}.ca"), &self.pem),
        }
    }
}

#[tokio::test]
async fn only_certificates_of_the_cluster_from_its_ca_are_accepted_on_both_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, theirs) = (Authority::new(), Authority::new());
    let with = |node, tls| TransportOptions {
        tls: Some(tls),
        ..options(node, "fleet")
    };
    let (one, _) = bind(with(1, ours.files(folder.path(), "fleet.meridian"))).await;
    let (two, _) = bind(with(2, ours.files(folder.path(), "fleet.meridian"))).await;
    let answer = two
        .request_addr(&addr(&one), Bytes::from_static(&[0]), SOON)
        .await;
    assert_eq!(answer.expect("answered").len(), 9);
    two.set_peer(1, &addr(&one));
    two.request(1, Bytes::new(), SOON).await.expect("answered");

    let (foreign, _) = bind(with(3, ours.files(folder.path(), "other.meridian"))).await;
    let (stranger, _) = bind(with(4, theirs.files(folder.path(), "fleet.meridian"))).await;
    let (plain, _) = bind(options(5, "fleet")).await;
    // Trusts our CA, but shows a certificate of another one.
    let mut mixed = theirs.files(folder.path(), "fleet.meridian");
    mixed.ca = ours.files(folder.path(), "fleet.meridian").ca;
    let (mixed, _) = bind(with(6, mixed)).await;
    for intruder in [&foreign, &stranger, &plain, &mixed] {
        for (from, to) in [(intruder, &one), (&one, intruder)] {
            let refused = from
                .request_addr(&addr(to), Bytes::from_static(&[0]), SOON)
                .await;
            assert!(
                matches!(
                    refused,
                    Err(RequestError::Unsent { .. } | RequestError::Unknown { .. })
                ),
                "node {} is answered by node {}: {refused:?}",
                from.node(),
                to.node()
            );
        }
    }
}

#[tokio::test]
async fn off_loopback_there_is_no_cluster_without_tls() {
    let mut unprotected = options(1, "a");
    unprotected.bind = "0.0.0.0:0".parse().expect("an address");
    let refused = Transport::bind(unprotected, Arc::<Answers>::default()).await;
    let Err(refused @ BindError::Unprotected { .. }) = refused else {
        panic!("it listens");
    };
    assert!(
        refused.to_string().contains("configure a certificate"),
        "{refused}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut nameless = options(1, "no.label");
    nameless.tls = Some(Authority::new().files(folder.path(), "no.label.meridian"));
    let refused = Transport::bind(nameless, Arc::<Answers>::default()).await;
    assert!(matches!(refused, Err(BindError::Tls(_))));
}
