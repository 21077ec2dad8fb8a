"""The storage record: the provisioned size of one volume in one month, as EMI StAR.

**Wire form.** A StAR document, byte for byte as cASO 5 writes it: one element
``StorageUsageRecords`` without an XML declaration, with a ``StorageUsageRecord`` for each record.
The size is in bytes. Two things differ from cASO, because its records replace each other at the
repository: times are UTC and end in Z, and the id names the volume and the month.

**Month rule.** A record is about one month: from the month's beginning, or the volume's, to the
window's end or 23:59:59 of the last day, because the repository takes the month of EndTime. A later
run in the same month sends the same id with a later EndTime, and the repository replaces the
record.

**Segments.** Cinder keeps no history, so the caller says from when on a volume had which size and
owner. A month in which that changed has one record for each of its values:

    size      20 GiB          | 50 GiB
    project   A               | A            | B
              1 Nov           15 Nov         20 Nov                30 Nov
    records   UUID-202611     |              |
                              UUID-20261115T093000Z
                                             UUID-20261120T110000Z

**Faults.** APEL 2.5.0 refuses a record without id, system, times or size. Its columns hold 255
characters and a size below 2^63.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from caso.kinds import limits
from caso.kinds.cloud import CLOUD_TYPE
from caso.kinds.kind import Checked, RecordKind
from caso.kinds.months import SECOND, ExtractionWindow, cuts

NAMESPACE = "http://eu-emi.eu/namespaces/2011/02/storagerecord"
STORAGE_TYPE = "Block Storage (cinder)"
_GIB = 2**30
_MOMENT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class StorageRecord:
    """The use of one volume from ``start`` to ``end``, whole seconds in one month, in UTC."""

    volume_id: str
    segment: str
    """The month, or the start of a later segment in it: the part of the id after the volume's."""
    site: str
    service: str
    vo: str
    project_id: str
    user_id: str
    size: int
    """GiB."""
    start: datetime
    end: datetime
    created: datetime
    """When the volume was created."""
    status: str = ""
    """Cinder's, such as ``in-use``."""
    name: str = ""
    user_name: str | None = None
    attached_to: str | None = None
    """The id of the server."""
    attached: timedelta | None = None
    """The part of the time in which it was attached."""
    cloud_type: str = CLOUD_TYPE

    @property
    def record_id(self) -> str:
        """Return the id at the repository: no other volume, month or segment has it."""
        return f"{self.volume_id}-{self.segment}"

    @property
    def key(self) -> str:
        """Return the volume; a later segment of a month has its start beside it."""
        is_first = self.segment == f"{self.end:%Y%m}"
        return self.volume_id if is_first else f"{self.volume_id}/{self.segment}"

    @property
    def measured(self) -> datetime:
        """Return the end, by which the repository chooses the month."""
        return self.end

    @property
    def amount(self) -> int:
        """Return the seconds between start and end."""
        return (self.end - self.start) // SECOND

    @property
    def progress(self) -> int:
        """Return the amount, which only grows."""
        return self.amount


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What a volume was for some time."""

    since: datetime
    until: datetime | None
    """None: until now."""
    size: int
    """GiB."""
    user_id: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a month in which a volume had one state."""

    name: str
    start: datetime
    end: datetime
    state: VolumeState


def segments(
    states: Sequence[VolumeState], born: datetime, window: ExtractionWindow
) -> Iterator[Segment]:
    """Yield the segments of a volume in the months that the window touches, oldest first.

    ``states`` are those that it had in one project, in the order of time. It was ``born`` with the
    first one, or earlier in another project. A segment shorter than a second is left out.
    """
    # The months come first. Then a state that ended before the window, but in one of its months, is
    # in the result as well: a month is always sent whole.
    for cut in cuts(states[0].since, states[-1].until, window):
        first = max(born.replace(microsecond=0), cut.month)
        for state in states:
            start = max(cut.month, state.since.replace(microsecond=0))
            end = cut.until
            if state.until is not None:
                end = min(end, state.until.replace(microsecond=0))
            if start < end:
                name = f"{cut.month:%Y%m}" if start <= first else f"{start:{_MOMENT}}"
                yield Segment(name, start, end, state)


