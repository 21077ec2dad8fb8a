"""The cloud record: the use of one server from its creation to a moment, as EGI defines it.

**Wire form.** ``APEL-cloud-message`` v0.4 and v0.2, byte for byte as cASO 5 writes them: a header
line, then records of ``Key: value`` lines, sorted by key and separated by ``%%``; one newline at
the end and no final separator. A field without a value is left out; EndTime is 0 while the server
lives. Durations are at least one second.

**Faults.** The repository refuses a whole message for one bad record, so a record with a fault goes
to the quarantine before it is spooled. The limits of texts and numbers are those of APEL 2.5.0's
record class and database. Where APEL accepts nonsense (negative durations, completed without an
end, times in the future), this module does not.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from appliance.core.version import __version__
from caso.kinds.kind import Checked, RecordKind

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
    cpu_count: int
    memory: int
    """MiB."""
    disk: int
    """GB."""
    name: str = ""
    user_name: str | None = None
    public_ips: int = 0
    image: str | None = None
    benchmark: Benchmark | None = None
    cloud_type: str = CLOUD_TYPE

    @property
    def key(self) -> str:
        """Return the id of the server."""
        return self.vm_uuid

    @property
    def amount(self) -> int:
        """Return the seconds of wall time."""
        return self.wall // timedelta(seconds=1)

    @property
    def cpu(self) -> timedelta:
        """Return the CPU time: of all allotted cores, whether they were busy or not."""
        return self.wall * self.cpu_count

    @property
    def measured(self) -> datetime:
        """Return the moment by which the repository chooses the month of the record."""
        return (
            self.end
            if self.end is not None and self.status is ServerStatus.COMPLETED
            else self.start + self.wall
        )


SEPARATOR = "%%"
VERSIONS = ("0.4", "0.2")

# v0.2 has no such fields: it is the form of the messenger ssmv2, which cASO dropped in 4.0.0.
_ONLY_IN_V04 = ("Benchmark", "BenchmarkType", "CloudComputeService", "PublicIPCount")


def message(records: Sequence[str], *, version: str = "0.4") -> bytes:
    """Return a message of rendered records."""
    return (f"APEL-cloud-message: v{version}\n" + f"\n{SEPARATOR}\n".join(records) + "\n").encode(
        "utf-8"
    )


def render(record: CloudRecord, *, version: str = "0.4") -> str:
    """Return one record's lines, without a newline at the end."""
    return "\n".join(
        f"{name}: {value}" for name, value in sorted(fields(record, version=version).items())
    )


def fields(record: CloudRecord, *, version: str = "0.4") -> dict[str, str]:
    """Return the fields of a record that have a value, by their names on the wire."""
    benchmark = record.benchmark
    values: dict[str, object] = {
        "VMUUID": record.vm_uuid,
        "SiteName": record.site,
        "CloudComputeService": record.service,
        "MachineName": record.name or None,
        "LocalUserId": record.user_id or None,
        "LocalGroupId": record.project_id,
        "GlobalUserName": record.user_name,
        "FQAN": record.vo,
        "Status": record.status,
        "StartTime": _epoch(record.start),
        "EndTime": _epoch(record.end) if record.end else 0,
        "WallDuration": _seconds(record.wall),
        "CpuDuration": _seconds(record.cpu),
        "CpuCount": record.cpu_count,
        "Memory": record.memory,
        "Disk": record.disk,
        "PublicIPCount": record.public_ips,
        "ImageId": record.image,
        "CloudType": record.cloud_type,
        "Benchmark": float(benchmark.value) if benchmark else None,
        "BenchmarkType": benchmark.type if benchmark else None,
    }
    left_out = _ONLY_IN_V04 if version == "0.2" else ()
    return {
        name: str(value)
        for name, value in values.items()
        if value is not None and name not in left_out
    }


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp())


def _seconds(duration: timedelta) -> int:
    # At least 1, as in cASO since 5.2.1.
    return max(1, int(duration.total_seconds()))


CLOCK_TOLERANCE = timedelta(days=2)
"""How far a time may be in the future: clocks differ, and a wrong time zone is up to a day."""

_TEXT = re.compile(r"[ -~]{0,255}")
_MISSING = ("", "none", "null")
_LONGEST_BENCHMARK_TYPE = 50
_LARGEST_BENCHMARK = 9_999_999.999
_INT = 2**31
_BIGINT = 2**63
_CPU_COUNT = 10_000_000


def faults(record: CloudRecord, *, now: datetime) -> list[str]:
    """Return the faults of a record, a few words each; empty when it may be sent."""
    return [*_of_texts(record), *_of_numbers(record), *_of_times(record, now)]


def _of_texts(record: CloudRecord) -> Iterator[str]:
    texts = {
        "VMUUID": record.vm_uuid,
        "SiteName": record.site,
        "CloudComputeService": record.service,
        "MachineName": record.name,
        "LocalUserId": record.user_id,
        "LocalGroupId": record.project_id,
        "GlobalUserName": record.user_name or "",
        "FQAN": record.vo,
        "ImageId": record.image or "",
        "CloudType": record.cloud_type,
        "BenchmarkType": record.benchmark.type if record.benchmark else "",
    }
    for name, text in texts.items():
        if not _TEXT.fullmatch(text) or "%%" in text:
            yield f"{name} is longer than 255 characters, or has %% or other than printable ASCII"
    for name in ("VMUUID", "SiteName", "FQAN"):
        if texts[name].strip().lower() in _MISSING:
            yield f"{name} is missing"
    if len(texts["BenchmarkType"]) > _LONGEST_BENCHMARK_TYPE:
        yield "BenchmarkType is longer than 50 characters"


def _of_numbers(record: CloudRecord) -> Iterator[str]:
    limits = {
        "CpuCount": (record.cpu_count, _CPU_COUNT),
        "Memory": (record.memory, _BIGINT),
        "Disk": (record.disk, _BIGINT),
        "PublicIPCount": (record.public_ips, _INT),
        "CpuDuration": (record.cpu // timedelta(seconds=1), _BIGINT),
    }
    for name, (number, limit) in limits.items():
        if not 0 <= number < limit:
            yield f"{name} is {number}"
    if record.benchmark and not 0 < record.benchmark.value <= _LARGEST_BENCHMARK:
        yield f"Benchmark is {record.benchmark.value}"


def _of_times(record: CloudRecord, now: datetime) -> Iterator[str]:
    latest = now + CLOCK_TOLERANCE
    if record.start.timestamp() <= 0 or record.start > latest:
        yield f"StartTime {record.start.isoformat()} cannot be the creation of a server"
    if record.end is not None and not record.start <= record.end <= latest:
        yield f"EndTime {record.end.isoformat()} is before StartTime or in the future"
    if record.status is ServerStatus.COMPLETED and record.end is None:
        yield "completed, but without EndTime"
    if record.wall < timedelta(0) or record.start + record.wall > latest:
        yield f"WallDuration {record.wall} is negative or reaches into the future"


def check(record: CloudRecord, now: datetime) -> Checked[CloudRecord]:
    """Return the record with its faults."""
    return Checked(record, faults=tuple(faults(record, now=now)))


def describe(wall: int) -> str:
    """Return a sum of wall seconds for people."""
    return f"{wall / 3600:.1f} h of wall time since the servers' creation"


def kind(version: str = "0.4") -> RecordKind[CloudRecord]:
    """Return the kind with the wire form of a version."""
    return RecordKind(
        name="cloud",
        title=f"cloud v{version}",
        things="servers",
        describe=describe,
        check=check,
        fields=partial(fields, version=version),
        render=partial(render, version=version),
        compose=partial(message, version=version),
    )
