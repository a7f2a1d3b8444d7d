"""Bytes that no client should send, and fixes that no device should: the reason is told, and nobody else is touched."""

import json
import socket

import paho.mqtt.client as mqtt
import pytest
from test_paho import Peer

CONNECT_5 = bytes.fromhex("10 10 0004 4d515454 05 02 003c 00 0003 726177")
CONNECT_311 = bytes.fromhex("10 0f 0004 4d515454 04 02 003c 0003 726177")


def talk(broker, *frames, seconds=5):
    """Sends frames, and returns all that comes until the broker closes."""
    with socket.create_connection(("127.0.0.1", broker.tcp), timeout=seconds) as connection:
        for frame in frames:
            connection.sendall(frame)
        got = b""
        while True:
            try:
                part = connection.recv(4096)
            except ConnectionResetError:
                return got
            if not part:
                return got
            got += part


def connack_reason(got):
    assert got[0] == 0x20, got.hex(" ")
    return got[3]


def disconnect_reason(got):
    """Of the DISCONNECT behind CONNACK."""
    rest = got[2 + got[1]:]
    assert rest[:1] == b"\xe0", got.hex(" ")
    return rest[2]


AFTER_CONNECT = {
    "reserved packet type": ("00 00", 0x81),
    "subscribe with wrong flags": ("80 07 0001 00 0001 61 00", 0x81),
    "publish with QoS 3": ("36 06 0001 61 0001 00", 0x81),
    "publish with DUP at QoS 0": ("38 04 0001 61 00", 0x81),
    "publish with packet id 0": ("32 06 0001 61 0000 00", 0x81),
    "publish to a wildcard": ("30 06 0003 612f23 00", 0x90),
    "publish without a topic": ("30 03 0000 00", 0x82),
    "topic with NUL": ("30 06 0003 610062 00", 0x81),
    "topic that is no UTF-8": ("30 05 0002 ff61 00", 0x81),
    "length of five bytes": ("30 80 80 80 80 01", 0x81),
    "topic alias 0": ("30 07 0001 61 03 23 0000", 0x94),
    "topic alias above the maximum": ("30 07 0001 61 03 23 ffff", 0x94),
    "subscription identifier from a client": ("30 06 0001 61 02 0b 01", 0x82),
    "subscribe without a filter": ("82 03 0001 00", 0x82),
    "subscribe with reserved options": ("82 07 0001 00 0001 61 c0", 0x81),
    "no local on a shared subscription": ("82 10 0001 00 000a 2473686172652f672f61 05", 0x82),
    "unsubscribe without a filter": ("a2 03 0001 00", 0x82),
    "a second connect": (CONNECT_5.hex(), 0x82),
    "a packet that only servers send": ("20 03 00 00 00", 0x82),
    "auth without a method": ("f0 00", 0x82),
    "a packet larger than is taken": ("30 ff ff ff 7f", 0x95),
    "a session that was to end is prolonged": ("e0 07 00 05 11 00000010", 0x82),
}


@pytest.mark.parametrize("name", AFTER_CONNECT)
def test_a_malformed_packet_closes_with_its_reason(broker, name):
    frame, reason = AFTER_CONNECT[name]
    assert disconnect_reason(talk(broker, CONNECT_5, bytes.fromhex(frame))) == reason


@pytest.mark.parametrize("name", ["reserved packet type", "publish with QoS 3", "a second connect", "length of five bytes",
                                  "a packet that only servers send", "a packet larger than is taken"])
def test_the_same_closes_a_3_1_1_connection_without_a_word(broker, name):
    got = talk(broker, CONNECT_311, bytes.fromhex(AFTER_CONNECT[name][0]))
    assert got == bytes.fromhex("20 02 00 00"), got.hex(" ")


