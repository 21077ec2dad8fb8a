"""Time as this project uses it: aware, in UTC, and taken from one function."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DATE_OF_MAIL = re.compile(r"[A-Z][a-z]{2}, ")
_NAMED_UTC = re.compile(r"\s+(?:UTC|GMT)$")


def now() -> datetime:
    """Return the current time, aware and in UTC."""
    return datetime.now(UTC)


class Uptime(NamedTuple):
    """How long this machine has run, which no change of its clock affects.

    Two of them can be compared if they have the same ``boot``; it is empty if unknown.
    """

    boot: str
    length: timedelta


def uptime() -> Uptime:
    """Return how long this machine has run, with the time in which it was suspended."""
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = ""
    return Uptime(boot, timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME)))


class Moment(NamedTuple):
    """A time by two clocks: that of the machine's uptime, and the calendar's."""

    uptime: Uptime
    at: datetime

    @classmethod
    def now(cls) -> Moment:
        """Return the current moment."""
        return cls(uptime(), now())

    def is_of_boot(self, earlier: Moment) -> bool:
        """Return whether the machine has certainly not been restarted since."""
        return bool(self.uptime.boot) and self.uptime.boot == earlier.uptime.boot

    def since(self, earlier: Moment, *, over_restart: timedelta) -> timedelta:
        """Return how much time has certainly passed: the calendar's clock may have been set.

        Over a restart of the machine only the calendar is known, and counts for ``over_restart``
        at most.
        """
        if self.is_of_boot(earlier):
            return max(self.uptime.length - earlier.uptime.length, timedelta())
        return min(max(self.at - earlier.at, timedelta()), over_restart)


def parse(text: str) -> datetime:
    """Return the moment that a text names, in UTC; a text without a zone means UTC.

    Besides ISO 8601, cASO's users write what ``date -u`` and ``date -R`` print: ``UTC`` after the
    time, and the form of mail headers (RFC 5322, 3.3).

    Raises:
        ValueError: the text names no moment that Python can represent.

    """
    # Services write neither form, and a run of accounting reads hundreds of thousands of times.
    if text[:1].isalpha() and _DATE_OF_MAIL.match(text):
        from email.utils import parsedate_to_datetime  # noqa: PLC0415  start-up is a cost

        moment = parsedate_to_datetime(text)
    else:
        is_named = text.endswith(("UTC", "GMT"))
        moment = datetime.fromisoformat(_NAMED_UTC.sub("+00:00", text) if is_named else text)
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:  # a zone may move the first or last day out of the calendar
        raise ValueError(f"{text!r} is out of the calendar") from error
