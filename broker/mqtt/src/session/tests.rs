use super::*;
use crate::packet::{ConnectProperties, RetainHandling, Subscription};
use crate::topic::TopicFilter;

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
        Output::Publish { publish } => {
            format!("do publish {}", publish.packet_id.map_or(0, PacketId::get))
        }
        Output::Release(id) => format!("do release {}", id.get()),
        Output::Acknowledged { handle } => format!("acknowledged {handle}"),
        Output::Received { handle } => format!("received {handle}"),
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
fn acknowledgements_go_in_the_order_of_the_publications_mqtt_4_6_0_2() {
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
fn qos_2_to_the_client_ends_with_pubcomp() {
    let mut peer = Peer::v5();
    peer.session
        .deliver(delivery(QoS::ExactlyOnce, 5), peer.now)
        .unwrap();
    peer.drain();
    assert_eq!(
        answers(&peer.receive(Packet::PubRec(ack(1, ReasonCode::Success)))),
        ["received 5", "pubrel 1 Success"]
    );
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
    let mut peer = Peer::connected(connect(Version::V5), resume);
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
fn a_client_that_leaves_in_order_has_no_will_mqtt_3_14_4_3() {
    let leave = |reason, session_expiry_s| {
        Packet::Disconnect(Disconnect {
            reason,
            session_expiry_s,
            reason_string: None,
            user: vec![],
            server_reference: None,
        })
    };
    assert_eq!(
        answers(&Peer::v5().receive(leave(ReasonCode::Success, None))),
        ["close Discard"]
    );
    assert_eq!(
        answers(&Peer::v5().receive(leave(ReasonCode::DisconnectWithWill, None))),
        ["close Publish"]
    );
    let outputs = Peer::v5().receive(leave(ReasonCode::Success, Some(5)));
    assert_eq!(
        answers(&outputs),
        ["disconnect ProtocolError", "close Publish"],
        "[MQTT-3.14.2-2]"
    );
}

#[test]
fn a_subscribe_that_is_answered_frees_its_identifier() {
    let mut peer = Peer::v5();
    let subscribe = || {
        Packet::Subscribe(Subscribe {
            packet_id: id(3),
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
    };
    peer.receive(subscribe());
    peer.session.subscribed(id(3), vec![ReasonCode::Success]);
    assert!(matches!(
        &peer.drain()[..],
        [Output::Send(Packet::SubAck(_))]
    ));
    peer.receive(subscribe());
    assert_eq!(
        answers(&peer.receive(subscribe()))[0],
        "disconnect PacketIdentifierInUse"
    );
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
