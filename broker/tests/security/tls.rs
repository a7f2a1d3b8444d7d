//! TLS: who is let in by which certificate, and certificates that change while the broker runs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use meridian_mqtt::packet::{QoS, Version};
use meridian_mqtt::reason::ReasonCode;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, DnValue, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::support::client::{Client, Heard, Login, WAIT};
use crate::support::{Broker, free_port};

/// An authority that signs the server and its clients.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// Chain and key, PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    cert: String,
    key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let authority = Authority {
            folder: tempfile::tempdir().unwrap(),
            issuer: Issuer::new(params, key),
            certificate: certificate.der().clone(),
        };
        std::fs::write(authority.path("ca.pem"), certificate.pem()).unwrap();
        authority.put_server(&authority.server());
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn server(&self) -> Pair {
        self.sign(|params| {
            params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        })
    }

    fn put_server(&self, pair: &Pair) {
        std::fs::write(self.path("server.pem"), &pair.cert).unwrap();
        std::fs::write(self.path("server.key"), &pair.key).unwrap();
    }

    fn device(&self, name: &str, serial: u64) -> Pair {
        self.sign(|params| {
            params.serial_number = Some(SerialNumber::from(serial));
            params
                .distinguished_name
                .push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
        })
    }

    fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        std::fs::write(self.path("revoked.pem"), list.pem().unwrap()).unwrap();
    }

    /// A listener's section of the configuration.
    pub(crate) fn listener(&self, name: &str, port: u16, more: &str) -> String {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        format!(
            "[listeners.{name}]\nbind = \"127.0.0.1:{port}\"\ncert = {cert:?}\nkey = {key:?}\n{more}\n"
        )
    }

    fn client_of(
        &self,
        pair: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![chain], key).unwrap()
            }
        }
    }

    pub(crate) fn client(&self, pair: Option<&Pair>) -> ClientConfig {
        self.client_of(pair, &[&rustls::version::TLS13])
    }
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

fn handshake(port: u16, config: ClientConfig) -> std::io::Result<TlsStream> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    socket.set_read_timeout(Some(WAIT))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

pub(crate) fn tls_client(
    port: u16,
    config: ClientConfig,
    version: Version,
) -> std::io::Result<Client> {
    let stream = handshake(port, config)?;
    let socket = stream.sock.try_clone()?;
    Ok(Client::over(socket, Box::new(stream), version))
}

/// Why the server refuses a client certificate: in TLS 1.3 it says so after the client thinks that all is well.
fn refusal(port: u16, config: ClientConfig) -> String {
    let answer = handshake(port, config).and_then(|mut stream| {
        stream.write_all(b"\xc0\0")?;
        let mut byte = [0];
        stream.read_exact(&mut byte)
    });
    answer.unwrap_err().to_string()
}

fn login(port: u16, config: ClientConfig, login: Login<'_>) -> (ReasonCode, Client) {
    let mut client = tls_client(port, config, Version::V5).unwrap();
    (client.login(login).reason, client)
}

#[test]
fn s27_the_common_name_is_the_user_and_nothing_overrides_it() {
    let authority = Authority::new();
    let acl = authority.path("acl.toml");
    std::fs::write(&acl, "[[rule]]\nusers = [\"device-7\"]\nsubscribe = [\"dev/%u/#\"]\n[[rule]]\nusers = [\"*\"]\nsubscribe = [\"any/%u/#\"]").unwrap();
    let (tls, wss) = (free_port(), free_port());
    let ca = format!("client_ca = {:?}", authority.path("ca.pem"));
    let _broker = Broker::start(&format!(
        "{}{}[auth]\nacl_file = {acl:?}\nallow_anonymous = false\n",
        authority.listener("tls", tls, &ca),
        authority.listener("wss", wss, &ca)
    ));
    let config = |pair: &Pair| authority.client(Some(pair));
    let device = authority.device("device-7", 7);
    let (reason, mut client) = login(tls, config(&device), Login::new("x"));
    assert_eq!(reason, ReasonCode::Success);
    let asked = ["dev/device-7/#", "any/device-7/#", "dev/+/#"];
    let (yes, no) = (ReasonCode::Success, ReasonCode::NotAuthorized);
    assert_eq!(client.subscribe(&asked, QoS::AtMostOnce), [yes, yes, no]);
    // A user name may say the same, and not another.
    for (name, reason) in [("device-7", yes), ("device-8", no)] {
        assert_eq!(
            login(tls, config(&device), Login::with("y", name, "")).0,
            reason
        );
    }
    // A name is not cut, folded or taken for a pattern.
    for name in ["device-70", "DEVICE-7", "a/b", "+"] {
        let (reason, mut client) = login(tls, config(&authority.device(name, 8)), Login::new("z"));
        assert_eq!(reason, yes);
        let asked = ["dev/device-7/#", "any/b/#", "any/+/#", "any/a/b/#"];
        assert_eq!(client.subscribe(&asked, QoS::AtMostOnce), [no; 4], "{name}");
    }
    for name in ["device-7\0.evil", ""] {
        assert!(
            refusal(tls, config(&authority.device(name, 9))).contains("AccessDenied"),
            "{name:?}"
        );
    }
    // Who is signed by another authority, by nobody, too old, or brings nothing.
    let stranger = Authority::new().device("device-7", 7);
    assert!(refusal(tls, config(&stranger)).contains("alert"));
    let old = authority.sign(|params| {
        params.not_after = date_time_ymd(2020, 1, 1);
        params
            .distinguished_name
            .push(DnType::CommonName, "device-7");
    });
    assert!(refusal(tls, config(&old)).contains("CertificateExpired"));
    assert!(refusal(tls, authority.client(None)).contains("CertificateRequired"));
    assert!(refusal(wss, authority.client(None)).contains("CertificateRequired"));
}

