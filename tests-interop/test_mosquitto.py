"""mosquitto_pub and mosquitto_sub."""

import subprocess
import time

import pytest


def place(broker, transport):
    if transport == "tls":
        return ["-h", "127.0.0.1", "-p", str(broker.tls), "--cafile", broker.ca, "--tls-version", "tlsv1.3"]
    return ["-h", "127.0.0.1", "-p", str(broker.tcp)]


@pytest.mark.parametrize("qos", ["0", "1", "2"])
@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_what_mosquitto_pub_sends_mosquitto_sub_prints(broker, unique, version, transport, qos):
    subscriber = subprocess.Popen(
        ["mosquitto_sub", *place(broker, transport), "-V", version, "-t", unique + "/#", "-q", qos, "-C", "20", "-W", "15", "-v"],
        stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 10
    while not any(unique + "/#" in client["subscriptions"] for client in broker.get("/api/v1/clients")["data"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lines = "".join(f"line {number}\n" for number in range(20))
    subprocess.run(["mosquitto_pub", *place(broker, transport), "-V", version, "-t", unique + "/x", "-q", qos, "-l"],
                   input=lines, text=True, check=True, timeout=20)
    out, _ = subscriber.communicate(timeout=20)
    assert out.splitlines() == [f"{unique}/x line {number}" for number in range(20)]


def test_sys_topics_are_there(broker):
    out = subprocess.run(["mosquitto_sub", *place(broker, "tcp"), "-t", "$SYS/broker/version", "-C", "1", "-W", "15"],
                         capture_output=True, text=True, check=True)
    assert out.stdout.startswith("meridian version")
