"""The real binary, on free ports of loopback, with certificates made for the run."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass

import pytest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def openssl(*arguments, folder):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder):
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key", folder=folder)
    openssl("req", "-x509", "-new", "-key", "ca.key", "-days", "2", "-subj", "/CN=Test CA", "-out", "ca.pem", folder=folder)
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sec1.key", folder=folder)
    openssl("pkcs8", "-topk8", "-nocrypt", "-in", "sec1.key", "-out", "server.key", folder=folder)
    openssl("req", "-new", "-key", "server.key", "-subj", "/CN=localhost", "-out", "server.csr", folder=folder)
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "san", "-out", "server.pem", folder=folder)


@dataclass
class Broker:
    folder: object
    tcp: int
    tls: int
    ws: int
    wss: int
    http: int
    process: object = None

    @property
    def ca(self):
        return str(self.folder / "ca.pem")

    def start(self):
        log = open(self.folder / "log", "a")
        self.process = subprocess.Popen(
            [os.environ["MERIDIAN_BIN"], "serve", "-c", str(self.folder / "meridian.toml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=1)
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)
        raise AssertionError("not ready in time: " + (self.folder / "log").read_text())

    def kill(self):
        self.process.kill()
        self.process.wait()

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=10) as answer:
            text = answer.read().decode()
        return json.loads(text) if path.startswith("/api") else text

    def metric(self, name):
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name)]
        return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meridian")
    make_certificates(folder)
    broker = Broker(folder, *(free_port() for _ in range(5)))
    (folder / "meridian.toml").write_text(f"""
[node]
data_dir = "{folder}/data"
[listeners.tcp]
bind = "127.0.0.1:{broker.tcp}"
[listeners.tls]
bind = "127.0.0.1:{broker.tls}"
cert = "server.pem"
key = "server.key"
[listeners.ws]
bind = "127.0.0.1:{broker.ws}"
[listeners.wss]
bind = "127.0.0.1:{broker.wss}"
cert = "server.pem"
key = "server.key"
[listeners.http]
bind = "127.0.0.1:{broker.http}"
[sharding]
regions = ["hel"]
""")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def unique(request):
    """A name that no other test uses."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)
