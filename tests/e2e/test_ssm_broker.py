"""The whole way over a real ActiveMQ, undisturbed and with the broker killed in the middle."""

import secrets
import time
from pathlib import Path

import pytest

from tests.e2e.ssm_site import Site
from tests.testbed.broker import Broker
from tests.testbed.trust import Trust

pytestmark = pytest.mark.broker


def site_at(broker: Broker, directory: Path) -> Site:
    # the broker may hold what an earlier session left
    queue = f"/queue/{directory.name}.{secrets.token_hex(4)}"
    return Site.create(
        directory, broker.trust, hosts=f"{broker.host}:{broker.tls_port}", queue=queue
    )


def texts(count: int) -> list[str]:
    return [
        f"APEL-cloud-message: v0.4\nVMUUID: {number}\n{'Field: value' * 50}\n%%\n"
        for number in range(count)
    ]


def test_a_thousand_messages_arrive_once_and_in_order(tmp_path: Path, broker: Broker) -> None:
    site = site_at(broker, tmp_path)
    names = site.fill(texts(1000))
    assert site.run("ssmsend").returncode == 0
    assert site.waiting() == site.locks() == []
    assert site.run("ssmreceive", "--count", "1000").returncode == 0
    stored = site.elements()
    assert [element["body"] for element in stored] == texts(1000)
    assert [element["empaid"] for element in stored] == names


def test_large_encrypted_messages_arrive(tmp_path: Path, broker: Broker) -> None:
    site = site_at(broker, tmp_path)
    config = tmp_path / "etc/apel/sender.cfg"
    server_cert = broker.trust.host("receiver").certificate
    config.write_text(
        config.read_text().replace("[messaging]", f"server_cert: {server_cert}\n[messaging]")
    )
    large = [f"{number}\n" + "Field: value\n" * 60_000 for number in range(10)]
    site.fill(large)
    assert site.run("ssmsend").returncode == 0
    assert site.run("ssmreceive", "--count", "10").returncode == 0
    assert [element["body"] for element in site.elements()] == large


def test_a_broker_killed_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, broker: Broker
) -> None:
    site = site_at(broker, tmp_path)
    count = 500
    site.fill(texts(count))
    sender = site.start("ssmsend")
    while len(site.waiting()) > 400:
        assert sender.poll() is None
        time.sleep(0.01)
    broker.kill()
    left = len(site.waiting())
    assert 0 < left < count
    time.sleep(1)
    broker.start()
    assert sender.wait(timeout=120) == 0
    sender.communicate()
    assert site.waiting() == site.locks() == []
    receiver = site.start("ssmreceive", "--idle-exit", "5")
    while len(list((site.received / "incoming").glob("*/*/body"))) < 100:
        assert receiver.poll() is None
        time.sleep(0.01)
    broker.kill()
    broker.start()
    assert receiver.wait(timeout=120) == 0
    receiver.communicate()
    assert [element["body"] for element in site.elements()] == texts(count)
    assert site.elements("reject") == []


@pytest.mark.matrix
def test_an_idle_receiver_still_gets_a_message_at_once(tmp_path: Path, broker: Broker) -> None:
    site = site_at(broker, tmp_path)
    receiver = site.start("ssmreceive", "--count", "1")
    time.sleep(75)  # two heart-beats and more
    site.fill(texts(1))
    assert site.run("ssmsend").returncode == 0
    assert receiver.wait(timeout=5) == 0
    receiver.communicate()
    assert len(site.elements()) == 1
    assert "connection lost" not in site.log("receiver")


def test_a_certificate_that_the_broker_does_not_want(tmp_path: Path, broker: Broker) -> None:
    site = site_at(broker, tmp_path)
    names = site.fill(texts(2))
    config = tmp_path / "etc/apel/sender.cfg"
    ours, stranger = broker.trust.host("sender"), Trust(tmp_path / "strangers").host("sender")
    text = config.read_text().replace(str(ours.certificate), str(stranger.certificate))
    config.write_text(text.replace(str(ours.key), str(stranger.key)))
    done = site.run("ssmsend")
    assert done.returncode == 3
    assert f"localhost:{broker.tls_port}: ends the connection before greeting" in done.stderr
    assert done.stderr.count("\n") == 1
    assert site.waiting() == names
    assert site.locks() == []
