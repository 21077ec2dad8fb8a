"""Rules of a record's fields, on servers as Nova 34 describes them at microversion 2.69."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from caso.kinds import cloud as wire
from caso.kinds.cloud import Benchmark, CloudRecord, ServerStatus
from caso.kinds.months import ExtractionWindow
from caso.sources.server import NotUnderstood, records
from caso.sources.source import Names, ProjectContext

NOVEMBER = ExtractionWindow(
    datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 22, 9, tzinfo=UTC)
)


def server(**changes: Any) -> dict[str, Any]:
    return {
        "id": "27acde94-b86d-44f1-b77a-3ae1b7e192a0",
        "name": "web",
        "status": "ACTIVE",
        "tenant_id": "ea12952f53c7419aba9641538e582811",
        "user_id": "25981facd2d746618c2a6db9f59df1e7",
        "created": "2026-11-22T08:13:55Z",
        "updated": "2026-11-22T08:14:12Z",
        "OS-SRV-USG:launched_at": "2026-11-22T08:13:58.989736",
        "OS-SRV-USG:terminated_at": None,
        "flavor": {
            "vcpus": 2,
            "ram": 2048,
            "disk": 20,
            "ephemeral": 5,
            "swap": 0,
            "original_name": "m1.small",
            "extra_specs": {
                "accounting:benchmark_type": "HEPSPEC06",
                "accounting:benchmark_value": "12.5",
            },
        },
        "image": {"id": "13e32a39-fabf-4d5b-88e5-c2547aa1a0a5"},
        "addresses": {
            "net": [
                {"version": 4, "addr": "10.20.0.7", "OS-EXT-IPS:type": "fixed"},
                {"version": 4, "addr": "203.0.113.9", "OS-EXT-IPS:type": "floating"},
            ],
            "other": [{"version": 6, "addr": "2001:db8::1", "OS-EXT-IPS:type": "floating"}],
        },
        **changes,
    }


def made(
    described: dict[str, Any], window: ExtractionWindow = NOVEMBER, **source: Any
) -> list[CloudRecord]:
    known = ProjectContext(
        **{
            "vo": "vo.x",
            "names": Names("SITE", "CLOUD"),
            "user_name": lambda _: "jane",
            "image": lambda image: f"https://images/{image}",
            "warn": lambda _: None,
            **source,
        }
    )
    return list(records(described, window, known))


def lines(record: CloudRecord) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in wire.render(record).splitlines())


@pytest.fixture(params=["Europe/Madrid", "America/New_York", "UTC"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()
    assert os.environ.get("TZ") != request.param or request.param == "UTC"


def test_all_fields_of_a_running_server_in_any_time_zone(zone: str) -> None:
    (record,) = made(server())
    assert lines(record) == {
        "VMUUID": "27acde94-b86d-44f1-b77a-3ae1b7e192a0",
        "SiteName": "SITE",
        "CloudComputeService": "CLOUD",
        "MachineName": "web",
        "LocalUserId": "25981facd2d746618c2a6db9f59df1e7",
        "LocalGroupId": "ea12952f53c7419aba9641538e582811",
        "GlobalUserName": "jane",
        "FQAN": "vo.x",
        "Status": "started",
        "StartTime": "1795335235",  # date -u -d 2026-11-22T08:13:55Z +%s
        "EndTime": "0",
        "WallDuration": "2765",
        "CpuDuration": "5530",
        "CpuCount": "2",
        "Memory": "2048",
        "Disk": "25",
        "PublicIPCount": "2",
        "ImageId": "https://images/13e32a39-fabf-4d5b-88e5-c2547aa1a0a5",
        "Benchmark": "12.5",
        "BenchmarkType": "HEPSPEC06",
        "CloudType": record.cloud_type,
    }


@pytest.mark.parametrize(
    ("changes", "status", "end", "wall"),
    [
        (
            {"OS-SRV-USG:terminated_at": "2026-11-22T08:14:12.615760"},
            "completed",
            "2026-11-22T08:14:12",
            17,
        ),
        (
            {"status": "DELETED", "OS-SRV-USG:terminated_at": "2026-11-22T08:14:12.6"},
            "completed",
            "2026-11-22T08:14:12",
            17,
        ),
        # deleted without an end: stuck while it was being deleted
        ({"status": "DELETED"}, "completed", "2026-11-22T08:14:12", 17),
        # deleted after the window: as if it went on
        (
            {"status": "DELETED", "OS-SRV-USG:terminated_at": "2026-11-23T00:00:00"},
            "started",
            None,
            2765,
        ),
        ({"status": "SHUTOFF"}, "started", None, 2765),
        ({"status": "VERIFY_RESIZE"}, "started", None, 2765),
        ({"status": "ERROR"}, "error", None, 2765),
        ({"status": "PAUSED"}, "paused", None, 2765),
        ({"status": "SUSPENDED"}, "suspended", None, 2765),
        ({"status": "SHELVED_OFFLOADED"}, "unknown", None, 2765),
        ({"status": "SOFT_DELETED"}, "unknown", None, 2765),
        # begun and ended in one second; ended before it began
        (
            {"OS-SRV-USG:terminated_at": "2026-11-22T08:13:55.9"},
            "completed",
            "2026-11-22T08:13:55",
            0,
        ),
        (
            {"OS-SRV-USG:terminated_at": "2026-11-22T08:13:54.9"},
            "completed",
            "2026-11-22T08:13:55",
            0,
        ),
    ],
)
def test_status_and_end(changes: dict[str, Any], status: str, end: str | None, wall: int) -> None:
    (record,) = made(server(**changes))
    assert record.status == ServerStatus(status)
    assert record.end == (datetime.fromisoformat(end).replace(tzinfo=UTC) if end else None)
    assert record.wall == timedelta(seconds=wall)
    assert lines(record)["WallDuration"] == str(max(wall, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "BUILD", "OS-SRV-USG:launched_at": None},
        {"status": "ERROR", "OS-SRV-USG:launched_at": None},
        {
            "status": "DELETED",
            "OS-SRV-USG:launched_at": None,
            "OS-SRV-USG:terminated_at": "2026-11-22T08:14:12",
        },
        {"created": "2026-11-22T09:00:01Z"},
        {"created": "2026-10-01T00:00:00Z", "OS-SRV-USG:terminated_at": "2026-10-31T23:59:59"},
    ],
)
def test_servers_outside_the_window_or_never_launched_have_no_record(
    changes: dict[str, Any],
) -> None:
    asked: list[str] = []
    assert made(server(**changes), user_name=asked.append) == []
    assert asked == []


def test_one_record_for_each_month() -> None:
    found = made(
        server(created="2026-09-30T12:00:00Z"),
        ExtractionWindow(datetime(1970, 1, 1, tzinfo=UTC), NOVEMBER.end),
    )
    assert [(record.measured.isoformat(), record.status) for record in found] == [
        ("2026-09-30T23:59:59+00:00", ServerStatus.STARTED),
        ("2026-10-31T23:59:59+00:00", ServerStatus.STARTED),
        ("2026-11-22T09:00:00+00:00", ServerStatus.STARTED),
    ]
    assert {record.start for record in found} == {datetime(2026, 9, 30, 12, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("ended", "months"),
    [(None, [9, 10, 11]), ("2026-11-01T00:00:10", [9, 10, 11]), ("2026-10-31T23:59:59", [])],
)
def test_a_first_window_takes_the_whole_life_of_what_lives_in_it(
    ended: str | None, months: list[int]
) -> None:
    """F-H14: otherwise hours of October count for November. Ended servers are left out."""
    described = server(created="2026-09-30T12:00:00Z", **{"OS-SRV-USG:terminated_at": ended})
    found = made(described, replace(NOVEMBER, is_first=True))
    assert [record.measured.month for record in found] == months
    assert len(made(described, NOVEMBER)) == bool(months)


@pytest.mark.parametrize(
    ("created", "launched", "wanted"),
    [
        # built across the end of the month: when the last run passed, before the window, it had no
        # record
        (
            "2026-10-31T23:30:00Z",
            "2026-11-01T00:10:00.5",
            ["2026-10-31T23:59:59", "2026-11-22T09:00:00"],
        ),
        # it had one then
        ("2026-10-31T23:30:00Z", "2026-10-31T23:31:00", ["2026-11-22T09:00:00"]),
        # rebuilt: launched anew, but not new
        ("2026-10-20T12:00:00Z", "2026-11-05T00:00:00", ["2026-11-22T09:00:00"]),
    ],
)
def test_a_server_built_while_the_last_run_passed(
    created: str, launched: str, wanted: list[str]
) -> None:
    found = made(server(created=created, **{"OS-SRV-USG:launched_at": launched}))
    assert [record.measured.replace(tzinfo=None).isoformat() for record in found] == wanted


def test_images_users_and_names() -> None:
    (record,) = made(server(image="", name="\N{SNOWMAN}"), user_name=lambda _: None)
    reported = lines(record)
    assert not reported.keys() & {"ImageId", "GlobalUserName", "MachineName"}
    (record,) = made(
        server(name="a\nVMUUID: u2\x0b%%\N{LINE SEPARATOR}b%%%c é"),
        user_name=lambda _: "Ünal %% x",
    )
    assert record.name == "a VMUUID: u2 %b%c"
    assert record.user_name == "nal % x"


@pytest.mark.parametrize(
    ("specs", "wanted", "warning"),
    [
        (
            {"accounting:benchmark_type": "HEPscore23", "accounting:benchmark_value": "10"},
            Benchmark("HEPscore23", 10.0),
            "",
        ),
        ({}, None, ""),
        (
            {"accounting:benchmark_type": "HS06"},
            None,
            "flavor m1.small: accounting:benchmark_type='HS06'",
        ),
        (
            {"accounting:benchmark_value": "10"},
            None,
            "flavor m1.small: accounting:benchmark_type=''",
        ),
        (
            {"accounting:benchmark_type": "HS06", "accounting:benchmark_value": "ten"},
            None,
            "flavor m1.small",
        ),
        (
            {"accounting:benchmark_type": "HS06", "accounting:benchmark_value": "nan"},
            None,
            "flavor m1.small",
        ),
    ],
)
def test_benchmarks(specs: dict[str, str], wanted: Benchmark | None, warning: str) -> None:
    reported: list[str] = []
    (record,) = made(
        server(flavor={**server()["flavor"], "extra_specs": specs}), warn=reported.append
    )
    assert record.benchmark == wanted
    assert [line[: len(warning)] for line in reported] == ([warning] if warning else [])


def test_hidden_extra_specs_are_reported() -> None:
    flavor = {name: value for name, value in server()["flavor"].items() if name != "extra_specs"}
    reported: list[str] = []
    (record,) = made(server(flavor=flavor), warn=reported.append)
    assert record.benchmark is None
    assert len(reported) == 1


@pytest.mark.parametrize("lacking", ["created", "OS-SRV-USG:launched_at", "flavor", "status"])
def test_a_description_that_lacks_something_is_reported(lacking: str) -> None:
    described = {name: value for name, value in server().items() if name != lacking}
    with pytest.raises(NotUnderstood, match=lacking):
        made(described)


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"created": "yesterday"}, "'yesterday' in it is no time"),
        ({"created": "0001-01-01T00:00:00+14:00"}, "out of the calendar"),
        ({"flavor": {"vcpus": "two"}}, "'two' in it is no number"),
        ({"flavor": {"vcpus": float("inf")}}, "a number in it is out of range"),
    ],
)
def test_a_description_that_makes_no_sense_is_reported(
    changes: dict[str, Any], reported: str
) -> None:
    with pytest.raises(NotUnderstood, match=reported):
        made(server(**changes))


@pytest.mark.parametrize(
    ("changes", "field", "left"),
    [
        ({"addresses": {"net": [None]}}, "addresses", {"public_ips": None}),
        ({"image": "x"}, "image", {"image": None}),
        ({"name": None}, "name", {"name": ""}),
        ({"user_id": 7}, "user_id", {"user_id": "", "user_name": None}),
        ({"tenant_id": None}, "tenant_id", {"project_id": ""}),
        ({"flavor": {"vcpus": 2, "disk": 1, "ephemeral": 0}}, "flavor.ram", {"memory": None}),
        ({"flavor": {"vcpus": 2, "ram": "x"}}, "flavor.disk", {"disk": None, "memory": None}),
        ({"flavor": {"vcpus": 2, "extra_specs": []}}, "flavor.extra_specs", {"benchmark": None}),
    ],
)
def test_a_field_that_makes_no_sense_is_left_out_f_a2(
    changes: dict[str, Any], field: str, left: dict[str, object]
) -> None:
    reported: list[str] = []
    (record,) = made(server(**changes), warn=reported.append)
    words = (
        f"Nova describes server {record.vm_uuid} without a usable {field}: its records have none"
    )
    assert words in reported
    assert {name: getattr(record, name) for name in left} == left
    assert record.wall == timedelta(seconds=2765)


@pytest.mark.parametrize("failure", [KeyError("user"), TypeError("x"), ValueError("no JSON")])
@pytest.mark.parametrize("asked", ["user_name", "image"])
def test_errors_of_lookups_are_not_blamed_on_the_server(asked: str, failure: Exception) -> None:
    """A record would be set aside for ever, where another run gets a better answer."""

    def ask(_: str) -> str:
        raise failure

    with pytest.raises(type(failure)):
        made(server(), NOVEMBER, **{asked: ask})
