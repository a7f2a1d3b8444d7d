//! A client of which a test sees every packet, and decides about every answer. The codec is rumqttc's.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::QoS;
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Packet, PubAck, PubComp, PubRec, PubRel,
    Publish, Subscribe,
};

const PACKET_BYTES_MAX: usize = 1 << 20;
/// Publications under way at a time.
const WINDOW: u16 = 16;
/// How long a packet that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection, of MQTT 3.1.1.
pub struct Wire {
    stream: TcpStream,
    input: BytesMut,
    /// The server had a session of this client.
    pub session_present: bool,
}

impl Wire {
    /// Connects as `client_id` and waits until it is accepted.
    pub fn connect(port: u16, client_id: &str, clean_session: bool) -> Wire {
        Self::open(port, client_id, clean_session, None)
    }

    /// The same with a will of QoS 2, and a session that ends with the connection.
    pub fn with_will(port: u16, client_id: &str, topic: &str, payload: &str) -> Wire {
        let will = LastWill::new(topic, payload, QoS::ExactlyOnce, false);
        Self::open(port, client_id, true, Some(will))
    }

    fn open(port: u16, client_id: &str, clean_session: bool, will: Option<LastWill>) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Wire {
            stream,
            input: BytesMut::new(),
            session_present: false,
        };
        let mut connect = Connect::new(client_id);
        connect.clean_session = clean_session;
        connect.keep_alive = 60;
        connect.last_will = will;
        wire.send(&Packet::Connect(connect));
        match wire.receive() {
            Packet::ConnAck(ConnAck {
                session_present,
                code: ConnectReturnCode::Success,
            }) => wire.session_present = session_present,
            other => panic!("{other:?}"),
        }
        wire
    }

    /// Sends one packet.
    pub fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, PACKET_BYTES_MAX).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next packet, which must come.
    pub fn receive(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.input, PACKET_BYTES_MAX) {
                Ok(packet) => return packet,
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(read) => self.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("nothing came within {PATIENCE:?}")
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether the server closes the connection before anything else comes, or soon.
    pub fn is_closed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        self.stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// The payloads of what has come, acknowledged; waits only a moment.
    pub fn take_ready(&mut self) -> Vec<String> {
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        self.stream
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        while let Ok(read) = self.stream.read(&mut buffer) {
            assert!(read > 0, "the server closed the connection");
            self.input.extend_from_slice(&buffer[..read]);
        }
        while let Ok(packet) = Packet::read(&mut self.input, PACKET_BYTES_MAX) {
            if let Packet::Publish(publish) = packet {
                if publish.qos == QoS::AtLeastOnce {
                    self.send(&Packet::PubAck(PubAck::new(publish.pkid)));
                }
                got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            }
        }
        got
    }

    /// Subscribes at QoS 2.
    pub fn subscribe(&mut self, filter: &str) {
        let mut subscribe = Subscribe::new(filter, QoS::ExactlyOnce);
        subscribe.pkid = 1;
        self.send(&Packet::Subscribe(subscribe));
        assert!(matches!(self.receive(), Packet::SubAck(_)));
    }

    /// Publishes one message and waits until the server owns it, and at QoS 2 until the flow is over.
    pub fn publish(&mut self, topic: &str, qos: QoS, payload: &str) {
        self.publish_all(topic, qos, [payload.to_owned()]);
    }

    /// Publishes many, some at a time.
    pub fn publish_all(
        &mut self,
        topic: &str,
        qos: QoS,
        payloads: impl IntoIterator<Item = String>,
    ) {
        let mut payloads = payloads.into_iter().peekable();
        while payloads.peek().is_some() {
            let mut open = BTreeSet::new();
            for (pkid, payload) in (1..=WINDOW).zip(&mut payloads) {
                let mut publish = Publish::new(topic, qos, payload);
                publish.pkid = pkid;
                self.send(&Packet::Publish(publish));
                open.insert(pkid);
            }
            while !open.is_empty() {
                match self.receive() {
                    Packet::PubAck(PubAck { pkid }) if qos == QoS::AtLeastOnce => {
                        assert!(open.remove(&pkid));
                    }
                    Packet::PubRec(PubRec { pkid }) => {
                        self.send(&Packet::PubRel(PubRel::new(pkid)));
                    }
                    Packet::PubComp(PubComp { pkid }) => assert!(open.remove(&pkid)),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// What a receiver keeps over all its connections. At QoS 2 (3.1.1, figure 4.3) it owns a message at PUBLISH, and forgets
/// its identifier at PUBREL; at QoS 1 it owns each that comes.
#[derive(Default)]
pub struct Receiver {
    held: BTreeSet<u16>,
    /// The payloads that it owns, in the order in which they came.
    pub got: Vec<String>,
}

impl Receiver {
    /// Takes a packet; says what the answer is.
    pub fn take(&mut self, packet: &Packet) -> Packet {
        match packet {
            Packet::Publish(publish) => {
                if publish.qos == QoS::AtLeastOnce {
                    let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                    self.got.push(payload);
                    return Packet::PubAck(PubAck::new(publish.pkid));
                }
                assert_eq!(publish.qos, QoS::ExactlyOnce);
                if self.held.insert(publish.pkid) {
                    let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                    self.got.push(payload);
                }
                Packet::PubRec(PubRec::new(publish.pkid))
            }
            Packet::PubRel(pubrel) => {
                self.held.remove(&pubrel.pkid);
                Packet::PubComp(PubComp::new(pubrel.pkid))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Receives and answers until `wanted` has come.
    pub fn take_until(&mut self, wire: &mut Wire, wanted: impl Fn(&[String]) -> bool) {
        while !wanted(&self.got) {
            let packet = wire.receive();
            let answer = self.take(&packet);
            wire.send(&answer);
        }
    }
}
