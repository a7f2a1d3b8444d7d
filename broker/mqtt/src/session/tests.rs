//! Each test is a sentence of the specification, told by what goes in and what comes out.

mod model;

use bytes::Bytes;

use super::*;
use crate::codec::Decoder;
use crate::packet::{
    Auth, Connect, Publish, PublishProperties, RetainHandling, Subscribe, Subscription, Unsubscribe,
};
use crate::topic::{TopicFilter, TopicName};

fn limits() -> Arc<Limits> {
    Arc::new(Limits {
        connect_timeout: Duration::from_secs(10),
        receive_maximum: NonZeroU16::new(2).unwrap(),
        max_inflight: 2,
        max_packet: 65_536,
        topic_alias_maximum: 4,
        server_keep_alive_max_s: 300,
        session_expiry_max_s: 3600,
        outbox_messages_max: 3,
    })
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: Text::from_static("c"),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

struct Peer {
    session: Session,
    now: Instant,
}

impl Peer {
    fn connected(connect: Connect, resume: Vec<Resume>) -> Self {
        let now = Instant::now();
        let mut peer = Peer {
            session: Session::new(limits(), now),
            now,
        };
        let expiry = connect.properties.session_expiry_s.unwrap_or(0);
        peer.session
            .receive(Packet::Connect(Box::new(connect)), now);
        assert!(matches!(
            peer.session.poll_output(),
            Some(Output::Connect(_))
        ));
        let accepted = Accepted {
            session_present: !resume.is_empty(),
            client_id: Text::from_static("c"),
            assigned: false,
            session_expiry_s: expiry,
            resume,
        };
        peer.session.accept(accepted, now);
        assert!(matches!(
            peer.session.poll_output(),
            Some(Output::Send(Packet::ConnAck(_)))
        ));
        peer
    }
    fn v5() -> Self {
        Self::connected(connect(Version::V5), Vec::new())
    }
    fn receive(&mut self, packet: Packet) -> Vec<Output> {
        self.session.receive(packet, self.now);
        self.drain()
    }
    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.session.poll_output()).collect()
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn publish(qos: QoS, number: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::from_static("t")),
        packet_id: (qos > QoS::AtMostOnce).then(|| id(number)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: PublishProperties::default(),
        payload: Bytes::new(),
    })
}

fn delivery(qos: QoS, handle: u64) -> Delivery {
    Delivery {
        topic: TopicName::from_static("t"),
        payload: Bytes::from_static(b"x"),
        qos,
        retain: false,
        properties: PublishProperties::default(),
        subscription_ids: Vec::new(),
        expires: None,
        packet_id: None,
        handle,
    }
}

fn ack(number: u16, reason: ReasonCode) -> Ack {
    Ack {
        packet_id: id(number),
        reason,
        reason_string: None,
        user: Vec::new(),
    }
}

fn subscribe(number: u16) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: id(number),
        subscription_id: None,
        user: Vec::new(),
        filters: vec![Subscription {
            filter: Ok(TopicFilter::from_static("a")),
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }],
    })
}

fn unsubscribe(number: u16) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id: id(number),
        user: Vec::new(),
        filters: vec![Ok(TopicFilter::from_static("a"))],
    })
}

fn leave(reason: ReasonCode, session_expiry_s: Option<u32>) -> Packet {
    Packet::Disconnect(Disconnect {
        reason,
        session_expiry_s,
        reason_string: None,
        user: vec![],
        server_reference: None,
    })
}

/// The answers in what came out, in short.
fn answers(outputs: &[Output]) -> Vec<String> {
    let word = |output: &Output| match output {
        Output::Send(Packet::PubAck(ack)) => {
            format!("puback {} {:?}", ack.packet_id.get(), ack.reason)
        }
        Output::Send(Packet::PubRec(ack)) => {
            format!("pubrec {} {:?}", ack.packet_id.get(), ack.reason)
        }
        Output::Send(Packet::PubRel(ack)) => {
            format!("pubrel {} {:?}", ack.packet_id.get(), ack.reason)
        }
        Output::Send(Packet::PubComp(ack)) => {
            format!("pubcomp {} {:?}", ack.packet_id.get(), ack.reason)
        }
        Output::Send(Packet::Publish(publish)) => {
            format!(
                "publish {} dup={}",
                publish.packet_id.map_or(0, PacketId::get),
                publish.dup
            )
        }
        Output::Send(Packet::Disconnect(disconnect)) => {
            format!("disconnect {:?}", disconnect.reason)
        }
        Output::Send(Packet::PingResp) => "pingresp".into(),
        Output::Send(Packet::SubAck(ack)) => {
            format!("suback {} {:?}", ack.packet_id.get(), ack.reasons)
        }
        Output::Send(Packet::UnsubAck(ack)) => {
            format!("unsuback {} {:?}", ack.packet_id.get(), ack.reasons)
        }
        Output::Send(Packet::ConnAck(connack)) => format!("connack {:?}", connack.reason),
        Output::Connect(_) => "do connect".into(),
        Output::Subscribe(request) => format!("do subscribe {}", request.packet_id.get()),
        Output::Unsubscribe(request) => format!("do unsubscribe {}", request.packet_id.get()),
        Output::Publish { publish } => {
            format!("do publish {}", publish.packet_id.map_or(0, PacketId::get))
        }
        Output::Release(id) => format!("do release {}", id.get()),
        Output::Acknowledged { handle } => format!("acknowledged {handle}"),
        Output::Received { handle, packet_id } => {
            format!("received {handle} as {}", packet_id.get())
        }
        Output::Close { will, .. } => format!("close {will:?}"),
        other => format!("{other:?}"),
    };
    outputs.iter().map(word).collect()
}

