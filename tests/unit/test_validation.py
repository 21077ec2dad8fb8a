"""Records that APEL would refuse, or accept and lose; the cases were tried with APEL 2.5.0.

Finding F-A2: a field that the repository can do without never costs the hours of a server.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caso.kinds.cloud import Benchmark, CloudRecord, ServerStatus, check, render
from caso.kinds.kind import Checked
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
        {"cpu_count": Decimal("1.5")},
        {"public_ips": 2**31 - 1},
    ],
)
def test_good(changes: dict[str, Any]) -> None:
    record = replace(GOOD, **changes)
    assert check(record, NOW) == Checked(record)


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_uuid": ""},
        {"vm_uuid": "None"},
        {"vm_uuid": "x" * 256},
        {"vm_uuid": "a%%b"},
        {"site": "NULL"},
        {"service": "\u4e2d"},
        {"vo": ""},
        {"vo": "a\nVMUUID: b"},
        {"cpu_count": -1},
        {"cpu_count": 10**7},
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
    found = check(replace(GOOD, **changes), NOW)
    assert found.faults
    assert not found.dropped


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", "x" * 256, "MachineName is longer than 255 characters"),
        ("name", "a%%b", "MachineName has %% or other than printable ASCII"),
        ("name", "a\nVMUUID: b", "MachineName has %% or other than printable ASCII"),
        ("name", "a\x0bb", "MachineName has %% or other than printable ASCII"),
        ("name", "\u4e2d", "MachineName has %% or other than printable ASCII"),
        ("user_id", "x" * 256, "LocalUserId is longer than 255 characters"),
        ("project_id", "\x85", "LocalGroupId has %% or other than printable ASCII"),
        ("user_name", "a\x85b", "GlobalUserName has %% or other than printable ASCII"),
        ("image", "x" * 256, "ImageId is longer than 255 characters"),
        ("memory", -1, "Memory is -1"),
        ("disk", 2**63, "Disk is 9223372036854775808"),
        ("public_ips", 2**31, "PublicIPCount is 2147483648"),
        ("benchmark", Benchmark("x" * 51, 1.0), "BenchmarkType is longer than 50 characters"),
        ("benchmark", Benchmark("HS06", 10_000_000.0), "Benchmark is 10000000.0"),
        # APEL keeps three decimals, so it would round this up to a number that it refuses.
        ("benchmark", Benchmark("HS06", 9_999_999.9996), "Benchmark is 9999999.9996"),
        ("benchmark", Benchmark("HS06", float("nan")), "Benchmark is nan"),
        ("benchmark", Benchmark("HS06", -1.0), "Benchmark is 'HS06' -1.0"),
        ("benchmark", Benchmark("", 1.0), "Benchmark is '' 1.0"),
    ],
)
def test_an_optional_field_is_left_out_f_a2(field: str, value: object, said: str) -> None:
    full = replace(
        GOOD,
        name="n",
        user_name="u",
        image="i",
        public_ips=1,
        benchmark=Benchmark("HEPscore23", 1.0),
    )
    found = check(replace(full, **{field: value}), NOW)  # type: ignore[arg-type]
    assert (found.dropped, found.faults) == ((said,), ())
    lines = set(render(full).splitlines()) - set(render(found.record).splitlines())
    names = {line.split(":")[0] for line in lines}
    assert names == (
        {"Benchmark", "BenchmarkType"} if field == "benchmark" else {said.split(" ", maxsplit=1)[0]}
    )


@given(st.text())
def test_any_name_becomes_one_that_passes(name: str) -> None:
    record = replace(GOOD, name=fit(name), user_name=fit(name))
    assert check(record, NOW) == Checked(record)
