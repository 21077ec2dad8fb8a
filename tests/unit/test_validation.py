"""Records that APEL would refuse, or accept and lose; the cases were tried with APEL 2.5.0."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caso.kinds.cloud import Benchmark, CloudRecord, ServerStatus, faults
from caso.kinds.text import fit

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
GOOD = CloudRecord(
    vm_uuid="27acde94-b86d-44f1-b77a-3ae1b7e192a0",
    site="SITE",
    service="CLOUD",
    vo="vo.x",
    project_id="ea12",
    user_id="2598",
    status=ServerStatus.STARTED,
    start=NOW - timedelta(hours=2),
    end=None,
    wall=timedelta(hours=2),
    cpu_count=2,
    memory=2048,
    disk=20,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "none"},  # refused in VMUUID and SiteName only
        {"name": "a: b"},
        {"name": "x" * 255},
        {"benchmark": Benchmark("x" * 50, 9_999_999.999)},
        {"status": ServerStatus.COMPLETED, "end": NOW},
        {"cpu_count": 0, "wall": timedelta(0)},
        {"public_ips": 2**31 - 1},
    ],
)
def test_good(changes: dict[str, Any]) -> None:
    assert faults(replace(GOOD, **changes), now=NOW) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_uuid": ""},
        {"vm_uuid": "None"},
        {"site": "NULL"},
        {"vo": ""},
        {"name": "x" * 256},
        {"name": "a%%b"},
        {"name": "a\nVMUUID: b"},
        {"name": "a\x0bb"},
        {"name": "\u4e2d"},
        {"user_name": "a\x85b"},
        {"benchmark": Benchmark("x" * 51, 1.0)},
        {"benchmark": Benchmark("HS06", 10_000_000.0)},
        {"benchmark": Benchmark("HS06", float("nan"))},
        {"cpu_count": -1},
        {"cpu_count": 10**7},
        {"memory": -1},
        {"disk": 2**63},
        {"public_ips": 2**31},
        {"wall": timedelta(seconds=-1)},
        {"wall": timedelta(days=99)},
        {"start": datetime(1970, 1, 1, tzinfo=UTC), "wall": timedelta(0)},
        {"start": NOW + timedelta(days=3), "wall": timedelta(0)},
        {"status": ServerStatus.COMPLETED},
        {"status": ServerStatus.COMPLETED, "end": NOW - timedelta(hours=3)},
        {"status": ServerStatus.COMPLETED, "end": NOW + timedelta(days=3)},
    ],
)
def test_bad(changes: dict[str, Any]) -> None:
    assert faults(replace(GOOD, **changes), now=NOW)


@given(st.text())
def test_any_name_becomes_one_that_passes(name: str) -> None:
    assert faults(replace(GOOD, name=fit(name), user_name=fit(name)), now=NOW) == []