#[test]
fn s27_another_field_names_the_user_where_it_is_asked_for() {
    let authority = Authority::new();
    let tls = free_port();
    let more = format!(
        "client_ca = {:?}\nidentity = \"san_uri\"",
        authority.path("ca.pem")
    );
    let _broker = Broker::start(&format!(
        "{}[auth]\nbind_client_id = true\n",
        authority.listener("tls", tls, &more)
    ));
    let device = authority.sign(|params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "somebody else");
        params.subject_alt_names = vec![SanType::URI("urn:dev:7".try_into().unwrap())];
    });
    let config = || authority.client(Some(&device));
    assert_eq!(
        login(tls, config(), Login::new("urn:dev:7")).0,
        ReasonCode::Success
    );
    assert_eq!(
        login(tls, config(), Login::new("somebody else")).0,
        ReasonCode::NotAuthorized
    );
    let without = authority.device("urn:dev:7", 1);
    assert!(refusal(tls, authority.client(Some(&without))).contains("AccessDenied"));
}

#[test]
fn s27_a_revoked_certificate_is_refused_as_soon_as_the_list_says_so() {
    let authority = Authority::new();
    authority.revoke(&[1]);
    let tls = free_port();
    let more = format!(
        "client_ca = {:?}\nclient_crl = {:?}",
        authority.path("ca.pem"),
        authority.path("revoked.pem")
    );
    let _broker = Broker::start(&authority.listener("tls", tls, &more));
    let (first, second) = (authority.device("first", 1), authority.device("second", 2));
    let config = |pair: &Pair| authority.client(Some(pair));
    assert!(refusal(tls, config(&first)).contains("CertificateRevoked"));
    assert_eq!(
        login(tls, config(&second), Login::new("second")).0,
        ReasonCode::Success
    );
    authority.revoke(&[1, 2]);
    let deadline = Instant::now() + WAIT;
    while !refusal(tls, config(&second)).contains("CertificateRevoked") {
        assert!(Instant::now() < deadline, "the list was not read again");
    }
}