#[test]
fn the_first_packet_is_connect_or_the_connection_is_closed_mqtt_3_1_0_1() {
    let now = Instant::now();
    let mut session = Session::new(limits(), now);
    session.receive(Packet::PingReq, now);
    assert!(matches!(session.poll_output(), Some(Output::Close { .. })));
}

#[test]
fn a_connect_that_does_not_come_is_not_waited_for() {
    let now = Instant::now();
    let mut session = Session::new(limits(), now);
    session.handle_timeout(now + Duration::from_secs(9));
    assert!(session.poll_output().is_none());
    session.handle_timeout(session.poll_timeout().unwrap());
    assert!(matches!(session.poll_output(), Some(Output::Close { .. })));
}

#[test]
fn a_second_connect_is_a_protocol_error_mqtt_3_1_0_2() {
    let outputs = Peer::v5().receive(Packet::Connect(Box::new(connect(Version::V5))));
    assert_eq!(
        answers(&outputs),
        ["disconnect ProtocolError", "close Publish"]
    );
}

#[test]
fn pubacks_go_in_the_order_of_the_publications_mqtt_4_6_0_2() {
    let mut peer = Peer::v5();
    peer.receive(publish(QoS::AtLeastOnce, 1));
    peer.receive(publish(QoS::AtLeastOnce, 2));
    peer.session.published(id(2), Ok(Matched::Some));
    assert!(peer.drain().is_empty(), "the first one is still under way");
    peer.session.published(id(1), Ok(Matched::None));
    assert_eq!(
        answers(&peer.drain()),
        ["puback 1 NoMatchingSubscribers", "puback 2 Success"]
    );
}

#[test]
fn more_than_the_servers_receive_maximum_is_refused_mqtt_3_3_4_9() {
    let mut peer = Peer::v5();
    peer.receive(publish(QoS::AtLeastOnce, 1));
    peer.receive(publish(QoS::ExactlyOnce, 2));
    assert_eq!(
        answers(&peer.receive(publish(QoS::AtLeastOnce, 3))),
        ["disconnect ReceiveMaximumExceeded", "close Publish"]
    );
}

#[test]
fn a_repeated_qos_2_publication_is_not_published_again_mqtt_4_3_3_10() {
    let mut peer = Peer::v5();
    assert_eq!(
        answers(&peer.receive(publish(QoS::ExactlyOnce, 7))),
        ["do publish 7"]
    );
    assert!(
        peer.receive(publish(QoS::ExactlyOnce, 7)).is_empty(),
        "its PUBREC is to come"
    );
    peer.session.published(id(7), Ok(Matched::Some));
    assert_eq!(answers(&peer.drain()), ["pubrec 7 Success"]);
    assert_eq!(
        answers(&peer.receive(publish(QoS::ExactlyOnce, 7))),
        ["pubrec 7 Success"]
    );
    assert_eq!(
        answers(&peer.receive(Packet::PubRel(ack(7, ReasonCode::Success)))),
        ["do release 7"]
    );
    peer.session.released(id(7));
    assert_eq!(answers(&peer.drain()), ["pubcomp 7 Success"]);
    assert_eq!(
        answers(&peer.receive(publish(QoS::ExactlyOnce, 7))),
        ["do publish 7"],
        "the identifier is free"
    );
}

#[test]
fn a_refused_qos_2_publication_frees_its_identifier_and_its_quota() {
    let mut peer = Peer::v5();
    for number in 1..=5 {
        peer.receive(publish(QoS::ExactlyOnce, number));
        peer.session
            .published(id(number), Err(ReasonCode::NotAuthorized));
        assert_eq!(
            answers(&peer.drain()),
            [format!("pubrec {number} NotAuthorized")]
        );
    }
}

#[test]
fn an_unknown_pubrel_is_answered_with_not_found() {
    let mut peer = Peer::v5();
    peer.receive(Packet::PubRel(ack(9, ReasonCode::Success)));
    peer.session.not_found(id(9));
    assert_eq!(
        answers(&peer.drain()),
        ["pubcomp 9 PacketIdentifierNotFound"]
    );
}

#[test]
fn topic_aliases_are_set_used_and_bounded_mqtt_3_3_2_9() {
    let mut peer = Peer::v5();
    let aliased = |topic: Option<&'static str>, alias| {
        let Packet::Publish(mut packet) = publish(QoS::AtMostOnce, 0) else {
            unreachable!()
        };
        packet.topic = topic.map(TopicName::from_static);
        packet.topic_alias = NonZeroU16::new(alias);
        Packet::Publish(packet)
    };
    peer.receive(aliased(Some("a/b"), 4));
    let outputs = peer.receive(aliased(None, 4));
    assert!(
        matches!(&outputs[..], [Output::Publish { publish }] if publish.topic.as_ref().unwrap().as_str() == "a/b")
    );
    assert_eq!(
        answers(&peer.receive(aliased(Some("a/b"), 5))),
        ["disconnect TopicAliasInvalid", "close Publish"]
    );
    assert_eq!(
        answers(&Peer::v5().receive(aliased(None, 1)))[0],
        "disconnect ProtocolError"
    );
}

