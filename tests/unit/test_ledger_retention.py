"""What the ledger removes: old months, and the ids of users."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Sight, Span, Stream

ORIGIN = Origin("https://keystone.example.org/v3", "RegionOne", "p1")
STREAM = Stream(ORIGIN, "cloud", "ssm")
NOW = datetime(2026, 11, 22, tzinfo=UTC)
USER = "0123456789abcdef0123456789abcdef"


def deliver(ledger: Ledger, name: str, *rows: LedgerRow) -> None:
    intent = ledger.deliveries.intent(name, STREAM)
    intent.add(b"", rows)
    intent.seal(Span(NOW - timedelta(days=800), NOW), checkpoint=NOW)
    ledger.deliveries.confirm(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_months_older_than_the_retention_are_purged(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.retention.floor() is None
        old = [
            LedgerRow("a", Month(202410), 1, NOW, "vo", USER),
            LedgerRow("b", Month(202410), 1, NOW, "vo"),
        ]
        deliver(ledger, "old", *old)
        ledger.sightings.look(ORIGIN, "cloud").close(NOW)
        assert ledger.retention.is_due(NOW)
        deliver(ledger, "new", LedgerRow("b", Month(202411), 2, NOW, "vo"))
        purged = ledger.retention.purge(NOW)
        assert (purged.deliveries, purged.segments) == (2, 0)
        assert not ledger.retention.is_due(NOW)
        assert ledger.retention.floor() == 202411
        assert ledger.deliveries.of("a") == []
        [kept] = ledger.deliveries.of("b")
        assert kept.row.month == 202411
        # The windows stay, so that the old months are not taken for never delivered.
        assert ledger.windows.reached(STREAM).checkpoint == NOW
        with ledger.file.reading() as connection:
            things = connection.execute("SELECT count(*) FROM things").fetchone()
            users = connection.execute("SELECT count(*) FROM users").fetchone()
        assert (things, users) == ((1,), (0,))
        ledger.retention.purge(NOW - timedelta(days=400))  # a clock that went back
        assert ledger.retention.floor() == 202411
        deliver(ledger, "again", LedgerRow("b", Month(202611), 3, NOW, "other", USER))
        assert [one.row.user for one in ledger.deliveries.of("b")] == [None, USER]


def test_segments_that_ended_long_ago_are_purged(path: Path) -> None:
    with Ledger(path, retention=1) as ledger:
        for day, keys in ((0, "ab"), (10, "b"), (40, "b")):
            look = ledger.sightings.look(ORIGIN, "storage")
            look.see([Sight(key, USER, {"size": day}) for key in keys])
            gone = look.close(datetime(2026, 9, 1, tzinfo=UTC) + timedelta(days=day))
            ledger.sightings.end("storage", [(one.sighting.key, one.last_seen) for one in gone])
        assert ledger.retention.first_kept(NOW) == 202610
        assert ledger.retention.purge(NOW).segments == 2
        assert ledger.sightings.of("a") == []
        assert [one.facts for one in ledger.sightings.of("b")] == [{"size": 10}, {"size": 40}]


@pytest.mark.parametrize(("hours", "segments"), [(-1, 1), (1, 0)])
def test_a_segment_that_ended_in_the_first_month_stays(
    path: Path, hours: int, segments: int
) -> None:
    first = datetime(2026, 10, 1, tzinfo=UTC)
    with Ledger(path, retention=1) as ledger:
        look = ledger.sightings.look(ORIGIN, "storage")
        look.see([Sight("a", USER)])
        look.close(datetime(2026, 9, 1, tzinfo=UTC))
        ledger.sightings.end("storage", [("a", first + timedelta(hours=hours))])
        assert ledger.retention.purge(NOW).segments == segments


@pytest.mark.parametrize(("now", "first"), [((2026, 1, 31), 202401), ((2026, 12, 1), 202412)])
def test_the_oldest_month_that_stays(path: Path, now: tuple[int, int, int], first: int) -> None:
    with Ledger(path) as ledger:
        assert ledger.retention.first_kept(datetime(*now, tzinfo=UTC)) == first


def test_a_user_is_forgotten_and_the_hours_stay(path: Path) -> None:
    with Ledger(path) as ledger:
        deliver(
            ledger,
            "one",
            LedgerRow("a", Month(202610), 10, NOW, "vo", USER),
            LedgerRow("a", Month(202611), 20, NOW, "vo", USER),
            LedgerRow("b", Month(202611), 30, NOW, "vo", "another"),
        )
        look = ledger.sightings.look(ORIGIN, "cloud")
        look.see([Sight("a", USER)])
        look.close(NOW)
        assert USER.encode() in path.with_name(path.name + "-wal").read_bytes() + path.read_bytes()
        assert ledger.retention.forget(USER) == 3
        assert ledger.retention.forget(USER) == 0
        found = [(one.row.amount, one.row.user) for one in ledger.deliveries.of("a")]
        assert found == [(10, None), (20, None)]
        assert [one.row.user for one in ledger.deliveries.of("b")] == ["another"]
        assert [one.user for one in ledger.sightings.of("a")] == [None]
        # Nor is the id left in a free part of the file, or in its log.
        for part in path.parent.iterdir():
            assert USER.encode() not in part.read_bytes()
        deliver(ledger, "two", LedgerRow("c", Month(202611), 1, NOW, "vo", USER))
        assert [one.row.user for one in ledger.deliveries.of("c")] == [USER]
        assert [one.row.user for one in ledger.deliveries.of("a")] == [None, None]
