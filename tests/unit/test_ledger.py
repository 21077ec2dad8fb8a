"""The ledger: batches, the guard, and what it answers."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.ledger.deliveries import PAGE
from caso.ledger.ledger import Ledger
from caso.ledger.model import (
    Charged,
    LedgerRow,
    Month,
    Origin,
    Outstanding,
    Shrinkage,
    Span,
    Stream,
    month_of,
    month_text,
    months_between,
)
from caso.ledger.names import pack, unpack

ORIGIN = Origin("https://keystone.example.org:5000/v3", "RegionOne", "p1")
CLOUD = Stream(ORIGIN, "cloud", "ssm")
OCTOBER, NOVEMBER = Month(202610), Month(202611)
END = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
WINDOW = Span(END - timedelta(days=60), END)
VM = "8d8ff1a5-3f2c-4a6b-9a43-0f1d2c3b4a5e"
DIGEST = hashlib.sha256(b"a message").digest()


def row(key: str = VM, month: Month = NOVEMBER, amount: int = 3600, **more: object) -> LedgerRow:
    values = {"measured": END, "vo": "vo.example.org", "user": "u1", "cpu": 2 * amount, **more}
    return LedgerRow(key, month, amount, **values)  # type: ignore[arg-type]


def deliver(
    ledger: Ledger,
    *rows: LedgerRow,
    stream: Stream = CLOUD,
    digest: bytes = DIGEST,
    reason: str | None = None,
    window: Span | None = WINDOW,
    checkpoint: datetime | None = END,
) -> None:
    intent = ledger.deliveries.intent("batch", stream, reason=reason)
    intent.add(digest, rows)
    intent.seal(window, checkpoint=checkpoint)
    ledger.deliveries.confirm("batch")


def amounts(ledger: Ledger, key: str = VM) -> dict[Month, int]:
    return {one.row.month: one.row.amount for one in ledger.deliveries.of(key)}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state/ledger.sqlite")


def test_a_confirmed_batch_counts_with_all_that_was_said_of_it(ledger: Ledger) -> None:
    wanted = [
        row(month=OCTOBER, has_ended=False),
        row(amount=7200, cpu=None, user=None, is_estimated=True, has_ended=True),
    ]
    deliver(ledger, *wanted)
    found = ledger.deliveries.of(VM)
    assert [one.row for one in found] == wanted
    assert {one.stream for one in found} == {CLOUD}
    assert {one.sha256 for one in found} == {DIGEST.hex()}
    reached = ledger.windows.reached(CLOUD)
    assert (reached.checkpoint, reached.end) == (END, END)
    assert ledger.deliveries.outstanding() == []


def test_an_intended_batch_does_not_count_before_it_is_confirmed(ledger: Ledger) -> None:
    intent = ledger.deliveries.intent("batch", CLOUD)
    intent.add(DIGEST, [row()])
    assert ledger.deliveries.outstanding() == []  # nothing is in the file yet
    intent.seal(WINDOW, checkpoint=END)
    assert ledger.deliveries.of(VM) == []
    assert ledger.windows.reached(CLOUD).checkpoint is None
    [batch] = ledger.deliveries.outstanding()
    assert (batch.name, batch.stream) == ("batch", CLOUD)


@pytest.mark.parametrize(
    ("held", "amount", "checkpoint"),
    [(True, {NOVEMBER: 3600}, END), (False, {}, None), (None, {NOVEMBER: 3600}, None)],
)
def test_a_start_settles_what_a_killed_run_left(
    tmp_path: Path, held: bool | None, amount: dict[Month, int], checkpoint: datetime | None
) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as killed:
        intent = killed.deliveries.intent("batch", CLOUD)
        intent.add(DIGEST, [row()])
        intent.seal(WINDOW, checkpoint=END)
    with Ledger(path) as ledger:
        asked: list[Outstanding] = []

        def is_held(batch: Outstanding) -> bool | None:
            asked.append(batch)
            return held

        done = ledger.deliveries.reconcile(is_held)
        assert [batch.name for batch in asked] == ["batch"]
        names = ([], ["batch"]) if held is False else (["batch"], [])
        assert (done.confirmed, done.withdrawn) == names
        assert amounts(ledger) == amount
        assert ledger.windows.reached(CLOUD).checkpoint == checkpoint
        assert ledger.deliveries.outstanding() == []
        ledger.deliveries.confirm("batch")  # once more is harmless
        ledger.deliveries.withdraw("batch")
        assert amounts(ledger) == amount


def test_a_later_record_replaces_an_earlier_one(ledger: Ledger) -> None:
    """Of several records the repository keeps the last one."""
    deliver(ledger, row(month=OCTOBER, amount=5), row(amount=10))
    deliver(ledger, row(amount=20), digest=b"later")
    assert amounts(ledger) == {OCTOBER: 5, NOVEMBER: 20}
    assert [one.sha256 for one in ledger.deliveries.of(VM)] == [DIGEST.hex(), b"later".hex()]


def test_messages_are_kept_as_long_as_a_row_needs_them(ledger: Ledger) -> None:
    """Otherwise the file would grow with each hourly run."""
    other = str(uuid.uuid4())
    deliver(ledger, row(), row(other), digest=b"1")
    for number in range(2, 30):
        deliver(ledger, row(amount=3600 + number), digest=str(number).encode())
    with ledger.file.reading() as connection:
        kept = connection.execute("SELECT sha256, records FROM messages ORDER BY id").fetchall()
        batches = connection.execute("SELECT count(*) FROM batches").fetchone()
    assert kept == [(b"1", 1), (b"29", 1)]
    assert batches == (2,)


def test_the_guard_names_what_would_shrink(ledger: Ledger) -> None:
    """F-A1: of the same thing, month and destination."""
    deliver(ledger, row(month=OCTOBER, amount=100), row(amount=200))
    asked = [(VM, OCTOBER, 99, 99), (VM, NOVEMBER, 200, 200), (str(uuid.uuid4()), OCTOBER, 1, 1)]
    assert ledger.deliveries.shrinking(CLOUD, asked) == [Shrinkage(VM, OCTOBER, 100, 99)]
    further = [(VM, OCTOBER, 100, 100), (VM, NOVEMBER, 201, 201)]
    assert ledger.deliveries.shrinking(CLOUD, further) == []
    assert ledger.deliveries.shrinking(CLOUD, []) == []


@pytest.mark.parametrize(
    ("delivered", "month"),
    [(202611, 202611), (202610, 202611), (202512, 202601), (202601, 202602)],
)
def test_cpu_time_is_compared_with_the_last_of_this_month_and_the_one_before(
    delivered: int, month: int, ledger: Ledger
) -> None:
    deliver(ledger, row(month=Month(delivered), amount=100, cpu=800))

    def charged(key: str, amount: int, cpu: int | None) -> object:
        asked = [(key, Month(month), amount, amount, cpu)]
        return ledger.deliveries.compared(CLOUD, asked).charged

    known = {(VM, Month(month)): Charged(100, 800)}
    assert charged(VM, 110, 220) == known
    assert charged(VM, 400, 800) == known  # as much in all, and less a second
    assert charged(VM, 110, 880) == charged(VM, 110, None) == {}
    assert charged(str(uuid.uuid4()), 110, 220) == {}


def test_cpu_time_of_two_months_ago_does_not_count(ledger: Ledger) -> None:
    deliver(ledger, row(month=OCTOBER, amount=100, cpu=800))
    asked = [(VM, Month(202612), 110, 110, 220)]
    assert ledger.deliveries.compared(CLOUD, asked).charged == {}


def test_the_guard_is_for_a_kind_and_a_destination(ledger: Ledger) -> None:
    deliver(ledger, row(amount=200))
    asked = [(VM, NOVEMBER, 1, 1)]
    for stream in (Stream(ORIGIN, "cloud", "logstash"), Stream(ORIGIN, "accelerator", "ssm")):
        assert ledger.deliveries.shrinking(stream, asked) == []


def test_the_guard_holds_under_another_name_of_the_cloud(ledger: Ledger) -> None:
    """A site that gives its region or Keystone another name sends the same servers."""
    deliver(ledger, row(amount=200))
    renamed = Stream(Origin("https://new.example.org/v3", "two", "p1"), "cloud", "ssm")
    [found] = ledger.deliveries.shrinking(renamed, [(VM, NOVEMBER, 1, 1)])
    assert found.delivered == 200
    deliver(ledger, row(amount=300), stream=renamed)
    assert [one.stream for one in ledger.deliveries.of(VM)] == [renamed]


def test_a_smaller_amount_counts_only_with_a_reason(ledger: Ledger) -> None:
    deliver(ledger, row(amount=200))
    deliver(ledger, row(amount=100), digest=b"less")
    assert amounts(ledger) == {NOVEMBER: 200}
    [kept] = ledger.deliveries.of(VM)
    assert kept.sha256 == DIGEST.hex()
    deliver(ledger, row(amount=100), digest=b"less", reason="a wrong clock", checkpoint=None)
    assert amounts(ledger) == {NOVEMBER: 100}
    [decrease] = ledger.deliveries.decreases()
    assert (decrease.key, decrease.month, decrease.before, decrease.after) == (
        VM,
        NOVEMBER,
        200,
        100,
    )
    assert decrease.reason == "a wrong clock"


def test_an_estimate_gives_way_upwards_only(ledger: Ledger) -> None:
    """F-A8: better knowledge replaces it, unless it is smaller."""
    deliver(ledger, row(amount=100, is_estimated=True, has_ended=True))
    assert [one.row.key for one in ledger.deliveries.estimated()] == [VM]
    assert ledger.deliveries.shrinking(CLOUD, [(VM, NOVEMBER, 99, 99)])
    deliver(ledger, row(amount=110, has_ended=True))
    assert ledger.deliveries.estimated() == []
    assert amounts(ledger) == {NOVEMBER: 110}


def test_a_count_may_fall_but_its_time_may_not(ledger: Ledger) -> None:
    """Fewer addresses than before take nothing back; an older count would."""
    addresses = Stream(ORIGIN, "ip", "ssm")
    deliver(ledger, row("p1/u1/IPv4", amount=5, cpu=None, progress=1000), stream=addresses)
    assert ledger.deliveries.shrinking(addresses, [("p1/u1/IPv4", NOVEMBER, 1001, 5)]) == []
    [found] = ledger.deliveries.shrinking(addresses, [("p1/u1/IPv4", NOVEMBER, 999, 5)])
    assert found == Shrinkage("p1/u1/IPv4", NOVEMBER, 1000, 999)
    deliver(ledger, row("p1/u1/IPv4", amount=9, cpu=None, progress=999), stream=addresses)
    assert amounts(ledger, "p1/u1/IPv4") == {NOVEMBER: 5}
    deliver(ledger, row("p1/u1/IPv4", amount=2, cpu=None, progress=1001), stream=addresses)
    assert amounts(ledger, "p1/u1/IPv4") == {NOVEMBER: 2}
    [kept] = ledger.deliveries.of("p1/u1/IPv4")
    assert kept.row.progress == 1001


def test_a_count_of_the_same_moment_may_not_fall(ledger: Ledger) -> None:
    """Neutron no longer lists addresses that were released after the moment of the first count."""
    addresses = Stream(ORIGIN, "ip", "ssm")
    key = "p1/u1/IPv4"
    deliver(ledger, row(key, amount=5, cpu=None, progress=1000), stream=addresses)
    assert ledger.deliveries.shrinking(addresses, [(key, NOVEMBER, 1000, 5)]) == []
    assert ledger.deliveries.shrinking(addresses, [(key, NOVEMBER, 1000, 6)]) == []
    asked = (key, NOVEMBER, 1000, 4)
    assert ledger.deliveries.shrinking(addresses, [asked]) == [Shrinkage(*asked[:2], 1000, 1000)]
    fewer = row(key, amount=4, cpu=None, progress=1000)
    deliver(ledger, fewer, stream=addresses)
    assert amounts(ledger, key) == {NOVEMBER: 5}
    deliver(ledger, fewer, stream=addresses, reason="counted twice")
    assert amounts(ledger, key) == {NOVEMBER: 4}
    [decrease] = ledger.deliveries.decreases()
    assert (decrease.before, decrease.after) == (5, 4)


def test_many_rows_go_in_pages_and_come_back_in_pages(ledger: Ledger) -> None:
    keys = [str(uuid.UUID(int=number)) for number in range(2 * PAGE + 1)]
    intent = ledger.deliveries.intent("batch", CLOUD)
    for start in range(0, len(keys), 100):
        page = [row(key, amount=start + 1) for key in keys[start : start + 100]]
        intent.add(hashlib.sha256(str(start).encode()).digest(), page)
    assert [batch.name for batch in ledger.deliveries.outstanding()] == ["batch"]
    intent.seal(WINDOW, checkpoint=END)
    ledger.deliveries.confirm("batch")
    found = {one.row.key: one.row.amount for one in ledger.deliveries.rows(NOVEMBER, "ssm")}
    assert found == {key: number // 100 * 100 + 1 for number, key in enumerate(keys)}
    assert list(ledger.deliveries.rows(OCTOBER, "ssm")) == []
    assert list(ledger.deliveries.rows(NOVEMBER, "logstash")) == []
    asked = [(key, NOVEMBER, 1, 1) for key in keys]
    assert len(ledger.deliveries.shrinking(CLOUD, asked)) == len(keys) - 100


def test_a_batch_withdrawn_in_its_middle_leaves_nothing(ledger: Ledger) -> None:
    deliver(ledger, row(amount=1))
    intent = ledger.deliveries.intent("batch", CLOUD)
    intent.add(b"1", [row(str(uuid.UUID(int=number))) for number in range(PAGE)])
    ledger.deliveries.withdraw("batch")
    with ledger.file.reading() as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("intended", "messages", "batches", "deliveries")
        ]
    assert counts == [0, 1, 1, 1]


def test_of_two_records_in_a_batch_the_later_counts(ledger: Ledger) -> None:
    intent = ledger.deliveries.intent("batch", CLOUD)
    intent.add(b"1", [row(amount=10, has_ended=True, is_estimated=True)])
    intent.add(b"2", [row(amount=20)])
    intent.seal(WINDOW, checkpoint=END)
    ledger.deliveries.confirm("batch")
    [found] = ledger.deliveries.of(VM)
    assert (found.row.amount, found.sha256) == (20, b"2".hex())
    assert (found.row.has_ended, found.row.is_estimated) == (False, False)
    with ledger.file.reading() as connection:  # no row refers to the first message
        assert connection.execute("SELECT sha256 FROM messages").fetchall() == [(b"2",)]


@pytest.mark.parametrize(
    ("key", "size"),
    [
        (VM, 16),
        (VM.upper(), 36),
        (VM.replace("-", ""), 32),
        (VM.replace("-", "", 1) + "-", 36),
        ("g" * 36, 36),
        (f"{VM}-202611", 43),
        ("", 0),
    ],
)
def test_keys_are_kept_as_they_are(key: str, size: int) -> None:
    assert len(pack(key)) == size
    assert unpack(pack(key)) == key


def test_months() -> None:
    assert month_of(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)) == 202611
    assert month_text(Month(202601)) == "2026-01"
    assert months_between(Month(202511), Month(202602)) == [202511, 202512, 202601, 202602]
    assert months_between(Month(202612), Month(202612)) == [202612]