#[test]
fn no_more_is_under_way_to_the_client_than_it_takes_mqtt_4_9_0_2() {
    let mut connect = connect(Version::V5);
    connect.properties.receive_maximum = NonZeroU16::new(1);
    let mut peer = Peer::connected(connect, Vec::new());
    for handle in 1..=3 {
        peer.session
            .deliver(delivery(QoS::AtLeastOnce, handle), peer.now)
            .unwrap();
    }
    peer.session
        .deliver(delivery(QoS::AtMostOnce, 0), peer.now)
        .unwrap();
    assert_eq!(
        answers(&peer.drain()),
        ["publish 1 dup=false", "publish 0 dup=false"]
    );
    let outputs = peer.receive(Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(answers(&outputs), ["acknowledged 1", "publish 2 dup=false"]);
}

#[test]
fn what_waits_is_bounded() {
    let mut peer = Peer::v5();
    let taken = (1..=9).filter(|handle| {
        peer.session
            .deliver(delivery(QoS::AtLeastOnce, *handle), peer.now)
            .is_ok()
    });
    assert_eq!(taken.count(), 5, "two under way and three waiting");
}

#[test]
fn a_refusing_pubrec_gives_the_quota_back() {
    let mut peer = Peer::v5();
    for handle in 1..=3 {
        peer.session
            .deliver(delivery(QoS::ExactlyOnce, handle), peer.now)
            .unwrap();
    }
    peer.drain();
    let outputs = peer.receive(Packet::PubRec(ack(1, ReasonCode::QuotaExceeded)));
    assert_eq!(answers(&outputs), ["acknowledged 1", "publish 3 dup=false"]);
}

#[test]
fn pubrel_waits_until_the_receipt_is_committed_mqtt_4_3_3_8() {
    let mut peer = Peer::v5();
    for handle in [5, 6] {
        peer.session
            .deliver(delivery(QoS::ExactlyOnce, handle), peer.now)
            .unwrap();
    }
    peer.drain();
    let pubrec = |number| Packet::PubRec(ack(number, ReasonCode::Success));
    assert_eq!(answers(&peer.receive(pubrec(1))), ["received 5 as 1"]);
    assert!(peer.receive(pubrec(1)).is_empty(), "asked for once");
    assert_eq!(answers(&peer.receive(pubrec(2))), ["received 6 as 2"]);
    let early = Packet::PubComp(ack(2, ReasonCode::Success));
    assert!(peer.receive(early).is_empty(), "nothing was released");
    peer.session.receipt_committed(id(2));
    assert_eq!(answers(&peer.drain()), ["pubrel 2 Success"]);
    peer.session.receipt_committed(id(2));
    assert!(peer.drain().is_empty(), "told twice is told once");
    peer.session.receipt_committed(id(1));
    assert_eq!(answers(&peer.drain()), ["pubrel 1 Success"]);
    assert_eq!(
        answers(&peer.receive(pubrec(1))),
        ["pubrel 1 Success"],
        "a repeated PUBREC asks for PUBREL again"
    );
    peer.session
        .disconnect(ReasonCode::ServerShuttingDown, None);
    peer.drain();
    peer.session.receipt_committed(id(1));
    assert!(peer.drain().is_empty(), "nothing follows the end");
}

#[test]
fn what_waits_for_its_receipt_holds_up_nothing_within_the_receive_maximum_mqtt_3_3_4_9() {
    for (receive_maximum, wanted) in [(None, 8), (NonZeroU16::new(3), 3)] {
        let mut hello = connect(Version::V5);
        hello.properties.receive_maximum = receive_maximum;
        let mut peer = Peer::connected(hello, Vec::new());
        let mut unanswered = VecDeque::new();
        let (mut sent, mut handle) = (0, 0);
        loop {
            handle += 1;
            // What finds no room is not sent either.
            let _full = peer
                .session
                .deliver(delivery(QoS::ExactlyOnce, handle), peer.now);
            let ids: Vec<u16> = peer.drain().iter().filter_map(sent_id).collect();
            sent += ids.len();
            unanswered.extend(ids);
            assert!(
                unanswered.len() <= 2,
                "no more than may be without an answer"
            );
            let Some(number) = unanswered.pop_front() else {
                break;
            };
            let pubrec = Packet::PubRec(ack(number, ReasonCode::Success));
            peer.session.receive(pubrec, peer.now);
        }
        assert_eq!(sent, wanted);
    }
}

fn sent_id(output: &Output) -> Option<u16> {
    match output {
        Output::Send(Packet::Publish(publish)) => publish.packet_id.map(PacketId::get),
        _ => None,
    }
}

#[test]
fn a_receipt_that_nothing_keeps_is_waited_for_by_nobody() {
    let mut peer = Peer::v5();
    peer.session
        .deliver(delivery(QoS::ExactlyOnce, 0), peer.now)
        .unwrap();
    peer.drain();
    assert_eq!(
        answers(&peer.receive(Packet::PubRec(ack(1, ReasonCode::Success)))),
        ["pubrel 1 Success"]
    );
}

#[test]
fn a_receipt_of_what_waits_to_be_sent_again_releases_nothing_mqtt_4_3_3_10() {
    let resume = (11..=13).map(|number| {
        let mut again = delivery(QoS::ExactlyOnce, u64::from(number));
        again.packet_id = Some(id(number));
        Resume::Publish(again)
    });
    let mut peer = Peer::connected(connect(Version::V5), resume.collect());
    peer.drain();
    let late = Packet::PubRec(ack(13, ReasonCode::Success));
    assert!(
        peer.receive(late).is_empty(),
        "the window is full, and 13 is yet to be sent again"
    );
}

#[test]
fn qos_2_to_the_client_ends_with_pubcomp() {
    let mut peer = Peer::v5();
    peer.session
        .deliver(delivery(QoS::ExactlyOnce, 5), peer.now)
        .unwrap();
    peer.drain();
    assert_eq!(
        answers(&peer.receive(Packet::PubRec(ack(1, ReasonCode::Success)))),
        ["received 5 as 1"]
    );
    peer.session.receipt_committed(id(1));
    assert_eq!(answers(&peer.drain()), ["pubrel 1 Success"]);
    assert_eq!(
        answers(&peer.receive(Packet::PubRec(ack(1, ReasonCode::Success)))),
        ["pubrel 1 Success"]
    );
    assert_eq!(
        answers(&peer.receive(Packet::PubComp(ack(1, ReasonCode::Success)))),
        ["acknowledged 5"]
    );
    assert_eq!(
        answers(&peer.receive(Packet::PubRec(ack(8, ReasonCode::Success)))),
        ["pubrel 8 PacketIdentifierNotFound"]
    );
}

#[test]
fn what_was_under_way_is_sent_again_in_order_mqtt_4_4_0_1() {
    let mut first = delivery(QoS::AtLeastOnce, 11);
    first.packet_id = Some(id(11));
    let resume = vec![
        Resume::Publish(first),
        Resume::Released {
            packet_id: id(12),
            handle: 12,
        },
    ];
    let mut hello = connect(Version::V5);
    hello.properties.receive_maximum = NonZeroU16::new(2);
    let mut peer = Peer::connected(hello, resume);
    assert_eq!(
        answers(&peer.drain()),
        ["publish 11 dup=true", "pubrel 12 Success"]
    );
    let mut next = delivery(QoS::AtLeastOnce, 13);
    next.packet_id = Some(id(13));
    peer.session.deliver(next, peer.now).unwrap();
    assert_eq!(
        answers(&peer.receive(Packet::PubAck(ack(11, ReasonCode::Success)))),
        ["acknowledged 11", "publish 13 dup=false"]
    );
}

#[test]
fn an_expired_message_is_not_sent_and_the_rest_of_its_time_is_told_mqtt_3_3_2_6() {
    let mut peer = Peer::v5();
    let mut late = delivery(QoS::AtLeastOnce, 1);
    late.properties = PublishProperties(Some(Box::default()));
    late.expires = Some(peer.now + Duration::from_secs(10));
    peer.now += Duration::from_secs(4);
    peer.session.deliver(late.clone(), peer.now).unwrap();
    let outputs = peer.drain();
    let Some(Output::Send(Packet::Publish(sent))) = outputs.first() else {
        panic!("{outputs:?}")
    };
    assert_eq!(
        sent.properties.0.as_ref().unwrap().message_expiry_s,
        Some(6)
    );
    peer.now += Duration::from_secs(6);
    assert_eq!(peer.session.deliver(late, peer.now), Err(Dropped::Expired));
}

#[test]
fn a_message_that_is_too_large_for_the_client_is_left_out_mqtt_3_1_2_25() {
    let mut connect = connect(Version::V5);
    connect.properties.maximum_packet_size = Some(64);
    let mut peer = Peer::connected(connect, Vec::new());
    let mut large = delivery(QoS::AtLeastOnce, 1);
    large.payload = Bytes::from(vec![0; 64]);
    assert_eq!(
        peer.session.deliver(large, peer.now),
        Err(Dropped::TooLarge)
    );
    peer.session
        .deliver(delivery(QoS::AtLeastOnce, 2), peer.now)
        .unwrap();
}

#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection_mqtt_3_1_2_22() {
    let mut peer = Peer::v5();
    assert_eq!(
        peer.session.poll_timeout(),
        Some(peer.now + Duration::from_secs(90))
    );
    peer.now += Duration::from_secs(80);
    assert_eq!(answers(&peer.receive(Packet::PingReq)), ["pingresp"]);
    peer.session
        .handle_timeout(peer.now + Duration::from_secs(89));
    assert!(peer.drain().is_empty());
    peer.session
        .handle_timeout(peer.now + Duration::from_secs(90));
    assert_eq!(
        answers(&peer.drain()),
        ["disconnect KeepAliveTimeout", "close Publish"]
    );
}

