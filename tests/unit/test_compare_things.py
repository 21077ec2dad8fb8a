"""`caso compare` for volumes, accelerators and addresses: each cause, from records as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from appliance.core.usage_messages import SentRecord
from caso.shadow.others import MEANINGS, ThingCause, ThingDifference, ThingRecords, differences
from tests import documents

HOUR = 3600
MONTH = 1_793_491_200
"""The first moment of November 2026."""
BEGUN = MONTH + 10 * HOUR
VOLUME = "0b4b37f9-0f93-4b1c-a9a4-7a3b2c6f7a30"


def side(*records: SentRecord) -> ThingRecords:
    found = ThingRecords()
    for record in records:
        found.add(record)
    return found


def volume(begin: float, end: float, *, key: str = VOLUME, project: str = "p") -> SentRecord:
    """Return the record of a time, in hours since the beginning of the month."""
    seconds = int((end - begin) * HOUR)
    until = MONTH + int(end * HOUR)
    return SentRecord("storage", key, "2026-11", seconds, until, key.partition("/")[0], project)


def compared(
    kind: str, ours: Sequence[SentRecord], theirs: Sequence[SentRecord], *, lead: int = 0
) -> dict[str, ThingDifference]:
    found = {}
    for one in differences(kind, side(*ours), side(*theirs), begun=BEGUN, lead=lead):
        assert sum(one.causes.values()) == one.ours - one.theirs
        found[one.key] = one
    return found


OTHER = "7a3b2c6f-7a30-4b1c-a9a4-0b4b37f90f93"


@pytest.mark.parametrize(
    ("ours", "theirs", "causes"),
    [
        ([(0, 13)], [(10, 11), (11, 12)], {"before": 10, "replaced": 1, "cut": 1}),
        ([(0, 12)], [(10, 11), (11, 13)], {"before": 10, "replaced": 1, "cut": -1}),
        ([(0, 11)], [(10, 11)], {"before": 10}),
    ],
)
def test_a_volume(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]], causes: dict[str, int]
) -> None:
    """CASO's record of a volume is that of its last run."""
    found = compared(
        "storage",
        [volume(*times) for times in ours],
        [volume(*times, key=f"{VOLUME}/") for times in theirs],
    )
    hours = {cause: amount / HOUR for cause, amount in found[VOLUME].causes.items()}
    assert hours == pytest.approx(causes, abs=0.001)
    assert found[VOLUME].is_explained


def test_a_volume_in_parts_is_one() -> None:
    parts = [volume(0, 11), volume(11, 12, key=f"{VOLUME}/20261101T110000Z")]
    one = compared("storage", parts, [volume(10, 12, key=f"{VOLUME}/")])[VOLUME]
    assert (one.ours, one.theirs) == (12 * HOUR, 2 * HOUR)
    assert set(one.causes) == {ThingCause.BEFORE}


def test_a_volume_that_was_deleted() -> None:
    """Ours ends it when it was seen last; cASO's record stays as it was."""
    beside = volume(0, 20, key=OTHER), volume(10, 20, key=f"{OTHER}/")
    found = compared(
        "storage", [volume(0, 13), beside[0]], [volume(10, 12, key=f"{VOLUME}/"), beside[1]]
    )
    assert found[VOLUME].causes[ThingCause.DELETED] == HOUR
    found = compared(
        "storage", [volume(0, 12), beside[0]], [volume(10, 13, key=f"{VOLUME}/"), beside[1]]
    )
    assert found[VOLUME].causes[ThingCause.LAST_SEEN] == -HOUR
    assert found[VOLUME].is_explained


