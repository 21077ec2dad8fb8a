"""Which removals of a plan need the word of their source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from appliance.core.run.errors import Unavailable
from cloudkeeper.frontend.comparison import Comparison
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.sync import Synchronisation
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.model import Appliance, ApplianceId, ImageList, ImageSource, ListId, Offer, Remove

NOW = datetime(2026, 11, 30, tzinfo=UTC)
LIST = ListId("list")
SOURCE = ImageSource("https://images.example.org/a", f"sha256:{'0' * 64}", None)


def image(name: str, expires: datetime | None = None) -> Appliance:
    return Appliance(ApplianceId(name), LIST, vo="vo", title=name, expires=expires)


@dataclass
class Source:
    """A source of one list that does not answer questions about single images."""

    offers: tuple[Offer, ...]
    asked: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "source"

    def fetch(self, *, at: datetime) -> tuple[Sequence[ImageList], Sequence[str]]:
        del at
        return [ImageList(identifier=LIST, vo="vo", offers=self.offers)], ()

    def list_ids(self) -> frozenset[ListId]:
        return frozenset()

    def accept(self, *, at: datetime) -> None: ...

    def open(self, *_: object, **__: object) -> Any: ...

    def doubt(self, missing: Appliance) -> str:
        self.asked.append(missing.identifier)
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


def plan(source: Source, held: Sequence[Appliance]) -> SyncReport:
    report = SyncReport()
    backend: Any = Backend(held)
    workshop: Any = None
    sources = OfferSources([source], keeps=False)
    Synchronisation(Comparison(sources, backend), workshop, is_dry=True).run(report, at=NOW)
    return report


@pytest.mark.parametrize("name", ["expired", "missing"])
def test_only_an_image_that_is_no_longer_listed_needs_evidence(name: str) -> None:
    """An image that its source says has expired goes, even while the source answers nothing."""
    past = datetime(2026, 11, 1, tzinfo=UTC)
    source = Source((Offer(image("expired", past), SOURCE), Offer(image("kept"), SOURCE)))
    report = plan(source, [image(name), image("kept")])
    removed = [one.change.appliance.identifier for one in report.outcomes]
    assert all(isinstance(one.change, Remove) for one in report.outcomes)
    if name == "expired":
        assert (removed, source.asked, report.failures) == (["expired"], [], [])
    else:
        assert (removed, source.asked) == ([], ["missing"])
        assert report.failures == ["source: missing is kept: source: the server answers 500"]
