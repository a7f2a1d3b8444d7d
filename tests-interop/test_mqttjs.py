"""MQTT.js, over every transport."""

import pathlib
import subprocess

import pytest


@pytest.mark.parametrize("transport", ["tcp", "tls", "ws", "wss"])
@pytest.mark.parametrize("version", ["4", "5"])
def test_mqttjs_publishes_and_receives(broker, unique, version, transport):
    scheme = {"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss"}[transport]
    path = "/mqtt" if "ws" in transport else ""
    url = f"{scheme}://localhost:{getattr(broker, transport)}{path}".replace("localhost", "127.0.0.1")
    run = subprocess.run(["node", str(pathlib.Path(__file__).with_name("client.js")), url, version, unique, broker.ca],
                         capture_output=True, text=True, timeout=40)
    assert run.stdout.strip() == "ok", run.stderr
