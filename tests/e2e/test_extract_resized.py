"""B14: `caso-extract` charges a resized server for the cores that it had, until it vanishes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.ledger_site import NOW, CasoPrograms, LedgerSite, server
from tests.simulators.openstack import Cloud, serving

BORN = NOW - timedelta(days=50)


@pytest.fixture
def site(tmp_path: Path, caso_programs: CasoPrograms) -> Iterator[LedgerSite]:
    cloud = Cloud(projects=("one",), servers=0, deleted=0)
    cloud.more["one"] = [server(0, created=BORN)]
    with serving(cloud) as served:
        yield LedgerSite(served, tmp_path, caso_programs)


def cpu(site: LedgerSite, cores: int) -> int:
    """Return the CPU seconds of the last record, which has this number of cores."""
    last = site.records()[-1]
    assert int(last["CpuCount"]) == cores
    return int(last["CpuDuration"])


def test_a_resize_between_two_runs(site: LedgerSite) -> None:
    site.run()
    assert cpu(site, 2) == 2 * int(site.records()[-1]["WallDuration"])
    (shown,) = site.cloud.more["one"]
    moment = datetime.now(UTC).replace(microsecond=0)
    shown["flavor"] |= {"vcpus": 100, "original_name": "large"}
    shown["updated"] = f"{moment:%FT%TZ}"
    shown["OS-SRV-USG:launched_at"] = f"{moment:%FT%T}.000000"
    shown["_actions"] = [
        {"action": "resize", "request_id": "r", "start_time": f"{moment:%FT%T}.0", "message": None}
    ]
    site.run()
    wall = int(site.records()[-1]["WallDuration"])
    small = int((moment - BORN).total_seconds())
    assert cpu(site, 100) == 2 * small + 100 * (wall - small)
    seen = site.verb("ledger", "show", shown["id"])
    assert any(line.startswith("seen from") and "cpu_count 100" in line for line in seen)
    site.run()  # the server is remembered now, and nothing has changed
    wall = int(site.records()[-1]["WallDuration"])
    assert cpu(site, 100) == 2 * small + 100 * (wall - small)
    shown["_archived"] = True
    site.run()
    last = site.records()[-1]
    assert last["Status"] == "completed"
    wall = int(last["WallDuration"])
    assert cpu(site, 100) == 2 * small + 100 * (wall - small)
