"""The history of a project's things, kept in the ledger's sightings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin, Sight, Sighting, month_of
from caso.ledger.sightings import Look
from caso.sources.history import (
    KnownState,
    LostThing,
    NoHistory,
    SeenThing,
    ThingListing,
)


class LedgerHistory:
    """What earlier runs saw of one project, see `caso.sources.history.History`."""

    def __init__(self, ledger: Ledger, origin: Origin, *, is_kept: bool = True) -> None:
        """Read the history; without ``is_kept``, nothing is added to it.

        A listing shows the present, so it is no history for a window that ends earlier.
        """
        self._sightings = ledger.sightings
        self._deliveries = ledger.deliveries
        self._origin = origin
        self._is_kept = is_kept

    def states(self, kind: str, *, since: datetime) -> Mapping[str, Sequence[KnownState]]:
        """Return the states that reach beyond a moment by thing, oldest first."""
        found: dict[str, list[KnownState]] = {}
        for segment in self._sightings.overlapping(self._origin, kind, since=since):
            found.setdefault(segment.key, []).append(_state(segment))
        return found

    def last_elsewhere(self, key: str) -> KnownState | None:
        """Return the last state that a thing had in another project."""
        others = [one for one in self._sightings.of(key) if one.origin != self._origin]
        return _state(others[-1]) if others else None

    def last_part(self, kind: str, key: str) -> str | None:
        """Return the part of a thing that was delivered last, if it was delivered in parts."""
        return self._deliveries.last_part(kind, key)

    def counts(self, kind: str, key: str, *, at: datetime) -> bool:
        """Check whether any messenger's last count in the month of a moment is more than 0."""
        return any(
            one.stream.kind == kind and one.row.month == month_of(at) and one.row.amount > 0
            for one in self._deliveries.of(key)
        )

    def last(self, kind: str, key: str) -> KnownState | None:
        """Return the last state of a thing of the project."""
        found = self._sightings.last(self._origin, kind, key)
        return _state(found) if found else None

    def kept(self, kind: str) -> Mapping[str, KnownState]:
        """Return what was kept of the project's things."""
        found = self._sightings.of_kind(kind)
        return {one.key: _state(one) for one in found if one.origin.project == self._origin.project}

    def keep(self, kind: str, thing: SeenThing) -> None:
        """Keep what is known of a thing."""
        if self._is_kept and thing.since is not None:
            sight = Sight(thing.key, thing.user, thing.facts, thing.since)
            self._sightings.keep(self._origin, kind, sight)

    def listing(self, kind: str) -> ThingListing:
        """Begin a listing."""
        if not self._is_kept:
            return NoHistory().listing(kind)
        return LedgerListing(self._sightings.look(self._origin, kind))

    def end(self, kind: str, ends: Iterable[tuple[str, datetime]]) -> None:
        """Note the ends of things."""
        if self._is_kept:
            self._sightings.end(kind, ends)


class LedgerListing:
    """A listing that is being read, see `caso.sources.history.ThingListing`."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def see(self, things: Sequence[SeenThing]) -> None:
        """Take a page."""
        self._look.see([Sight(one.key, one.user, one.facts, one.since) for one in things])

    def close(self, at: datetime) -> Sequence[LostThing]:
        """Take the end of the listing, and return what has vanished."""
        return [
            LostThing(one.sighting.key, _state(one.sighting), one.last_seen)
            for one in self._look.close(at)
        ]

    def abandon(self) -> None:
        """Forget a listing that did not come to its end."""
        self._look.abandon()


def _state(segment: Sighting) -> KnownState:
    return KnownState(segment.since, segment.until, segment.facts, segment.user)
