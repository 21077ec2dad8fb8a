"""Servers that no listing shows any more: up to when they are closed, for each destination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from caso.kinds import cloud
from caso.kinds.cloud import CloudRecord
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Origin, Stream, month_of
from caso.vanished import KindLook
from tests.wire.test_cloud import SPARE

ORIGIN = Origin("https://keystone.example.org/v3", "", "p1")
BORN = datetime(2026, 10, 20, tzinfo=UTC)
NAMES = cast("Any", SimpleNamespace(site="S", service="S"))
SERVER = "27ac25b2-8d3a-4e43-b5a1-6a5a7f1b0001"
Ends = Mapping[str, datetime | None]


def day(month: int, number: int, hour: int = 0) -> datetime:
    return datetime(2026, month, number, hour, tzinfo=UTC)


class Listings:
    """A ledger whose listings show a server once, and never again."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path)

    def delivered(self, destination: str, until: datetime, *, has_ended: bool = False) -> None:
        intent = self.ledger.deliveries.intent(destination, Stream(ORIGIN, "cloud", destination))
        wall = int((until - BORN).total_seconds())
        row = LedgerRow(SERVER, month_of(until), wall, until, "vo", has_ended=has_ended)
        intent.add(b"", [row])
        intent.seal(None, checkpoint=None)
        self.ledger.deliveries.confirm(destination)

    def look(self, *destinations: str) -> KindLook:
        return KindLook(self.ledger, ORIGIN, cloud.KIND, destinations, vo="vo")

    def seen(self, at: datetime) -> None:
        look = self.look("ssm")
        look.see(replace(SPARE, vm_uuid=SERVER, start=BORN, wall=at - BORN))
        assert list(look.close(at, lambda _: {}, NAMES)) == []

    def closed(
        self, *destinations: str, at: datetime, ends: Ends | None = None
    ) -> list[tuple[datetime | None, timedelta, bool]]:
        """Return end, wall time and whether it is an estimate, of each record."""
        made = self.look(*destinations).close(at, lambda _: ends or {}, NAMES)
        found = [(cast("CloudRecord", record), is_estimated) for record, is_estimated in made]
        return [(record.end, record.wall, is_estimated) for record, is_estimated in found]


@pytest.fixture
def listings(tmp_path: Path) -> Iterator[Listings]:
    made = Listings(tmp_path / "ledger.sqlite")
    yield made
    made.ledger.close()


def test_no_end_is_before_what_a_clock_that_was_ahead_delivered(listings: Listings) -> None:
    """Otherwise the guard withholds the end in each run, and the server stays `started`."""
    listings.delivered("ssm", day(11, 3, 12))
    listings.delivered("logstash", day(11, 3, 10))
    listings.seen(day(11, 3, 9))
    ahead = (day(11, 3, 12), day(11, 3, 12) - BORN)
    assert listings.closed("ssm", "logstash", at=day(11, 4)) == [(*ahead, True)]
    ends = {SERVER: day(11, 3, 9)}
    assert listings.closed("ssm", "logstash", at=day(11, 4), ends=ends) == [(*ahead, False)]


def test_the_destination_that_is_least_far_gets_all_months(listings: Listings) -> None:
    listings.delivered("ssm", day(11, 3), has_ended=True)
    listings.delivered("logstash", day(10, 30))
    listings.seen(day(11, 2))
    last_second = day(11, 1) - timedelta(seconds=1)
    assert listings.closed("ssm", "logstash", at=day(11, 4)) == [
        (None, last_second - BORN, False),
        (day(11, 3), day(11, 3) - BORN, False),
    ]


def test_a_destination_of_another_configuration_is_not_waited_for(listings: Listings) -> None:
    listings.delivered("ssm", day(11, 3), has_ended=True)
    listings.delivered("logstash", day(10, 30))
    listings.seen(day(11, 2))
    assert listings.closed("ssm", at=day(11, 4)) == []
    [segment] = listings.ledger.sightings.of(SERVER)
    assert segment.until == day(11, 3)


def test_a_server_that_usage_shows_alive_stays_open(listings: Listings) -> None:
    listings.delivered("ssm", day(11, 3))
    listings.seen(day(11, 3))
    assert listings.closed("ssm", at=day(11, 4), ends={SERVER: None}) == []
    assert listings.closed("ssm", at=day(11, 5)) == [(day(11, 3), day(11, 3) - BORN, True)]
