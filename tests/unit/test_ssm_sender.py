"""What takes too long to try with the program: a broker that never confirms, and how long to wait between tries."""

import itertools
import time
from datetime import timedelta
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.core import clock
from appliance.core.run.errors import ExitStatus, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from appliance.core.spool import Spool
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.certificates import Identity
from ssm.cmds.common import brokers
from ssm.outgoing import Outgoing
from ssm.sender import Packer, Sender
from ssm.settings import load_sender
from ssm.transport.brokers import pauses
from tests.simulators import ams_service
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust


def sender_to(broker: FaultBroker | AMS, directory: Path, trust: Trust, count: int) -> tuple[Sender, list[str]]:
    credential = trust.host("sender")
    config = directory / "sender.cfg"
    is_ams = isinstance(broker, AMS)
    config.write_text(
        f"[sender]\nprotocol: {'AMS' if is_ams else 'STOMP'}\n[broker]\nhost: localhost:{broker.port}\n[certificates]\n"
        f"certificate: {credential.certificate}\nkey: {credential.key}\ncapath: {trust.ca_directory}\n"
        f"[messaging]\nams_project: accounting\ndestination: {'x' if is_ams else '/queue/x'}\npath: {directory}/spool\n"
    )
    if isinstance(broker, AMS):
        broker.create("x")
        config.write_text(config.read_text().replace("[cert", f"authn_port: {broker.authn_port}\n[cert"))
    settings = load_sender(config, layout=Layout(directory))
    queue = QueueSimple(str(settings.path))
    names = [queue.add(f"{number}\n") for number in range(count)]
    anchors = CADirectory(settings.link.capath)
    identity = Identity.load(settings.link.certificate, key_path=settings.link.key, at=clock.now())
    made = Sender(
        settings,
        Outgoing(Spool(settings.path), journal=settings.journal),
        packer=Packer(identity, anchors, None, "aes128", 1_000_000),
        brokers=brokers(settings.link, trust=anchors),
        record=RunRecord("ssmsend"),
        deadline=time.monotonic() + 60,
        is_stopping=lambda: False,
        receipt_timeout=timedelta(seconds=0.6),
    )
    return made, names


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    made = Trust(tmp_path / "trust")
    made.publish()
    return made


def test_messages_without_a_receipt_are_sent_again(tmp_path: Path, trust: Trust) -> None:
    faults = [Fault(Kind.NO_RECEIPT, after=2), Fault(Kind.WRONG_RECEIPT)]
    with FaultBroker(trust.host("broker"), trust.grid.certificate, faults) as broker:
        sender, names = sender_to(broker, tmp_path, trust, 5)
        assert sender.run() is ExitStatus.DONE
        assert broker.ids() == [*names, names[2], *names[2:]]
    assert QueueSimple(str(tmp_path / "spool")).count() == 0


def test_a_broker_that_never_confirms_is_given_up(tmp_path: Path, trust: Trust) -> None:
    with FaultBroker(trust.host("broker"), trust.grid.certificate, [Fault(Kind.NO_RECEIPT)] * 3) as broker:
        sender, names = sender_to(broker, tmp_path, trust, 2)
        with pytest.raises(Unavailable, match="no receipt for 1 s"):
            sender.run()
        assert broker.connections == 3
    assert QueueSimple(str(tmp_path / "spool")).count() == 2
    assert list((tmp_path / "spool").glob("*/*.lck")) == []
    assert names


def test_a_service_that_stays_out_of_order_is_asked_six_times(
    tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssm.sender.pauses", lambda: itertools.repeat(0.01))
    faults = [ams_service.Fault(ams_service.Kind.STATUS, times=99)]
    with AMS(trust.host("broker"), trust.grid.certificate, faults) as service:
        sender, names = sender_to(service, tmp_path, trust, 2)
        with pytest.raises(Unavailable, match=r"is out of order \(503: broken on demand\); if it lasts, ask"):
            sender.run()
        assert len(service.asked("publish")) == 6
    assert QueueSimple(str(tmp_path / "spool")).count() == len(names) == 2
    assert list((tmp_path / "spool").glob("*/*.lck")) == []


def test_pauses_double_up_to_five_minutes_less_a_random_part() -> None:
    longest = [min(2**number, 300) for number in range(12)]
    for found, limit in zip(itertools.islice(pauses(), 12), longest, strict=True):
        assert limit / 2 <= found <= limit
    assert next(pauses()) != next(pauses())
