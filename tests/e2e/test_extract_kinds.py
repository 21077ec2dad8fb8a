"""caso-extract for volumes and public addresses: each kind in its own spool, when it is wanted."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from caso.kinds.storage import NAMESPACE
from tests import run_records
from tests.e2e.test_extract_faults import reported, run, seconds, times
from tests.simulators import json_lines
from tests.simulators.openstack import Answer, Cloud, serving

SR = "{" + NAMESPACE + "}"
MISSING = "records of these kinds are not sent, which cASO sends by default: "


def texts(root: Path, kind: str) -> list[str]:
    spool = root / "var/spool/apel/outgoing" / f"openstack-{kind}"
    return [path.read_text() for path in sorted(spool.glob("????????/" + "?" * 14))]


def volumes(root: Path) -> dict[str, tuple[datetime, datetime, int]]:
    """Return start, end and bytes of each record that the repository would hold."""
    kept = {}
    for text in texts(root, "storage"):
        for record in ET.fromstring(text).iter(f"{SR}StorageUsageRecord"):  # noqa: S314  our own
            identity = record.find(f"{SR}RecordIdentity")
            assert identity is not None
            moments = [record.findtext(f"{SR}{name}Time", "") for name in ("Start", "End")]
            start, end = (datetime.fromisoformat(moment) for moment in moments)
            size = int(record.findtext(f"{SR}ResourceCapacityUsed", ""))
            kept[identity.attrib[f"{SR}recordId"]] = (start, end, size)
    return kept


def addresses(root: Path) -> dict[tuple[str, str, int], int]:
    """Return the last count of each project, user and version."""
    return {
        (record["LocalGroup"], record["LocalUser"], record["IPVersion"]): record["IPCount"]
        for text in texts(root, "ip")
        for record in json.loads(text)["UsageRecords"]
    }


def volume(number: int, project: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{number:08d}-0000-4000-8000-000000000000",
        "size": 10 + number,
        "status": "available",
        "created_at": "2026-01-01T00:00:00.5",
        "updated_at": None,
        "name": f"v{number}",
        "user_id": "user1",
        "attachments": [],
        "os-vol-tenant-attr:tenant_id": project,
        **changes,
    }


def address(number: int, project: str, ip: str, device: str = "") -> dict[str, Any]:
    return {
        "id": f"{number}",
        "project_id": project,
        "floating_ip_address": ip,
        "port_id": f"port of {device}" if device else None,
        "created_at": "2026-01-01T00:00:00Z",
        "port_details": {"device_id": device, "device_owner": "compute:nova"} if device else None,
    }


@pytest.fixture
def cloud() -> Cloud:
    made = Cloud(projects=("one", "two"), servers=3, deleted=0, max_limit=2)
    made.volumes = {
        "one": [volume(number, "one") for number in range(5)],
        "two": [volume(9, "two")],
    }
    server = made.server("one", 1)
    made.addresses = [
        address(1, "one", "192.0.2.1", server["id"]),
        address(2, "one", "192.0.2.2", server["id"]),
        address(3, "one", "2001:db8::1", server["id"]),
        address(4, "one", "192.0.2.3"),
        address(5, "two", "192.0.2.4"),
    ]
    return made


def account(
    cloud: Cloud, root: Path, *arguments: str, expect: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run with all sources."""
    options = {"projects": "one,two", "extractor": "nova,cinder,neutron"}
    return run(cloud, root, *arguments, expect=expect, **options)


def test_f_a10_all_sources_ask_a_project_four_times_an_hour(cloud: Cloud, tmp_path: Path) -> None:
    """A token, usage, volumes, and the addresses that two sources need."""
    cloud.max_limit = 1000
    with serving(cloud):
        account(cloud, tmp_path, "--extract-to", (cloud.now - timedelta(hours=1)).isoformat())
        cloud.requests.clear()
        account(cloud, tmp_path)
        of_projects = {name: count for name, count in cloud.requests.items() if " /v3/" not in name}
        assert sum(of_projects.values()) == 2 * 3, of_projects
        assert cloud.requests["POST /v3/auth/tokens"] == 2 + 2  # the login and the system


