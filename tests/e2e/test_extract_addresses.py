"""Public addresses that change hands: the repository's counts of a month are those of its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from caso.cmds import extract
from caso.ledger.ledger import Ledger
from tests.simulators.openstack import Cloud, serving

NOON = datetime(2026, 11, 9, 12, tzinfo=UTC)


def address(device: str, ip: str = "192.0.2.1") -> dict[str, Any]:
    return {
        "id": "1",
        "project_id": "one",
        "floating_ip_address": ip,
        "port_id": f"port of {device}",
        "created_at": "2026-01-01T00:00:00Z",
        "port_details": {"device_id": device, "device_owner": "compute:nova"},
    }


def counted(cloud: Cloud, root: Path, at: datetime) -> dict[str, int]:
    """Run at a moment; return the counts that the run has sent, by user."""
    configuration = root / "caso.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        "[DEFAULT]\nmessengers = ssm\nsite_name = S\nprojects = one\nextractor = neutron\n"
        f"[ssm]\noutput_path_ip = {root}/spool\n[keystone_auth]\nauth_type = v3password\n"
        f"auth_url = {cloud.url}/v3\nusername = u\nuser_domain_name = Default\npassword = p-a-s-s\n"
    )
    with time_machine.travel(at, tick=True):
        extract.main(["--root", str(root), "--config-file", str(configuration)])
    found = {}
    for path in sorted((root / "spool").glob("????????/" + "?" * 14)):
        for record in json.loads(path.read_text())["UsageRecords"]:
            found[record["LocalUser"]] = record["IPCount"]
        path.unlink()
    return found


@pytest.fixture
def cloud() -> Cloud:
    return Cloud(projects=("one",), servers=3, deleted=0, now=NOON)


def test_an_address_that_passes_to_another_user_counts_once(cloud: Cloud, tmp_path: Path) -> None:
    """The former user then has a count of 0, which is sent until a run has delivered it."""
    servers = [cloud.server("one", number) for number in (1, 2)]
    former, later = (str(one["user_id"]) for one in servers)
    assert former != later
    hour = timedelta(hours=1)
    with serving(cloud):
        cloud.addresses = [address(servers[0]["id"])]
        assert counted(cloud, tmp_path, NOON) == {former: 1}
        cloud.addresses = [address(servers[1]["id"])]
        staging = tmp_path / "spool/.caso-staged"
        staging.rename(tmp_path / "away")
        staging.touch()
        assert counted(cloud, tmp_path, NOON + hour) == {}  # it could not be delivered
        staging.unlink()
        assert counted(cloud, tmp_path, NOON + 2 * hour) == {former: 0, later: 1}
        assert counted(cloud, tmp_path, NOON + 3 * hour) == {later: 1}
        cloud.addresses = [address(servers[1]["id"], "nonsense")]
        assert counted(cloud, tmp_path, NOON + 4 * hour) == {}  # whose it is, nobody knows
        cloud.addresses = []
        assert counted(cloud, tmp_path, NOON + 5 * hour) == {later: 0}
        assert counted(cloud, tmp_path, NOON + 6 * hour) == {}
    with Ledger(tmp_path / "var/lib/fedcloud/caso/ledger.sqlite", read_only=True) as ledger:
        rows = [*ledger.deliveries.of(f"one/{former}/IPv4")]
        assert [one.row.amount for one in rows] == [0]


def test_the_count_of_a_month_that_is_over_stays(cloud: Cloud, tmp_path: Path) -> None:
    """An address that was released since was there when the month ended."""
    server = cloud.server("one", 1)
    end = datetime(2026, 12, 1, tzinfo=UTC)
    with serving(cloud):
        cloud.addresses = [address(server["id"])]
        assert counted(cloud, tmp_path, end - timedelta(minutes=30)) == {server["user_id"]: 1}
        cloud.addresses = []
        assert counted(cloud, tmp_path, end + timedelta(minutes=30)) == {}
        assert counted(cloud, tmp_path, end + timedelta(minutes=90)) == {}
