"""Faults for which the repository would refuse a record, or accept and lose it.

The repository refuses a whole message for one bad record, so a record with a fault goes to the
quarantine before it is spooled. The limits of texts and numbers are those of APEL 2.5.0's record
class and database. Where APEL accepts nonsense (negative durations, completed without an end, times
in the future), this module does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from caso.records import CloudRecord, ServerStatus

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