fn served(stream: &TlsStream) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn certificates_change_without_a_connection_being_lost_and_a_broken_pair_changes_nothing() {
    let authority = Authority::new();
    let tls = free_port();
    let broker = Broker::start(&authority.listener("tls", tls, ""));
    let of_now = || served(&handshake(tls, authority.client(None)).unwrap());
    let first = of_now();
    let (reason, mut old) = login(tls, authority.client(None), Login::new("old"));
    assert_eq!(reason, ReasonCode::Success);

    let days_left = || -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", broker.http);
        let mut answer = ureq::get(url).call().unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let name = "meridian_certificate_expiry_seconds{listener=\"tls\"}";
        let left = text.lines().find_map(|line| line.strip_prefix(name));
        left.unwrap().trim().parse::<f64>().unwrap() / 86_400.0
    };
    assert!(days_left() > 11.0);
    let other = authority.sign(|params| {
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.not_after = (SystemTime::now() + Duration::from_secs(10 * 86_400)).into();
    });
    std::fs::write(authority.path("server.pem"), &other.cert).unwrap();
    broker.signal("HUP");
    let waits_for = |word: &str| {
        let deadline = Instant::now() + WAIT;
        while !broker.log().contains(word) {
            assert!(Instant::now() < deadline, "{word} in {}", broker.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    waits_for("do not make a certificate");
    assert_eq!(of_now(), first);
    assert!(days_left() > 11.0);
    // With its key it is a pair, and needs no signal.
    std::fs::write(authority.path("server.key"), &other.key).unwrap();
    let deadline = Instant::now() + WAIT;
    while of_now() == first {
        assert!(
            Instant::now() < deadline,
            "the new certificate is not served"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!((9.0..=10.0).contains(&days_left()));
    assert_eq!(
        old.subscribe(&["a"], QoS::AtMostOnce),
        [ReasonCode::Success],
        "who was there is there"
    );
    assert_eq!(old.hear(Duration::from_millis(200)), Heard::Nothing);
}

#[test]
fn s28_only_tls_1_3_unless_1_2_is_asked_for_and_nothing_in_the_clear() {
    let authority = Authority::new();
    let (new, both) = (free_port(), free_port());
    let _broker = Broker::start(&format!(
        "{}{}",
        authority.listener("tls", new, ""),
        authority.listener("wss", both, "min_version = \"1.2\"")
    ));
    let old = || authority.client_of(None, &[&rustls::version::TLS12]);
    let refused = handshake(new, old()).unwrap_err().to_string();
    assert!(refused.contains("ProtocolVersion"), "{refused}");
    handshake(both, old()).unwrap();
    handshake(new, authority.client(None)).unwrap();
    let mut plain = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], new))).unwrap();
    plain
        .write_all(b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02me")
        .unwrap();
    plain.set_read_timeout(Some(WAIT)).unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    assert!(!answer.starts_with(&[0x20]), "no CONNACK: {answer:?}");
}

/// RFC 7301 §3.2.
#[test]
fn a_client_that_offers_other_protocols_only_is_refused_and_one_that_offers_none_is_welcome() {
    let authority = Authority::new();
    let (tls, wss) = (free_port(), free_port());
    let _broker = Broker::start(&format!(
        "{}{}",
        authority.listener("tls", tls, ""),
        authority.listener("wss", wss, "")
    ));
    let offering = |names: &[&str]| {
        let mut config = authority.client(None);
        config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    };
    let chosen = |port, names: &[&str]| {
        let stream = handshake(port, offering(names)).map_err(|error| error.to_string())?;
        Ok::<_, String>(stream.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(chosen(tls, &[]), Ok(None));
    assert_eq!(chosen(tls, &["h2", "mqtt"]), Ok(Some(b"mqtt".to_vec())));
    assert_eq!(
        chosen(tls, &["x-amzn-mqtt-ca"]),
        Ok(Some(b"x-amzn-mqtt-ca".to_vec()))
    );
    assert_eq!(
        chosen(wss, &["h2", "http/1.1"]),
        Ok(Some(b"http/1.1".to_vec()))
    );
    for (port, wrong) in [(tls, "http/1.1"), (wss, "h2")] {
        let refused = chosen(port, &[wrong]).unwrap_err();
        assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    }
}

#[test]
fn behind_a_proxy_the_address_in_its_header_counts() {
    let port = free_port();
    let _broker = Broker::start(&format!(
        "[listeners.ws]\nbind = \"127.0.0.1:{port}\"\nproxy_protocol = true\n[limits]\nmax_connections_per_address = 1\n"
    ));
    let arrive = |last: u8| {
        let mut socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        bytes.extend([192, 0, 2, last, 127, 0, 0, 1, 0xc0, 0, 0x22, 0xb3]);
        bytes.extend(b"GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n");
        socket.write_all(&bytes).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        let mut answer = [0; 12];
        let is_served = socket.read_exact(&mut answer).is_ok() && answer.ends_with(b"101");
        is_served.then_some(socket)
    };
    let first = arrive(1);
    assert!(first.is_some() && arrive(2).is_some());
    assert!(arrive(1).is_none(), "it has its one connection");
    let mut bare = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    bare.write_all(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    bare.set_read_timeout(Some(WAIT)).unwrap();
    assert!(
        !matches!(bare.read(&mut [0]), Ok(1..)),
        "without a header nobody is served"
    );
}
