"""Cloud records as text: ``APEL-cloud-message`` v0.4 and v0.2, byte for byte as cASO 5 writes them.

A header line, then records of ``Key: value`` lines, sorted by key and separated by ``%%``; one
newline at the end and no final separator. A field without a value is left out; EndTime is 0 while
the server lives. Durations are at least one second.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from caso.records import CloudRecord

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
