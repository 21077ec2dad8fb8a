"""A source of images as a check finds it: read once, and the row of each fault.

The rows are those of `appliance check`. A tag that the registry no longer lists is a fault while
its image is in the cloud: see `cloudkeeper.frontend.live_check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.core.download.connections import Unreached, UntrustedServer
from appliance.core.registry.login import NotShown
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable
from appliance.core.run.finding import Finding
from appliance.core.trust.errors import Malformed, Untrusted
from cloudkeeper.frontend.imagelist import ListExpired
from cloudkeeper.frontend.memory import OffPin
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.registry.project import RegistryProject
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.frontend.sources import OfferSource, SignedListSource
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.model import ImageList, ListId, Offer

SHOWN = 5
"""Images that one finding names."""
DENIED_LIST, DENIED_REGISTRY = "C60.a", "C60.e"
_STAY = "its images stay as they are"
_ROWS: Sequence[tuple[type[ApplianceError], str]] = (
    (ListExpired, "C60.d"),
    (OffPin, "C60.c"),
    (UntrustedServer, "C60.b"),
    (Unreached, "C06.c"),
    (AccessDenied, DENIED_REGISTRY),
    (NotShown, "C60.f"),
    (Unavailable, "C60"),
    (Untrusted, "C60.b"),
)
"""The row of each failure; the first class that fits counts."""


@dataclass(frozen=True, slots=True)
class ReadSource:
    """A source with its lists, and its place in the configuration."""

    source: OfferSource
    place: tuple[Path, int]
    lists: Sequence[ImageList] = ()

    def finding(self, text: str, row: str, *, tried: str, is_error: bool = True) -> Finding:
        """Return a finding in the line of this source."""
        path, line = self.place
        shown = "" if path == Path() else str(path)
        return Finding(shown, line, "", f"{self.source}: {text}", row, "", is_error, tried)

    def failure(self, error: ApplianceError) -> Finding:
        """Return the finding for a source that is not accepted."""
        text = f"{error.cause}; {_STAY}; {self._remedy(error)}"
        return self.finding(text, self._row(error), tried=f"reading {self.source}")

    def refusals(self) -> Iterator[Finding]:
        """Yield a finding for each kind of fault of single images."""
        failures: Mapping[str, ApplianceError] = {}
        if isinstance(self.source, RegistryProject):
            failures = self.source.failures
        found: dict[str, dict[str, str]] = {}
        for refusal in dict.fromkeys(each for one in self.lists for each in one.refused):
            error = failures.get(refusal.identifier or "")
            row = self._row(error) if error else "C60"
            found.setdefault(row, {})[refusal.identifier or "?"] = refusal.reason
        for row, reasons in found.items():
            (first, reason), *others = reasons.items()
            more = f"; refused as well: {named(name for name, _ in others)}" if others else ""
            remedy = "" if row in ("C60.b", "C60.c") else "; ask its publisher to correct it"
            text = f"image {first} is refused, its image in the cloud stays: {reason}{remedy}{more}"
            tried = "what describes and signs each image"
            yield self.finding(text, row, tried=tried, is_error=row != "C60")

    def identifiers(self, list_id: ListId) -> frozenset[str]:
        """Return the images that the source names in a list, usable or not."""
        return frozenset(
            identifier
            for one in self.lists
            if one.identifier == list_id
            for identifier in (
                *(offer.appliance.identifier for offer in one.offers),
                *(each.identifier for each in one.ignored),
                *(each.identifier or "" for each in one.refused),
            )
        )

    def was_read_before(self, offer: Offer, *, at: datetime) -> bool:
        """Check whether an earlier run has read this offer, so that its image should be there."""
        match self.source:
            case RegistryProject(client=client, history=history):
                known = history.latest(client.host).get(offer.appliance.identifier)
                return known is not None and known == offer.version
            case SignedListSource():
                return self.source.is_known(at=at)
        return True

    def _row(self, error: ApplianceError) -> str:
        is_registry = isinstance(self.source, RegistryProject)
        if isinstance(error, AccessDenied) and not is_registry:
            return DENIED_LIST
        if isinstance(error, Malformed):  # a list without a signature, or a wrong listing
            return "C60" if is_registry else "C60.b"
        return next((row for kind, row in _ROWS if isinstance(error, kind)), "C60")

    def _remedy(self, error: ApplianceError) -> str:
        if self._row(error) == DENIED_LIST:
            return "renew the access token in this line"
        if isinstance(error, Unreached):
            return "open outbound connections to it, and check its name in this line"
        return error.remedy or "ask its administrators"


@dataclass(frozen=True, slots=True)
class ReadSources(OfferSources):
    """Sources that have been read already."""

    read: Sequence[ReadSource] = ()

    def accepted(
        self, report: SyncReport, *, at: datetime
    ) -> Iterator[tuple[OfferSource, Sequence[ImageList]]]:
        """Yield the sources with their lists."""
        del report, at
        yield from ((one.source, one.lists) for one in self.read)


def places(configured: FrontendSettings) -> Sequence[tuple[Path, int]]:
    """Return file and line of each source, in the order in which a run reads them."""
    return [
        *(each.origin for each in configured.registries),
        *(each.file_and_line for each in configured.lists),
    ]


def named(names: Iterable[str]) -> str:
    """Return names for a message, the first few of many."""
    found = list(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{', '.join(found[:SHOWN])}{more}"
