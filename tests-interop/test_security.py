"""Access rules and client certificates, as mosquitto's and OpenSSL's programs meet them."""

import subprocess
import time

import pytest

from conftest import Broker, free_port, make_certificates, openssl


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    make_certificates(folder)
    # rustls takes version 3 only, and OpenSSL makes version 1 where there is no extension.
    (folder / "device").write_text("basicConstraints=CA:FALSE\n")
    for name in ["device-7", "device-8"]:
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.sec1", folder=folder)
        openssl("pkcs8", "-topk8", "-nocrypt", "-in", f"{name}.sec1", "-out", f"{name}.key", folder=folder)
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr", folder=folder)
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "device", "-out", f"{name}.pem", folder=folder)
    (folder / "acl.toml").write_text('[[rule]]\nusers = ["*"]\npublish = ["dev/%u/#"]\nsubscribe = ["dev/%u/#"]\n')
    broker = Broker(folder, *(free_port() for _ in range(5)))
    (folder / "meridian.toml").write_text(f"""
[node]
data_dir = "{folder}/data"
[listeners.tls]
bind = "127.0.0.1:{broker.tls}"
cert = "server.pem"
key = "server.key"
client_ca = "ca.pem"
[listeners.http]
bind = "127.0.0.1:{broker.http}"
[auth]
allow_anonymous = false
acl_file = "acl.toml"
""")
    broker.start()
    yield broker
    broker.process.terminate()
    assert broker.process.wait(timeout=30) == 0


def as_device(broker, name):
    folder = broker.folder
    return ["-h", "127.0.0.1", "-p", str(broker.tls), "--cafile", broker.ca, "--cert", str(folder / f"{name}.pem"),
            "--key", str(folder / f"{name}.key"), "-V", "mqttv5"]


def test_a_device_speaks_under_its_own_name_only(guarded):
    reader = subprocess.Popen(["mosquitto_sub", *as_device(guarded, "device-7"), "-t", "dev/device-7/#", "-C", "1", "-W", "15", "-v"],
                              stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 10
    while not any("dev/device-7/#" in client["subscriptions"] for client in guarded.get("/api/v1/clients")["data"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    publish = lambda name: subprocess.run(
        ["mosquitto_pub", *as_device(guarded, name), "-t", "dev/device-7/x", "-m", name, "-q", "1", "-d"],
        capture_output=True, text=True, timeout=20)
    assert "RC:135" in publish("device-8").stdout
    assert publish("device-7").returncode == 0
    out, _ = reader.communicate(timeout=20)
    assert out == "dev/device-7/x device-7\n"


def test_a_subscription_to_everything_is_refused(guarded):
    refused = subprocess.run(["mosquitto_sub", *as_device(guarded, "device-7"), "-t", "#", "-W", "5"],
                             capture_output=True, text=True, timeout=20)
    assert "denied" in (refused.stdout + refused.stderr).lower()


def test_without_a_certificate_the_handshake_fails(guarded):
    refused = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{guarded.tls}", "-CAfile", guarded.ca],
                             input="", capture_output=True, text=True, timeout=20)
    assert "certificate required" in refused.stdout + refused.stderr


def test_tls_1_2_is_refused(guarded):
    refused = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{guarded.tls}", "-tls1_2"],
                             input="", capture_output=True, text=True, timeout=20)
    assert refused.returncode != 0 and "protocol version" in refused.stdout + refused.stderr
