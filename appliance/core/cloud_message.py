"""Cloud records as messages carry them, read: APEL's text form, versions 0.2 to 0.4.

    APEL-cloud-message: v0.4        a header
    CpuCount: 2                     fields of a record, sorted or not
    …
    %%                              between records; APEL accepts one at the end as well

Messages come from spools, so any bytes are read, and only numbers and ids are looked for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from appliance.core import clock

_HEADER = re.compile(rb"\s*APEL-cloud-message:[^\n]*\n")
_SEPARATOR = re.compile(rb"\n%%[ \t\r]*(?=\n|\Z)")
_FIELDS = re.compile(
    rb"\n(CpuCount|CpuDuration|EndTime|FQAN|LocalGroupId|RecordCreateTime|StartTime|Status"
    rb"|SuspendDuration|VMUUID|WallDuration):([^\n]*)"
)
"""The fields of a record that are read; one expression is twice as fast as a search for each."""
_LARGEST = 2**63 - 1
_UNREADABLE = (ValueError, OverflowError, OSError)
"""What a record of any content can raise: times and numbers out of range among them."""


@dataclass(frozen=True, slots=True)
class CloudUsage:
    """The figures of one record. Times are seconds since the epoch, durations seconds."""

    uuid: str
    project: str
    vo: str
    status: str
    start: int
    end: int
    """0 while the server lives."""
    wall: int
    cpu: int
    cores: float
    measured: int
    """The moment by which the repository chooses the month."""
    suspended: int = 0

    @property
    def age(self) -> int:
        """Return the time from the start to the end of what the record counts."""
        return self.suspended + self.wall

    @property
    def month(self) -> str:
        """Return the month in which the repository counts the record, as ``2026-11``."""
        return month_of(self.measured)

    @property
    def has_ended(self) -> bool:
        """Check whether the record is the last one of a server."""
        return self.status == "completed"


@dataclass(frozen=True, slots=True)
class CloudUsages:
    """The records of a message that could be read, and the number of those that could not."""

    records: tuple[CloudUsage, ...] = ()
    unread: int = 0


def read(text: bytes) -> CloudUsages | None:
    """Return the figures of a message's records; None if it is no message of cloud records."""
    if not is_cloud(text):
        return None
    found: list[CloudUsage] = []
    unread = 0
    for record in split(text):
        try:
            found.append(_usage(record))
        except _UNREADABLE:
            unread += 1
    return CloudUsages(tuple(found), unread)


def is_cloud(text: bytes) -> bool:
    """Check whether a message has cloud records."""
    return bool(_HEADER.match(text))


def split(text: bytes) -> Iterator[bytes]:
    """Yield the records of a message of cloud records, each with a line end before it."""
    rest = text[text.index(b"\n", text.index(b"APEL")) :]
    for record in _SEPARATOR.split(rest):
        if record.strip():
            yield record


def fields(record: bytes) -> dict[bytes, bytes]:
    """Return the fields of a record that are read here; of several, the last counts, as at APEL."""
    return dict(_FIELDS.findall(record))


def text_of(found: Mapping[bytes, bytes], name: bytes) -> str:
    """Return a field as text, empty if the record does not have it."""
    return found.get(name, b"").strip().decode()


def measured(found: Mapping[bytes, bytes]) -> int:
    """Return the moment by which the repository chooses the month of a record.

    Raises:
        ValueError, OverflowError: the record has no such moment.

    """
    if text_of(found, b"Status") == "completed":
        return moment(text_of(found, b"EndTime"))
    if made := text_of(found, b"RecordCreateTime"):
        return moment(made)
    begin, wall = moment(text_of(found, b"StartTime")), int(text_of(found, b"WallDuration"))
    return begin + int(text_of(found, b"SuspendDuration") or 0) + wall


def moment(text: str) -> int:
    """Return a time in seconds since the epoch: a whole number of them, or ISO 8601."""
    return int(text) if text.lstrip("-").isdecimal() else int(clock.parse(text).timestamp())


def month_of(seconds: int) -> str:
    """Return the month of a moment in UTC, as ``2026-11``.

    Raises:
        ValueError, OverflowError, OSError: no calendar has the moment, or it is before 1970.

    """
    if seconds <= 0:
        raise ValueError("not a time of use")
    return _month_of_day(seconds // 86_400)


@functools.lru_cache(maxsize=4096)
def _month_of_day(day: int) -> str:
    return f"{datetime.fromtimestamp(day * 86_400, UTC):%Y-%m}"


def _usage(record: bytes) -> CloudUsage:
    found = fields(record)
    uuid = text_of(found, b"VMUUID")
    if not uuid or not uuid.isprintable():
        raise ValueError("no id")
    usage = CloudUsage(
        uuid,
        project=text_of(found, b"LocalGroupId"),
        vo=text_of(found, b"FQAN"),
        status=text_of(found, b"Status"),
        start=moment(text_of(found, b"StartTime")),
        end=moment(text_of(found, b"EndTime") or "0"),
        wall=int(text_of(found, b"WallDuration")),
        cpu=int(text_of(found, b"CpuDuration") or 0),
        cores=float(text_of(found, b"CpuCount") or 0),
        measured=measured(found),
        suspended=int(text_of(found, b"SuspendDuration") or 0),
    )
    month_of(usage.measured)
    figures = (usage.start, usage.end, usage.wall, usage.suspended, usage.cpu, usage.cores)
    if not all(0 <= figure <= _LARGEST for figure in figures) or not usage.start:
        raise ValueError("out of range")
    return usage
