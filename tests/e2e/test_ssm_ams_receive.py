"""`ssmreceive` as a program, from an AMS subscription."""

import signal
from pathlib import Path

import pytest

from tests.e2e.ssm_site import TOPIC, Site
from tests.e2e.test_ssm_faults import wait_for
from tests.e2e.test_ssm_receive import signed, text
from tests.simulators.ams_service import AMS, Fault, Kind
from tests.testbed.trust import Trust


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def ams_with(trust: Trust, *faults: Fault) -> AMS:
    return AMS(trust.host("broker"), trust.grid.certificate, faults)


def test_messages_are_stored_in_order_and_acknowledged(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        messages = [signed(text(number), trust.host("sender")) for number in range(40)]
        ids: list[str | None] = [f"00000000/{number:014x}" for number in range(39)]
        service.enqueue(TOPIC, messages, ids=[*ids, None])
        done = site.run("ssmreceive", "--count", "40")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert service.left(TOPIC) == 0
    stored = site.elements()
    assert [element["body"] for element in stored] == [text(number) for number in range(40)]
    assert [element["empaid"] for element in stored] == [*ids, "N/A"]
    assert {element["signer"] for element in stored} == {site.sender_dn}
    assert f"Received message. ID = {ids[0]}, Argo ID = 0\n" in site.log("receiver")


def test_a_count_leaves_the_others(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        service.enqueue(TOPIC, [signed(text(number), trust.host("sender")) for number in range(4)])
        assert site.run("ssmreceive", "--count", "3").returncode == 0
        assert service.left(TOPIC) == 1
        assert site.run("ssmreceive", "--count", "1").returncode == 0
        assert service.left(TOPIC) == 0
    assert [element["body"] for element in site.elements()] == [text(number) for number in range(4)]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.STATUS, on="pull", after=1),
        Fault(Kind.HALF, on="pull", after=1),
        Fault(Kind.STATUS, on="acknowledge"),
        Fault(Kind.CLOSE_AFTER, on="acknowledge", times=2),
        Fault(Kind.STATUS, on="acknowledge", status=408),
        Fault(Kind.FORGET_TOKENS, on="pull", after=1),
        Fault(Kind.STATUS, on="token", status=500),
        Fault(Kind.STATUS, on="pull", status=404),
    ],
)
def test_no_failure_loses_or_doubles_a_message(tmp_path: Path, trust: Trust, fault: Fault) -> None:
    with ams_with(trust, fault) as service:
        site = Site.at_ams(tmp_path, trust, service)
        sender = trust.host("sender")
        service.enqueue(TOPIC, [signed(text(number), sender) for number in range(6)])
        process = site.start("ssmreceive")
        wait_for(lambda: service.left(TOPIC) == 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        process.communicate()
    assert [element["body"] for element in site.elements()] == [text(number) for number in range(6)]


def test_an_acknowledgement_that_comes_too_late_doubles_nothing(
    tmp_path: Path, trust: Trust
) -> None:
    with ams_with(trust) as service:
        service.ack_deadline = 0.0
        site = Site.at_ams(tmp_path, trust, service)
        service.enqueue(TOPIC, [signed(text(number), trust.host("sender")) for number in range(6)])
        process = site.start("ssmreceive")
        wait_for(lambda: len(service.asked("acknowledge")) > 2)
        assert service.left(TOPIC) == 6
        service.ack_deadline = 10.0
        wait_for(lambda: service.left(TOPIC) == 0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert [element["body"] for element in site.elements()] == [text(number) for number in range(6)]
    assert site.record("ssmreceive")["counts"]["duplicates"] >= 6


def test_sigterm_in_the_middle_loses_nothing_and_what_comes_later_is_taken(
    tmp_path: Path, trust: Trust
) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        messages = [signed(text(number), trust.host("sender")) for number in range(100)]
        service.enqueue(TOPIC, messages[:90])
        process = site.start("ssmreceive")
        wait_for(lambda: service.left(TOPIC) < 80)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        process.communicate()
        assert len(site.elements()) == 90 - service.left(TOPIC)
        process = site.start("ssmreceive", "--count", str(10 + service.left(TOPIC)))
        wait_for(lambda: service.left(TOPIC) == 0)
        service.enqueue(TOPIC, messages[90:])
        assert process.wait(timeout=20) == 0
        process.communicate()
    assert [element["body"] for element in site.elements()] == [
        text(number) for number in range(100)
    ]


def test_a_run_with_a_limit_reports_a_lasting_failure(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        del service.subscriptions[TOPIC]
        done = site.run("ssmreceive", "--idle-exit", "5")
    assert done.returncode == 3
    assert (
        "does not exist (404: Subscription doesn't exist); check [messaging] ams_project"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1
