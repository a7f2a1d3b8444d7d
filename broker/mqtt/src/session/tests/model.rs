//! A client, a session and a log exchange messages over connections that are lost at any point, and with a server that
//! dies at any point: what is not committed then is in no log.
//!
//! Everything derives from one seed, which a failing run names. While faults rage, each side watches what the other
//! may do on one connection: quotas, identifiers, order, no resend. Then the faults stop, all must come to rest, and
//! the promises are counted: QoS 2 exactly once, QoS 1 at least once, both in the order of each topic. Every packet
//! goes over the wire format.

mod client;
mod log;

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;

use super::*;
use crate::codec::{Decoder, PACKET_BYTES_MAX, encode};
use client::Client;
use log::Log;

/// What either side sends: which one it is, where and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    number: u32,
    topic: &'static str,
    qos: QoS,
}

const UP: [&str; 3] = ["up/first", "up/second", "up/third"];
const DOWN: [&str; 4] = ["down/1", "down/2", "down/3", "down/4"];
/// Bytes of a packet that the client takes.
const CLIENT_BYTES_MAX: u32 = 200;

impl Message {
    fn payload(self) -> Bytes {
        let mut payload = self.number.to_be_bytes().to_vec();
        if self.is_too_large() {
            payload.resize(CLIENT_BYTES_MAX as usize, 0);
        }
        payload.into()
    }

    fn of(topic: &str, qos: QoS, payload: &Bytes) -> Self {
        let topic = UP.iter().chain(&DOWN).find(|known| **known == topic);
        Message {
            number: u32::from_be_bytes(payload[..4].try_into().expect("a number comes first")),
            topic: topic.expect("a topic of the model"),
            qos,
        }
    }

    /// The receiver refuses it whenever it comes; 3.1.1 cannot say so.
    fn is_refused(self, version: Version) -> bool {
        version == Version::V5 && self.number % 13 == 5 && self.qos > QoS::AtMostOnce
    }

    /// Towards a client that says what it takes.
    fn is_too_large(self) -> bool {
        self.number % 17 == 3 && DOWN.contains(&self.topic)
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn qos(&mut self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.below(3)]
    }
}

struct World {
    random: Random,
    version: Version,
    now: Instant,
    session: Session,
    /// Counts connections, from 1; what is told to an earlier one is not told.
    connection: u32,
    is_connected: bool,
    is_asked: bool,
    log: Log,
    client: Client,
    to_client: VecDeque<Packet>,
    to_server: VecDeque<Packet>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let version = [Version::V5, Version::V311][random.below(2)];
        let receive_maximum = 1 + random.below(4) as u16;
        let now = Instant::now();
        World {
            version,
            now,
            session: Session::new(limits(), now),
            connection: 0,
            is_connected: false,
            is_asked: false,
            log: Log::new(version, random.below(2) == 0),
            client: Client::new(version, receive_maximum),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            random,
        }
    }

    fn connect(&mut self) {
        self.connection += 1;
        self.is_connected = true;
        self.session = Session::new(limits(), self.now);
        let connect = self.client.connect();
        self.to_server.push_back(wire(connect, self.version, true));
    }

    /// What is under way is lost, on both ways.
    fn lose_the_connection(&mut self) {
        self.is_connected = false;
        self.is_asked = false;
        self.to_client.clear();
        self.to_server.clear();
    }

    fn accept(&mut self) {
        self.is_asked = false;
        let accepted = Accepted {
            session_present: self.connection > 1,
            client_id: Text::from_static("c"),
            assigned: false,
            session_expiry_s: 0,
            resume: self.log.resume(),
        };
        self.session.accept(accepted, self.now);
    }

    /// Does what the session says.
    fn act(&mut self) {
        loop {
            while let Some(output) = self.session.poll_output() {
                match output {
                    Output::Send(packet) => {
                        self.to_client.push_back(wire(packet, self.version, false));
                    }
                    Output::Connect(_) => self.is_asked = true,
                    Output::Publish { publish } => self.log.propose(self.connection, &publish),
                    Output::Release(id) => {
                        if !self.log.propose_release(self.connection, id) {
                            self.session.not_found(id);
                        }
                    }
                    Output::Subscribe(subscribe) => self
                        .session
                        .subscribed(subscribe.packet_id, vec![ReasonCode::Success]),
                    Output::Acknowledged { handle } => {
                        self.log.acknowledged(self.connection, handle);
                    }
                    Output::Received { handle, packet_id } => {
                        self.log.received(self.connection, handle, packet_id);
                    }
                    Output::Unsubscribe(_) | Output::Close { .. } => {
                        panic!("the client did nothing wrong: {output:?}")
                    }
                }
            }
            let is_up = self.is_connected && self.session.state == State::Connected;
            if !is_up || !self.log.hand_over(&mut self.session, self.now) {
                return;
            }
        }
    }

    /// One thing happens somewhere; whether anything could.
    fn step(&mut self, faults: bool) -> bool {
        self.now += Duration::from_millis(1);
        if !self.is_connected {
            self.connect();
        } else if faults && self.random.percent(2) {
            self.lose_the_connection();
            if self.random.percent(30) {
                self.log.lose_what_is_not_committed();
            }
            return true;
        }
        let is_up = self.session.state == State::Connected;
        let first = self.random.below(6);
        for turn in 0..6 {
            let happened = match (first + turn) % 6 {
                0 => {
                    self.is_asked && {
                        self.accept();
                        true
                    }
                }
                1 => self.to_server.pop_front().is_some_and(|packet| {
                    self.session.receive(packet, self.now);
                    true
                }),
                2 => self.to_client.pop_front().is_some_and(|packet| {
                    let answers = self.client.receive(packet);
                    self.send(answers);
                    true
                }),
                3 => {
                    let answer = self.client.owed_next();
                    let is_owed = answer.is_some();
                    self.send(answer);
                    is_owed
                }
                4 => match self.log.commit_one(&mut self.random) {
                    Some((connection, tell)) => {
                        if connection == self.connection && self.is_connected {
                            tell(&mut self.session);
                        }
                        true
                    }
                    None => false,
                },
                _ => {
                    faults && {
                        let wanted = self.client.publish(&mut self.random);
                        self.send(wanted);
                        self.log.enqueue(&mut self.random);
                        if is_up {
                            self.log
                                .deliver_direct(&mut self.session, self.now, &mut self.random);
                        }
                        true
                    }
                }
            };
            if happened {
                self.act();
                return true;
            }
        }
        false
    }

    fn send(&mut self, packets: impl IntoIterator<Item = Packet>) {
        for packet in packets {
            self.to_server.push_back(wire(packet, self.version, true));
        }
    }

    fn run(mut self) -> (u32, usize, usize) {
        for _ in 0..600 {
            self.step(true);
        }
        // The faults stop. Twice, so that what only a new connection repairs is repaired too.
        for _ in 0..2 {
            self.lose_the_connection();
            let mut steps = 0;
            while self.step(false) {
                steps += 1;
                assert!(steps < 100_000, "all comes to rest");
            }
        }
        self.log.check_at_rest(self.client.published());
        self.client.check_at_rest(&self.log);
        assert!(self.session.inbound.is_idle() && self.session.outbound.is_idle());
        let (up, down) = (self.log.published.len(), self.client.log.len());
        (self.connection, up, down)
    }
}