BEFORE_CONNECT = {
    "a version that does not exist": ("10 0f 0004 4d515454 07 02 003c 0003 726177", 0x84),
    "reserved bit of connect": ("10 10 0004 4d515454 05 03 003c 00 0003 726177", 0x81),
    "receive maximum 0": ("10 13 0004 4d515454 05 02 003c 03 21 0000 0003 726177", 0x82),
    "authentication data without a method": ("10 14 0004 4d515454 05 02 003c 04 16 0001 61 0003 726177", 0x82),
    "an authentication method": ("10 14 0004 4d515454 05 02 003c 04 15 0001 61 0003 726177", 0x8C),
}


@pytest.mark.parametrize("name", BEFORE_CONNECT)
def test_a_wrong_connect_is_answered_with_its_reason(broker, name):
    frame, reason = BEFORE_CONNECT[name]
    got = talk(broker, bytes.fromhex(frame))
    assert connack_reason(got) == reason, got.hex(" ")


def test_an_empty_id_without_clean_session_is_refused_in_3_1_1(broker):
    assert talk(broker, bytes.fromhex("10 0c 0004 4d515454 04 00 003c 0000")) == bytes.fromhex("20 02 00 02")


@pytest.mark.parametrize("frame", ["40 02 00 01", "30 ff ff ff 7f", "c0 00", "47 45 54 20 2f"])
def test_who_does_not_begin_with_connect_hears_nothing(broker, frame):
    assert talk(broker, bytes.fromhex(frame)) == b""


def test_who_is_taken_over_is_told(broker):
    first = socket.create_connection(("127.0.0.1", broker.tcp), timeout=5)
    first.sendall(CONNECT_5)
    assert connack_reason(first.recv(100)) == 0
    with socket.create_connection(("127.0.0.1", broker.tcp), timeout=5) as second:
        second.sendall(CONNECT_5)
        assert connack_reason(second.recv(100)) == 0
        assert first.recv(100) == bytes.fromhex("e0 01 8e")
    first.close()


FIXES = ["", "{", "[]", "nonsense", "\x00\x01", "{}", '{"ts":1,"lat":91,"lon":0}', '{"ts":1,"lat":"52.5","lon":0}',
         '{"ts":1,"lat":1e999,"lon":0}', '{"ts":-1,"lat":1,"lon":0}', '{"ts":1,"lat":NaN,"lon":0}',
         '{"ts":99999999999999999,"lat":1,"lon":0}', "[" * 5000, '{"a":' * 5000, '{"ts":1,"lat":' + "1" * 10000 + ',"lon":0}']


@pytest.mark.parametrize("version", ["3.1.1", "5.0"])
def test_a_fix_that_cannot_be_read_is_acknowledged_delivered_counted_and_reported(broker, unique, version):
    peer = Peer(broker, unique, version)
    raw, rejected = Peer(broker, unique + "-raw", version), Peer(broker, unique + "-rejected", version)
    raw.subscribe(f"gps/hel/{unique}/position")
    rejected.subscribe(f"geo/hel/{unique}/rejected")
    name = 'meridian_positions_total{result="rejected"}'
    before = broker.metric(name)
    bad = [fix for fix in FIXES if fix not in ("", "[]")]
    for number, fix in enumerate(bad):
        peer.publish(f"gps/hel/{unique}/position", fix, number % 3)
        assert raw.message().payload == fix.encode()
        report = json.loads(rejected.message().payload)
        assert report["device"] == unique and report["reason"], fix
    assert broker.metric(name) - before == len(bad)
    peer.publish(f"gps/hel/{unique}/position", '{"ts":1700000000000,"lat":60.2,"lon":24.9}', 1)
    assert raw.message()
    assert broker.get(f"/api/v1/positions/{unique}")["lat"] == 60.2, "and it goes on"
    for each in (peer, raw, rejected):
        each.leave()


def test_clients_may_not_speak_for_the_broker(broker, unique):
    peer, watcher = Peer(broker, unique, "5.0"), Peer(broker, unique + "-w", "5.0")
    watcher.subscribe(f"geo/hel/{unique}/#")
    sent = peer.client.publish(f"geo/hel/{unique}/position", "forged", 1)
    sent.wait_for_publish(10)
    watcher.silent()
    peer.leave()
    watcher.leave()