#[test]
fn only_a_normal_disconnection_takes_the_will_back_mqtt_3_14_4_3() {
    for (reason, end) in [
        (ReasonCode::Success, "close Discard"),
        (ReasonCode::DisconnectWithWill, "close Publish"),
        (ReasonCode::UnspecifiedError, "close Publish"),
        (ReasonCode::AdministrativeAction, "close Publish"),
    ] {
        assert_eq!(answers(&Peer::v5().receive(leave(reason, None))), [end]);
    }
}

#[test]
fn disconnect_may_change_the_expiry_but_not_wake_the_dead_mqtt_3_14_2_2() {
    assert_eq!(
        answers(&Peer::v5().receive(leave(ReasonCode::Success, Some(5)))),
        ["disconnect ProtocolError", "close Publish"],
    );
    let mut connect = connect(Version::V5);
    connect.properties.session_expiry_s = Some(60);
    for (asked, granted) in [(None, 60), (Some(0), 0), (Some(9), 9), (Some(9999), 3600)] {
        let mut peer = Peer::connected(connect.clone(), Vec::new());
        let outputs = peer.receive(leave(ReasonCode::Success, asked));
        assert!(
            matches!(&outputs[..], [Output::Close { session_expiry_s, .. }]
            if *session_expiry_s == granted),
            "{asked:?}: {outputs:?}"
        );
    }
}

