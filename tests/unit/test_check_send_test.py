"""`ssmsend --check-live --send-test`: a test record, for destinations for tests alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.admin.command import main
from appliance.core import senders
from appliance.core.run.finding import Finding, of_json
from ssm.cmds import send
from tests.simulators import stomp_faults
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import FaultBroker
from tests.testbed.trust import Trust
from tests.unit.test_check_sending import TOKEN, Sending, broker, sending, trust

__all__ = ["broker", "sending", "trust"]

DEVEL = "eu-egi-cloud-accounting-devel"
PRODUCTION = "eu-egi-cloud-accounting"


@pytest.fixture
def ams(trust: Trust) -> Iterator[AMS]:
    with AMS(trust.host("ams"), trust.grid.certificate) as made:
        made.create(DEVEL)
        made.create(PRODUCTION)
        yield made


def sent(sending: Sending) -> tuple[list[Finding], list[str]]:
    """Return the findings and the notes; nothing on this host has changed."""
    QueueSimple(str(sending.spool)).add("one\n")
    before = sorted(sending.root.rglob("*"))
    command = ["--root", str(sending.root), "-c", str(sending.path), "--check-live"]
    status = send.main([*command, "--send-test", "--log-json"])
    assert sorted(sending.root.rglob("*")) == before
    said = sending.capsys.readouterr().err
    assert TOKEN not in said
    assert "PRIVATE KEY" not in said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    values = [line["value"] for line in lines if "value" in line]
    found = [of_json(line["finding"]) for line in lines if "finding" in line]
    assert status == any(one.is_error for one in found), said
    return found, [one["text"] for one in values if one["section"] == "note"]


def verified(message: bytes, trust: Trust) -> dict[str, str]:
    """Return the fields of the record in a message, verified by openssl."""
    command = ["openssl", "smime", "-verify", "-CApath", str(trust.ca_directory), "-purpose", "any"]
    done = subprocess.run(command, input=message, capture_output=True, check=True)
    _, _, text = done.stdout.decode().replace("\r", "").partition("\n\n")
    head, *lines = text.strip().split("\n")
    assert head == "APEL-cloud-message: v0.4"
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.programs("openssl")
def test_a_topic_for_tests_gets_one_signed_record(sending: Sending, ams: AMS, trust: Trust) -> None:
    sending.write(ams, destination=DEVEL, token=TOKEN)
    ams.tokens.add(TOKEN)
    found, (text,) = sent(sending)
    assert found == []
    assert text.startswith("sent and taken over as ")
    (message,) = ams.topics[DEVEL]
    fields = verified(message.body, trust)
    assert fields["SiteName"] == "fedcloud-check-test"
    assert fields["VMUUID"].startswith("fedcloud-check-test-")
    assert (fields["WallDuration"], fields["CpuDuration"], fields["Status"]) == (
        "1",
        "1",
        "completed",
    )
    assert f"one record, signed, {len(message.body)} bytes, to {DEVEL} at localhost:" in text
    assert f"VMUUID: {fields['VMUUID']}" in text


def test_a_topic_for_production_gets_nothing(sending: Sending, ams: AMS) -> None:
    sending.write(ams, destination=PRODUCTION)
    found, (text,) = sent(sending)
    assert found == []
    assert ams.topics == {DEVEL: [], PRODUCTION: []}
    assert f"to {PRODUCTION} at localhost:" in text
    assert "SiteName: fedcloud-check-test" in text
    assert text.endswith("It is not sent, because this destination is not one for tests")


@pytest.mark.programs("openssl")
def test_a_queue_of_a_broker(sending: Sending, broker: FaultBroker, trust: Trust) -> None:
    """The wait for the broker's receipt is that of all messages."""
    sending.write(broker, destination="/queue/global.accounting.cloud")
    assert sent(sending)[0] == []
    assert broker.sent == []
    sending.write(broker, destination="/queue/global.accounting.test.cloud.central")
    found, (text,) = sent(sending)
    assert found == []
    assert text.startswith("sent and taken over: ")
    (frame,) = broker.sent
    assert verified(frame.body, trust)["FQAN"] == "fedcloud-check-test"


def test_a_record_that_is_refused(sending: Sending, broker: FaultBroker) -> None:
    """C41, in the line of the destination; healed, it is taken."""
    sending.write(broker, destination="/queue/x.test.y")
    fault = stomp_faults.Fault(stomp_faults.Kind.ERROR_AFTER_SEND)
    broker.faults = [stomp_faults.Fault(stomp_faults.Kind.NONE), fault]  # the login comes first
    (found,), _ = sent(sending)
    assert (found.identifier, found.path, found.line) == ("C41", *sending.place("destination"))
    assert found.text.startswith("the test record was not sent: ")
    assert sent(sending)[0] == []


def test_a_destination_of_another_kind(sending: Sending, ams: AMS) -> None:
    ams.create("eu-egi-storage-accounting-devel")
    sending.write(ams, destination="eu-egi-storage-accounting-devel")
    found, (text,) = sent(sending)
    assert (found, ams.topics["eu-egi-storage-accounting-devel"]) == ([], [])
    assert "takes no records of servers" in text


@pytest.mark.parametrize(
    ("name", "is_for_tests"),
    [
        ("/queue/global.accounting.test.cloud.central", True),
        ("eu-egi-cloud-accounting-devel", True),
        ("msg-devel.argo.grnet.gr", True),
        ("eu-egi-cloud-accounting", False),
        ("msg.argo.grnet.gr", False),
        ("contest-accounting", False),
        ("latest", False),
    ],
)
def test_names_for_tests(name: str, is_for_tests: bool) -> None:
    assert senders.is_for_tests(name) == is_for_tests


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--offline",), "--send-test: contacts the broker; leave out --offline"),
        (("caso",), "--send-test: needs the job ssmsend, which is not checked here; name it"),
    ],
)
def test_flags_that_contradict(
    words: tuple[str, ...], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--send-test", *words, "--root", str(tmp_path)]) == 2
    assert text in capsys.readouterr().err