def test_what_nothing_proves_is_not_explained() -> None:
    """A volume that lives, and that a side leaves out in the middle."""
    beside = volume(0, 20, key=OTHER), volume(10, 20, key=f"{OTHER}/")
    rows = [volume(10, 12, key=f"{VOLUME}/"), volume(15, 20, key=f"{VOLUME}/"), beside[1]]
    found = compared("storage", [volume(0, 20), beside[0]], rows)
    assert found[VOLUME].causes[ThingCause.MISSING] == 3 * HOUR
    assert not found[VOLUME].is_explained
    found = compared("storage", [volume(0, 12), volume(0, 25, key=OTHER)], rows)
    assert found[VOLUME].causes[ThingCause.OURS_MISSING] == -5 * HOUR
    assert not found[VOLUME].is_explained


def test_a_project_that_ends_earlier_in_a_run_is_not_missing() -> None:
    """A run takes projects in turn, so the end of another project's records is later."""
    theirs = [volume(10, 12, key=f"{VOLUME}/"), volume(10, 13, key=f"{OTHER}/", project="q")]
    found = compared("storage", [volume(0, 12.5)], theirs)
    assert found[VOLUME].causes[ThingCause.CUT] == HOUR / 2
    assert found[VOLUME].is_explained


def accelerators(amount: int) -> SentRecord:
    return SentRecord("accelerator", f"{VOLUME}/GPU/A/2", "2026-11", amount, MONTH, VOLUME)


@pytest.mark.parametrize(
    ("ours", "theirs", "lead", "cause"),
    [
        (100, 10, 5, "replaced"),
        (100, None, 100, "cut"),
        (100, None, 99, "missing"),
        (None, 100, -100, "cut"),
        (None, 100, -99, "ours-missing"),
        (100, 110, 0, "ours-missing"),
    ],
)
def test_accelerators(ours: int | None, theirs: int | None, lead: int, cause: str) -> None:
    mine = [accelerators(ours)] if ours else [accelerators(0)]
    other = [accelerators(theirs)] if theirs else []
    one = compared("accelerator", mine, other, lead=lead)[VOLUME]
    assert one.causes == {cause: (ours or 0) - (theirs or 0)}


def addresses(
    count: int, hour: int, *, project: str = "p", user: str = "u", version: int = 4
) -> SentRecord:
    key = f"{project}/{user}/IPv{version}"
    return SentRecord("ip", key, "2026-11", count, MONTH + hour * HOUR, project=project)


@pytest.mark.parametrize(
    ("ours", "theirs", "cause"),
    [
        ([addresses(5, 1), addresses(3, 4)], [addresses(5, 2, user="")], "counted"),
        ([addresses(5, 1)], [addresses(5, 1, user=""), addresses(7, 4, user="")], "counted"),
        ([addresses(5, 4)], [addresses(1, 2, version=6)], "version"),
        ([addresses(5, 4), addresses(2, 4, project="q")], [addresses(7, 4)], "all-projects"),
        ([addresses(5, 4)], [addresses(6, 4)], "ours-missing"),
        ([addresses(5, 4)], [addresses(1, 6, project="q")], "missing"),
        ([addresses(5, 4)], [addresses(1, 2, project="q")], "cut"),
        ([addresses(5, 4)], [], "cut"),
        ([addresses(2, 1, project="q")], [addresses(5, 2)], "cut"),
    ],
)
def test_addresses(ours: list[SentRecord], theirs: list[SentRecord], cause: str) -> None:
    one = compared("ip", ours, theirs)["p/IPv4"]
    assert one.causes == {cause: one.ours - one.theirs}


def test_owners_of_addresses_are_added_up() -> None:
    ours = [addresses(2, 4), addresses(3, 4, user="v")]
    one = compared("ip", ours, [addresses(5, 3, user="")])["p/IPv4"]
    assert not one.causes


def test_a_kind_that_is_not_sent_here() -> None:
    one = compared("storage", [], [volume(10, 12, key=f"{VOLUME}/")])[VOLUME]
    assert one.causes == {ThingCause.NOT_SENT: -2 * HOUR}
    assert one.is_explained


def test_the_how_to_has_each_cause() -> None:
    text = (documents.HOW_TO / "switch-from-caso.md").read_text()
    assert MEANINGS.keys() == set(ThingCause)
    assert all(f"| `{cause}`" in text for cause in ThingCause)
