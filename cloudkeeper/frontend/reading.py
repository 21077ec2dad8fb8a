"""The configured sources, read one after the other; a failure affects its own source only."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from appliance.core.run.errors import ApplianceError
from appliance.core.trust.errors import Untrusted
from cloudkeeper.frontend import accepted_log
from cloudkeeper.frontend.ended import ConfiguredLists, Missing, project_of
from cloudkeeper.frontend.imagelist import ListExpired
from cloudkeeper.frontend.registry import accepted_lists
from cloudkeeper.frontend.selection import WHOLE, RunFilter
from cloudkeeper.frontend.sources import OfferSource
from cloudkeeper.frontend.sync_report import BUG, SyncReport
from cloudkeeper.model import ImageList, ListId, Refusal

logger = logging.getLogger(__name__)

# Images that one line names.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class OfferSources:
    """The configured sources; ``keeps`` is False for a run that remembers nothing."""

    sources: Sequence[OfferSource]
    keeps: bool = True
    configured: ConfiguredLists = field(default_factory=ConfiguredLists)
    """What the run learns of the lists that the sources have."""
    log: Path | None = None
    """The file that keeps when each source was accepted; None: none does."""
    registry_lists: Path | None = None
    """The file that keeps which lists of registries were accepted; None: none does."""
    chosen: RunFilter = WHOLE
    """The part of the lists that the run is about."""

    def accepted(
        self, report: SyncReport, *, at: datetime
    ) -> Iterator[tuple[OfferSource, Sequence[ImageList]]]:
        """Yield the sources that may be acted on with their lists; report the others."""
        seen: dict[ListId, OfferSource] = {}
        good: list[str] = []
        for source in self.sources:
            if not self.chosen.may_have(source, source.list_ids()):
                continue
            self.configured.identifiers |= source.list_ids()
            try:
                lists = self._fetch(source, seen, at=at)
            except ListExpired as error:
                self.configured.expired[error.expired.identifier] = error.cause
                report.refuse_list(f"{source}: {error}", fate=self.configured.fate)
                continue
            except ApplianceError as error:
                is_named = error.subject == str(source)
                report.refuse_list(str(error) if is_named else f"{source}: {error}")
                self._note_unread(source)
                continue
            except Exception as error:  # one source must not affect the others
                logger.exception("%s: %s", source, BUG)
                report.refuse_list(f"{source}: {BUG}: {type(error).__name__}: {error}")
                self._note_unread(source)
                continue
            self.configured.offered |= {found.identifier for found in lists}
            self.configured.identifiers |= self.configured.offered
            report.lists += 1
            good.append(str(source))
            for each in lists:
                if each.refused:
                    self.configured.incomplete[each.vo] = _refused(source, each.refused)
            for refusal in dict.fromkeys(each for found in lists for each in found.refused):
                name = refusal.identifier or "?"
                report.fail(f"{source}: image {name} refused: {refusal.reason}")
            yield source, lists
        if self.log and self.keeps:
            accepted_log.note(self.log, good, at=at)

    def _note_unread(self, source: OfferSource) -> None:
        self.configured.unread.append(str(source))
        if not source.list_ids():
            self.configured.unknown.append(str(source))

    def _fetch(
        self, source: OfferSource, seen: dict[ListId, OfferSource], *, at: datetime
    ) -> Sequence[ImageList]:
        lists, warnings = source.fetch(at=at)
        for found in lists:
            if (other := seen.setdefault(found.identifier, source)) is not source:
                raise Untrusted(
                    str(source),
                    f"has the same identifier as {other}, {found.identifier}",
                    "remove one of them",
                )
            images = len(found.offers)
            words = "%s: list %s of VO %s, %d images"
            logger.info(words, source, found.identifier, found.vo, images)
        if self.keeps:
            source.accept(at=at)
            if self.registry_lists:
                of_registry = [each.identifier for each in lists if project_of(each.identifier)[0]]
                accepted_lists.note(self.registry_lists, of_registry)
        for warning in warnings:
            logger.warning("%s: %s", source, warning)
        return lists


def _refused(source: OfferSource, refused: Sequence[Refusal]) -> Missing:
    """Return that a source has images that were refused, by name."""
    names = [*dict.fromkeys(each.identifier for each in refused if each.identifier)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    named = f" ({', '.join(names[:_SHOWN])}{more})" if names else ""
    remedy = "ask its publisher to correct them"
    if all(each.identifier for each in refused):
        remedy += "; or, if they replace nothing here, add them to ignore-images"
    return Missing(f"{source} has images that were refused{named}", remedy)
