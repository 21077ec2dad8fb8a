"""Verdicts on messages of dishonest senders, and a certificate that expires during a run."""

import logging
from pathlib import Path

import pytest

from appliance.core import clock
from appliance.core.run.record import RunRecord
from appliance.core.trust.ca_directory import CADirectory, VerifiedChain
from appliance.core.trust.certificates import Identity
from ssm import envelope
from ssm.receiving.judge import REJECT, Judge
from ssm.receiving.signers import AcceptedSigners
from ssm.transport.events import Delivery
from tests.testbed.trust import Trust


class Broken(CADirectory):
    """One with a bug, which some message or other finds."""

    def verify_chain(self, *_: object, **__: object) -> VerifiedChain:
        raise ZeroDivisionError("division by zero")


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    made = Trust(tmp_path / "trust")
    made.publish()
    return made


def judge_with(directory: Path, anchors: CADirectory, identity: Identity) -> Judge:
    names = directory / "dns"
    names.write_text(f"{identity.dn}\n")
    accepted = AcceptedSigners(names, banned=directory / "banned-dns")
    return Judge(anchors, accepted, identity, max_bytes=1_000_000, record=RunRecord("ssmreceive"))


def load(credential: object) -> Identity:
    return Identity.load(
        credential.certificate,  # type: ignore[attr-defined]
        key_path=credential.key,  # type: ignore[attr-defined]
        at=clock.now(),
    )


def test_a_message_that_the_program_fails_on_holds_back_no_other(
    tmp_path: Path, trust: Trust
) -> None:
    identity = load(trust.host("sender"))
    judge = judge_with(tmp_path, Broken(trust.ca_directory), identity)
    message = envelope.sign(b"text\n", identity=identity)
    verdicts = judge.judge(
        [Delivery("1", "m-1", "a/1", message), Delivery("2", "m-2", "a/2", b"no header\n")]
    )
    assert [verdict.key.queue for verdict in verdicts] == [REJECT, REJECT]
    assert verdicts[0].fields["body"] == message
    assert (
        verdicts[0].fields["error"]
        == b"Failed to verify message: this program failed on it: ZeroDivisionError"
    )


def test_a_certificate_that_comes_near_its_end_is_reported_while_running(
    tmp_path: Path, trust: Trust, caplog: pytest.LogCaptureFixture
) -> None:
    soon = load(trust.grid.issue("soon.example.org", days=6))
    judge = judge_with(tmp_path, CADirectory(trust.ca_directory), soon)
    with caplog.at_level(logging.WARNING):
        judge.refresh()
        judge.refresh()
    [reported] = [record.getMessage() for record in caplog.records]
    assert "expires within 7 days" in reported