/// The packet as the other side reads it.
fn wire(packet: Packet, version: Version, from_client: bool) -> Packet {
    let mut bytes = BytesMut::new();
    let mut decoder = Decoder::client(version, PACKET_BYTES_MAX);
    if from_client {
        decoder = Decoder::server(PACKET_BYTES_MAX);
        if !matches!(packet, Packet::Connect(_)) {
            let hello = Packet::Connect(Box::new(connect(version)));
            encode(&hello, version, PACKET_BYTES_MAX, &mut bytes).expect("a CONNECT");
            decoder.decode(&mut bytes).expect("a CONNECT");
        }
    }
    let bytes_max = match from_client {
        false if version == Version::V5 => CLIENT_BYTES_MAX,
        _ => PACKET_BYTES_MAX,
    };
    encode(&packet, version, bytes_max, &mut bytes).expect("a packet that the other side takes");
    let read = decoder.decode(&mut bytes);
    read.expect("a valid packet").expect("a whole packet")
}

/// The first time that each number comes, messages of one topic and QoS ascend [MQTT-4.6.0-6].
fn check_order(seen: &[Message], what: &str) {
    let mut last = BTreeMap::new();
    let mut known = std::collections::BTreeSet::new();
    for message in seen.iter().filter(|message| known.insert(**message)) {
        let previous = last.insert((message.topic, message.qos), message.number);
        assert!(
            previous.is_none_or(|previous| previous < message.number),
            "{what}: {message:?} came after {previous:?}"
        );
    }
}

fn times(seen: &[Message], message: Message) -> usize {
    seen.iter().filter(|other| **other == message).count()
}

/// Runs a seed; says which it was if it fails.
fn run(seed: u64) -> (u32, usize, usize) {
    struct Names(u64);
    impl Drop for Names {
        fn drop(&mut self) {
            if std::thread::panicking() {
                // The harness shows it beside the panic's own words.
                std::io::Write::write_fmt(
                    &mut std::io::stderr(),
                    format_args!("seed {}\n", self.0),
                )
                .expect("stderr");
            }
        }
    }
    let _names = Names(seed);
    World::new(seed).run()
}

#[test]
fn qos_holds_over_lost_connections_mqtt_4_3_2_1_4_3_3_1_4_4_0_1() {
    let (mut connections, mut up, mut down) = (0, 0, 0);
    for seed in 0..300 {
        let ran = run(seed);
        connections += ran.0;
        up += ran.1;
        down += ran.2;
    }
    // A model in which nothing happens proves nothing.
    assert!(connections > 3000, "{connections} connections");
    assert!(up > 8000 && down > 8000, "{up} up, {down} down");
}
