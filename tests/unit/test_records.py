"""The moment that decides to which month a record belongs: APEL's loader reads it like this."""

from datetime import UTC, datetime, timedelta

import pytest

from caso.kinds.cloud import CloudRecord, ServerStatus

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
