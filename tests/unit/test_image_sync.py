"""Which removals of a plan need the word of their source, and which wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from appliance.core.run.errors import Unavailable
from cloudkeeper.frontend.comparison import Comparison
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.selection import ALL, RunFilter, Selection
from cloudkeeper.frontend.sync import Synchronisation
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    ImageList,
    ImageSource,
    ListId,
    Offer,
    Refusal,
    Remove,
)

NOW = datetime(2026, 11, 30, tzinfo=UTC)
LIST = ListId("list")
SOURCE = ImageSource("https://images.example.org/a", f"sha256:{'0' * 64}", None)


def image(name: str, expires: datetime | None = None) -> Appliance:
    return Appliance(ApplianceId(name), LIST, vo="vo", title=name, expires=expires)


@dataclass
class Source:
    """A source of one list."""

    offers: tuple[Offer, ...] = ()
    refused: tuple[Refusal, ...] = ()
    selection: Selection = ALL
    is_sure: bool = False
    """Whether it says that an image is removed; otherwise it does not answer."""
    asked: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "source"

    def fetch(self, *, at: datetime) -> tuple[Sequence[ImageList], Sequence[str]]:
        del at
        found = ImageList(identifier=LIST, vo="vo", offers=self.offers, refused=self.refused)
        return [self.selection.part(found)], ()

    def list_ids(self) -> frozenset[ListId]:
        return frozenset()

    def accept(self, *, at: datetime) -> None: ...

    def open(self, *_: object, **__: object) -> Any: ...

    def doubt(self, missing: Appliance) -> str:
        self.asked.append(missing.identifier)
        if self.is_sure:
            return ""
        raise Unavailable("source", "the server answers 500")


@dataclass
class Backend:
    """What a dry run asks a backend for."""

    held: Sequence[Appliance]
    can_update_metadata = True
    can_check_vo = True
    can_set_properties = True

    def list_ids(self) -> list[ListId]:
        return [LIST]

    def appliances(self, list_id: ListId, *, vo: str) -> list[Appliance]:
        assert (list_id, vo) == (LIST, "vo")
        return list(self.held)


def plan(
    source: Source, held: Sequence[Appliance], *, allowed: int = 0, lists: tuple[str, ...] = ()
) -> SyncReport:
    report = SyncReport()
    backend: Any = Backend(held)
    workshop: Any = None
    sources = OfferSources([source], keeps=False)
    comparison = Comparison(sources, backend, allowed=allowed, chosen=RunFilter(lists))
    Synchronisation(comparison, workshop, is_dry=True).run(report, at=NOW)
    return report


def removed(report: SyncReport) -> list[str]:
    assert all(isinstance(one.change, Remove) for one in report.outcomes)
    return [one.change.appliance.identifier for one in report.outcomes]


@pytest.mark.parametrize("name", ["expired", "missing"])
def test_only_an_image_that_is_no_longer_listed_needs_evidence(name: str) -> None:
    """An image that its source says has expired goes, even while the source answers nothing."""
    past = datetime(2026, 11, 1, tzinfo=UTC)
    source = Source((Offer(image("expired", past), SOURCE), Offer(image("kept"), SOURCE)))
    report = plan(source, [image(name), image("kept")])
    if name == "expired":
        assert (removed(report), source.asked, report.failures) == (["expired"], [], [])
    else:
        assert (removed(report), source.asked) == ([], ["missing"])
        assert report.failures == ["source: missing is kept: source: the server answers 500"]


BAD = Refusal(ApplianceId("b"), "sl:checksum:sha512 has the invalid value 'abc'", "Ubuntu 24.04")
NAMELESS = Refusal(None, "image 2: dc:identifier is missing")
AGAIN = "run once: cloudkeeper sync --list list --allow-remove 1"


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ((BAD,), f"b; if none is, add the refused ones to ignore-images, or {AGAIN}"),
        ((BAD, BAD, NAMELESS), f"b, one without identifier; if none is, {AGAIN}"),
    ],
)
def test_an_image_stays_while_its_successor_is_refused(
    refused: tuple[Refusal, ...], words: str
) -> None:
    """F-M1: the list calls ``a`` now ``b``, and the entry of ``b`` cannot be used."""
    source = Source(refused=refused, is_sure=True)
    report = plan(source, [image("a")])
    assert (removed(report), source.asked, report.withheld) == ([], [], 1)
    assert report.failures[-1] == (
        "source: VO vo: no longer in the list, but kept: 1 image, because a refused image "
        f"may be a new version: {words}"
    )
    assert len(report.failures) == 1 + len(set(refused))


@pytest.mark.parametrize(
    ("allowed", "lists", "is_confirmed"),
    [(1, ("list",), True), (0, ("list",), False), (9, (), False)],
)
def test_only_a_run_that_names_the_list_confirms_what_waits(
    allowed: int, lists: tuple[str, ...], *, is_confirmed: bool
) -> None:
    """The number that confirms removals of another list does not mean these."""
    source = Source(refused=(BAD,), is_sure=True)
    report = plan(source, [image("a")], allowed=allowed, lists=lists)
    assert removed(report) == ["a"] * is_confirmed
    assert report.withheld == (not is_confirmed)


def test_a_confirmed_removal_still_needs_the_word_of_its_source() -> None:
    report = plan(Source(refused=(BAD,)), [image("a")], allowed=1, lists=("list",))
    assert removed(report) == []
    assert report.failures[-1] == "source: a is kept: source: the server answers 500"


@pytest.mark.parametrize(
    ("refusal", "selection", "is_ignored"),
    [
        (BAD, Selection(ignored=("b",)), True),
        (BAD, Selection(ignored=("*ubuntu*",)), True),
        (BAD, Selection(wanted=("*debian*",)), True),
        (BAD, Selection(wanted=("*ubuntu*",)), False),
        (BAD, Selection(ignored=("a",)), False),
        (Refusal(ApplianceId("b"), "why"), Selection(wanted=("*ubuntu*",)), False),
        (NAMELESS, Selection(ignored=("*",)), False),
    ],
)
def test_ignoring_a_refused_image_lets_the_removals_go(
    refusal: Refusal, selection: Selection, *, is_ignored: bool
) -> None:
    """Its own copy follows the policy for ignored images, which keeps it by default."""
    source = Source(refused=(refusal,), selection=selection, is_sure=True)
    report = plan(source, [image("a"), image("b")])
    assert removed(report) == ["a"] * is_ignored
    assert bool(report.failures) != is_ignored


def test_an_image_that_is_refused_twice_is_ignored_for_both_reasons_or_not_at_all() -> None:
    twice = Refusal(ApplianceId("b"), "it occurs twice in the list")
    by_title = Source(refused=(BAD, twice), selection=Selection(ignored=("*ubuntu*",)))
    assert removed(plan(by_title, [image("a")])) == []
    by_name = Source(refused=(BAD, twice), selection=Selection(ignored=("b",)), is_sure=True)
    assert removed(plan(by_name, [image("a")])) == ["a"]
