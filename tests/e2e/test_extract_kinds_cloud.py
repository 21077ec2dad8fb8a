"""Volumes, addresses and accelerators of the test bed, beside the databases of its services."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.caso_site import CasoSite
from tests.e2e.test_extract_kinds import addresses, texts, volumes
from tests.testbed import Testbed

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]

VOLUMES = """
SELECT id, size, project_id, user_id, created_at FROM volumes
WHERE NOT deleted AND created_at <= :until
"""
ADDRESSES = """
SELECT floatingips.project_id, coalesce(instances.user_id, floatingips.project_id), count(*)
FROM floatingips
LEFT JOIN ports ON ports.id = floatingips.fixed_port_id AND ports.device_owner LIKE 'compute:%'
LEFT JOIN nova.instances ON instances.uuid = ports.device_id AND instances.deleted = 0
GROUP BY 1, 2
"""
GPUS = """
SELECT uuid, project_id, instances.created_at, terminated_at,
    json_extract(flavor, '$.cur."nova_object.data".extra_specs."Accelerator:Number"')
FROM instances JOIN instance_extra ON instance_uuid = uuid
WHERE json_extract(flavor, '$.cur."nova_object.data".name') = 'gpu.a100'
    AND launched_at IS NOT NULL AND instances.created_at <= :until
"""


def asked(testbed: Testbed, service: str, query: str, until: datetime) -> list[tuple[Any, ...]]:
    """Ask a service's database; Nova's is attached as ``nova``."""
    path = testbed.layout.database(service).absolute()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        nova = testbed.nova_database.absolute().as_uri()
        connection.execute("ATTACH ? AS nova", (f"{nova}?mode=ro",))
        return connection.execute(query, {"until": f"{until:%Y-%m-%d %H:%M:%S}"}).fetchall()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC, microsecond=0)


def first_of_month(at: datetime) -> datetime:
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def gpu_seconds(rows: list[tuple[Any, ...]], until: datetime) -> dict[tuple[str, int, int], int]:
    """Return the seconds of each server by year and month, second by second of the calendar."""
    found: dict[tuple[str, int, int], int] = {}
    for uuid, _, created, terminated, _ in rows:
        end = min(until, moment(terminated)) if terminated else until
        at = moment(created)
        while at < end:
            following = min(end, first_of_month(first_of_month(at) + timedelta(days=32)))
            key = (uuid, at.year, at.month)
            found[key] = found.get(key, 0) + int((following - at).total_seconds())
            at = following
    return found


def test_all_kinds_arrive_in_their_spools(testbed: Testbed, tmp_path: Path) -> None:
    site = CasoSite(
        tmp_path / "site",
        testbed,
        default={"extractor": "nova,cinder,neutron"},
        ssm={
            "output_path_accelerator": tmp_path
            / "site/var/spool/apel/outgoing/openstack-accelerator",
            "max_size": 3,
        },
    )
    until = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=2)
    site.run("caso-extract", "--extract-to", until.isoformat())
    tagged = {one.id for one in testbed.seed().projects.values() if "caso" in one.tags}

    listed = [row for row in asked(testbed, "cinder", VOLUMES, until) if row[2] in tagged]
    month = first_of_month(until)
    assert listed
    assert volumes(site.root) == {
        f"{number}-{month:%Y%m}": (max(month, moment(created)), until, size * 1024**3)
        for number, size, _, _, created in listed
    }
    counted = [row for row in asked(testbed, "neutron", ADDRESSES, until) if row[0] in tagged]
    assert counted
    assert addresses(site.root) == {(project, user, 4): n for project, user, n in counted}

    servers = [row for row in asked(testbed, "nova", GPUS, until) if row[1] in tagged]
    records = [
        record
        for text in texts(site.root, "accelerator")
        for record in json.loads(text)["UsageRecords"]
    ]
    assert servers
    assert {
        (one["AssociatedRecord"], one["MeasurementYear"], one["MeasurementMonth"]): one[
            "AvailableDuration"
        ]
        for one in records
    } == gpu_seconds(servers, until)
    assert {one["Count"] for one in records} == {int(row[4]) for row in servers} == {1}
    assert {one["Model"] for one in records} == {"NVIDIA A100"}