@pytest.mark.parametrize("zone", ["UTC", "Europe/Madrid", "America/New_York"])
def test_each_kind_arrives_in_its_own_spool(
    zone: str, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B7, B17: times are UTC, whatever the host's zone."""
    monkeypatch.setenv("TZ", zone)
    with serving(cloud):
        shown = account(cloud, tmp_path)
    assert len(seconds(tmp_path)) == 6
    kept = volumes(tmp_path)
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    wanted = {
        f"{one['id']}-{month:%Y%m}": (month, one["size"] * 1024**3)
        for listed in cloud.volumes.values()
        for one in listed
    }
    assert {key: (start, size) for key, (start, _, size) in kept.items()} == wanted
    (end,) = {end for _, end, _ in kept.values()}
    assert abs(end - datetime.now(UTC)) < timedelta(minutes=2)
    # B10, B11: both versions, each project its own; by the user of the server where there is one.
    assert addresses(tmp_path) == {
        ("one", "user1", 4): 2,
        ("one", "user1", 6): 1,
        ("one", "one", 4): 1,
        ("two", "two", 4): 1,
    }
    assert "3 servers, 5 volumes, 3 users with addresses" in shown.stdout
    counts = run_records.read(tmp_path, "caso-extract").counts
    assert (counts["volumes"], counts["users_with_addresses"]) == (6, 4)
    assert MISSING not in shown.stderr


def test_only_servers_unless_more_is_asked_for_f_a7(cloud: Cloud, tmp_path: Path) -> None:
    with serving(cloud):
        shown = run(cloud, tmp_path, projects="one,two")
        asked = {path for path in cloud.requests if "volume" in path or "network" in path}
    assert len(seconds(tmp_path)) == 6
    assert not asked
    assert not texts(tmp_path, "storage") + texts(tmp_path, "ip")
    (line,) = [line for line in shown.stderr.splitlines() if MISSING in line]
    assert "storage, ip" in line
    assert "output_path_storage output_path_ip" in line


def test_a_second_run_sends_the_month_again(cloud: Cloud, tmp_path: Path) -> None:
    with serving(cloud):
        begin = cloud.now.replace(day=1, hour=0, minute=0, second=0)
        earlier = begin + (cloud.now - begin) / 2
        account(cloud, tmp_path, "--extract-to", earlier.isoformat(timespec="seconds"))
        before = volumes(tmp_path)
        account(cloud, tmp_path)
    after = volumes(tmp_path)
    assert before.keys() == after.keys()
    for key, (start, end, size) in before.items():
        assert (start, size) == (after[key][0], after[key][2])
        assert end < after[key][1]


def test_a_volume_without_a_size_costs_itself_alone(cloud: Cloud, tmp_path: Path) -> None:
    cloud.volumes["one"][2] |= {"size": None}
    with serving(cloud):
        shown = account(cloud, tmp_path, expect=1)
    assert len(volumes(tmp_path)) == 5
    (line,) = reported(shown)
    key = cloud.volumes["one"][2]["id"]
    assert f"record {key}: not sent: Cinder's description of the volume is incomplete" in line
    assert len(seconds(tmp_path)) == 6


@pytest.mark.parametrize("lacking", ["volumev3", "network"])
def test_a_cloud_without_a_service(lacking: str, cloud: Cloud, tmp_path: Path) -> None:
    cloud.lacks = frozenset({lacking})
    with serving(cloud):
        shown = account(cloud, tmp_path)
    name = {"volumev3": "Cinder", "network": "Neutron"}[lacking]
    lines = [line for line in shown.stderr.splitlines() if f"catalog has no {name}" in line]
    assert len(lines) == 1
    assert len(seconds(tmp_path)) == 6


def test_a_service_that_refuses_the_account(cloud: Cloud, tmp_path: Path) -> None:
    cloud.fault = times(99, Answer(403, {}), "/volumes/detail")
    with serving(cloud):
        shown = account(cloud, tmp_path, expect=1)
        assert all("does not let the account list the volumes" in line for line in reported(shown))
        assert (len(reported(shown)), len(seconds(tmp_path))) == (2, 6)
        assert addresses(tmp_path)
        # cASO has one checkpoint for all kinds: the least of them.
        assert not list((tmp_path / "var/spool/caso").glob("lastrun.*"))
        cloud.fault = lambda _: None
        account(cloud, tmp_path)
    assert len(volumes(tmp_path)) == 6
    assert len(list((tmp_path / "var/spool/caso").glob("lastrun.*"))) == 2


def test_a_dry_run_counts_all_kinds(cloud: Cloud, tmp_path: Path) -> None:
    with serving(cloud):
        shown = account(cloud, tmp_path, "--dry-run")
    assert "h of volumes in the month" in shown.stdout
    assert "4 addresses" in shown.stdout
    assert not texts(tmp_path, "storage") + texts(tmp_path, "ip")


def test_an_odd_address_costs_itself_alone(cloud: Cloud, tmp_path: Path) -> None:
    cloud.addresses[0] |= {"created_at": None}  # F-A2: it counts all the same
    gone = cloud.server("one", 99)["id"]
    cloud.addresses[1] |= {"port_details": {"device_owner": "compute:nova", "device_id": gone}}
    cloud.addresses[2] |= {"floating_ip_address": "x"}
    with serving(cloud):
        shown = account(cloud, tmp_path, expect=1)
    (line,) = reported(shown)
    assert "record 3: not sent: Neutron's description of the address is incomplete" in line
    assert addresses(tmp_path) == {
        ("one", "user1", 4): 1,
        ("one", "one", 4): 2,  # one whose server Nova no longer has
        ("two", "two", 4): 1,
    }


def test_accelerators_arrive_by_month(cloud: Cloud, tmp_path: Path) -> None:
    specs = {
        "Accelerator:Type": "GPU",
        "Accelerator:Vendor": "NVIDIA",
        "Accelerator:Model": "A100",
        "Accelerator:Number": "0.5",
    }
    server = cloud.server("one", 7)
    born = (cloud.now.replace(day=1, hour=0, minute=0, second=0) - timedelta(days=1)).replace(
        tzinfo=None
    )
    server |= {
        "created": f"{born:%Y-%m-%dT%H:%M:%SZ}",
        "OS-SRV-USG:launched_at": f"{born:%Y-%m-%dT%H:%M:%S.000000}",
        "flavor": {**server["flavor"], "original_name": "g", "extra_specs": specs},
    }
    passed = cloud.server("one", 8)
    alias = {"pci_passthrough:alias": "a100:1"}
    passed |= {"flavor": {**passed["flavor"], "original_name": "p", "extra_specs": alias}}
    cloud.more = {"one": [server, passed]}
    out = tmp_path / "var/spool/apel/outgoing/openstack-accelerator"
    with serving(cloud):
        run(cloud, tmp_path, projects="one,two")
        assert not out.exists()
        configuration = "[messenger_ssm]\nrecord_types = cloud,accelerator\n"
        (tmp_path / "more.conf").write_text(configuration)
        shown = run(
            cloud,
            tmp_path,
            *("--config-file", str(tmp_path / "more.conf"), "--extract-from", born.isoformat()),
            projects="one,two",
        )
    found = {
        (record["MeasurementYear"], record["MeasurementMonth"]): record
        for text in texts(tmp_path, "accelerator")
        for record in json.loads(text)["UsageRecords"]
    }
    before, now = (found[key] for key in sorted(found))
    assert before["AvailableDuration"] == 24 * 3600
    month = cloud.now.replace(day=1, hour=0, minute=0, second=0)
    assert 0 <= now["AvailableDuration"] - (cloud.now - month).total_seconds() < 60
    assert (now["AssociatedRecord"], now["Count"], now["Model"]) == (
        server["id"],
        0.5,
        "NVIDIA A100",
    )
    lines = [line for line in shown.stderr.splitlines() if "flavor p: has pci_passthrough" in line]
    assert len(lines) == 1


def with_logstash(cloud: Cloud, root: Path, port: int, *, expect: int) -> str:
    """Run with a second messenger; return what was reported."""
    more = root / "more.conf"
    more.write_text(f"[DEFAULT]\nmessengers = ssm,logstash\n[logstash]\nport = {port}\n")
    shown = run(cloud, root, "--config-file", str(more), expect=expect, projects="one,two")
    return "\n".join(reported(shown))


def test_a_dead_messenger_holds_back_only_itself_b12(cloud: Cloud, tmp_path: Path) -> None:
    state = tmp_path / "var/spool/caso"
    with serving(cloud):
        with json_lines.serving() as service:
            port = service.port
        for _ in range(2):
            line = with_logstash(cloud, tmp_path, port, expect=1)
            assert f"localhost:{port}: cannot take records: connection refused" in line
            assert f"the records wait in {state}/waiting/logstash" in line
            assert len(seconds(tmp_path)) == 6
            assert len(list(state.glob("lastrun.*"))) == 2
        sent = seconds(tmp_path)
        with json_lines.serving() as service:
            assert not with_logstash(cloud, tmp_path, service.port, expect=0)
            taken = {one["VMUUID"]: one["WallDuration"] for one in service.documents}
        after = seconds(tmp_path)
    # One line for each server and month of the outage, and those of the last run.
    assert taken.keys() == sent.keys()
    assert all(sent[key] <= taken[key] <= after[key] for key in sent)
    assert not list((state / "waiting/logstash").iterdir())


def test_held_records_keep_the_exit_status_at_1_f_a2(cloud: Cloud, tmp_path: Path) -> None:
    good = cloud.server("one", 1)
    odd = {**good, "id": cloud.uuid("one", 77), "flavor": {**good["flavor"], "vcpus": -2}}
    cloud.more = {"one": [odd]}
    quarantine = tmp_path / "var/spool/caso/quarantine"
    with serving(cloud):
        earlier, born = cloud.now - timedelta(hours=2), datetime.fromisoformat(good["created"])
        months = (earlier.year - born.year) * 12 + earlier.month - born.month + 1
        until = earlier.isoformat()
        shown = run(cloud, tmp_path, "--extract-to", until, expect=1, projects="one,two")
        assert len(list(quarantine.iterdir())) == months
        assert len(reported(shown)) == months
        # It is not in any listing any more, and nothing else is wrong: the hours are held.
        cloud.more = {}
        cloud.now -= timedelta(hours=1)
        shown = run(cloud, tmp_path, expect=1, projects="one,two")
        (line,) = reported(shown)
        assert f"records in the quarantine are not sent: {months} of servers (" in line
        assert "caso quarantine list" in line
        # It is understood now, and its hours are sent.
        cloud.more = {"one": [{**odd, "flavor": good["flavor"]}]}
        since = (cloud.now - timedelta(days=45)).isoformat()
        shown = run(cloud, tmp_path, "--extract-from", since, projects="one,two")
        assert not reported(shown)
    assert not list(quarantine.iterdir())


def test_a_window_in_a_delivered_month_takes_nothing_back_f_a1(
    cloud: Cloud, tmp_path: Path
) -> None:
    """The last record of a volume and of a count of addresses reaches as far as before."""

    def measured() -> dict[tuple[str, str, int], int]:
        """Return the moment of the last count of each user, version and month."""
        found = {}
        for text in texts(tmp_path, "ip"):
            for record in json.loads(text)["UsageRecords"]:
                moment = record["MeasurementTime"]
                month = f"{datetime.fromtimestamp(moment, UTC):%Y-%m}"
                found[record["LocalUser"], month, record["IPVersion"]] = moment
        return found

    now = datetime.now(UTC)
    begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    earlier = begin + (now - begin) / 2
    with serving(cloud):
        account(cloud, tmp_path, "--since", (begin - timedelta(days=20)).isoformat())
        before, counted = volumes(tmp_path), measured()
        assert counted
        sent = len(texts(tmp_path, "storage")), len(texts(tmp_path, "ip"))
        account(
            cloud,
            tmp_path,
            *("--extract-from", begin.isoformat(), "--extract-to", earlier.isoformat()),
        )
    assert len(texts(tmp_path, "storage")) > sent[0]  # the month was sent again, whole
    assert len(texts(tmp_path, "ip")) > sent[1]
    assert volumes(tmp_path) == before
    assert measured() == counted


def test_a_month_that_is_counted_again_keeps_its_addresses(cloud: Cloud, tmp_path: Path) -> None:
    """Neutron lists what is there now; released ones were there when the month ended."""

    def counted() -> dict[tuple[str, str], int]:
        """Return the last count of the month before, of each project and user."""
        return {
            (record["LocalGroup"], record["LocalUser"]): record["IPCount"]
            for text in texts(tmp_path, "ip")
            for record in json.loads(text)["UsageRecords"]
            if record["MeasurementTime"] < begin.timestamp() and record["IPVersion"] == 4
        }

    begin = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    earlier = (begin - timedelta(days=20)).isoformat()
    with serving(cloud):
        account(cloud, tmp_path, "--since", earlier)
        before = counted()
        assert sorted(before.values()) == [1, 1, 2]
        sent = len(texts(tmp_path, "ip"))
        del cloud.addresses[0]
        account(cloud, tmp_path, "--extract-from", earlier)
        account(cloud, tmp_path, "--extract-from", earlier, "--extract-to", begin.isoformat())
    assert len(texts(tmp_path, "ip")) > sent
    assert counted() == before