#[test]
fn a_subscribe_that_is_answered_frees_its_identifier() {
    let mut peer = Peer::v5();
    for _ in 0..2 {
        assert_eq!(answers(&peer.receive(subscribe(3))), ["do subscribe 3"]);
        peer.session.subscribed(id(3), vec![ReasonCode::Success]);
        assert_eq!(answers(&peer.drain()), ["suback 3 [Success]"]);
        assert_eq!(answers(&peer.receive(unsubscribe(3))), ["do unsubscribe 3"]);
        peer.session.unsubscribed(id(3), vec![ReasonCode::Success]);
        assert_eq!(answers(&peer.drain()), ["unsuback 3 [Success]"]);
    }
    peer.session.subscribed(id(3), vec![ReasonCode::Success]);
    assert!(peer.drain().is_empty(), "nobody asked");
}

#[test]
fn v311_gets_no_disconnect_and_no_properties() {
    let mut peer = Peer::connected(connect(Version::V311), Vec::new());
    let mut message = delivery(QoS::AtMostOnce, 0);
    message.subscription_ids = vec![1];
    message.properties = PublishProperties(Some(Box::default()));
    peer.session.deliver(message, peer.now).unwrap();
    assert!(
        matches!(&peer.drain()[..], [Output::Send(Packet::Publish(publish))]
        if publish.properties.0.is_none() && publish.subscription_ids.is_empty())
    );
    peer.session.disconnect(ReasonCode::SessionTakenOver, None);
    assert_eq!(answers(&peer.drain()), ["close Publish"]);
}

#[test]
fn a_subscribe_whose_identifier_is_taken_is_refused_mqtt_2_2_1_3() {
    let mut peer = Peer::v5();
    peer.receive(subscribe(3));
    let refused = "[PacketIdentifierInUse]";
    assert_eq!(
        answers(&peer.receive(subscribe(3))),
        [format!("suback 3 {refused}")]
    );
    peer.receive(publish(QoS::ExactlyOnce, 4));
    assert_eq!(
        answers(&peer.receive(unsubscribe(4))),
        [format!("unsuback 4 {refused}")]
    );
    let mut peer = Peer::connected(connect(Version::V311), Vec::new());
    peer.receive(subscribe(3));
    assert_eq!(answers(&peer.receive(unsubscribe(3))), ["close Publish"]);
}

#[test]
fn a_publication_whose_identifier_is_taken_is_refused_in_its_turn_mqtt_2_2_1_3() {
    let mut peer = Peer::v5();
    peer.receive(subscribe(3));
    assert_eq!(
        answers(&peer.receive(publish(QoS::AtLeastOnce, 3))),
        ["puback 3 PacketIdentifierInUse"]
    );
    peer.receive(publish(QoS::AtLeastOnce, 4));
    assert!(peer.receive(publish(QoS::ExactlyOnce, 4)).is_empty());
    peer.session.published(id(4), Ok(Matched::Some));
    assert_eq!(
        answers(&peer.drain()),
        ["puback 4 Success", "pubrec 4 PacketIdentifierInUse"]
    );
    let mut peer = Peer::connected(connect(Version::V311), Vec::new());
    peer.receive(publish(QoS::AtLeastOnce, 4));
    let outputs = peer.receive(publish(QoS::ExactlyOnce, 4));
    assert_eq!(answers(&outputs), ["close Publish"]);
}

#[test]
fn a_pubrel_before_its_pubrec_is_a_protocol_error_mqtt_4_3_3_4() {
    let mut peer = Peer::v5();
    peer.receive(publish(QoS::ExactlyOnce, 1));
    assert_eq!(
        answers(&peer.receive(Packet::PubRel(ack(1, ReasonCode::Success)))),
        ["disconnect ProtocolError", "close Publish"]
    );
    peer.session.published(id(1), Ok(Matched::Some));
    assert!(peer.drain().is_empty(), "nothing follows the end");
}

#[test]
fn pubrecs_go_in_the_order_of_the_publications_mqtt_4_6_0_3() {
    let mut peer = Peer::v5();
    peer.receive(publish(QoS::ExactlyOnce, 1));
    peer.receive(publish(QoS::ExactlyOnce, 2));
    peer.session.published(id(2), Ok(Matched::Some));
    let again = peer.receive(publish(QoS::ExactlyOnce, 2));
    assert!(again.is_empty(), "not even for a repetition: {again:?}");
    peer.session.published(id(1), Ok(Matched::Some));
    assert_eq!(
        answers(&peer.drain()),
        ["pubrec 1 Success", "pubrec 2 Success"]
    );
}

