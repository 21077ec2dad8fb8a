"""Volumes as a source: from Cinder's pages to the segments of each volume.

Cinder lists what is there now. Earlier sizes and owners, and deleted volumes, come from the history
that runs leave behind.

    seen in this listing             accounted as
    for the first time               from its creation, with its present size
    with another size                the earlier size up to Cinder's ``updated_at``, if that is in
                                     the window, otherwise up to the window's start
    after it was in another project  from that moment on, here; up to it, there
    no longer                        up to the last listing that had it, as an estimate

Projects are read side by side, so a volume that was transferred may vanish from one project before
it is seen in the other. Only the second listing that misses a volume ends it; by then the other
project has had its turn.

Without a history, a run accounts the present month only, because what a volume was in earlier
months is not known. ``--extract-from`` goes further back, with the present sizes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from appliance.core import causes
from appliance.core.cloud.session import Scope
from appliance.core.cloud.storage import SERVICE, Volume, volumes
from caso.kinds.months import ExtractionWindow, first_moment
from caso.kinds.storage import StorageRecord, segment_start
from caso.sources import volume as described
from caso.sources.history import KnownState, LostThing, SeenThing, ThingListing
from caso.sources.source import ProjectContext, Source, Unaccountable, Usage
from caso.sources.volume import PresentVolume

_KIND = "storage"
_PAGE = 500
_AGAIN = timedelta(minutes=5)
"""A volume that was seen this short a time before the window was in the last run's listing."""
_LATE = timedelta(days=2)
"""How long the last records of a volume that has left the project are sent again."""


class CinderSource:
    """The volumes of a project."""

    name = "cinder"
    kinds: tuple[str, ...] = (_KIND,)

    def records(
        self, scope: Scope, window: ExtractionWindow, context: ProjectContext
    ) -> Iterator[Usage | Unaccountable]:
        """Yield the records of the volumes that the project had in the window."""
        if not scope.offers(SERVICE):
            context.warn("the cloud's catalog has no Cinder: there are no records of volumes")
            return
        project = ProjectVolumes(window, context, str(scope.project_id))
        yield from project.records(volumes(scope))


SOURCE: Source = CinderSource()


class ProjectVolumes:
    """The volumes of one project in a window."""

    def __init__(self, window: ExtractionWindow, context: ProjectContext, project_id: str) -> None:
        window = window.of_present()
        self._window = window
        self._context = context
        self._project_id = project_id
        since = min(first_moment(window.start), window.start - _LATE)
        self._known = dict(context.history.states(_KIND, since=since))

    def records(self, listed: Iterable[Volume]) -> Iterator[Usage | Unaccountable]:
        """Yield the records of the volumes in a listing, and of those that it no longer has."""
        listing = self._context.history.listing(_KIND)
        pages = iter(listed)
        try:
            while page := list(itertools.islice(pages, _PAGE)):
                yield from self._page(page, listing)
        except BaseException:  # also when the records of this project are no longer wanted
            listing.abandon()
            raise
        yield from self._lost(listing.close(self._window.end))
        yield from self._left()

    def _page(
        self, page: Sequence[Volume], listing: ThingListing
    ) -> Iterator[Usage | Unaccountable]:
        seen: list[SeenThing] = []
        for volume in page:
            known = self._known.pop(volume["id"], ())
            try:
                present = described.describe(volume)
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                words = causes.of_answer(error)
                reason = f"Cinder's description of the volume is incomplete or wrong: {words}"
                yield Unaccountable(str(volume["id"]), reason, json.dumps(volume), _KIND)
                # It exists, as it was: otherwise it would count as deleted.
                seen += [SeenThing(volume["id"], one.facts, one.user) for one in _open(known)]
                continue
            elsewhere = None
            if not _open(known):  # new here: it may come from another project
                elsewhere = self._context.history.last_elsewhere(present.id)
            if not known and elsewhere is None:
                known = self._delivered(present)
            states = described.with_present(present, known, elsewhere, self._window)
            seen.append(described.seen(present, states[-1]))
            for record in self._records(present.id, states, self._window):
                yield Usage(_KIND, described.decorate(record, present))
        listing.see(seen)

    def _delivered(self, present: PresentVolume) -> Sequence[KnownState]:
        """Return the state of a volume whose history is lost, but not what was delivered of it.

        Its month was delivered in parts. Only the last one goes on; as one part, the month would
        count twice.
        """
        since = segment_start(self._context.history.last_part(_KIND, present.id) or "")
        if since is None or since < first_moment(self._window.start):
            return ()
        return [KnownState(since, None, present.facts, present.user_id)]

    def _lost(self, lost: Sequence[LostThing]) -> Iterator[Usage]:
        """Yield the last records of volumes that two listings in a row do not have."""
        ended = []
        for one in lost:
            states = self._known.pop(one.key, None) or [one.state]
            if one.last_seen < self._window.start - _AGAIN:
                ended.append((one.key, one.last_seen))
                last = replace(states[-1], until=one.last_seen)
                yield from self._past(one.key, [*states[:-1], last], one.last_seen)
        self._context.history.end(_KIND, ended)

    def _left(self) -> Iterator[Usage]:
        """Yield the last records of volumes that ended lately, or that another project has."""
        for key, states in self._known.items():
            until = states[-1].until
            if until is not None and until > self._window.start - _LATE:
                yield from self._past(key, states, until)

    def _past(self, key: str, states: Sequence[KnownState], until: datetime) -> Iterator[Usage]:
        later = self._context.history.last_elsewhere(key)
        has_ended = later is None or later.since < until
        # Their months may be before the window's.
        window = replace(self._window, start=min(until, self._window.start))
        for record in self._records(key, states, window):
            yield Usage(_KIND, record, is_estimated=has_ended and record.end == until)

    def _records(
        self, key: str, states: Sequence[KnownState], window: ExtractionWindow
    ) -> Iterator[StorageRecord]:
        project_id = self._project_id
        return described.records(key, states, window, self._context, project_id=project_id)


def _open(states: Sequence[KnownState]) -> Sequence[KnownState]:
    """Return the state that goes on, if there is one."""
    return [state for state in states[-1:] if state.until is None]
