"""What listings showed: segments of volumes, and servers that vanish."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin, Sight, Sighting
from caso.ledger.sightings import Vanished

ONE = Origin("https://keystone.example.org/v3", "RegionOne", "p1")
TWO = Origin("https://keystone.example.org/v3", "RegionOne", "p2")
START = datetime(2026, 11, 1, tzinfo=UTC)
SIZE = {"size": 10}


def at(hour: int) -> datetime:
    return START + timedelta(hours=hour)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def look(
    ledger: Ledger, hour: int, *sights: Sight, origin: Origin = ONE, kind: str = "storage"
) -> list[Vanished]:
    looking = ledger.sightings.look(origin, kind)
    for sight in sights:
        looking.see([sight])
    return looking.close(at(hour))


def segments(ledger: Ledger, key: str = "v1") -> list[tuple[object, object, object, str]]:
    """Return the segments as size, first hour, last hour and project."""
    return [
        (
            one.facts["size"],
            (one.since - START) // timedelta(hours=1),
            one.until and (one.until - START) // timedelta(hours=1),
            one.origin.project,
        )
        for one in ledger.sightings.of(key)
    ]


def test_a_volume_that_was_resized_and_transferred(ledger: Ledger) -> None:
    """F-R14: Cinder shows neither its former size nor its former project."""
    look(ledger, 0, Sight("v1", "u1", SIZE))
    look(ledger, 1, Sight("v1", "u1", SIZE))
    look(ledger, 2, Sight("v1", "u1", {"size": 20}))
    assert [one.sighting.key for one in look(ledger, 3)] == ["v1"]  # transferred
    look(ledger, 3, Sight("v1", "u2", {"size": 20}), origin=TWO)
    assert look(ledger, 4) == []
    assert segments(ledger) == [(10, 0, 2, "p1"), (20, 2, 3, "p1"), (20, 3, None, "p2")]
    assert [one.user for one in ledger.sightings.of("v1")] == ["u1", "u1", "u2"]


def test_a_transfer_that_the_new_project_shows_first(ledger: Ledger) -> None:
    look(ledger, 0, Sight("v1", "u1", SIZE))
    look(ledger, 1, Sight("v1", "u2", SIZE), origin=TWO)
    assert look(ledger, 1) == []
    assert segments(ledger) == [(10, 0, 1, "p1"), (10, 1, None, "p2")]


def test_the_moment_of_a_change_that_the_service_gives(ledger: Ledger) -> None:
    look(ledger, 0, Sight("v1", "u1", SIZE, since=at(-5)))
    look(ledger, 4, Sight("v1", "u1", {"size": 20}, since=at(3)))
    look(ledger, 9, Sight("v1", "u1", {"size": 30}, since=at(-8)))  # before the segment: nonsense
    [first, second, third] = ledger.sightings.of("v1")
    assert (first.since, first.until) == (at(-5), at(3))
    assert second.until == third.since == at(3) + timedelta(seconds=1)


def test_a_thing_that_vanishes_is_named_until_its_end_is_noted(ledger: Ledger) -> None:
    """F-A8: with the moment when a listing showed it last, also after runs that were killed."""
    look(ledger, 0, Sight("s1", "u1", SIZE), Sight("s2", "u1", SIZE), kind="cloud")
    look(ledger, 1, Sight("s1", "u1", SIZE), Sight("s2", "u1", SIZE), kind="cloud")
    wanted = Vanished(Sighting("s1", ONE, "u1", SIZE, at(0), None), last_seen=at(1))
    for hour in (5, 6):
        assert look(ledger, hour, Sight("s2", "u1", SIZE), kind="cloud") == [wanted]
    ledger.sightings.end("cloud", [("s1", at(1))])
    assert look(ledger, 8, Sight("s2", "u1", SIZE), kind="cloud") == []
    assert segments(ledger, "s1") == [(10, 0, 1, "p1")]


def test_a_thing_that_comes_back_has_not_vanished(ledger: Ledger) -> None:
    look(ledger, 0, Sight("v1", "u1", SIZE))
    assert look(ledger, 1)
    assert look(ledger, 2, Sight("v1", "u1", SIZE)) == []
    [gone] = look(ledger, 3)
    assert gone.last_seen == at(2)
    assert segments(ledger) == [(10, 0, None, "p1")]


def test_an_ended_thing_that_comes_back_begins_again(ledger: Ledger) -> None:
    look(ledger, 0, Sight("v1", "u1", SIZE))
    [gone] = look(ledger, 2)
    ledger.sightings.end("storage", [("v1", gone.last_seen), ("unknown", at(1))])
    assert look(ledger, 3) == []
    look(ledger, 4, Sight("v1", "u1", SIZE))
    assert segments(ledger) == [(10, 0, 0, "p1"), (10, 4, None, "p1")]


def test_an_incomplete_listing_changes_nothing(ledger: Ledger) -> None:
    look(ledger, 0, Sight("v1", "u1", SIZE), Sight("v2", "u1", SIZE))
    partial = ledger.sightings.look(ONE, "storage")
    partial.see([Sight("v1", "u1", {"size": 99})])
    partial.abandon()
    assert look(ledger, 1, Sight("v1", "u1", SIZE), Sight("v2", "u1", SIZE)) == []
    assert segments(ledger) == [(10, 0, None, "p1")]


def test_two_looks_at_once_do_not_mix(ledger: Ledger) -> None:
    first, second = (ledger.sightings.look(origin, "storage") for origin in (ONE, TWO))
    first.see([Sight("v1", "u1", SIZE)])
    second.see([Sight("v2", "u1", SIZE)])
    assert first.close(at(0)) == second.close(at(0)) == []
    assert segments(ledger, "v1") == [(10, 0, None, "p1")]
    assert segments(ledger, "v2") == [(10, 0, None, "p2")]


def test_kinds_do_not_mix(ledger: Ledger) -> None:
    look(ledger, 0, Sight("x", "u1", SIZE), kind="cloud")
    assert look(ledger, 1, kind="storage") == []
    [gone] = look(ledger, 1, kind="cloud")
    assert gone.last_seen == at(0)


def test_the_segments_of_a_month(ledger: Ledger) -> None:
    look(ledger, 0, Sight("v1", "u1", SIZE), Sight("v2", "u1", SIZE))
    look(ledger, 5, Sight("v1", "u1", {"size": 20}), Sight("v2", "u1", SIZE))
    found = ledger.sightings.overlapping(ONE, "storage", since=at(6))
    assert [(one.key, one.facts["size"]) for one in found] == [("v1", 20), ("v2", 10)]
    found = ledger.sightings.overlapping(ONE, "storage", since=at(4))
    assert [(one.key, one.facts["size"]) for one in found] == [("v1", 10), ("v1", 20), ("v2", 10)]
    assert ledger.sightings.overlapping(TWO, "storage", since=at(4)) == []
