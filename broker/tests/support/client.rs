//! A blocking client on any byte stream, for tests that look at single packets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use meridian_mqtt::codec::{Decoder, PACKET_BYTES_MAX, encode};
use meridian_mqtt::packet::{
    Ack, ConnAck, Connect, ConnectProperties, Packet, PacketId, Publish, PublishProperties, QoS,
    RetainHandling, Subscribe, Subscription, Version, Will,
};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::{TopicFilter, TopicName};

pub const WAIT: Duration = Duration::from_secs(10);

pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// What CONNECT says.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    pub id: &'a str,
    pub user: Option<(&'a str, &'a str)>,
    pub clean: bool,
    pub expiry_s: u32,
    pub keep_alive_s: u16,
    pub receive_maximum: u16,
    pub will: Option<(&'a str, u32)>,
}

impl<'a> Login<'a> {
    pub fn new(id: &'a str) -> Self {
        Login {
            id,
            user: None,
            clean: true,
            expiry_s: 0,
            keep_alive_s: 60,
            receive_maximum: 1000,
            will: None,
        }
    }
    pub fn with(id: &'a str, user: &'a str, password: &'a str) -> Self {
        Login {
            user: Some((user, password)),
            ..Self::new(id)
        }
    }
}

pub struct Client {
    socket: TcpStream,
    stream: Box<dyn ReadWrite>,
    decoder: Decoder,
    version: Version,
    input: BytesMut,
    next_id: u16,
}

/// What came within the time.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Packet(Box<Packet>),
    Closed,
    Nothing,
}

fn text(text: &str) -> Text {
    Text::try_from(text).unwrap()
}

impl Client {
    pub fn tcp(port: u16, version: Version) -> Client {
        let socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        let stream = socket.try_clone().unwrap();
        Self::over(socket, Box::new(stream), version)
    }

    /// `socket` is what is at the bottom of `stream`.
    pub fn over(socket: TcpStream, stream: Box<dyn ReadWrite>, version: Version) -> Client {
        socket.set_write_timeout(Some(WAIT)).unwrap();
        socket.set_nodelay(true).unwrap();
        Client {
            socket,
            stream,
            decoder: Decoder::client(version, PACKET_BYTES_MAX),
            version,
            input: BytesMut::new(),
            next_id: 0,
        }
    }

    pub fn say(&mut self, packet: &Packet) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        encode(packet, self.version, PACKET_BYTES_MAX, &mut out).unwrap();
        self.stream.write_all(&out)?;
        self.stream.flush()
    }

    pub fn hear(&mut self, wait: Duration) -> Heard {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                return Heard::Packet(Box::new(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Nothing;
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 16_384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::Closed,
                Ok(read) => self.input.extend_from_slice(&buffer[..read]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    return Heard::Nothing;
                }
                Err(_) => return Heard::Closed,
            }
        }
    }

    fn packet(&mut self) -> Packet {
        match self.hear(WAIT) {
            Heard::Packet(packet) => *packet,
            other => panic!("a packet was to come: {other:?}"),
        }
    }

    pub fn login(&mut self, login: Login<'_>) -> ConnAck {
        let mut properties = ConnectProperties::default();
        if self.version == Version::V5 {
            properties.session_expiry_s = Some(login.expiry_s);
            properties.receive_maximum = std::num::NonZeroU16::new(login.receive_maximum);
        }
        let connect = Connect {
            version: self.version,
            clean_start: login.clean,
            keep_alive_s: login.keep_alive_s,
            client_id: text(login.id),
            will: login.will.map(|(topic, delay_s)| Will {
                topic: TopicName::new(text(topic)).unwrap(),
                payload: Bytes::from_static(b"will"),
                qos: QoS::AtLeastOnce,
                retain: false,
                delay_s,
                properties: PublishProperties::default(),
            }),
            username: login.user.map(|(name, _)| text(name)),
            password: login
                .user
                .map(|(_, password)| Bytes::copy_from_slice(password.as_bytes())),
            properties,
        };
        self.say(&Packet::Connect(Box::new(connect))).unwrap();
        match self.packet() {
            Packet::ConnAck(connack) => *connack,
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    fn id(&mut self) -> PacketId {
        self.next_id += 1;
        PacketId::new(self.next_id).unwrap()
    }

    pub fn subscribe(&mut self, filters: &[&str], qos: QoS) -> Vec<ReasonCode> {
        let packet_id = self.id();
        let subscription = |filter: &&str| Subscription {
            filter: Ok(TopicFilter::new(text(filter)).unwrap()),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        self.say(&Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: None,
            user: Vec::new(),
            filters: filters.iter().map(subscription).collect(),
        }))
        .unwrap();
        match self.packet() {
            Packet::SubAck(suback) => suback.reasons,
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    fn publication(&mut self, topic: &str, payload: &str, qos: QoS) -> Packet {
        Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: Some(TopicName::new(text(topic)).unwrap()),
            packet_id: (qos > QoS::AtMostOnce).then(|| self.id()),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: PublishProperties::default(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        })
    }

    /// At QoS 0: nothing is answered.
    pub fn send(&mut self, topic: &str, payload: &str) -> std::io::Result<()> {
        let publication = self.publication(topic, payload, QoS::AtMostOnce);
        self.say(&publication)
    }

    /// At QoS 1 or 2, up to the answer.
    pub fn publish(&mut self, topic: &str, payload: &str, qos: QoS) -> ReasonCode {
        let publication = self.publication(topic, payload, qos);
        self.say(&publication).unwrap();
        match self.packet() {
            Packet::PubAck(ack) | Packet::PubRec(ack) => ack.reason,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// What comes until nothing comes for `silence`; each is acknowledged.
    pub fn messages(&mut self, silence: Duration) -> Vec<(String, String)> {
        let mut messages = Vec::new();
        while let Heard::Packet(packet) = self.hear(silence) {
            let Packet::Publish(publish) = *packet else {
                continue;
            };
            if let Some(packet_id) = publish.packet_id {
                let _closed_meanwhile = self.say(&Packet::PubAck(Ack {
                    packet_id,
                    reason: ReasonCode::Success,
                    reason_string: None,
                    user: Vec::new(),
                }));
            }
            messages.push((
                publish.topic.unwrap().as_str().to_owned(),
                String::from_utf8(publish.payload.to_vec()).unwrap(),
            ));
        }
        messages
    }

    /// Whether the server ends the connection within the time; the reason that it gave, if it gave one.
    pub fn farewell(&mut self, wait: Duration) -> Option<Option<ReasonCode>> {
        let deadline = Instant::now() + wait;
        let mut reason = None;
        while Instant::now() < deadline {
            match self.hear(deadline.saturating_duration_since(Instant::now())) {
                Heard::Closed => return Some(reason),
                Heard::Packet(packet) => {
                    if let Packet::Disconnect(disconnect) = *packet {
                        reason = Some(disconnect.reason);
                    }
                }
                Heard::Nothing => {}
            }
        }
        None
    }
}