#[test]
fn pubrels_of_an_earlier_connection_take_nothing_of_the_new_quota_mqtt_3_3_4_9() {
    let mut peer = Peer::v5();
    for number in 11..=14 {
        let outputs = peer.receive(Packet::PubRel(ack(number, ReasonCode::Success)));
        assert_eq!(answers(&outputs), [format!("do release {number}")]);
    }
    peer.receive(publish(QoS::AtLeastOnce, 1));
    assert_eq!(
        answers(&peer.receive(publish(QoS::ExactlyOnce, 2))),
        ["do publish 2"]
    );
    assert!(
        peer.receive(Packet::PubRel(ack(12, ReasonCode::Success)))
            .is_empty(),
        "its PUBCOMP is to come"
    );
    peer.session.released(id(12));
    peer.session.not_found(id(13));
    peer.session.released(id(99));
    assert_eq!(
        answers(&peer.drain()),
        ["pubcomp 12 Success", "pubcomp 13 PacketIdentifierNotFound"]
    );
}

#[test]
fn an_identifier_from_the_queue_waits_for_one_that_was_given_here_mqtt_2_2_1_4() {
    let mut peer = Peer::v5();
    let deliver = |peer: &mut Peer, delivery| peer.session.deliver(delivery, peer.now).unwrap();
    deliver(&mut peer, delivery(QoS::AtLeastOnce, 0));
    let mut queued = delivery(QoS::AtLeastOnce, 7);
    queued.packet_id = Some(id(1));
    deliver(&mut peer, queued);
    assert_eq!(answers(&peer.drain()), ["publish 1 dup=false"]);
    assert_eq!(
        answers(&peer.receive(Packet::PubAck(ack(1, ReasonCode::Success)))),
        ["acknowledged 0", "publish 1 dup=false"]
    );
    deliver(&mut peer, delivery(QoS::AtLeastOnce, 0));
    assert_eq!(answers(&peer.drain()), ["publish 2 dup=false"]);
}

#[test]
fn what_came_before_connack_waits_and_is_dropped_with_a_refusal_mqtt_3_1_4_6() {
    let early = |answer: fn(&mut Session, Instant)| {
        let now = Instant::now();
        let mut session = Session::new(limits(), now);
        session.receive(Packet::Connect(Box::new(connect(Version::V5))), now);
        session.receive(publish(QoS::AtLeastOnce, 1), now);
        session.receive(Packet::PingReq, now);
        answer(&mut session, now);
        let outputs: Vec<_> = std::iter::from_fn(|| session.poll_output()).collect();
        answers(&outputs)
    };
    let accept = |session: &mut Session, now| {
        let accepted = Accepted {
            session_present: false,
            client_id: Text::from_static("c"),
            assigned: false,
            session_expiry_s: 0,
            resume: Vec::new(),
        };
        session.accept(accepted, now);
    };
    assert_eq!(
        early(accept),
        ["do connect", "connack Success", "do publish 1", "pingresp"]
    );
    assert_eq!(
        early(|session, _| session.refuse(ReasonCode::NotAuthorized, None)),
        ["do connect", "connack NotAuthorized", "close Discard"]
    );
    assert_eq!(
        early(|session, _| session.disconnect(ReasonCode::ServerShuttingDown, None)),
        ["do connect", "connack ServerUnavailable", "close Discard"]
    );
    assert_eq!(
        early(|session, now| (0..64).for_each(|_| session.receive(Packet::PingReq, now))),
        ["do connect", "connack QuotaExceeded", "close Discard"]
    );
}

#[test]
fn an_unreadable_packet_is_answered_where_there_are_words_mqtt_4_13_1_1() {
    let refused = |version: Option<Version>, bytes: &[u8]| {
        let mut decoder = match version {
            Some(version) => {
                let mut decoder = Decoder::server(1024);
                let mut wire = bytes::BytesMut::new();
                let hello = Packet::Connect(Box::new(connect(version)));
                crate::codec::encode(&hello, version, 1024, &mut wire).unwrap();
                decoder.decode(&mut wire).unwrap();
                decoder
            }
            None => Decoder::server(1024),
        };
        decoder.decode(&mut bytes.into()).unwrap_err()
    };
    // A PUBLISH of QoS 3.
    for (version, end) in [
        (
            Version::V5,
            vec!["disconnect MalformedPacket", "close Publish"],
        ),
        (Version::V311, vec!["close Publish"]),
    ] {
        let mut peer = Peer::connected(connect(version), Vec::new());
        peer.session
            .malformed(&refused(Some(version), b"\x36\x05\x00\x01t\x00\x01"));
        assert_eq!(answers(&peer.drain()), end);
    }
    // CONNECT of protocol level 6, and of none.
    for (bytes, end) in [
        (
            &b"\x10\x0a\x00\x04MQTT\x06\x02\x00\x00"[..],
            vec!["connack UnsupportedProtocolVersion", "close Discard"],
        ),
        (b"GET / HTTP/1.1\r\n", vec!["close Discard"]),
    ] {
        let mut session = Session::new(limits(), Instant::now());
        session.malformed(&refused(None, bytes));
        let outputs: Vec<_> = std::iter::from_fn(|| session.poll_output()).collect();
        assert_eq!(answers(&outputs), end);
    }
}

