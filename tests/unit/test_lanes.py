"""Lanes: the guard, and messengers that fail at each step without holding back the others."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.core.run.errors import LocalFailure
from caso.checkpoint import Checkpoints
from caso.forecast import Forecast
from caso.kinds import cloud, ip
from caso.kinds.cloud import CloudRecord, ServerStatus
from caso.kinds.kind import RecordKind, UsageRecord
from caso.lanes import Advance, Lanes, OneMonth, Withheld
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, Origin, Span, Stream
from caso.messengers.logstash import Logstash
from caso.messengers.messenger import Recovered, Written
from caso.messengers.ssm import SSM, OpenSpools
from tests import audit
from tests.wire.records import ADDRESSES
from tests.wire.test_cloud import SPARE

ORIGIN = Origin("https://keystone.example.org/v3", "", "p1")
START = datetime(2026, 11, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
END = datetime(2026, 11, 22, tzinfo=UTC)
ADVANCE = {kind: Advance(Span(START, END), END + timedelta(seconds=1)) for kind in ("cloud", "ip")}
STEPS = ("begin", "add", "seal", "commit", "finish")


def server(key: str = "a", *, hours: float = 10, ended: bool = False) -> CloudRecord:
    wall = timedelta(hours=hours)
    return replace(
        SPARE,
        vm_uuid=key,
        start=START,
        wall=wall,
        end=START + wall if ended else None,
        status=ServerStatus.COMPLETED if ended else ServerStatus.STARTED,
    )


@dataclass
class MemoryMessenger:
    """Keeps what it accepts; fails at one step."""

    name: str = "memory"
    fails_at: str = ""
    kinds: tuple[RecordKind[Any], ...] = (cloud.kind(), ip.KIND)
    accepted: list[UsageRecord] = field(default_factory=list)
    checkpoints: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    spools: Mapping[str, Path] = field(default_factory=dict)
    max_size: int | None = 2

    def begin(self, label: str, kind: RecordKind[Any], written: Written) -> MemoryOutbox:
        self.step("begin")
        return MemoryOutbox(self, f"{self.name} {kind.name} {label}", written)

    def step(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise LocalFailure(self.name, f"fails at {name}")

    def is_held(self, name: str) -> bool | None:
        return name in self.held

    def recover(self) -> Recovered:
        return Recovered()

    def pending(self) -> list[str]:
        return []

    def unusable(self) -> list[Any]:
        return []

    def deliver(self) -> list[Any]:
        return []


@dataclass
class MemoryOutbox:
    messenger: MemoryMessenger
    name: str
    written: Written
    records: list[UsageRecord] = field(default_factory=list)
    reached: Mapping[str, str] = field(default_factory=dict)
    messages: int = 0

    def add(self, record: UsageRecord) -> None:
        self.messenger.step("add")
        self.records.append(record)

    def seal(self, checkpoints: Mapping[str, str]) -> None:
        self.messenger.step("seal")
        self.reached = checkpoints
        self.written(b"digest", self.records)
        self.messages = 1

    def commit(self) -> None:
        self.messenger.step("commit")
        self.messenger.accepted += self.records

    def finish(self) -> None:
        self.messenger.step("finish")
        self.messenger.checkpoints.update(self.reached)

    def discard(self) -> None:
        self.messenger.calls.append("discard")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def run(
    ledger: Ledger,
    *messengers: MemoryMessenger,
    records: list[UsageRecord],
    reason: str | None = None,
) -> Lanes:
    lanes = Lanes.open(ledger, ORIGIN, messengers, ["cloud", "ip"], reason=reason)
    for record in records:
        lanes.add("cloud" if isinstance(record, CloudRecord) else "ip", record)
    lanes.commit(ADVANCE, lambda: {"lastrun.p1": "reached"})
    return lanes


def amounts(ledger: Ledger, key: str = "a") -> dict[str, int]:
    return {one.stream.destination: one.row.amount // 3600 for one in ledger.deliveries.of(key)}


def test_records_arrive_and_count(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    lanes = run(ledger, messenger, records=[server(), ADDRESSES])
    assert lanes.kinds == {"cloud", "ip"}
    assert (lanes.failures, lanes.withheld()) == ([], [])
    assert messenger.accepted == [server(), ADDRESSES]
    assert messenger.checkpoints == {"lastrun.p1": "reached"}
    assert amounts(ledger) == {"memory": 10}
    for kind in ("cloud", "ip"):
        reached = ledger.windows.reached(Stream(ORIGIN, kind, "memory"))
        assert reached.checkpoint == END + timedelta(seconds=1)
    assert ledger.deliveries.estimated() == []


def test_a_batch_that_could_not_be_confirmed_counts_before_the_next_one(tmp_path: Path) -> None:
    """The next one of a service has the same name: the first would be withdrawn, and be a gap."""
    messenger = Logstash("127.0.0.1", 1, (cloud.kind(),)).open(Checkpoints(tmp_path))
    later = {"cloud": Advance(Span(END + SECOND, END + HOUR), END + HOUR + SECOND)}
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    with (
        Ledger(tmp_path / "ledger.sqlite", wait=timedelta(0)) as ledger,
        contextlib.closing(other),
    ):

        def commit(key: str, advance: Mapping[str, Advance]) -> list[str]:
            lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud"])
            lanes.add("cloud", server(key))
            lanes.commit(advance, dict)
            return [error.cause for error in lanes.failures]

        renamed = tmp_path / "waiting/logstash/p1.cloud.new"
        with audit.before("os.rename", lambda _: other.execute("BEGIN IMMEDIATE"), path=renamed):
            assert commit("a", ADVANCE) == ["another program is writing it"]
        assert commit("b", later) == ["another program is writing it"]  # and changes nothing
        other.execute("ROLLBACK")
        assert amounts(ledger) == {}
        assert commit("b", later) == []
        assert [amounts(ledger, key) for key in ("a", "b")] == [{"logstash": 10}] * 2
        reached = ledger.windows.reached(Stream(ORIGIN, "cloud", "logstash"))
        assert (reached.gaps(), reached.spans) == ([], (Span(START, END + HOUR),))


def test_records_of_one_month(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud"])
    one_month = OneMonth(lanes, Month(202611))
    one_month.add("cloud", server())
    one_month.add("cloud", server("b"), is_estimated=True)
    one_month.add("cloud", replace(server("c"), start=START - 5 * 24 * HOUR))
    lanes.commit(ADVANCE, dict)
    assert [one.key for one in messenger.accepted] == ["a", "b"]
    assert [one.row.key for one in ledger.deliveries.estimated()] == ["b"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_messenger_that_fails_holds_back_itself(
    ledger: Ledger, step: str, *, is_first: bool
) -> None:
    good, bad = MemoryMessenger("good"), MemoryMessenger("bad", fails_at=step)
    both = (bad, good) if is_first else (good, bad)
    lanes = run(ledger, *both, records=[server()])
    assert {str(error) for error in lanes.failures} == {f"bad: fails at {step}"}
    assert good.accepted == [server()]
    assert ledger.windows.reached(Stream(ORIGIN, "cloud", "good")).checkpoint is not None
    # Only a batch that was committed counts; cASO's file stays behind what any of them lacks.
    is_committed = step == "finish"
    assert amounts(ledger) == ({"good": 10, "bad": 10} if is_committed else {"good": 10})
    reached = ledger.windows.reached(Stream(ORIGIN, "cloud", "bad"))
    assert (reached.checkpoint is not None) is is_committed
    if not is_committed:
        assert good.checkpoints == {}
        assert bad.accepted == []
    assert ledger.deliveries.outstanding() == []


def test_a_commit_that_failed_after_its_effect_is_left_to_the_next_start(ledger: Ledger) -> None:
    """A directory that could not be fsynced: the batch is there, and its records will be sent."""

    messenger = MemoryMessenger("held", fails_at="commit", held={"held cloud p1"})
    run(ledger, messenger, records=[server(), ADDRESSES])
    assert [batch.stream.kind for batch in ledger.deliveries.outstanding()] == ["cloud"]
    ledger.deliveries.reconcile(lambda batch: messenger.is_held(batch.name))
    assert amounts(ledger) == {"held": 10}


def test_records_behind_a_batch_that_waits_do_not_count(ledger: Ledger, tmp_path: Path) -> None:
    """The spool could not take the first batch, as between two gaps of one run of `caso gaps`."""
    spool = tmp_path / "spool"
    messenger = SSM((cloud.kind(),), {"cloud": spool}, 100).open(Checkpoints(tmp_path))
    waiting = messenger.begin("p1", cloud.kind(), lambda _sha256, _records: None)
    waiting.seal({})
    waiting.commit()
    lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud"])
    lanes.add("cloud", server())
    lanes.commit(ADVANCE, dict)
    [failure] = lanes.failures
    assert str(failure) == (
        f"{waiting.name}: a batch of the project waits here;"
        " the next caso-extract moves it to the spool"
    )
    ledger.deliveries.reconcile(lambda batch: messenger.is_held(batch.name))
    assert amounts(ledger) == {}
    assert ledger.windows.reached(Stream(ORIGIN, "cloud", "ssm")).spans == ()


def test_a_batch_in_a_spool_that_is_no_longer_configured_is_extracted_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    """A run is killed after its commit; then somebody sets another output_path."""
    stream = Stream(ORIGIN, "cloud", "ssm")

    def spools(name: str) -> OpenSpools:
        return SSM((cloud.kind(),), {"cloud": tmp_path / name}, 100).open(Checkpoints(tmp_path))

    [lane] = Lanes.open(ledger, ORIGIN, [spools("before")], ["cloud"]).lanes
    lane.add(server())
    lane.flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger.deliveries, "confirm", lambda _: None)
        lane.commit(ADVANCE["cloud"], {})
    messenger = spools("after")
    ledger.deliveries.reconcile(lambda batch: messenger.is_held(batch.name))
    assert messenger.recover().messages == 0
    assert amounts(ledger) == {"ssm": 10}  # it may have been delivered, so the guard knows it
    assert ledger.windows.reached(stream).checkpoint is None


def test_what_would_shrink_is_withheld(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[server("a"), server("b")])
    lanes = run(ledger, messenger, records=[server("a", hours=9), server("b", hours=11)])
    assert lanes.withheld() == [Withheld("cloud", "a", Month(202611), 3600)]
    assert messenger.accepted[2:] == [server("b", hours=11)]
    assert (amounts(ledger, "a"), amounts(ledger, "b")) == ({"memory": 10}, {"memory": 11})


def test_a_reason_lets_it_pass(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[server()])
    lanes = run(ledger, messenger, records=[server(hours=9)], reason="wrong")
    assert lanes.withheld() == []
    assert amounts(ledger) == {"memory": 9}


@pytest.mark.parametrize(("hours", "is_sent"), [(10 - 1 / 60, True), (10 - 1.1 / 60, False)])
def test_an_end_shortly_before_what_was_delivered_is_raised(
    ledger: Ledger, hours: float, *, is_sent: bool
) -> None:
    """Clocks of services differ by seconds; the server must not stay `started`."""
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[server()])
    lanes = run(ledger, messenger, records=[server(hours=hours, ended=True)])
    assert messenger.accepted[1:] == ([server(ended=True)] if is_sent else [])
    assert len(lanes.withheld()) == (not is_sent)
    [row] = ledger.deliveries.of("a")
    assert row.row.has_ended is is_sent


def test_cpu_time_goes_on_from_what_was_delivered(ledger: Ledger) -> None:
    """A server went from 8 to 2 cores, and the ledger that had seen the 8 is lost."""

    def of(hours: float, cores: int, *, key: str = "a") -> CloudRecord:
        return replace(server(key, hours=hours), cpu_count=cores)

    def charged(*records: CloudRecord) -> list[float]:
        del messenger.accepted[:]
        assert run(ledger, messenger, records=[*records]).withheld() == []
        return [cast("CloudRecord", one).cpu / HOUR for one in messenger.accepted]

    messenger = MemoryMessenger()
    assert charged(of(10, 8), of(10, 2, key="b")) == [80, 20]
    assert charged(of(11, 2), of(11, 2, key="b")) == [82, 22]
    assert charged(of(12, 2), of(12, 16, key="b")) == [84, 192]
    # Cumulative records of the next months, in one window, and of the month after in another.
    december, january = 24 * 30, 24 * 60
    assert charged(of(december, 2), of(january, 2), of(december, 2, key="c")) == [
        84 + (december - 12) * 2,
        84 + (january - 12) * 2,
        december * 2,
    ]
    assert charged(of(january + 744, 2)) == [84 + (january + 744 - 12) * 2]
    [november] = [one.row for one in ledger.deliveries.of("a") if one.row.month == 202611]
    assert november.cpu == 84 * 3600


def test_cpu_time_goes_on_over_the_pages_of_a_window(ledger: Ledger) -> None:
    """The records of a server may be in two pages, and its month before in the page before."""
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[replace(server(hours=24 * 8), cpu_count=8)])
    lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud"])
    for days in (30, 60, 90):
        lanes.add("cloud", replace(server(hours=24 * days), cpu_count=2))
        lanes.flush()
    lanes.commit(ADVANCE, dict)
    charged = [cast("CloudRecord", one).cpu / HOUR for one in messenger.accepted[1:]]
    assert charged == [(8 * 8 + (days - 8) * 2) * 24 for days in (30, 60, 90)]


def test_lanes_that_are_discarded_leave_nothing(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud"])
    lanes.add("cloud", server())
    lanes.flush()
    lanes.discard()
    assert messenger.calls[-1] == "discard"
    assert ledger.deliveries.outstanding() == []


def test_a_reason_lets_cpu_time_shrink(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[replace(server(), cpu_count=8)])
    run(ledger, messenger, records=[replace(server(), cpu_count=2)], reason="wrong flavor")
    assert [cast("CloudRecord", one).cpu / HOUR for one in messenger.accepted] == [80, 20]
    # The month that was lowered stays so, though the one before still has the eight.
    october = replace(server(hours=23), cpu_count=8, start=START - 2 * 24 * HOUR)
    november = replace(october, wall=96 * HOUR, cpu_count=2)
    run(ledger, messenger, records=[october])
    run(ledger, messenger, records=[november], reason="wrong flavor")
    run(ledger, messenger, records=[replace(november, wall=97 * HOUR)])
    assert cast("CloudRecord", messenger.accepted[-1]).cpu == 97 * 2 * HOUR


def test_a_little_less_of_a_living_server_is_passed_over(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[server()])
    lanes = run(ledger, messenger, records=[server(hours=10 - 1 / 60)])
    assert (messenger.accepted[1:], lanes.withheld()) == ([], [])


def test_fewer_addresses_are_sent_and_an_older_count_is_withheld(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[ADDRESSES])
    later = replace(ADDRESSES, count=2, measured=ADDRESSES.measured + HOUR)
    run(ledger, messenger, records=[later])
    older = replace(ADDRESSES, count=9, measured=ADDRESSES.measured - HOUR)
    lanes = run(ledger, messenger, records=[older])
    assert messenger.accepted == [ADDRESSES, later]
    assert lanes.withheld() == [Withheld("ip", ADDRESSES.key, Month(202611), None)]


def test_a_dry_run_sends_nothing_and_names_what_would_be_withheld(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    run(ledger, messenger, records=[server()])
    lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud"], is_dry_run=True)
    lanes.add("cloud", server(hours=1))
    lanes.flush()
    assert [one.key for one in lanes.withheld()] == ["a"]
    assert messenger.calls.count("begin") == 2


def test_records_that_are_not_complete_are_dropped(ledger: Ledger) -> None:
    messenger = MemoryMessenger()
    lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud", "ip"])
    lanes.add("cloud", server())
    lanes.add("ip", ADDRESSES)
    lanes.drop(["cloud"], LocalFailure("nova", "does not answer"))
    lanes.commit(ADVANCE, lambda: {"lastrun.p1": "reached"})
    assert messenger.accepted == [ADDRESSES]
    assert messenger.checkpoints == {}
    assert [str(error) for error in lanes.failures] == ["nova: does not answer"]


def foreseen(ledger: Ledger, records: list[UsageRecord]) -> dict[str, Forecast]:
    """Return what a dry run says, by kind."""
    lanes = Lanes.open(ledger, ORIGIN, [MemoryMessenger()], ["cloud", "ip"], is_dry_run=True)
    for record in records:
        lanes.add("cloud" if isinstance(record, CloudRecord) else "ip", record)
    lanes.flush()
    return {one.kind.name: one for one in lanes.forecasts()}


def test_a_dry_run_compares_with_what_was_delivered(ledger: Ledger) -> None:
    run(ledger, MemoryMessenger(), records=[server(), server("b", hours=20), ADDRESSES])
    december = server("b", hours=24 * 30)
    november = server("b", hours=24 * 28)
    cores = int(november.cpu_count)
    found = foreseen(ledger, [server(hours=8), november, december, server("c", hours=3), ADDRESSES])
    known = found["cloud"]
    assert known.withheld == {Month(202611): 1}  # of the two hours less of the first one
    of_november, of_december = known.months[Month(202611)], known.months[Month(202612)]
    assert (of_november.records, of_december.records) == (2, 1)
    assert of_november.amount == (24 * 28 + 3) * 3600
    assert of_november.more == (24 * 28 - 20 + 3) * 3600
    assert of_december.more == 48 * 3600  # November is in the record before
    assert of_december.more_cpu == 48 * 3600 * cores
    assert [known.messages(Month(month)) for month in (202610, 202611, 202612)] == [0, 1, 1]
    (counted,) = found["ip"].months.values()
    assert (counted.records, counted.amount, counted.more) == (1, ADDRESSES.amount, 0)


def test_a_dry_run_goes_on_from_any_earlier_month(ledger: Ledger) -> None:
    """Also in another page than that of the month before."""
    run(ledger, MemoryMessenger(), records=[server()])
    later = [server(hours=24 * 90)]
    (of_month,) = foreseen(ledger, [*later])["cloud"].months.values()
    assert of_month.more == (24 * 90 - 10) * 3600
    lanes = Lanes.open(ledger, ORIGIN, [MemoryMessenger()], ["cloud"], is_dry_run=True)
    for hours in (24 * 28, 24 * 58):
        lanes.add("cloud", server(hours=hours))
        lanes.flush()
    (forecast,) = lanes.forecasts()
    assert [one.more for one in forecast.months.values()] == [
        (24 * 28 - 10) * 3600,
        24 * 30 * 3600,
    ]


def test_messages_that_a_dry_run_foresees(ledger: Ledger) -> None:
    found = foreseen(ledger, [server(f"{number}") for number in range(5)])
    assert found["cloud"].messages(Month(202611)) == 3  # two records in each
