"""The AMS client of SSM, argo-ams-library: each client reads what the other published."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from argo_ams_library import AmsMessage, ArgoMessagingService

from tests.e2e.ssm_site import TOPIC, Site
from tests.e2e.test_ssm_receive import signed, text
from tests.simulators.ams_service import AMS
from tests.testbed.trust import Trust

TOKEN = "a-token-of-the-library"


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


@pytest.fixture
def service(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> Iterator[AMS]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trust.grid.certificate))
    with AMS(trust.host("broker"), trust.grid.certificate, tokens={TOKEN}) as made:
        yield made


def library(service: AMS) -> ArgoMessagingService:
    return ArgoMessagingService(
        endpoint=f"localhost:{service.port}", token=TOKEN, project=service.project
    )


def test_the_library_pulls_what_ssmsend_publishes(
    tmp_path: Path, trust: Trust, service: AMS
) -> None:
    site = Site.at_ams(tmp_path, trust, service)
    names = site.fill([text(number) for number in range(20)])
    assert site.run("ssmsend").returncode == 0
    found = []
    peer = library(service)
    while received := peer.pull_sub(TOPIC, num=8, return_immediately=True):
        found += [message for _, message in received]
        peer.ack_sub(TOPIC, [ack_id for ack_id, _ in received])
    assert [message.get_attr()["empaid"] for message in found] == names
    assert [site.opened(message.get_data()) for message in found] == [
        text(number) for number in range(20)
    ]
    assert service.left(TOPIC) == 0


def test_ssmreceive_stores_what_the_library_publishes(
    tmp_path: Path, trust: Trust, service: AMS
) -> None:
    """As SSM does: one message a request, its id an attribute, the text that openssl signed."""
    site = Site.at_ams(tmp_path, trust, service)
    peer = library(service)
    for number in range(5):
        message = signed(text(number), trust.host("sender")).decode()
        attributes = {"empaid": f"6b029cc8/{number:014x}"}
        answer = peer.publish(TOPIC, AmsMessage(data=message, attributes=attributes).dict())
        assert answer == {"messageIds": [str(number)]}
    assert site.run("ssmreceive", "--count", "5").returncode == 0
    assert [element["body"] for element in site.elements()] == [text(number) for number in range(5)]
    assert [element["empaid"] for element in site.elements()] == [
        f"6b029cc8/{number:014x}" for number in range(5)
    ]


def test_both_exchange_a_certificate_in_the_same_way(
    tmp_path: Path, trust: Trust, service: AMS
) -> None:
    site = Site.at_ams(tmp_path, trust, service)
    site.fill([text(0)])
    assert site.run("ssmsend").returncode == 0
    credential = trust.host("sender")
    peer = ArgoMessagingService(
        endpoint="localhost",
        project=service.project,
        cert=str(credential.certificate),
        key=str(credential.key),
        authn_port=service.authn_port,
    )
    assert peer.token in service.tokens
    ours, theirs = service.asked("token")
    assert ours.path == theirs.path


def test_both_publish_in_the_same_form(tmp_path: Path, trust: Trust, service: AMS) -> None:
    site = Site.at_ams(tmp_path, trust, service)
    [name] = site.fill([text(0)])
    assert site.run("ssmsend").returncode == 0
    sent = service.topics[TOPIC][0].body.decode()
    library(service).publish(TOPIC, AmsMessage(data=sent, attributes={"empaid": name}).dict())
    ours, theirs = service.asked("publish")
    assert (ours.path, ours.content) == (theirs.path, theirs.content)
