"""The cloud record: the use of one server from its creation to a moment, as EGI defines it.

**Wire form.** ``APEL-cloud-message`` v0.4 and v0.2, byte for byte as cASO 5 writes them: a header
line, then records of ``Key: value`` lines, sorted by key and separated by ``%%``; one newline at
the end and no final separator. A field without a value is left out; EndTime is 0 while the server
lives. Durations are at least one second.

**Faults.** The repository refuses a whole message for one bad record, so a record with a fault goes
to the quarantine before it is spooled. Where APEL accepts nonsense (negative durations, completed
without an end, times in the future), this module does not. An optional field that cannot be sent is
left out, because a server's hours do not depend on its name, image or benchmark.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from appliance.core.version import __version__
from caso.kinds import limits
from caso.kinds.kind import Checked, LastSight, RecordKind, RecordLife
from caso.kinds.months import SECOND, ExtractionWindow, cuts

CLOUD_TYPE = f"egi-fedcloud-appliance/{__version__} (OpenStack)"


class ServerStatus(enum.StrEnum):
    """The status of a server.

    The repository reads only `COMPLETED`: the end time counts then.
    """

    STARTED = "started"
    COMPLETED = "completed"
    ERROR = "error"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The speed of one core of a flavor."""

    type: str
    value: float


