//! Many connections, many sessions, many subscriptions; and the few who want to be served beside them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use meridian_mqtt::packet::{QoS, Version};
use meridian_mqtt::reason::ReasonCode;

use super::tls::{Authority, tls_client};
use crate::support::client::{Client, Login, WAIT};
use crate::support::{Broker, free_port};

/// Sockets that say nothing are closed after 10 s: whoever is served well before was served beside them.
const BESIDE: Duration = Duration::from_secs(5);

fn silent(port: u16, count: usize, word: &[u8]) -> Vec<TcpStream> {
    let socket = |_| {
        let mut socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        socket.write_all(word).unwrap();
        socket
    };
    (0..count).map(socket).collect()
}

/// Whether the other side has closed it by now.
fn is_closed(socket: &mut TcpStream, wait: Duration) -> bool {
    socket.set_read_timeout(Some(wait)).unwrap();
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}

fn upgrade(port: u16) -> String {
    let mut socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn s14_silent_sockets_keep_no_newcomer_of_their_own_address_waiting() {
    let authority = Authority::new();
    let (tls, ws) = (free_port(), free_port());
    let mut broker = Broker::start(&format!(
        "{}[listeners.ws]\nbind = \"127.0.0.1:{ws}\"\n",
        authority.listener("tls", tls, "")
    ));
    let began = Instant::now();
    let _silent = [
        silent(tls, 600, b""),
        silent(ws, 600, b""),
        silent(broker.mqtt, 600, b""),
    ];
    // S28: and hellos that stop in the middle, one of TLS and one of HTTP.
    let _half = [
        silent(tls, 400, &[0x16, 3, 1, 2]),
        silent(ws, 400, b"GET /mqtt HTTP/1.1\r\n"),
    ];
    let mut client = tls_client(tls, authority.client(None), Version::V5).unwrap();
    assert_eq!(
        client.login(Login::new("newcomer")).reason,
        ReasonCode::Success
    );
    assert_eq!(upgrade(ws), "HTTP/1.1 101");
    let mut plain = Client::tcp(broker.mqtt, Version::V5);
    assert_eq!(plain.login(Login::new("plain")).reason, ReasonCode::Success);
    assert!(began.elapsed() < BESIDE, "{:?}", began.elapsed());
    // Nor do they keep the listeners from closing, and the broker from stopping.
    drop((client, plain));
    broker.signal("TERM");
    let asked = Instant::now();
    while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], tls))).is_ok() {
        assert!(asked.elapsed() < BESIDE, "the listener is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(broker.wait_for_end(3 * WAIT), Some(0), "{}", broker.log());
}

#[test]
fn s14_more_half_handshakes_than_turns_do_not_keep_a_newcomer_waiting() {
    let authority = Authority::new();
    let tls = free_port();
    let _broker = Broker::start(&authority.listener("tls", tls, ""));
    let began = Instant::now();
    let _half = silent(tls, 1000, &[0x16, 3, 1, 2]);
    let mut client = tls_client(tls, authority.client(None), Version::V5).unwrap();
    assert_eq!(
        client.login(Login::new("newcomer")).reason,
        ReasonCode::Success
    );
    assert!(began.elapsed() < BESIDE, "{:?}", began.elapsed());
}

#[test]
fn s28_a_handshake_that_does_not_end_is_given_up() {
    let authority = Authority::new();
    let (tls, ws) = (free_port(), free_port());
    let broker = Broker::start(&format!(
        "{}[listeners.ws]\nbind = \"127.0.0.1:{ws}\"\n",
        authority.listener("tls", tls, "")
    ));
    let began = Instant::now();
    let mut half = silent(tls, 1, &[0x16, 3, 1, 2]);
    half.extend(silent(ws, 1, b"GET /mqtt HTTP/1.1\r\n"));
    half.extend([tls, ws, broker.mqtt].map(|port| silent(port, 1, b"").remove(0)));
    for socket in &mut half {
        assert!(is_closed(socket, 2 * WAIT));
    }
    assert!(
        began.elapsed() >= Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn s14_an_address_has_so_many_connections_and_no_more() {
    let broker = Broker::start("[limits]\nmax_connections_per_address = 5\n");
    let connected = |id: &str| {
        let mut client = Client::tcp(broker.mqtt, Version::V5);
        assert_eq!(client.login(Login::new(id)).reason, ReasonCode::Success);
        client
    };
    let mut five: Vec<Client> = ["a", "b", "c", "d", "e"].map(connected).into();
    let mut sixth = silent(broker.mqtt, 1, b"");
    assert!(is_closed(&mut sixth[0], WAIT));
    // Another address of this machine is another guest.
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound
        .bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into())
        .unwrap();
    bound
        .connect(&SocketAddr::from(([127, 0, 0, 1], broker.mqtt)).into())
        .unwrap();
    let other = TcpStream::from(bound);
    let stream = Box::new(other.try_clone().unwrap());
    let mut other = Client::over(other, stream, Version::V5);
    assert_eq!(other.login(Login::new("other")).reason, ReasonCode::Success);
    // A place that is given up is free again.
    drop(five.pop());
    let deadline = Instant::now() + WAIT;
    while is_closed(
        &mut silent(broker.mqtt, 1, b"")[0],
        Duration::from_millis(100),
    ) {
        assert!(Instant::now() < deadline, "the place was not given back");
    }
}

#[test]
fn s14_an_address_that_connects_too_fast_is_refused_and_may_come_later() {
    let broker = Broker::start("[limits]\nconnection_rate_per_address = \"5/s\"\n");
    let mut sockets = silent(broker.mqtt, 40, b"");
    let closed = |socket: &mut TcpStream| is_closed(socket, Duration::from_millis(20));
    let refused = sockets
        .iter_mut()
        .filter_map(|socket| closed(socket).then_some(()))
        .count();
    assert!(
        (20..=30).contains(&refused),
        "{refused} of 40, where 10 are free at once"
    );
    std::thread::sleep(Duration::from_secs(1));
    let mut client = Client::tcp(broker.mqtt, Version::V5);
    assert_eq!(
        client.login(Login::new("later")).reason,
        ReasonCode::Success
    );
}

#[test]
fn s13_connect_must_be_whole_in_time_however_slowly_it_drips() {
    let broker = Broker::start("[limits]\nconnect_timeout = \"1s\"\n");
    let mut slow = silent(broker.mqtt, 1, b"");
    let connect = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04slow";
    let began = Instant::now();
    for byte in &connect[..connect.len() - 1] {
        std::thread::sleep(Duration::from_millis(120));
        if slow[0].write_all(&[*byte]).is_err() {
            break;
        }
    }
    assert!(is_closed(&mut slow[0], WAIT));
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn s13_a_keep_alive_above_the_cap_is_lowered_and_held() {
    let broker = Broker::start("");
    let mut client = Client::tcp(broker.mqtt, Version::V5);
    let connack = client.login(Login {
        keep_alive_s: 65_535,
        ..Login::new("a")
    });
    assert_eq!(connack.properties.server_keep_alive_s, Some(300));
    let broker = Broker::start("[limits]\nmax_keep_alive = \"1s\"\n");
    let mut client = Client::tcp(broker.mqtt, Version::V5);
    let connack = client.login(Login {
        keep_alive_s: 65_535,
        ..Login::new("a")
    });
    assert_eq!(connack.properties.server_keep_alive_s, Some(1));
    assert_eq!(
        client.farewell(Duration::from_secs(6)),
        Some(Some(ReasonCode::KeepAliveTimeout))
    );
}

#[test]
fn s15_sessions_that_stay_are_bounded_by_time_by_user_and_in_all() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.toml");
    for name in ["anna", "bert"] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_meridian"))
            .args(["user", "add", name, "--file"])
            .arg(&users)
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"pw\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
    let mut broker = Broker::start(&format!(
        "[auth]\nusers_file = {users:?}\n[limits]\nmax_sessions_per_user = 3\nmax_sessions = 5\nmax_connections = 100\n"
    ));
    let open = |broker: &Broker, id: &str, user, expiry_s| {
        let mut client = Client::tcp(broker.mqtt, Version::V5);
        let login = Login {
            expiry_s,
            clean: false,
            ..Login::with(id, user, "pw")
        };
        (client.login(login), client)
    };
    let (connack, _client) = open(&broker, "a0", "anna", u32::MAX);
    assert_eq!(connack.properties.session_expiry_s, Some(7 * 86_400));
    for id in ["a1", "a2"] {
        assert_eq!(
            open(&broker, id, "anna", u32::MAX).0.reason,
            ReasonCode::Success
        );
    }
    assert_eq!(
        open(&broker, "a3", "anna", u32::MAX).0.reason,
        ReasonCode::QuotaExceeded
    );
    assert_eq!(
        open(&broker, "a3", "anna", 0).0.reason,
        ReasonCode::Success,
        "one that ends with it may be"
    );
    let mut v3 = Client::tcp(broker.mqtt, Version::V311);
    let refused = v3.login(Login {
        clean: false,
        ..Login::with("a4", "anna", "pw")
    });
    assert_eq!(
        refused.reason,
        ReasonCode::ServerUnavailable,
        "what 3.1.1 has for it"
    );
    for (id, reason) in [
        ("b0", ReasonCode::Success),
        ("b1", ReasonCode::Success),
        ("b2", ReasonCode::QuotaExceeded),
    ] {
        assert_eq!(open(&broker, id, "bert", 60).0.reason, reason, "{id}");
    }
    // Whose they are is known after a kill, and one that is given up makes room.
    broker.kill_and_restart();
    assert_eq!(
        open(&broker, "a3", "anna", 60).0.reason,
        ReasonCode::QuotaExceeded
    );
    let mut client = Client::tcp(broker.mqtt, Version::V5);
    let again = client.login(Login {
        clean: true,
        ..Login::with("a0", "anna", "pw")
    });
    assert_eq!(again.reason, ReasonCode::Success);
    drop(client);
    assert_eq!(
        open(&broker, "a3", "anna", 60).0.reason,
        ReasonCode::Success
    );
}

#[test]
fn s16_a_flood_of_overlapping_filters_is_cut_off_and_matching_goes_on() {
    let broker = Broker::start("");
    let mut flood = Client::tcp(broker.mqtt, Version::V5);
    flood.login(Login::new("flood"));
    // 2,048 filters of eleven levels, each level a name or a wildcard: all of them match one topic.
    let filter = |bits: u32| {
        let levels: Vec<&str> = (0..11)
            .map(|at| if bits >> at & 1 == 1 { "+" } else { "a" })
            .collect();
        levels.join("/")
    };
    let filters: Vec<String> = (0..2048).map(filter).collect();
    let mut answers = Vec::new();
    for chunk in filters.chunks(512) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        answers.extend(flood.subscribe(&chunk, QoS::AtMostOnce));
    }
    let granted = answers
        .iter()
        .take_while(|reason| **reason == ReasonCode::Success)
        .count();
    assert_eq!(granted, 1000);
    assert!(
        answers[1000..]
            .iter()
            .all(|reason| *reason == ReasonCode::QuotaExceeded)
    );
    let mut writer = Client::tcp(broker.mqtt, Version::V5);
    writer.login(Login::new("writer"));
    for _ in 0..100 {
        assert!(
            !writer
                .publish("a/a/a/a/a/a/a/a/a/a/a", "", QoS::AtLeastOnce)
                .is_error()
        );
    }
    assert_eq!(
        flood.messages(Duration::from_secs(1)).len(),
        100,
        "one copy of each"
    );
}