#[test]
fn auth_without_a_method_is_a_protocol_error_and_a_method_is_refused_mqtt_4_12_0_1() {
    let auth = Packet::Auth(Auth {
        reason: ReasonCode::ReAuthenticate,
        authentication_method: Some(Text::from_static("SCRAM-SHA-1")),
        authentication_data: None,
        reason_string: None,
        user: Vec::new(),
    });
    assert_eq!(
        answers(&Peer::v5().receive(auth)),
        ["disconnect ProtocolError", "close Publish"]
    );
    let now = Instant::now();
    let mut session = Session::new(limits(), now);
    let mut connect = connect(Version::V5);
    connect.properties.authentication_method = Some(Text::from_static("SCRAM-SHA-1"));
    session.receive(Packet::Connect(Box::new(connect)), now);
    let outputs: Vec<_> = std::iter::from_fn(|| session.poll_output()).collect();
    assert_eq!(
        answers(&outputs),
        ["connack BadAuthenticationMethod", "close Discard"]
    );
}

#[test]
fn the_server_caps_the_keep_alive_of_5_0_and_says_so_mqtt_3_2_2_21() {
    // (version, asked, told in CONNACK, seconds of silence that are borne)
    for (version, asked, told, borne_s) in [
        (Version::V5, 60, None, Some(90)),
        (Version::V5, 0, Some(300), Some(450)),
        (Version::V5, 1000, Some(300), Some(450)),
        (Version::V311, 0, None, None),
        (Version::V311, 1000, None, Some(1500)),
    ] {
        let start = Instant::now();
        let mut session = Session::new(limits(), start);
        let mut connect = connect(version);
        connect.keep_alive_s = asked;
        session.receive(Packet::Connect(Box::new(connect)), start);
        session.poll_output();
        assert_eq!(
            session.poll_timeout(),
            None,
            "the decision is not its silence"
        );
        let now = start + Duration::from_secs(20);
        let accepted = Accepted {
            session_present: false,
            client_id: Text::from_static("c"),
            assigned: false,
            session_expiry_s: 0,
            resume: Vec::new(),
        };
        session.accept(accepted, now);
        let Some(Output::Send(Packet::ConnAck(connack))) = session.poll_output() else {
            panic!("no CONNACK")
        };
        assert_eq!(connack.properties.server_keep_alive_s, told);
        let borne = borne_s.map(|borne_s| now + Duration::from_secs(borne_s));
        assert_eq!(session.poll_timeout(), borne, "{version:?} {asked}");
    }
}

#[test]
fn connack_of_5_0_says_what_differs_from_what_was_asked() {
    let now = Instant::now();
    let mut session = Session::new(limits(), now);
    let mut connect = connect(Version::V5);
    connect.properties.session_expiry_s = Some(u32::MAX);
    session.receive(Packet::Connect(Box::new(connect)), now);
    session.poll_output();
    session.accept(
        Accepted {
            session_present: true,
            client_id: Text::from_static("auto-1"),
            assigned: true,
            session_expiry_s: 3600,
            resume: Vec::new(),
        },
        now,
    );
    let Some(Output::Send(Packet::ConnAck(connack))) = session.poll_output() else {
        panic!("no CONNACK")
    };
    assert!(connack.session_present);
    let properties = connack.properties;
    assert_eq!(properties.session_expiry_s, Some(3600));
    let assigned = properties.assigned_client_id;
    assert_eq!(
        assigned,
        Some(Text::from_static("auto-1")),
        "[MQTT-3.2.2-16]"
    );
    assert_eq!(properties.receive_maximum, NonZeroU16::new(2));
    assert_eq!(properties.maximum_packet_size, Some(65_536));
    assert_eq!(properties.topic_alias_maximum, Some(4));
}

#[test]
fn what_is_too_large_on_a_new_connection_is_owed_no_more_mqtt_3_1_2_25() {
    let mut connect = connect(Version::V5);
    connect.properties.maximum_packet_size = Some(64);
    connect.properties.receive_maximum = NonZeroU16::new(1);
    let mut large = delivery(QoS::ExactlyOnce, 5);
    large.packet_id = Some(id(5));
    large.payload = Bytes::from(vec![0; 64]);
    let mut small = delivery(QoS::ExactlyOnce, 6);
    small.packet_id = Some(id(6));
    let resume = vec![Resume::Publish(large), Resume::Publish(small)];
    let mut peer = Peer::connected(connect, resume);
    assert_eq!(
        answers(&peer.drain()),
        ["acknowledged 5", "publish 6 dup=true"],
        "it takes nothing of the quota either"
    );
}

#[test]
fn the_rest_of_its_time_is_told_of_a_message_without_other_properties_mqtt_3_3_2_6() {
    let mut peer = Peer::v5();
    let mut message = delivery(QoS::AtMostOnce, 0);
    message.expires = Some(peer.now + Duration::from_secs(10));
    peer.session.deliver(message, peer.now).unwrap();
    let outputs = peer.drain();
    let [Output::Send(Packet::Publish(sent))] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    let properties = sent.properties.0.as_ref().unwrap();
    assert_eq!(properties.message_expiry_s, Some(10));
}

