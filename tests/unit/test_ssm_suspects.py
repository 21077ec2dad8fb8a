"""Who is to blame when a connection breaks: one message, or the broker."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from dirq.queue import Queue
from dirq.QueueSimple import QueueSimple

from appliance.core import retry
from appliance.core.run.errors import ExitStatus, Unavailable
from ssm.sending.suspects import Suspects, Treatment
from tests.simulators import ams_service
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust
from tests.unit.test_ssm_sender import SHORT, sender_to, trust

__all__ = ["trust"]
POISON = b"POISON"
SCHEMA = {"body": "string", "empaid": "string", "attempts": "string"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "pauses", lambda: itertools.repeat(0.01))


def fill(directory: Path, *words: object) -> list[str]:
    queue = QueueSimple(str(directory / "spool"))
    return [queue.add(f"{word}\n") for word in words]


def waiting(directory: Path) -> list[str]:
    return list(QueueSimple(str(directory / "spool")).names())


def buried(directory: Path) -> list[str]:
    if not (directory / "failed").exists():
        return []
    queue = Queue(str(directory / "failed/spool"), schema=SCHEMA)
    found = []
    for name in queue.names():
        assert queue.lock(name)
        found.append(str(queue.get(name)["empaid"]))
    return found


def last_arrivals(broker: FaultBroker | AMS) -> list[str]:
    """Return the ids in the order of the last arrivals, without the mark of a repetition."""
    ids = broker.ids("x") if isinstance(broker, AMS) else broker.accepted
    return list(dict.fromkeys(name.removesuffix(".again") for name in reversed(ids)))[::-1]


def run(
    broker: FaultBroker | AMS, directory: Path, trust: Trust, *, receipt_timeout: float = 10
) -> ExitStatus:
    sender, _ = sender_to(broker, directory, trust, 0, receipt_timeout=receipt_timeout)
    try:
        return sender.run()
    except Unavailable:
        return ExitStatus.NOTHING


def stomp(trust: Trust, fault: Fault) -> FaultBroker:
    return FaultBroker(trust.host("broker"), trust.grid.certificate, poison=(POISON, fault))


def ams(trust: Trust, fault: ams_service.Fault) -> AMS:
    return AMS(trust.host("broker"), trust.grid.certificate, poison=(POISON, fault))


SERVERS: dict[str, Callable[[Trust], FaultBroker | AMS]] = {
    "closes": lambda trust: stomp(trust, Fault(Kind.CLOSE_AFTER_SEND)),
    "silent": lambda trust: stomp(trust, Fault(Kind.NO_RECEIPT)),
    "error": lambda trust: stomp(trust, Fault(Kind.ERROR_AFTER_SEND, text="NullPointerException")),
    "400": lambda trust: ams(trust, ams_service.Fault(ams_service.Kind.STATUS, status=400)),
    "cut": lambda trust: ams(trust, ams_service.Fault(ams_service.Kind.CLOSE_BEFORE)),
    "502": lambda trust: ams(trust, ams_service.Fault(ams_service.Kind.STATUS, status=502)),
}


CASES = [
    *(pytest.param(name, [3], id=name) for name in ("closes", "400", "cut")),
    *(
        pytest.param(name, [3], id=name, marks=pytest.mark.matrix)
        for name in ("silent", "error", "502")
    ),
    pytest.param("closes", [0, 1, 5], id="closes, three"),
    *(pytest.param(name, [0], id=f"{name}, first", marks=pytest.mark.matrix) for name in SERVERS),
    *(
        pytest.param(name, [0, 1, 5], id=f"{name}, three", marks=pytest.mark.matrix)
        for name in SERVERS
        if name != "closes"
    ),
]


@pytest.mark.parametrize(("server", "bad"), CASES)
def test_bad_messages_are_set_aside_and_the_others_go(
    tmp_path: Path, trust: Trust, server: str, bad: Sequence[int]
) -> None:
    """F-S1, B4: in order; where a timeout decides, in the second run."""
    with SERVERS[server](trust) as broker:
        names = fill(tmp_path, *(POISON.decode() if n in bad else n for n in range(9)))
        if server == "silent":
            statuses = [run(broker, tmp_path, trust, receipt_timeout=SHORT) for _ in range(3)]
        else:
            statuses = [run(broker, tmp_path, trust)]
        assert ExitStatus.PARTLY in statuses
        assert last_arrivals(broker) == [name for n, name in enumerate(names) if n not in bad]
    assert waiting(tmp_path) == []
    assert buried(tmp_path) == [names[number] for number in bad]


def test_the_last_message_is_condemned_only_when_another_goes_through(
    tmp_path: Path, trust: Trust
) -> None:
    """F-S1: otherwise it is open whether message or broker is at fault."""
    with SERVERS["closes"](trust) as broker:
        names = fill(tmp_path, "good", "POISON")
        assert run(broker, tmp_path, trust) is ExitStatus.PARTLY
        assert run(broker, tmp_path, trust) is ExitStatus.NOTHING
        assert (waiting(tmp_path), buried(tmp_path)) == ([names[1]], [])
        names += fill(tmp_path, "another")
        assert run(broker, tmp_path, trust) is ExitStatus.PARTLY
        assert last_arrivals(broker) == [names[0], names[2]]
    assert buried(tmp_path) == [names[1]]


@pytest.mark.parametrize(
    "broken",
    [3, 4, 7, *(pytest.param(n, marks=pytest.mark.matrix) for n in (1, 2, 5, 6, *range(8, 26)))],
)
def test_a_broker_that_took_nothing_for_a_while_condemns_nothing(
    tmp_path: Path, trust: Trust, broken: int
) -> None:
    """F-S1, B5: however many connections it broke before, in however many runs.

    What was tried while another waited may have arrived: it goes again, last, under an id that no
    receiver discards.
    """
    faults = [Fault(Kind.CLOSE_AFTER_SEND)] * broken
    with FaultBroker(trust.host("broker"), trust.grid.certificate, faults) as broker:
        names = fill(tmp_path, *range(5))
        runs = next(n for n in range(1, 9) if run(broker, tmp_path, trust) is ExitStatus.DONE)
        assert runs <= broken // 6 + 1
        assert last_arrivals(broker) == names
        assert len(broker.accepted) == len(set(broker.accepted)) <= len(names) + 1
    assert waiting(tmp_path) == buried(tmp_path) == []
    assert not list(tmp_path.glob(".*suspects*"))


@pytest.mark.matrix
def test_many_bad_messages_in_a_row_take_a_run_for_each_five(tmp_path: Path, trust: Trust) -> None:
    with SERVERS["closes"](trust) as broker:
        names = fill(tmp_path, *["POISON"] * 12, "good")
        for _ in range(3):
            run(broker, tmp_path, trust)
        assert last_arrivals(broker) == names[12:]
        while waiting(tmp_path):
            names += fill(tmp_path, *range(12))
            run(broker, tmp_path, trust)
    assert buried(tmp_path) == names[:12]


def test_suspects_survive_a_run_and_a_broken_file_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / ".suspects"
    first = Suspects(path, limit=3)
    assert first.failed("a", broker="b", error="closed") is Treatment.RETRY
    assert first.failed("a", broker="b", error="closed") is Treatment.HOLD
    first.overtaking("c")
    second = Suspects(path, limit=3)
    second.arrived("c", broker="other", is_behind=lambda _: False)
    assert (
        second.failed("a", broker="b", error="closed") is Treatment.HOLD
    )  # another broker took it
    second.arrived("d", broker="b", is_behind=lambda _: False)
    second.broke()
    assert second.failed("a", broker="b", error="closed") is Treatment.HOLD  # it broke since
    second.arrived("a", broker="b", is_behind=lambda name: name == "c")
    third = Suspects(path, limit=3)
    assert (len(third), third.id_on_wire("c"), third.id_on_wire("d")) == (0, "c.again", "d")
    third.removed("c")
    assert not path.exists()
    for text in (b"{", b"[]", b'{"suspects": {"a": 1}, "overtook": [], "again": []}', b"\xff"):
        path.write_bytes(text)
        assert len(Suspects(path, limit=3)) == 0


def test_a_file_that_cannot_be_read_is_reported_with_the_consequence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / ".suspects"
    path.mkdir()
    assert len(Suspects(path, limit=3)) == 0
    assert caplog.messages == [
        f"{path}: skipped: is a directory; failed attempts are counted from 0; rm -r {path}"
    ]
