"""Incomplete records without any property, which 0.9 leaves when it is killed: reported, kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloudkeeper.backend import unknown
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
LEFT: dict[str, Any] = {
    "id": "5b1f3c4e-0000-4000-8000-000000000001",
    "owner": "p1",
    "name": "Ubuntu",
    "status": "queued",
    "tags": [],
    "created_at": "2026-11-29T11:59:59Z",
    "disk_format": "qcow2",
}
"""A record as 0.9 makes it before its data: no property is there yet."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BackendSite]:
    with backend_site.made(tmp_path) as made:
        yield made


@pytest.mark.parametrize("status", ["queued", "saving"])
def test_a_record_that_a_killed_0_9_has_left(status: str) -> None:
    image = LEFT | {"status": status}
    assert list(unknown.abandoned([image], owner="p1", now=NOW)) == [image]


@pytest.mark.parametrize(
    "more",
    [
        {"status": "active"},
        {"status": "deactivated"},
        {"owner": "p2"},
        {"created_at": "2026-11-29T12:00:00Z"},
        {"created_at": "never"},
        {"created_at": None},
        {"tags": ["atrope"]},
        {"APPLIANCE_STATUS": "STAGING"},
        {"APPLIANCE_BACKEND": "b 7"},
        {"cloudkeeper_shared": "{}"},
        {"image_type": "snapshot"},
        {"base_image_ref": "7"},
        {"my_property": "1"},
        {"updated_at": "2026-11-30T11:00:00Z"},
    ],
    ids=str,
)
def test_records_of_others_are_not_reported(more: dict[str, Any]) -> None:
    assert list(unknown.abandoned([LEFT | more], owner="p1", now=NOW)) == []


def test_a_run_reports_them_and_changes_nothing(site: BackendSite) -> None:
    """By the calendar of this host: the record is a day old, the other one is new."""
    now = datetime.now(UTC)
    for number, hours in ((1, 25), (2, 23)):
        made = (now - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
        image_id = f"{LEFT['id'][:-1]}{number}"
        owner = "one"
        site.glance.images[image_id] = LEFT | {
            "id": image_id,
            "owner": owner,
            "created_at": made,
            "os_hidden": False,
            "visibility": "private",
        }
    with site.running() as client:
        assert client.run() == []
    (line,) = site.record()["notes"]["images_unknown"]
    assert line.startswith(f"project one: image {LEFT['id']} (Ubuntu) has been queued since ")
    assert line.endswith(f"if no user needs it: openstack image delete {LEFT['id']}")
    assert site.record()["failures"] == []
    assert sorted(site.glance.images) == [LEFT["id"], f"{LEFT['id'][:-1]}2"]
    assert all(not asked.startswith(("DELETE", "PATCH")) for asked in site.glance.requests)