#[test]
fn what_expires_while_it_waits_is_not_sent_but_a_resend_is_mqtt_3_3_2_5() {
    let mut peer = Peer::v5();
    for handle in 1..=4 {
        let mut message = delivery(QoS::AtLeastOnce, handle);
        message.expires = (handle == 3).then(|| peer.now + Duration::from_secs(5));
        peer.session.deliver(message, peer.now).unwrap();
    }
    peer.drain();
    peer.now += Duration::from_secs(6);
    assert_eq!(
        answers(&peer.receive(Packet::PubAck(ack(1, ReasonCode::Success)))),
        ["acknowledged 1", "acknowledged 3", "publish 3 dup=false"]
    );
    let mut seen = delivery(QoS::AtLeastOnce, 9);
    seen.packet_id = Some(id(9));
    seen.expires = Some(Instant::now());
    let mut peer = Peer::connected(connect(Version::V5), vec![Resume::Publish(seen)]);
    assert_eq!(answers(&peer.drain()), ["publish 9 dup=true"]);
}

#[test]
fn the_bytes_that_wait_are_bounded_unless_a_queue_keeps_them() {
    let mut limits = Limits::clone(&limits());
    limits.outbox_messages_max = usize::MAX;
    let now = Instant::now();
    let mut session = Session::new(Arc::new(limits), now);
    session.receive(Packet::Connect(Box::new(connect(Version::V5))), now);
    let accepted = Accepted {
        session_present: false,
        client_id: Text::from_static("c"),
        assigned: false,
        session_expiry_s: 0,
        resume: Vec::new(),
    };
    session.accept(accepted, now);
    let payload = Bytes::from(vec![0; 1 << 20]);
    let mut deliver = |handle| {
        let mut message = delivery(QoS::AtLeastOnce, handle);
        message.payload = payload.clone();
        session.deliver(message, now)
    };
    let taken = (0..100).filter(|_| deliver(0).is_ok()).count();
    assert_eq!(taken, 2 + 63, "two under way, less than 64 MiB waiting");
    assert_eq!(deliver(0), Err(Dropped::Full));
    assert_eq!(deliver(1), Ok(()));
}

#[test]
fn an_idle_session_is_small() {
    let mut peer = Peer::v5();
    peer.receive(subscribe(1));
    peer.session.subscribed(id(1), vec![ReasonCode::Success]);
    peer.receive(publish(QoS::ExactlyOnce, 2));
    peer.session.published(id(2), Ok(Matched::Some));
    peer.receive(Packet::PubRel(ack(2, ReasonCode::Success)));
    peer.session.released(id(2));
    peer.session
        .deliver(delivery(QoS::AtLeastOnce, 1), peer.now)
        .unwrap();
    peer.receive(Packet::PubAck(ack(1, ReasonCode::Success)));
    peer.drain();
    assert_eq!(peer.session.outputs.capacity(), 0, "it owns nothing else");
    assert!(peer.session.inbound.is_idle() && peer.session.outbound.is_idle());
    let bytes = size_of::<Session>();
    assert!(bytes <= 512, "{bytes} bytes");
}

#[test]
fn v311_acknowledges_what_it_refuses_mqtt_3_3_5_2_v311() {
    let mut peer = Peer::connected(connect(Version::V311), Vec::new());
    peer.receive(publish(QoS::AtLeastOnce, 1));
    peer.receive(publish(QoS::ExactlyOnce, 2));
    peer.session
        .published(id(1), Err(ReasonCode::NotAuthorized));
    peer.session.published(id(2), Ok(Matched::None));
    assert_eq!(
        answers(&peer.drain()),
        ["puback 1 Success", "pubrec 2 Success"],
        "the only word there is"
    );
}

/// What waits may be taken back, but a QoS 2 flow that the client may know of is ended and not forgotten.
#[test]
fn what_is_withdrawn_is_not_sent_and_leaves_no_flow_open() {
    let secret = |qos, handle: u64| Delivery {
        topic: TopicName::from_static("secret"),
        packet_id: PacketId::new(u16::try_from(handle).unwrap()),
        ..delivery(qos, handle)
    };
    let mut alone = connect(Version::V5);
    alone.properties.receive_maximum = NonZeroU16::new(1);
    let resume = vec![
        Resume::Publish(secret(QoS::AtLeastOnce, 11)),
        Resume::Publish(secret(QoS::ExactlyOnce, 12)),
        Resume::Publish(secret(QoS::AtLeastOnce, 13)),
    ];
    let mut peer = Peer::connected(alone, resume);
    assert_eq!(peer.drain().len(), 1, "the first is on its way already");
    let now = peer.now;
    peer.session
        .deliver(delivery(QoS::AtLeastOnce, 14), now)
        .unwrap();
    assert_eq!(peer.session.withdraw(|topic| topic.as_str() != "secret"), 2);
    assert!(matches!(
        peer.drain()[..],
        [Output::Acknowledged { handle: 13 }]
    ));
    let outputs = peer.receive(Packet::PubAck(ack(11, ReasonCode::Success)));
    assert!(matches!(
        &outputs[..],
        [Output::Acknowledged { handle: 11 }, Output::Send(Packet::PubRel(release))] if release.packet_id == id(12)
    ));
    let outputs = peer.receive(Packet::PubComp(ack(12, ReasonCode::Success)));
    assert!(matches!(
        &outputs[..],
        [Output::Acknowledged { handle: 12 }, Output::Send(Packet::Publish(open))] if open.topic.as_ref().unwrap().as_str() == "t"
    ));
}
