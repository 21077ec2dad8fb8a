"""The moment that decides to which month a record belongs: APEL's loader reads it like this."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from caso.kinds.cloud import Benchmark, CloudRecord, ServerStatus, fields, render

START = datetime(2026, 10, 31, 23, 0, tzinfo=UTC)
END = datetime(2026, 11, 1, 2, 0, tzinfo=UTC)
WALL = timedelta(minutes=30)


def record(status: ServerStatus, end: datetime | None) -> CloudRecord:
    return CloudRecord(
        vm_uuid="vm",
        site="SITE",
        service="service",
        vo="vo",
        project_id="project",
        user_id="user",
        status=status,
        start=START,
        end=end,
        wall=WALL,
        cpu_count=4,
        memory=1024,
        disk=10,
    )


@pytest.mark.parametrize(
    ("status", "end", "measured"),
    [
        (ServerStatus.COMPLETED, END, END),
        (ServerStatus.COMPLETED, None, START + WALL),
        (ServerStatus.STARTED, None, START + WALL),
        (ServerStatus.ERROR, END, START + WALL),  # the end counts with `completed` alone
    ],
)
def test_which_moment_counts(
    status: ServerStatus, end: datetime | None, measured: datetime
) -> None:
    assert record(status, end).measured == measured


def test_absent_values_are_left_out() -> None:
    made = record(ServerStatus.STARTED, None)
    assert (made.public_ips, made.user_name, made.image, made.benchmark) == (0, None, None, None)
    assert made.cpu == timedelta(hours=2)


# APEL 2.5.0's record class, less what Nova cannot tell: networks, storage, the record's own time.
FIELDS = {
    *("VMUUID", "SiteName", "CloudComputeService", "MachineName", "LocalUserId", "LocalGroupId"),
    *("GlobalUserName", "FQAN", "Status", "StartTime", "EndTime", "SuspendDuration"),
    *("WallDuration", "CpuDuration", "CpuCount", "PublicIPCount", "Memory", "Disk"),
    *("BenchmarkType", "Benchmark", "ImageId", "CloudType"),
}
YOUNGER = {"CloudComputeService", "BenchmarkType", "Benchmark", "PublicIPCount"}
"""Fields that v0.2 does not have."""


@pytest.mark.parametrize(("version", "wanted"), [("0.4", FIELDS), ("0.2", FIELDS - YOUNGER)])
def test_a_message_has_all_fields_in_the_order_of_their_names(
    version: str, wanted: set[str]
) -> None:
    full = replace(
        record(ServerStatus.COMPLETED, END),
        name="name",
        user_name="user",
        suspended=timedelta(hours=1),
        image="image",
        benchmark=Benchmark("HEPSPEC06", 10.5),
    )
    lines = render(full, version=version).splitlines()
    assert [line.partition(":")[0] for line in lines] == sorted(wanted)
    assert fields(full, version=version).keys() == wanted