def segment_start(name: str) -> datetime | None:
    """Return the start of a later segment of a month, by its name; None for any other name."""
    try:
        return datetime.strptime(name, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None


def fields(record: StorageRecord) -> Mapping[str, object]:
    """Return the fields of a record that have a value, by their names in cASO's JSON."""
    values: dict[str, object] = {
        "SiteName": record.site,
        "CloudType": record.cloud_type,
        "CloudComputeService": record.service,
        "VolumeUUID": record.volume_id,
        "RecordName": record.name,
        "LocalUser": record.user_id,
        "GlobalUserName": record.user_name,
        "LocalGroup": record.project_id,
        "FQAN": record.vo,
        "ActiveDuration": record.amount,
        "AttachedDuration": record.attached.total_seconds() if record.attached else None,
        "AttachedTo": record.attached_to,
        "Type": STORAGE_TYPE,
        "Status": record.status,
        "Capacity": record.size,
        "StartTime": int(record.start.timestamp()),
        "CreateTime": int(record.end.timestamp()),
        "VolumeCreationTime": int(record.created.timestamp()),
    }
    return {name: value for name, value in values.items() if value is not None}


def render(record: StorageRecord) -> str:
    """Return the element of one record, whose prefix `compose` declares."""
    end, start = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (record.end, record.start))
    identity = f'sr:createTime="{end}" sr:recordId="{html.escape(record.record_id)}"'
    subject = [
        _element("LocalUser", record.user_id),
        _element("LocalGroup", record.project_id),
        _element("UserIdentity", record.user_name) if record.user_name else "",
        _element("Group", record.vo),
    ]
    parts = [
        f"<sr:RecordIdentity {identity} />",
        _element("StorageSystem", record.service),
        _element("Site", record.site),
        f"<sr:SubjectIdentity>{''.join(subject)}</sr:SubjectIdentity>",
        _element("StartTime", start),
        _element("EndTime", end),
        _element("ResourceCapacityUsed", str(record.size * _GIB)),
    ]
    return f"<sr:StorageUsageRecord>{''.join(parts)}</sr:StorageUsageRecord>"


def _element(name: str, text: str) -> str:
    # Empty elements as Python's XML library writes them, which is what cASO uses.
    if not text:
        return f"<sr:{name} />"
    return f"<sr:{name}>{html.escape(text, quote=False)}</sr:{name}>"


def compose(records: Sequence[str]) -> bytes:
    """Return a message of rendered records."""
    root = "sr:StorageUsageRecords"
    return f'<{root} xmlns:sr="{NAMESPACE}">{"".join(records)}</{root}>'.encode("ascii")


def check(record: StorageRecord, now: datetime) -> Checked[StorageRecord]:
    """Return the record without its unusable optional fields, and its faults."""
    kept, dropped = limits.leave_out(
        record,
        {
            "user_id": limits.text("LocalUser", record.user_id),
            "project_id": limits.text("LocalGroup", record.project_id),
            "user_name": limits.text("UserIdentity", record.user_name or ""),
            "name": limits.text("RecordName", record.name),
            "status": limits.text("Status", record.status),
            "attached_to": limits.text("AttachedTo", record.attached_to or ""),
        },
        empty=("user_id", "project_id", "name", "status"),
    )
    return Checked(kept, dropped, limits.found(_faults(kept, now)))


def _faults(record: StorageRecord, now: datetime) -> Iterator[str]:
    yield limits.required("RecordId", record.record_id)
    yield limits.required("StorageSystem", record.service)
    yield limits.required("Site", record.site)
    yield limits.required("Group", record.vo)
    yield limits.text("CloudType", record.cloud_type)
    yield limits.number("ResourceCapacityUsed", record.size * _GIB, below=limits.BIGINT)
    yield limits.moment("StartTime", record.start, now=now)
    yield limits.moment("EndTime", record.end, now=now)
    if record.start > record.end:
        yield f"EndTime {record.end.isoformat()} is before StartTime"


def describe(seconds: int) -> str:
    """Return a sum of seconds for people."""
    return f"{seconds / 3600:.1f} h of volumes in the month"


KIND = RecordKind(
    name="storage",
    title="volumes, StAR",
    things="volumes",
    record=StorageRecord,
    describe=describe,
    check=check,
    fields=fields,
    render=render,
    compose=compose,
    user=lambda record: record.user_id or None,
)
