"""Eclipse Paho for Python: 3.1.1 and 5.0 over TCP, TLS 1.3 and WebSocket."""

import queue
import ssl
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

VERSIONS = {"3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}
TRANSPORTS = ["tcp", "tls", "ws", "wss"]
WAIT = 10


class Peer:
    def __init__(self, broker, name, version, transport="tcp", clean=True, expiry=0, will=None, receive_maximum=None):
        arguments = {} if version == "5.0" else {"clean_session": clean}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=VERSIONS[version],
                                  transport="websockets" if "ws" in transport else "tcp", **arguments)
        self.version, self.messages, self.acks = version, queue.Queue(), queue.Queue()
        self.client.on_connect = lambda *a: self.acks.put(("connect", a[2], a[3], a[4]))
        self.client.on_subscribe = lambda *a: self.acks.put(("subscribe", a[3]))
        self.client.on_disconnect = lambda *a: self.acks.put(("disconnect", a[3], a[4]))
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        if "ws" in transport:
            self.client.ws_set_options(path="/mqtt")
        if transport in ("tls", "wss"):
            context = ssl.create_default_context(cafile=broker.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            self.client.tls_set_context(context)
        if will:
            self.client.will_set(*will)
        arguments = {}
        if version == "5.0":
            properties = Properties(PacketTypes.CONNECT)
            if expiry:
                properties.SessionExpiryInterval = expiry
            if receive_maximum:
                properties.ReceiveMaximum = receive_maximum
            arguments = {"clean_start": clean, "properties": properties}
        self.client.connect("127.0.0.1", getattr(broker, transport), keepalive=30, **arguments)
        self.client.loop_start()
        _, self.flags, reason, self.properties = self.ack("connect")
        assert not reason.is_failure, reason

    def ack(self, kind):
        while True:
            found = self.acks.get(timeout=WAIT)
            if found[0] == kind:
                return found

    def subscribe(self, topic, qos=2, **options):
        if self.version == "5.0":
            self.client.subscribe(topic, options=SubscribeOptions(qos=qos, **options))
        else:
            self.client.subscribe(topic, qos)
        return self.ack("subscribe")[1]

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        sent = self.client.publish(topic, payload, qos, retain, properties)
        sent.wait_for_publish(WAIT)
        assert sent.is_published()

    def message(self, timeout=WAIT):
        return self.messages.get(timeout=timeout)

    def silent(self, seconds=0.5):
        with pytest.raises(queue.Empty):
            self.messages.get(timeout=seconds)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """The network is gone: no DISCONNECT."""
        self.client.loop_stop()
        self.client.socket().close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_messages_of_every_qos_arrive_once_and_in_order(broker, unique, version, transport):
    publisher, subscriber = Peer(broker, unique + "-p", version, transport), Peer(broker, unique + "-s", version, transport)
    subscriber.subscribe(unique + "/#")
    for qos in (0, 1, 2):
        for number in range(50):
            publisher.publish(f"{unique}/{qos}", f"{number}", qos)
        got = [subscriber.message() for _ in range(50)]
        assert [message.payload.decode() for message in got] == [str(number) for number in range(50)]
        assert {(message.qos, message.retain) for message in got} == {(qos, False)}
    subscriber.silent()
    publisher.leave()
    subscriber.leave()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_payload_arrives_whole(broker, unique, version):
    peer = Peer(broker, unique, version, "wss")
    peer.subscribe(unique)
    payload = bytes(range(256)) * 800
    peer.publish(unique, payload, 1)
    assert peer.message().payload == payload
    peer.leave()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_retained_message_waits_for_who_subscribes_later_and_can_be_cleared(broker, unique, version):
    peer = Peer(broker, unique, version)
    peer.publish(unique + "/a", "first", 1, retain=True)
    peer.publish(unique + "/a", "last", 1, retain=True)
    peer.subscribe(unique + "/+")
    message = peer.message()
    assert (message.payload, message.retain) == (b"last", True)
    peer.publish(unique + "/a", b"", 1, retain=True)
    assert peer.message().payload == b""
    late = Peer(broker, unique + "-late", version)
    late.subscribe(unique + "/+")
    late.silent()
    late.leave()
    peer.leave()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_will_is_published_when_the_client_vanishes_and_not_when_it_leaves(broker, unique, version):
    watcher = Peer(broker, unique + "-w", version)
    watcher.subscribe(unique)
    Peer(broker, unique, version, will=(unique, "in order", 1)).leave()
    watcher.silent(1)
    Peer(broker, unique, version, will=(unique, "gone", 1)).vanish()
    assert watcher.message().payload == b"gone"
    watcher.silent()
    watcher.leave()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_persistent_session_gets_what_came_while_it_was_away(broker, unique, version, qos):
    peer = Peer(broker, unique, version, clean=False, expiry=3600)
    assert not peer.flags.session_present
    peer.subscribe(unique + "/#", qos)
    peer.leave()
    other = Peer(broker, unique + "-o", version)
    for number in range(100):
        other.publish(f"{unique}/x", str(number), 2)
    back = Peer(broker, unique, version, clean=False, expiry=3600)
    assert back.flags.session_present
    assert [back.message().payload.decode() for _ in range(100)] == [str(number) for number in range(100)]
    other.publish(f"{unique}/x", "live", qos)
    assert back.message().payload == b"live"
    back.silent()
    back.leave()
    fresh = Peer(broker, unique, version, clean=True)
    assert not fresh.flags.session_present
    other.publish(f"{unique}/x", "nobody", qos)
    fresh.silent()
    fresh.leave()
    other.leave()


@pytest.mark.parametrize("version", VERSIONS)
def test_members_of_a_shared_subscription_share(broker, unique, version):
    members = [Peer(broker, f"{unique}-{number}", version) for number in range(3)]
    for member in members:
        member.subscribe(f"$share/g/{unique}/#", 1)
    publisher = Peer(broker, unique, version)
    for number in range(90):
        publisher.publish(f"{unique}/x", str(number), 1)
    time.sleep(1)
    got = [[member.messages.get().payload for _ in range(member.messages.qsize())] for member in members]
    assert sorted(int(payload) for share in got for payload in share) == list(range(90)), "each message once"
    assert all(len(share) >= 15 for share in got), "nobody is left out"
    for peer in (*members, publisher):
        peer.leave()


@pytest.mark.parametrize("version", VERSIONS)
def test_who_connects_with_the_same_id_takes_over(broker, unique, version):
    first = Peer(broker, unique, version)
    first.client.reconnect_delay_set(30, 30)
    second = Peer(broker, unique, version)
    first.ack("disconnect")
    first.client.loop_stop()
    second.subscribe(unique)
    second.publish(unique, "x", 1)
    assert second.message().payload == b"x"
    second.leave()


def test_properties_of_a_message_arrive_unaltered(broker, unique):
    peer = Peer(broker, unique, "5.0")
    peer.subscribe(unique)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/x"
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = b"\x00\xff"
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 60
    properties.UserProperty = [("a", "1"), ("a", "2"), ("b", "")]
    for qos in (0, 1, 2):
        peer.publish(unique, "x", qos, properties=properties)
        got = peer.message().properties
        assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == ("text/x", "answers/here", b"\x00\xff")
        assert got.PayloadFormatIndicator == 1 and 55 <= got.MessageExpiryInterval <= 60
        assert got.UserProperty == [("a", "1"), ("a", "2"), ("b", "")]
    peer.leave()


def test_overlapping_subscriptions_bring_one_copy_with_all_identifiers(broker, unique):
    peer = Peer(broker, unique, "5.0")
    for identifier, topic, qos in ((7, unique + "/#", 0), (9, unique + "/+", 2)):
        properties = Properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = identifier
        peer.client.subscribe(topic, options=SubscribeOptions(qos=qos), properties=properties)
        peer.ack("subscribe")
    peer.publish(unique + "/x", "x", 2)
    message = peer.message()
    assert sorted(message.properties.SubscriptionIdentifier) == [7, 9] and message.qos == 2
    peer.silent()
    peer.leave()


def test_no_local_and_retain_as_published(broker, unique):
    peer, other = Peer(broker, unique, "5.0"), Peer(broker, unique + "-o", "5.0")
    peer.subscribe(unique + "/quiet", noLocal=True)
    peer.subscribe(unique + "/flag", retainAsPublished=True)
    peer.publish(unique + "/quiet", "mine", 1)
    other.publish(unique + "/quiet", "yours", 1)
    assert peer.message().payload == b"yours"
    other.publish(unique + "/flag", "x", 1, retain=True)
    assert peer.message().retain
    other.publish(unique + "/flag", "", 1, retain=True)
    peer.leave()
    other.leave()


def test_a_message_past_its_expiry_is_not_delivered(broker, unique):
    peer = Peer(broker, unique, "5.0", clean=False, expiry=3600)
    peer.subscribe(unique, 1)
    peer.leave()
    other = Peer(broker, unique + "-o", "5.0")
    properties = Properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = 1
    other.publish(unique, "short-lived", 1, properties=properties)
    other.publish(unique, "stays", 1)
    time.sleep(1.5)
    back = Peer(broker, unique, "5.0", clean=False, expiry=3600)
    assert back.message().payload == b"stays"
    back.silent()
    back.leave()
    other.leave()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_and_its_queue_survive_a_kill(broker, unique, version):
    peer = Peer(broker, unique, version, clean=False, expiry=3600)
    peer.subscribe(unique + "/#", 2)
    peer.leave()
    other = Peer(broker, unique + "-o", version)
    for number in range(50):
        other.publish(f"{unique}/x", str(number), 1 + number % 2)
    other.publish(unique + "/kept", "retained", 1, retain=True)
    other.leave()
    broker.kill()
    broker.start()
    back = Peer(broker, unique, version, clean=False, expiry=3600)
    assert back.flags.session_present
    got = [back.message() for _ in range(51)]
    for qos in (1, 2):  # order holds per topic and QoS
        numbers = [message.payload.decode() for message in got if message.qos == qos and message.topic.endswith("/x")]
        assert numbers == [str(number) for number in range(50) if 1 + number % 2 == qos]
    assert [message.payload for message in got if message.topic.endswith("/kept")] == [b"retained"]
    back.silent()
    late = Peer(broker, unique + "-late", version)
    late.subscribe(unique + "/kept")
    assert late.message().retain
    for peer in (back, late):
        peer.leave()
