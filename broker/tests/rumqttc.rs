//! The client rumqttc, 3.1.1 and 5.0, over TCP, TLS 1.3 and WebSocket.

mod support;

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use support::{Broker, free_port};

struct Places {
    broker: Broker,
    tls: u16,
    ws: u16,
    trust: Arc<rustls::ClientConfig>,
    _certificates: tempfile::TempDir,
}

fn start() -> Places {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])
        .unwrap();
    std::fs::write(folder.path().join("server.pem"), made.cert.pem()).unwrap();
    std::fs::write(
        folder.path().join("server.key"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from(made.cert.der().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (tls, ws) = (free_port(), free_port());
    let path = |name| folder.path().join(name).display().to_string();
    let broker = Broker::start(&format!(
        "[listeners.tls]\nbind = \"127.0.0.1:{tls}\"\ncert = {:?}\nkey = {:?}\n[listeners.ws]\nbind = \"127.0.0.1:{ws}\"\n",
        path("server.pem"),
        path("server.key"),
    ));
    Places {
        broker,
        tls,
        ws,
        trust: Arc::new(trust),
        _certificates: folder,
    }
}

/// Host, port and transport of each way in.
fn ways(places: &Places) -> [(&'static str, String, u16, Transport); 3] {
    let tls = Transport::Tls(TlsConfiguration::Rustls(Arc::clone(&places.trust)));
    [
        (
            "tcp",
            "127.0.0.1".into(),
            places.broker.mqtt,
            Transport::Tcp,
        ),
        ("tls", "127.0.0.1".into(), places.tls, tls),
        (
            "ws",
            format!("ws://127.0.0.1:{}/mqtt", places.ws),
            places.ws,
            Transport::Ws,
        ),
    ]
}

/// Publishes 30 messages at each QoS and takes them back, in order.
macro_rules! round_trip {
    ($options:ty, $client:ty, $event:path, $publish:path, $suback:path, $qos:path, $way:expr) => {{
        use $qos as QoS;
        let (name, host, port, transport) = $way;
        let mut options = <$options>::new(format!("client-{name}"), host, port);
        options.set_keep_alive(Duration::from_secs(10));
        options.set_transport(transport);
        let (client, mut events) = <$client>::new(options, 100);
        client
            .subscribe(format!("{name}/#"), QoS::ExactlyOnce)
            .await
            .unwrap();
        let mut got = Vec::new();
        let mut feeder = None;
        let done = async {
            while got.len() < 90 {
                match events.poll().await.unwrap() {
                    $event($suback(_)) => {
                        let client = client.clone();
                        feeder = Some(tokio::spawn(async move {
                            for (level, qos) in
                                [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
                                    .into_iter()
                                    .enumerate()
                            {
                                for number in 0..30 {
                                    let topic = format!("{name}/{level}");
                                    client
                                        .publish(topic, qos, false, format!("{level}:{number}"))
                                        .await
                                        .unwrap();
                                }
                            }
                        }));
                    }
                    $event($publish(publish)) => {
                        got.push(String::from_utf8(publish.payload.to_vec()).unwrap())
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done)
            .await
            .expect("all messages come in time");
        feeder.unwrap().await.unwrap();
        for level in 0..3 {
            let wanted: Vec<String> = (0..30).map(|number| format!("{level}:{number}")).collect();
            let of_level: Vec<&String> = got
                .iter()
                .filter(|word| word.starts_with(&format!("{level}:")))
                .collect();
            assert_eq!(
                of_level,
                wanted.iter().collect::<Vec<_>>(),
                "QoS {level} over {name}"
            );
        }
    }};
}

#[tokio::test]
async fn rumqttc_with_3_1_1_over_every_transport() {
    let places = start();
    for way in ways(&places) {
        round_trip!(
            rumqttc::MqttOptions,
            rumqttc::AsyncClient,
            rumqttc::Event::Incoming,
            rumqttc::Packet::Publish,
            rumqttc::Packet::SubAck,
            rumqttc::QoS,
            way
        );
    }
}

#[tokio::test]
async fn rumqttc_with_5_0_over_every_transport() {
    use rumqttc::v5;
    let places = start();
    for way in ways(&places) {
        round_trip!(
            v5::MqttOptions,
            v5::AsyncClient,
            v5::Event::Incoming,
            v5::mqttbytes::v5::Packet::Publish,
            v5::mqttbytes::v5::Packet::SubAck,
            v5::mqttbytes::QoS,
            way
        );
    }
}
