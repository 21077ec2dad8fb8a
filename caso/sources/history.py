"""What earlier runs saw of things whose service keeps no history, such as the size of a volume.

A source asks for the states that it knows of a project's things, shows each thing of its listing as
it is now, and learns at the end which ones have vanished. The ledger keeps the states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class SeenThing:
    """A thing as a listing shows it now."""

    key: str
    facts: Mapping[str, object]
    """What a record of it needs; no names of people or machines."""
    user: str | None = None
    since: datetime | None = None
    """Since when it is so; None: since this listing."""


@dataclass(frozen=True, slots=True)
class KnownState:
    """What a thing was for some time."""

    since: datetime
    until: datetime | None
    """None: until now."""
    facts: Mapping[str, object] = field(default_factory=dict)
    user: str | None = None


class LostThing(NamedTuple):
    """A thing that the listing no longer has: its state, and when a listing had it last."""

    key: str
    state: KnownState
    last_seen: datetime


class ThingListing(Protocol):
    """A listing that is being read."""

    def see(self, things: Sequence[SeenThing]) -> None:
        """Take a page."""

    def close(self, at: datetime) -> Sequence[LostThing]:
        """Take the end of the listing, which is of this moment, and return what has vanished."""

    def abandon(self) -> None:
        """Forget a listing that did not come to its end."""


class History(Protocol):
    """The states that earlier runs saw of a project's things."""

    def states(self, kind: str, *, since: datetime) -> Mapping[str, Sequence[KnownState]]:
        """Return the states that reach beyond a moment by thing, oldest first."""

    def last_elsewhere(self, key: str) -> KnownState | None:
        """Return the last state that a thing had in another project."""

    def last_part(self, kind: str, key: str) -> str | None:
        """Return the part of a thing that was delivered last, if it was delivered in parts."""

    def counts(self, kind: str, key: str, *, at: datetime) -> bool:
        """Check whether the last count of a thing in the month of a moment is more than 0."""

    def last(self, kind: str, key: str) -> KnownState | None:
        """Return the last state of a thing of the project."""

    def kept(self, kind: str) -> Mapping[str, KnownState]:
        """Return what was kept of the project's things, by thing."""

    def keep(self, kind: str, thing: SeenThing) -> None:
        """Keep what is known of a thing beside the listings, instead of what was kept before."""

    def listing(self, kind: str) -> ThingListing:
        """Begin a listing."""

    def end(self, kind: str, ends: Iterable[tuple[str, datetime]]) -> None:
        """Note the ends of things that have vanished, or that their service reports as deleted."""


class NoHistory:
    """A history that keeps nothing: each thing has always been as it is now."""

    def states(
        self,
        kind: str,  # noqa: ARG002
        *,
        since: datetime,  # noqa: ARG002
    ) -> Mapping[str, Sequence[KnownState]]:
        """Return no states."""
        return {}

    def last_elsewhere(self, key: str) -> KnownState | None:  # noqa: ARG002
        """Return no state."""
        return None

    def last_part(self, kind: str, key: str) -> str | None:  # noqa: ARG002
        """Return no part."""
        return None

    def counts(self, kind: str, key: str, *, at: datetime) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    def last(self, kind: str, key: str) -> KnownState | None:  # noqa: ARG002
        """Return no state."""
        return None

    def kept(self, kind: str) -> Mapping[str, KnownState]:  # noqa: ARG002
        """Return nothing."""
        return {}

    def keep(self, kind: str, thing: SeenThing) -> None:
        """Forget it."""

    def listing(self, kind: str) -> ThingListing:  # noqa: ARG002
        """Begin a listing."""
        return _NoListing()

    def end(self, kind: str, ends: Iterable[tuple[str, datetime]]) -> None:
        """Forget the ends."""


class _NoListing:
    def see(self, things: Sequence[SeenThing]) -> None:
        pass

    def close(self, at: datetime) -> Sequence[LostThing]:  # noqa: ARG002
        return ()

    def abandon(self) -> None:
        pass
