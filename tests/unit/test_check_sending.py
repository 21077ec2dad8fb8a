"""C40, C41 and C43: what `ssmsend --check-live` says of its spools, signature and brokers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.admin import settings
from appliance.admin.check import waiting
from appliance.admin.check.inside import Depth
from appliance.admin.check.probe import CheckedSite
from appliance.admin.check.programs import Programs
from appliance.core.run.finding import Finding, of_json
from appliance.core.run.layout import Layout
from ssm import live_check
from ssm.cmds import send
from ssm.sending.dead_letters import DeadLetters
from ssm.settings import dead_letters_of, load_sender
from ssm.transport import brokers, stomp
from tests import foreign
from tests.simulators import ams_service, stomp_faults
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import FaultBroker
from tests.testbed.pki import Authority, Credential
from tests.testbed.trust import Trust

TOKEN = "geheim-0123456789abcdef"


@dataclass
class Sending:
    """sender.cfg, and what `ssmsend --check-live` says."""

    root: Path
    trust: Trust
    capsys: pytest.CaptureFixture[str]

    @property
    def path(self) -> Path:
        return self.root / "sender.cfg"

    @property
    def spool(self) -> Path:
        return self.root / "outgoing/spool"

    def write(self, broker: FaultBroker | AMS, **changes: str) -> None:
        """Write a configuration for a broker; changes name options."""
        own = self.trust.host("sender")
        is_ams = isinstance(broker, AMS)
        lines = {
            "[sender]": "",
            "protocol": "AMS" if is_ams else "STOMP",
            "[broker]": "",
            "host": f"localhost:{broker.port}",
            **({"authn_port": str(broker.authn_port)} if isinstance(broker, AMS) else {}),
            "[certificates]": "",
            "certificate": str(own.certificate),
            "key": str(own.key),
            "capath": str(self.trust.ca_directory),
            "[messaging]": "",
            "token": "",
            "ams_project": "accounting",
            "destination": "clouds" if is_ams else "/queue/x",
            "path": str(self.spool),
            "[logging]": "",
            "logfile": str(self.root / "ssmsend.log"),
        }
        if not is_ams:
            del lines["ams_project"]
        text = "".join(
            f"{name}\n" if name.startswith("[") else f"{name}: {value}\n"
            for name, value in (lines | changes).items()
            if value or name.startswith("[")
        )
        self.path.write_text(text)
        self.path.chmod(0o640)

    def line(self, option: str) -> int:
        lines = self.path.read_text().splitlines()
        return next(n for n, text in enumerate(lines, 1) if text.startswith(f"{option}:"))

    def check(self) -> list[Finding]:
        command = ["--root", str(self.root), "-c", str(self.path), "--check-live", "--log-json"]
        status = send.main(command)
        said = self.capsys.readouterr().err
        assert TOKEN not in said
        assert "PRIVATE KEY" not in said
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        found = [of_json(line["finding"]) for line in lines if "finding" in line]
        assert status == any(one.is_error for one in found), said
        assert all(one.tried for one in found)
        return found

    def the_one(self) -> Finding:
        (found,) = self.check()
        return found

    def place(self, option: str) -> tuple[str, int]:
        return str(self.path), self.line(option)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


@pytest.fixture
def sending(tmp_path: Path, trust: Trust, capsys: pytest.CaptureFixture[str]) -> Sending:
    return Sending(tmp_path, trust, capsys)


@pytest.fixture
def broker(trust: Trust) -> Iterator[FaultBroker]:
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as made:
        yield made


@pytest.fixture
def ams(trust: Trust) -> Iterator[AMS]:
    with AMS(trust.host("ams"), trust.grid.certificate) as made:
        made.create("clouds")
        yield made


# --------------------------------------------------------------------------------------------------
# brokers


def test_a_good_broker_gets_no_message(sending: Sending, broker: FaultBroker) -> None:
    """It sees a login and a logout; the messages that wait stay."""
    sending.write(broker)
    QueueSimple(str(sending.spool)).add("one\n")
    before = sorted(sending.root.rglob("*"))
    assert sending.check() == []
    assert broker.sent == []
    assert [frame.command for frame in broker.frames] == ["STOMP", "DISCONNECT"]
    assert sorted(sending.root.rglob("*")) == before


def test_a_good_ams_gets_no_message(sending: Sending, ams: AMS) -> None:
    """A token, and a request without a body, which the service rejects at last."""
    sending.write(ams)
    assert sending.check() == []
    assert [one.kind for one in ams.requests] == ["token", "publish"]
    assert ams.requests[1].content is None
    assert ams.topics["clouds"] == []


def test_a_broker_of_another_authority(sending: Sending, trust: Trust, tmp_path: Path) -> None:
    """C41.a: not the login either; with its authority it is trusted."""
    other = Authority.create(tmp_path / "other", subject="/C=XX/O=Other/CN=CA", key="ec")
    shown = other.issue("localhost", hosts=["localhost"], key="ec")
    with FaultBroker(shown, trust.grid.certificate) as stranger:
        sending.write(stranger)
        found = sending.the_one()
        assert (found.identifier, found.path, found.line) == ("C41.a", *sending.place("host"))
        assert "the broker's certificate is not trusted" in found.text
        assert stranger.frames == []
        both = tmp_path / "both"
        shutil.copytree(trust.ca_directory, both, symlinks=True)
        other.publish(both)
        sending.write(stranger, capath=str(both))
        assert sending.check() == []


def test_an_ams_with_a_certificate_for_another_name(sending: Sending, trust: Trust) -> None:
    """C41.a."""
    wrong = trust.grid.issue("elsewhere.example.org", hosts=["elsewhere.example.org"], key="ec")
    with AMS(wrong, trust.grid.certificate) as service:
        sending.write(service)
        found = sending.the_one()
    assert (found.identifier, found.path, found.line) == ("C41.a", *sending.place("host"))
    assert "not trusted" in found.text


def test_a_broker_that_refuses_this_host(sending: Sending, broker: FaultBroker) -> None:
    """C41.b: once; then it is registered."""
    broker.faults = [stomp_faults.Fault(stomp_faults.Kind.REFUSES_US)]
    sending.write(broker)
    found = sending.the_one()
    assert (found.identifier, found.path, found.line) == ("C41.b", *sending.place("certificate"))
    assert "not authorised" in found.text
    assert "registered" in found.text
    assert sending.check() == []


def _unregistered(ams: AMS) -> Callable[[], None]:
    ams.knows_certificates = False
    return lambda: setattr(ams, "knows_certificates", True)


def _closed_topic(ams: AMS) -> Callable[[], None]:
    ams.forbidden.add("clouds")
    return ams.forbidden.clear


def _no_topic(ams: AMS) -> Callable[[], None]:
    topic = ams.topics.pop("clouds")
    return lambda: ams.topics.update(clouds=topic)


def _other_project(ams: AMS) -> Callable[[], None]:
    ams.project = "another"
    return lambda: setattr(ams, "project", "accounting")


ACCESS = {
    "not registered": (_unregistered, "C41.b", "certificate", "GOCDB"),
    "no right": (_closed_topic, "C41.b", "destination", "registered for it"),
    "no topic": (_no_topic, "C41.c", "destination", "check [messaging] ams_project and"),
    "no project": (_other_project, "C41.c", "ams_project", "check [messaging] ams_project and"),
}


@pytest.mark.parametrize("name", ACCESS)
def test_access_to_ams(name: str, sending: Sending, ams: AMS) -> None:
    """C41.b, C41.c: in the line that is to be corrected."""
    break_it, row, option, words = ACCESS[name]
    sending.write(ams)
    heal = break_it(ams)
    found = sending.the_one()
    assert (found.identifier, found.path, found.line) == (row, *sending.place(option))
    assert words in found.text
    assert ams.topics.get("clouds", []) == []
    heal()
    assert sending.check() == []


def test_a_token_that_ams_does_not_know(sending: Sending, ams: AMS) -> None:
    """C41.b: its line, and never the token."""
    sending.write(ams, token=TOKEN)
    found = sending.the_one()
    assert (found.identifier, found.path, found.line) == ("C41.b", *sending.place("token"))
    ams.tokens.add(TOKEN)
    assert sending.check() == []


def test_a_broker_that_is_away_or_hangs(
    sending: Sending, broker: FaultBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C06.a, C06.b: a warning if another broker of the same queue answers."""
    monkeypatch.setattr(stomp, "CONNECT_TIMEOUT", 0.5)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = f"localhost:{closed.getsockname()[1]}"
        sending.write(broker, host=away)
        found = sending.the_one()
        assert (found.identifier, found.is_error) == ("C06.a", True)
        assert (found.path, found.line) == sending.place("host")
        sending.write(broker, host=f"{away}, localhost:{broker.port}")
        found = sending.the_one()
        assert (found.identifier, found.is_error) == ("C06.a", False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sending.write(broker, host=f"localhost:{silent.getsockname()[1]}")
        found = sending.the_one()
    assert (found.identifier, found.line) == ("C06.b", sending.line("host"))


def test_an_ams_that_hangs_ends_the_check_in_time(
    sending: Sending, ams: AMS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "_PROMPT", timedelta(seconds=0.5))
    ams.faults = [ams_service.Fault(ams_service.Kind.HANG)]
    sending.write(ams)
    found = sending.the_one()
    assert (found.identifier, found.line) == ("C06.b", sending.line("host"))
    assert "sends no complete answer" in found.text
    assert sending.check() == []


# --------------------------------------------------------------------------------------------------
# signature


def _with(sending: Sending, own: Credential, authorities: Path, broker: FaultBroker) -> None:
    sending.write(
        broker, certificate=str(own.certificate), key=str(own.key), capath=str(authorities)
    )


def test_a_revoked_certificate(sending: Sending, trust: Trust, tmp_path: Path) -> None:
    """C43.a: the broker, which has no such list, would have taken it."""
    grid = Authority.create(tmp_path / "grid", subject="/C=XX/O=Grid/CN=CA", key="ec")
    own = grid.issue("sender.example.org", hosts=["localhost"], key="ec")
    grid.publish(tmp_path / "certificates")
    with FaultBroker(own, grid.certificate) as good:
        _with(sending, own, tmp_path / "certificates", good)
        assert sending.check() == []
    listed = trust.host("broker")
    with FaultBroker(listed, grid.certificate) as broker:
        both = tmp_path / "both"
        trust.grid.publish(both)
        grid.revoke(own)
        grid.publish(both)
        _with(sending, own, both, broker)
        found = sending.the_one()
    assert (found.identifier, found.path) == ("C43.a", str(own.certificate))
    assert "revoked" in found.text
    assert found.text.count(found.text.rpartition("; ")[2]) == 1  # the remedy, once


def test_a_certificate_of_an_authority_that_is_not_installed(
    sending: Sending, trust: Trust, tmp_path: Path
) -> None:
    """C10.f, as the host says."""
    foreign = Authority.create(tmp_path / "foreign", subject="/C=XX/O=Foreign/CN=CA", key="ec")
    own = foreign.issue("sender.example.org", key="ec")
    with FaultBroker(trust.host("broker"), foreign.certificate) as broker:
        _with(sending, own, trust.ca_directory, broker)
        found = sending.the_one()
        assert (found.identifier, found.path) == ("C10.f", str(own.certificate))
        both = tmp_path / "both"
        shutil.copytree(trust.ca_directory, both, symlinks=True)
        foreign.publish(both)
        _with(sending, own, both, broker)
        assert sending.check() == []


# --------------------------------------------------------------------------------------------------
# spools


def test_an_element_that_cannot_be_sent(sending: Sending, broker: FaultBroker) -> None:
    """C40.a: a directory in the place of a message; the others go on."""
    sending.write(broker)
    name = QueueSimple(str(sending.spool)).add("one\n")
    wrong = (sending.spool / name).with_name("0" * 14)
    wrong.mkdir()
    found = sending.the_one()
    assert (found.identifier, found.path) == ("C40.a", str(wrong))
    assert f"rm -r {wrong}" in found.text
    wrong.rmdir()
    assert sending.check() == []


def test_a_spool_of_another_user() -> None:
    """C40.a: what root made; nobody else can lock and remove the message."""
    with foreign.open_to_all() as root:
        made = root / "made"
        (made / "spool").mkdir(parents=True)
        config = root / "sender.cfg"
        config.write_text(
            f"[sender]\nprotocol: STOMP\n[broker]\nhost: localhost:1\n[certificates]\n"
            f"capath: {root}\ncertificate: {config}\nkey: {config}\n"
            f"[messaging]\ndestination: /queue/x\npath: {made}/spool\n"
        )
        directory = (made / "spool" / QueueSimple(f"{made}/spool", umask=0o022).add("1")).parent
        settings = load_sender(config, layout=Layout(root))
        assert list(live_check.of_spool(settings)) == []
        for path in (directory, made / "spool", made):
            path.chmod(0o555)
            with foreign.acting_as_nobody():
                found = list(live_check.of_spool(settings))
            path.chmod(0o755 if path == directory else 0o777)
            assert [(one.identifier, one.path) for one in found if one.path == str(path)] == [
                ("C40.a", str(path))
            ]
            assert "chown" in found[0].text or "mode" in found[0].text


@pytest.mark.parametrize("kind", ["dirq", "directory"])
def test_messages_that_wait_for_too_long(kind: str, tmp_path: Path) -> None:
    """C40.c: after two periods of the schedule, with the reason of the last run."""
    config, runs = tmp_path / "etc/apel/sender.cfg", tmp_path / "var/lib/fedcloud/runs/ssm"
    table, spool = tmp_path / "etc/cron.d/ssmsend", tmp_path / "spool"
    for path in (config, table, runs / "ssmsend.json"):
        path.parent.mkdir(parents=True)
    config.write_text(f"[messaging]\ndestination: x\npath_type: {kind}\npath: {spool}\n")
    table.write_text("23 */6 * * * root appliance run ssmsend\n")
    layout = Layout(tmp_path)
    made = CheckedSite(
        settings.load(layout),
        layout,
        datetime.now(UTC),
        Programs(settings.load(layout), layout, {}, depth=Depth.CONFIGURATION),
    )
    assert list(waiting.find(made)) == []  # no spool yet
    old = made.now - timedelta(hours=50)
    seconds = int(old.timestamp())
    element = spool / (f"{seconds:08x}/{seconds:08x}000000" if kind == "dirq" else "message")
    element.parent.mkdir(parents=True)
    element.write_text("x")
    os.utime(element, (seconds, seconds))
    (found,) = waiting.find(made)
    assert (found.identifier, found.path, found.line) == ("C40.c", str(config), 4)
    assert "has waited for 2 d, and the sender runs every 6 h; it has never run" in found.text
    (runs / "ssmsend.json").write_text(
        json.dumps({"program": "ssmsend", "ended": "2026-11-29T10:00:00Z", "failures": ["no key"]})
    )
    (found,) = waiting.find(made)
    assert "says: no key; see appliance logs ssmsend" in found.text
    made.now -= timedelta(hours=38.5)
    assert list(waiting.find(made)) == []


def test_a_stale_lock(sending: Sending, broker: FaultBroker) -> None:
    """C40.e: a sender renews its lock, so an old one is nobody's."""
    sending.write(broker)
    queue = QueueSimple(str(sending.spool))
    name = queue.add("one\n")
    assert queue.lock(name)
    assert sending.check() == []  # another sender may be at work
    lock = sending.spool / f"{name}.lck"
    old = time.time() - 3000
    os.utime(lock, (old, old))
    found = sending.the_one()
    assert (found.identifier, found.path, found.is_error) == ("C40.e", str(lock), False)
    assert "50 minutes ago" in found.text
    assert f"rm {lock}" in found.text
    queue.purge(maxlock=600)
    assert sending.check() == []


def test_dead_letters(sending: Sending, broker: FaultBroker) -> None:
    """C40.d: their reason, and the commands."""
    sending.write(broker)
    queue = DeadLetters(dead_letters_of(sending.spool))
    queue.add(
        "00000000/00000000000001",
        b"x",
        reason="it has 99 bytes too many",
        first_seen=datetime.now(UTC),
        attempts=1,
        last_error="",
    )
    found = sending.the_one()
    assert (found.identifier, found.path, found.is_error) == ("C40.d", str(queue.path), False)
    assert "it has 99 bytes too many" in found.text
    assert "ssmctl failed" in found.text
    shutil.rmtree(queue.path)
    assert sending.check() == []
