"""The clocks of a cloud's services, compared with this host's.

Each answer was made between our request and its arrival, at the time of its ``Date`` header, which
has whole seconds. So an answer gives two bounds of how far the service's clock is ahead of ours.
The smallest offset within the bounds of all answers counts: a slow answer is no wrong clock. If
a clock is set during a run, no offset fits; then the largest one that an answer proves counts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from appliance.core.run.errors import Unavailable

WARNED = timedelta(seconds=2)
"""A difference that is reported; NTP keeps clocks within milliseconds."""
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_NONE = timedelta(0)


class ClockSkew(Unavailable):
    """A service's clock and this host's differ too much for records to be right."""


class _ClockPlace(NamedTuple):
    service: str
    host: str
    region: str
    """Empty for Keystone, which all regions share, and if no region is chosen."""


@dataclass(slots=True)
class _Bounds:
    least: timedelta
    most: timedelta

    @property
    def offset(self) -> timedelta:
        """Return how far the service's clock is ahead, negative if it is behind."""
        return max(max(self.least, _NONE), min(self.most, _NONE), key=abs)


class Clocks:
    """What the answers of the services say about their clocks; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[_ClockPlace, _Bounds] = {}
        self._has_dates = False
        self._warned: set[_ClockPlace | None] = set()

    def note_date(
        self,
        service: str,
        host: str,
        header: str,
        *,
        sent: datetime,
        received: datetime,
        region: str = "",
    ) -> timedelta | None:
        """Note the header ``Date`` of an answer; return how far it is ahead of its arrival."""
        try:
            shown = parsedate_to_datetime(header).astimezone(UTC)
        except (ValueError, OverflowError):
            return None
        self._has_dates = True
        place = _ClockPlace(service, host, region)
        self._note(place, shown - received, shown + _SECOND - sent)
        return shown - received

    def note_token(
        self, service: str, host: str, issued: datetime, *, sent: datetime, received: datetime
    ) -> None:
        """Note when a token was issued: a time of Keystone that needs no ``Date`` header."""
        self._note(_ClockPlace(service, host, ""), issued - received, issued + _SECOND - sent)

    def offsets(self) -> dict[str, timedelta]:
        """Return how far the clock of each service is surely ahead of ours, negative if behind."""
        with self._lock:
            return {place.service: bounds.offset for place, bounds in self._known.items()}

    def judge(self, limit: timedelta, *, region: str = "") -> list[str]:
        """Return warnings about clocks that differ by two seconds or more, each clock's once.

        Those of Keystone and of a region's services count.

        Raises:
            ClockSkew: one differs by more than ``limit``.

        """
        with self._lock:
            known = {
                place: bounds.offset
                for place, bounds in sorted(self._known.items())
                if place.region in ("", region)
            }
            warned = set(self._warned)
        found: dict[_ClockPlace | None, str] = {}
        for place, offset in known.items():
            if abs(offset) < min(WARNED, limit):
                continue
            subject = f"{place.service} ({place.host})"
            words = f"its clock is {_length(offset)} this host's"
            if abs(offset) > limit:
                remedy = f"set both by NTP (max_clock_skew is {limit.total_seconds():g} s)"
                raise ClockSkew(subject, words, remedy)
            found[place] = f"{subject}: {words}; set both by NTP"
        if not self._has_dates:
            others = ", except for the times of Keystone's tokens" if known else ""
            found[None] = (
                "no answer of the cloud has a Date header, so the clocks of its services and of"
                f" this host are not compared{others}"
            )
        with self._lock:
            self._warned |= found.keys()
        return [line for place, line in found.items() if place not in warned]

    def _note(self, place: _ClockPlace, least: timedelta, most: timedelta) -> None:
        with self._lock:
            bounds = self._known.setdefault(place, _Bounds(least, most))
            bounds.least, bounds.most = max(bounds.least, least), min(bounds.most, most)


def _length(offset: timedelta) -> str:
    length = timedelta(seconds=round(abs(offset).total_seconds()))
    shown = str(length) if length >= _MINUTE else f"{length // _SECOND} s"
    return f"{shown} {'ahead of' if offset > _NONE else 'behind'}"
