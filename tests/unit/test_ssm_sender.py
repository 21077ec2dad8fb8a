"""The sender's patience, which takes too long to test with the program."""

import itertools
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.core import clock, retry
from appliance.core.run.errors import ExitStatus, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from appliance.core.spool import Spool
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.certificates import Identity
from ssm.sending import packer
from ssm.sending.claims import Claims
from ssm.sending.directory_spool import DirectorySpool
from ssm.sending.packer import Packer
from ssm.sending.sender import RECEIPT_TIMEOUT, Sender
from ssm.settings import load_sender
from ssm.transport.brokers import brokers_of
from tests.simulators import ams_service
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust

SHORT = 0.6
"""Seconds to wait for a receipt, of a broker that sends none; too short on a busy machine."""


def sender_to(
    broker: FaultBroker | AMS,
    directory: Path,
    trust: Trust,
    count: int,
    *,
    seconds: float = 60,
    max_wire: bool = False,
    path_type: str = "dirq",
    receipt_timeout: float = 10,
    is_stopping: Callable[[], bool] = lambda: False,
) -> tuple[Sender, list[str]]:
    credential = trust.host("sender")
    config = directory / "sender.cfg"
    is_ams = isinstance(broker, AMS)
    config.write_text(
        f"[sender]\nprotocol: {'AMS' if is_ams else 'STOMP'}\n[broker]\n"
        f"host: localhost:{broker.port}\n[certificates]\n"
        f"certificate: {credential.certificate}\nkey: {credential.key}\n"
        f"capath: {trust.ca_directory}\n"
        "[messaging]\nams_project: accounting\n"
        f"destination: {'x' if is_ams else '/queue/x'}\npath: {directory}/spool\n"
        f"path_type: {path_type}\n"
    )
    if isinstance(broker, AMS):
        broker.create("x")
        config.write_text(
            config.read_text().replace("[cert", f"authn_port: {broker.authn_port}\n[cert")
        )
    settings = load_sender(config, layout=Layout(directory))
    queue = QueueSimple(str(settings.path))
    names = [queue.add(f"{number}\n") for number in range(count)]
    spool = Spool(settings.path) if settings.kept.is_dirq else DirectorySpool(settings.path)
    anchors = CADirectory(settings.link.capath)
    identity = Identity.load(settings.link.certificate, key_path=settings.link.key, at=clock.now())
    made = Sender(
        settings,
        Claims(spool, journal=settings.lock_journal),
        packer=Packer(
            identity,
            anchors,
            None,
            "aes128",
            16_000_000,
            packer.max_wire(settings.link) if max_wire else None,
        ),
        brokers=brokers_of(settings.link, trust=anchors),
        record=RunRecord("ssmsend"),
        deadline=time.monotonic() + seconds,
        is_stopping=is_stopping,
        receipt_timeout=timedelta(seconds=receipt_timeout),
    )
    return made, names


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections follow each other; how long a receipt is waited for is left as it is."""
    monkeypatch.setattr(retry, "pauses", lambda **_: itertools.repeat(0.01))


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def test_messages_without_a_receipt_are_sent_again(tmp_path: Path, trust: Trust) -> None:
    faults = [Fault(Kind.NO_RECEIPT, after=2), Fault(Kind.WRONG_RECEIPT)]
    with FaultBroker(trust.host("broker"), trust.grid.certificate, faults) as broker:
        sender, names = sender_to(broker, tmp_path, trust, 5, receipt_timeout=SHORT)
        assert sender.run() is ExitStatus.DONE
        assert broker.ids() == [*names, names[2], *names[2:]]
    assert QueueSimple(str(tmp_path / "spool")).count() == 0


def test_a_broker_that_never_confirms_is_given_up(tmp_path: Path, trust: Trust) -> None:
    """F-S7: after one and a half times the limit for the first receipt."""
    with FaultBroker(
        trust.host("broker"), trust.grid.certificate, [Fault(Kind.NO_RECEIPT)] * 3
    ) as broker:
        sender, names = sender_to(broker, tmp_path, trust, 2, receipt_timeout=SHORT)
        with pytest.raises(Unavailable, match="no receipt for 1 s"):
            sender.run()
        assert broker.connections == 3
        assert sender._silence == pytest.approx(1.5 * SHORT)
        assert timedelta(minutes=3) >= 1.5 * RECEIPT_TIMEOUT
    assert QueueSimple(str(tmp_path / "spool")).count() == 2
    assert list((tmp_path / "spool").glob("*/*.lck")) == []
    assert names


def test_receipts_of_other_messages_are_no_sign_of_progress(tmp_path: Path, trust: Trust) -> None:
    with FaultBroker(
        trust.host("broker"), trust.grid.certificate, [Fault(Kind.WRONG_RECEIPT)] * 3
    ) as broker:
        sender, _ = sender_to(broker, tmp_path, trust, 1, receipt_timeout=SHORT)
        with pytest.raises(Unavailable, match="no receipt for 1 s"):
            sender.run()
        assert broker.connections == 3


def test_a_broker_that_is_full_has_nothing_against_a_message(tmp_path: Path, trust: Trust) -> None:
    texts = (
        "Usage Manager Memory Limit reached. Stopping producer to prevent flooding queue://x",
        "Persistent store is Full, 100% of 1048576; the maximum is exceeded",
        "Exceeded the maximum number of allowed client connections",
    )
    faults = [Fault(Kind.ERROR_AFTER_SEND, text=text) for text in texts]
    with FaultBroker(trust.host("broker"), trust.grid.certificate, faults) as broker:
        sender, names = sender_to(broker, tmp_path, trust, 2)
        with pytest.raises(Unavailable, match="refuses messages"):
            sender.run()
    assert QueueSimple(str(tmp_path / "spool")).count() == len(names)
    assert not (tmp_path / "failed").exists()


def test_receipts_that_come_after_the_end_of_a_run_s_time_count(
    tmp_path: Path, trust: Trust
) -> None:
    """What the broker has taken over would otherwise be sent once more by the next run."""
    with FaultBroker(trust.host("broker"), trust.grid.certificate, [Fault(Kind.SLOW)]) as broker:
        sender, names = sender_to(
            broker, tmp_path, trust, 3, is_stopping=lambda: len(broker.sent) > 0
        )
        sender.run()
        left = [QueueSimple(str(tmp_path / "spool")).count(), len(broker.ids())]
    assert left[0] + left[1] == len(names)
    assert left[1] > 0


def test_messages_that_a_run_did_not_reach_are_reported(tmp_path: Path, trust: Trust) -> None:
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        sender, names = sender_to(
            broker, tmp_path, trust, 70, is_stopping=lambda: len(broker.sent) >= 64
        )
        assert sender.run() is ExitStatus.PARTLY
        assert broker.ids() == names[:64]
    assert sender._record.failures == [
        "6 further messages: not reached; the next run continues from here"
    ]
    assert QueueSimple(str(tmp_path / "spool")).count() == 6


def test_a_bad_message_that_cannot_be_moved_blocks_no_other(tmp_path: Path, trust: Trust) -> None:
    (tmp_path / "failed").touch()  # where a directory must be
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        bad = QueueSimple(str(tmp_path / "spool")).add("")
        sender, names = sender_to(broker, tmp_path, trust, 3)
        assert sender.run() is ExitStatus.PARTLY
        assert broker.ids() == names
    spool = QueueSimple(str(tmp_path / "spool"))
    assert (spool.count(), spool.first()) == (1, bad)
    assert list((tmp_path / "spool").glob("*/*.lck")) == []
    [failure] = sender._record.failures
    assert failure.startswith(
        f"{bad}: message: it is empty; it cannot be moved to {tmp_path}/failed/spool: "
    )


def test_elements_that_a_neighbour_took_are_no_reason_to_stop(tmp_path: Path, trust: Trust) -> None:
    def take_all() -> bool:
        shutil.rmtree(tmp_path / "spool", ignore_errors=True)
        return False

    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        sender, names = sender_to(broker, tmp_path, trust, 3, is_stopping=take_all)
        assert sender.run() is ExitStatus.PARTLY
        assert broker.ids() == []
    assert sender._record.failures == [f"{name}: another sender took it" for name in names]


def test_a_service_that_stays_out_of_order_is_asked_six_times(tmp_path: Path, trust: Trust) -> None:
    faults = [ams_service.Fault(ams_service.Kind.STATUS, times=99)]
    with AMS(trust.host("broker"), trust.grid.certificate, faults) as service:
        sender, names = sender_to(service, tmp_path, trust, 2)
        with pytest.raises(
            Unavailable, match=r"is out of order \(503: broken on demand\); if it lasts, ask"
        ):
            sender.run()
        assert len(service.asked("publish")) == 6
    assert QueueSimple(str(tmp_path / "spool")).count() == len(names) == 2
    assert list((tmp_path / "spool").glob("*/*.lck")) == []