@dataclass(frozen=True, slots=True)
class CloudRecord:
    """The use of one server, cumulative since ``start``. Times are whole seconds, aware, in UTC.

    `fields` has their names on the wire.
    """

    vm_uuid: str
    site: str
    service: str
    vo: str
    project_id: str
    user_id: str
    status: ServerStatus
    start: datetime
    end: datetime | None
    """None while the server lives."""
    wall: timedelta
    cpu_count: int | Decimal
    memory: int | None
    """MiB."""
    disk: int | None
    """GB."""
    name: str = ""
    user_name: str | None = None
    suspended: timedelta | None = None
    """Time without use since ``start``, which ``wall`` does not have; None if not asked for."""
    public_ips: int | None = 0
    image: str | None = None
    benchmark: Benchmark | None = None
    cloud_type: str = CLOUD_TYPE
    charged: timedelta | None = None
    """CPU time of a server that had other numbers of cores before; None: wall time by cores."""

    @property
    def key(self) -> str:
        """Return the id of the server."""
        return self.vm_uuid

    @property
    def amount(self) -> int:
        """Return the seconds of wall time."""
        return self.wall // SECOND

    @property
    def progress(self) -> int:
        """Return the amount, which only grows."""
        return self.amount

    @property
    def cpu(self) -> timedelta:
        """Return the CPU time: of all allotted cores, whether they were busy or not."""
        return timedelta(seconds=self.cpu_seconds)

    @property
    def cpu_seconds(self) -> int:
        """Return the CPU time in whole seconds."""
        if self.charged is not None:
            return self.charged // SECOND
        return int((self.wall // SECOND) * self.cpu_count)

    @property
    def measured(self) -> datetime:
        """Return the moment by which the repository chooses the month of the record."""
        if self.end is not None and self.status is ServerStatus.COMPLETED:
            return self.end
        reached = self.start + self.wall
        return reached if self.suspended is None else reached + self.suspended


SEPARATOR = "%%"

# v0.2 has no such fields: it is the form of the messenger ssmv2, which cASO dropped in 4.0.0.
_ONLY_IN_V04 = ("Benchmark", "BenchmarkType", "CloudComputeService", "PublicIPCount")
_DURATIONS = ("CpuDuration", "WallDuration")
_SORTED = (
    *("Benchmark", "BenchmarkType", "CloudComputeService", "CloudType", "CpuCount", "CpuDuration"),
    *("Disk", "EndTime", "FQAN", "GlobalUserName", "ImageId", "LocalGroupId", "LocalUserId"),
    *("MachineName", "Memory", "PublicIPCount", "SiteName", "StartTime", "Status"),
    *("SuspendDuration", "VMUUID", "WallDuration"),
)
"""All fields in the order of a message: a sort of each record would cost more than its text."""
_SORTED_IN_V02 = tuple(name for name in _SORTED if name not in _ONLY_IN_V04)


def message(records: Sequence[str], *, version: str = "0.4") -> bytes:
    """Return a message of rendered records."""
    return (f"APEL-cloud-message: v{version}\n" + f"\n{SEPARATOR}\n".join(records) + "\n").encode(
        "utf-8"
    )


def render(record: CloudRecord, *, version: str = "0.4") -> str:
    """Return one record's lines, without a newline at the end."""
    values = _values(record)
    for name in _DURATIONS:  # at least 1 in messages alone, as in cASO since 5.2.1
        values[name] = values[name] or 1
    names = _SORTED if version != "0.2" else _SORTED_IN_V02
    return "\n".join([f"{name}: {values[name]}" for name in names if values[name] is not None])


def fields(record: CloudRecord, *, version: str = "0.4") -> Mapping[str, object]:
    """Return the fields of a record that have a value, by their names on the wire."""
    left_out = _ONLY_IN_V04 if version == "0.2" else ()
    return {
        name: value
        for name, value in _values(record).items()
        if value is not None and name not in left_out
    }


def _values(record: CloudRecord) -> dict[str, object]:
    benchmark = record.benchmark
    return {
        "VMUUID": record.vm_uuid,
        "SiteName": record.site,
        "CloudComputeService": record.service,
        "MachineName": record.name or None,
        "LocalUserId": record.user_id or None,
        "LocalGroupId": record.project_id or None,
        "GlobalUserName": record.user_name,
        "FQAN": record.vo,
        "Status": str(record.status),
        "StartTime": _epoch(record.start),
        "EndTime": _epoch(record.end) if record.end else 0,
        "SuspendDuration": None if record.suspended is None else record.suspended // SECOND,
        "WallDuration": record.amount,
        "CpuDuration": record.cpu_seconds,
        "CpuCount": limits.count(record.cpu_count),
        "Memory": record.memory,
        "Disk": record.disk,
        "PublicIPCount": record.public_ips,
        "ImageId": record.image,
        "CloudType": record.cloud_type,
        "Benchmark": float(benchmark.value) if benchmark else None,
        "BenchmarkType": benchmark.type if benchmark else None,
    }


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp())


_LONGEST_BENCHMARK_TYPE = 50
_TEXTS = ("name", "user_id", "project_id")
"""The optional fields that are empty, not None, without a value."""


def check(record: CloudRecord, now: datetime) -> Checked[CloudRecord]:
    """Return the record without its unusable optional fields, and its faults."""
    kept, dropped = limits.leave_out(record, _of_optional_fields(record), empty=_TEXTS)
    return Checked(kept, dropped, limits.found(_faults(kept, now)))


def _of_optional_fields(record: CloudRecord) -> Mapping[str, str]:
    # A server's hours do not depend on these, and the repository takes records without them.
    return {
        "name": limits.text("MachineName", record.name),
        "user_id": limits.text("LocalUserId", record.user_id),
        "project_id": limits.text("LocalGroupId", record.project_id),
        "user_name": limits.text("GlobalUserName", record.user_name or ""),
        "image": limits.text("ImageId", record.image or ""),
        "memory": limits.number("Memory", record.memory or 0, below=limits.BIGINT),
        "disk": limits.number("Disk", record.disk or 0, below=limits.BIGINT),
        "public_ips": limits.number("PublicIPCount", record.public_ips or 0, below=limits.INT),
        "benchmark": _of_benchmark(record.benchmark),
    }


def _of_benchmark(benchmark: Benchmark | None) -> str:
    if benchmark is None:
        return ""
    if wrong := limits.text("BenchmarkType", benchmark.type, longest=_LONGEST_BENCHMARK_TYPE):
        return wrong
    if not benchmark.type or benchmark.value <= 0:
        return f"Benchmark is {benchmark.type!r} {benchmark.value}"
    return limits.number("Benchmark", benchmark.value, below=limits.DECIMAL - 0.0005)


def _faults(record: CloudRecord, now: datetime) -> Sequence[str]:
    return (
        limits.required("VMUUID", record.vm_uuid),
        limits.required("SiteName", record.site),
        limits.required("FQAN", record.vo),
        limits.text("CloudComputeService", record.service),
        limits.text("CloudType", record.cloud_type),
        limits.number("CpuCount", record.cpu_count, below=limits.DECIMAL),
        limits.number("CpuDuration", record.cpu_seconds, below=limits.BIGINT),
        *_of_times(record, now),
    )


def _of_times(record: CloudRecord, now: datetime) -> Iterator[str]:
    latest = now + limits.CLOCK_TOLERANCE
    yield limits.moment("StartTime", record.start, now=now)
    if record.end is not None and not record.start <= record.end <= latest:
        yield f"EndTime {record.end.isoformat()} is before StartTime or in the future"
    if record.status is ServerStatus.COMPLETED and record.end is None:
        yield "completed, but without EndTime"
    if record.wall < timedelta(0) or record.start + record.wall > latest:
        yield f"WallDuration {record.wall} is negative or reaches into the future"


def describe(wall: int) -> str:
    """Return a sum of wall seconds for people."""
    return f"{wall / 3600:.1f} h of wall time since the servers' creation"


def _raised(record: CloudRecord, wall: int) -> CloudRecord:
    reached = timedelta(seconds=wall)
    elapsed = reached + (record.suspended or timedelta(0))
    end = None if record.end is None else record.start + elapsed
    charged = record.charged
    if charged is not None:
        charged += timedelta(seconds=int((wall - record.amount) * record.cpu_count))
    return replace(record, wall=reached, end=end, charged=charged)


def _charged(record: CloudRecord, wall: int, cpu: int) -> CloudRecord:
    own = wall * record.cpu_count if record.charged is None else record.cpu_seconds
    if cpu <= own:
        return record
    # The earlier cores are not known any more, so it goes on from what was delivered.
    grown = int(max(record.amount - wall, 0) * record.cpu_count)
    return replace(record, charged=timedelta(seconds=cpu + grown))


def _facts(record: CloudRecord) -> dict[str, object]:
    benchmark = record.benchmark
    return {
        "cpu_count": record.cpu_count,
        "memory": record.memory,
        "disk": record.disk,
        "image": record.image,
        "benchmark": [benchmark.type, benchmark.value] if benchmark else None,
    }


def _closed(last: LastSight) -> Iterator[CloudRecord]:
    """Yield the records up to the moment when a listing showed the server last."""
    facts = last.facts
    start = last.measured - last.amount * SECOND
    until = max(last.until, last.measured).replace(microsecond=0)
    cores = facts["cpu_count"]
    earlier = last.amount * cores if last.cpu is None else last.cpu
    for cut in cuts(start, until, ExtractionWindow(last.measured, until)):
        yield CloudRecord(
            vm_uuid=last.key,
            site=last.site,
            service=last.service,
            vo=last.vo,
            project_id=last.project_id,
            user_id=last.user_id or "",
            status=ServerStatus.COMPLETED if cut.has_ended else ServerStatus.STARTED,
            start=start,
            end=cut.until if cut.has_ended else None,
            wall=cut.until - start,
            cpu_count=cores,
            charged=timedelta(seconds=int(earlier + (cut.until - last.measured) // SECOND * cores)),
            memory=facts["memory"],
            disk=facts["disk"],
            image=facts["image"],
            benchmark=Benchmark(*facts["benchmark"]) if facts["benchmark"] else None,
        )


_LIFE: RecordLife[CloudRecord] = RecordLife(
    has_ended=lambda record: record.status is ServerStatus.COMPLETED,
    raised=_raised,
    charged=_charged,
    facts=_facts,
    closed=_closed,
)


def kind(version: str = "0.4") -> RecordKind[CloudRecord]:
    """Return the kind with the wire form of a version."""
    return RecordKind(
        name="cloud",
        title=f"cloud v{version}",
        things="servers",
        record=CloudRecord,
        describe=describe,
        check=check,
        fields=partial(fields, version=version),
        render=partial(render, version=version),
        compose=partial(message, version=version),
        user=lambda record: record.user_id or None,
        cpu=lambda record: record.cpu_seconds,
        is_cumulative=True,
        life=_LIFE,
    )


KIND = kind()
