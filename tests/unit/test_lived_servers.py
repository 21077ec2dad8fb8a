"""The servers that lived in a window, with and without what earlier runs have remembered.

The truth is the simulated cloud's own: which servers existed, and since when.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core import clock
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import Unavailable
from caso.kinds.cloud import CloudRecord
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.memory.cloud import CloudMemory
from caso.sources.nova import SOURCE
from caso.sources.source import Names, ProjectContext, Unaccountable
from tests.simulators import openstack
from tests.simulators.openstack import Answer

HOUR = timedelta(hours=1)
DETAIL = "/servers/detail"


@pytest.fixture
def service() -> Iterator[openstack.Cloud]:
    cloud = openstack.Cloud(servers=40, deleted=12, max_limit=7)
    cloud.more["one"] = []
    with openstack.serving(cloud) as served:
        yield served


class Site:
    """Runs of one source, with a memory in a file."""

    def __init__(self, service: openstack.Cloud, path: Path) -> None:
        self.service = service
        self.path = path / "memory.sqlite"
        self.warnings: list[str] = []

    def run(
        self, since: datetime, until: datetime, *, read_only: bool = False
    ) -> dict[str, CloudRecord]:
        """Return the last record of each server; no server may come twice for a month."""
        url = f"{self.service.url}/v3"
        options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
        scope = Cloud(Access("v3password", url, options)).project("one")
        memory = CloudMemory(self.path, url, names_age=timedelta(days=7), read_only=read_only)
        context = ProjectContext(
            vo="vo.x",
            names=Names("S", "S"),
            user_name=lambda _: "jane",
            image=lambda image: image,
            warn=self.warnings.append,
            servers=memory.servers("", "one"),
        )
        self.service.requests.clear()
        found: dict[str, CloudRecord] = {}
        seen: set[tuple[str, str]] = set()
        try:
            window = ExtractionWindow(since, until, is_first=since == BEGINNING)
            for one in SOURCE.records(scope, window, context):
                assert not isinstance(one, Unaccountable)
                record = one.record
                assert isinstance(record, CloudRecord)
                of_month = record.key, f"{record.measured:%Y-%m}"
                assert of_month not in seen
                seen.add(of_month)
                found[record.key] = record
        finally:
            memory.close()
        return found

    def asked(self) -> Counter[str]:
        """Return the requests to Nova and Neutron since the last run began."""
        found: Counter[str] = Counter()
        for name, count in self.service.requests.items():
            word = name.rpartition("/")[2]
            if "/compute" in name or "/network" in name:
                found[word] += count
        return found


@pytest.fixture
def site(service: openstack.Cloud, tmp_path: Path) -> Site:
    return Site(service, tmp_path)


def walls(found: dict[str, CloudRecord]) -> dict[str, int]:
    return {key: record.amount for key, record in found.items()}


def living_truth(service: openstack.Cloud, since: datetime, until: datetime) -> dict[str, int]:
    """Return the seconds of the servers that ended after ``since``, or live."""
    ended = {
        one["id"]
        for one in [*service.all_servers("one"), *service.more["one"]]
        if (one["OS-SRV-USG:terminated_at"] or "9") < since.strftime("%Y-%m-%dT%H:%M:%S")
    }
    truth = service.truth("one", until=until)
    return {key: wall for key, wall in truth.items() if key not in ended}


def odd(service: openstack.Cloud, number: int, **changes: Any) -> dict[str, Any]:
    """Add a server of the project; return it."""
    server = {**service.server("one", number), **changes}
    service.more["one"].append(server)
    return server


def z(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def naive(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000000")


def test_an_hourly_run_asks_for_usage_and_addresses_alone(
    service: openstack.Cloud, site: Site
) -> None:
    """F-A10, and a tenth of the cost of details for each server."""
    service.max_limit = 1000
    before = service.now - HOUR
    assert walls(site.run(BEGINNING, before)) == service.truth("one", until=before)
    found = site.run(before, service.now)
    assert walls(found) == living_truth(service, before, service.now)
    assert len(found) == 28
    assert site.asked() == {"os-simple-tenant-usage": 1, "floatingips": 1}


def test_a_quiet_run_writes_nothing_into_the_memory(
    service: openstack.Cloud, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write costs several fsyncs; that the project is accounted is noted once a day."""
    site.run(BEGINNING, service.now - HOUR)
    content = site.path.read_bytes()
    assert len(site.run(service.now - HOUR, service.now)) == 28
    assert site.path.read_bytes() == content
    for days in (2, -1):  # also after a run whose clock was ahead
        moment = service.now + timedelta(days=days)
        monkeypatch.setattr(clock, "now", lambda moment=moment: moment)
        site.run(service.now - HOUR, service.now)
        with sqlite3.connect(site.path) as connection:
            [(looked,)] = connection.execute("SELECT looked FROM projects").fetchall()
        connection.close()
        assert looked == int(moment.timestamp())


def test_records_are_the_same_with_and_without_memory(service: openstack.Cloud, site: Site) -> None:
    before = service.now - HOUR
    site.run(BEGINNING, before)
    warm = site.run(before, service.now)
    site.path.unlink()
    cold = site.run(before, service.now)
    assert warm == cold
    assert len(warm) == 28


def test_without_memory_the_living_are_listed_not_asked_for_one_by_one(
    service: openstack.Cloud, site: Site
) -> None:
    service.max_limit = 1000
    before = service.now - HOUR
    assert len(site.run(before, service.now)) == 28
    assert site.asked() == {"os-simple-tenant-usage": 1, "servers": 2}


def test_what_happens_between_two_runs(service: openstack.Cloud, site: Site) -> None:
    """Ended, begun, begun and ended, resized, rebuilt; the rest as before."""
    before, now = service.now - HOUR, service.now
    long_ago, middle = now - timedelta(days=3), now - HOUR / 2
    site.run(BEGINNING, before)
    base: dict[str, Any] = {"created": z(long_ago), "updated": z(long_ago), "status": "ACTIVE"}
    base["OS-SRV-USG:launched_at"] = naive(long_ago)
    base["OS-SRV-USG:terminated_at"] = None
    ended, resized, rebuilt = (odd(service, number, **base) for number in (50, 51, 52))
    site.run(before - HOUR, before)  # they are known now
    ended |= {"status": "DELETED", "updated": z(middle)}
    ended["OS-SRV-USG:terminated_at"] = naive(middle)
    resized |= {"flavor": {**resized["flavor"], "vcpus": 8, "original_name": "big"}}
    resized |= {"updated": z(middle), "OS-SRV-USG:launched_at": naive(middle)}
    rebuilt |= {"image": {"id": "other"}, "updated": z(middle)}
    rebuilt["OS-SRV-USG:launched_at"] = naive(middle)
    fresh = {**base, "created": z(middle), "updated": z(middle)}
    fresh["OS-SRV-USG:launched_at"] = naive(middle)
    begun = odd(service, 53, **fresh)
    brief = odd(service, 54, **fresh)
    brief |= {"status": "DELETED", "updated": z(middle + HOUR / 4)}
    brief["OS-SRV-USG:terminated_at"] = naive(middle + HOUR / 4)
    found = site.run(before, now)
    assert walls(found) == living_truth(service, before, now)
    assert found[ended["id"]].end == middle
    assert found[resized["id"]].cpu_count == 8
    assert found[rebuilt["id"]].image == "other"
    assert {begun["id"], brief["id"]} <= found.keys()
    later = site.run(now, now + HOUR)  # nothing is asked for twice
    assert ended["id"] not in later
    assert brief["id"] not in later
    assert later[resized["id"]].cpu_count == 8


def test_f_a3_soft_deleted_servers_accrue_until_they_are_reclaimed(
    service: openstack.Cloud, site: Site
) -> None:
    """35.8 h of each fell into the wrong month, because a listing of living servers hides them."""
    day = timedelta(days=1)
    first, now = service.now - 10 * day, service.now
    server = odd(service, 50, status="ACTIVE", updated=z(first - day))
    site.run(BEGINNING, first)
    server |= {"status": "SOFT_DELETED", "_hidden": True, "updated": z(first + day / 2)}
    for hour in range(1, 10):
        found = site.run(first + (hour - 1) * day, first + hour * day)
        assert found[server["id"]].wall == first + hour * day - found[server["id"]].start
        assert found[server["id"]].status == "unknown"
    server |= {"status": "DELETED", "updated": z(now - day / 2), "_hidden": False}
    server["OS-SRV-USG:terminated_at"] = naive(now - day / 2)
    record = site.run(now - day, now)[server["id"]]
    assert (record.status, record.end) == ("completed", now - day / 2)


def test_f_a3_a_soft_deleted_server_without_memory(service: openstack.Cloud, site: Site) -> None:
    before = service.now - HOUR
    long_ago = z(service.now - timedelta(days=9))
    server = odd(service, 50, status="SOFT_DELETED", _hidden=True, updated=long_ago)
    assert server["id"] in site.run(before, service.now)


def test_a_server_that_nova_deleted_without_an_end(service: openstack.Cloud, site: Site) -> None:
    """Usage shows it for ever; it ends when it was last updated, in one run."""
    before, now = service.now - HOUR, service.now
    server = odd(service, 50, status="ACTIVE", updated=z(before - HOUR))
    site.run(BEGINNING, before)
    server |= {"status": "DELETED", "updated": z(before + HOUR / 2)}
    record = site.run(before, now)[server["id"]]
    assert (record.status, record.end) == ("completed", before + HOUR / 2)
    for hours in range(3):
        assert server["id"] not in site.run(now + hours * HOUR, now + (hours + 1) * HOUR)


def test_a_server_that_usage_alone_shows(service: openstack.Cloud, site: Site) -> None:
    """`GET /servers/ID` answers 404, and no listing has it: it holds nothing back."""
    long_ago = z(service.now - timedelta(days=9))
    ghost = odd(service, 50, status="DELETED", updated=long_ago)
    before = service.now - HOUR
    found = site.run(before, service.now)
    assert ghost["id"] not in found
    assert len(found) == 28


def test_f_a8_an_archived_server_is_not_reported_as_running(
    service: openstack.Cloud, site: Site
) -> None:
    before = service.now - HOUR
    server = odd(service, 50, status="ACTIVE")
    assert server["id"] in site.run(BEGINNING, before)
    server["_archived"] = True
    assert server["id"] not in site.run(before, service.now)
    site.run(service.now, service.now + HOUR)
    assert not any("servers" in name for name in site.asked())  # it is forgotten


def test_usage_that_lacks_servers_is_refused(service: openstack.Cloud, site: Site) -> None:
    service.max_limit = 1000
    before = service.now - HOUR
    site.run(BEGINNING, before)
    empty = Answer(body={"tenant_usage": {}})
    service.fault = lambda request: empty if "tenant-usage" in request.path else None
    with pytest.raises(Unavailable, match="exists, but Nova's usage lacks it, and others"):
        site.run(before, service.now)
    service.fault = lambda _: None
    assert len(site.run(before, service.now)) == 28


def test_an_ended_server_that_nothing_describes_fails_the_project(
    service: openstack.Cloud, site: Site
) -> None:
    """Nova omits the servers of a slow cell from a listing of changes."""
    before, now = service.now - HOUR, service.now
    server = odd(service, 50, status="DELETED", updated=z(now - HOUR / 2))
    server["OS-SRV-USG:terminated_at"] = naive(now - HOUR / 2)
    nothing = Answer(body={"servers": []})
    service.fault = lambda request: nothing if "changes-since" in request.query else None
    with pytest.raises(Unavailable, match="a cell did not answer in time"):
        site.run(before, now)
    service.fault = lambda _: None
    assert server["id"] in site.run(before, now)


def test_a_changed_server_that_the_listing_of_changes_lacks_fails_the_project(
    service: openstack.Cloud, site: Site
) -> None:
    """Its cell was too slow for that listing, which then lacks deleted servers as well."""
    before, now = service.now - HOUR, service.now
    odd(service, 50, status="ACTIVE", updated=z(now - HOUR / 2))
    nothing = Answer(body={"servers": []})
    service.fault = lambda request: nothing if "changes-since" in request.query else None
    with pytest.raises(Unavailable, match="a cell did not answer in time"):
        site.run(before, now)


def test_an_end_that_nova_stamped_long_before(service: openstack.Cloud, site: Site) -> None:
    """The clocks of Nova's hosts differ by more than a run looks back: no project stands still."""
    before, now = service.now - HOUR, service.now
    server = odd(service, 50, status="DELETED", updated=z(before - HOUR / 2))
    server["OS-SRV-USG:terminated_at"] = naive(before + HOUR / 4)
    assert site.run(before, now)[server["id"]].end == before + HOUR / 4


def test_a_window_of_the_past(service: openstack.Cloud, site: Site) -> None:
    """Republishing: what ended later is shown as running, and nothing is forgotten."""
    site.run(BEGINNING, service.now)
    since, until = service.now - timedelta(days=35), service.now - timedelta(days=34)
    found = site.run(since, until)
    assert walls(found) == service.truth("one", until=until)
    assert {record.end for record in found.values()} == {None}
    assert len(site.run(service.now - HOUR, service.now)) == 28


def test_public_addresses_are_neutrons(service: openstack.Cloud, site: Site) -> None:
    """Nova does not count a new address as a change of its server."""
    before = service.now - HOUR
    site.run(BEGINNING, before)
    number = service.server("one", 20)["id"]
    service.addresses = [
        {"id": "a", "project_id": "one", "port_id": "p", "port_details": {"device_id": number}},
        {"id": "b", "project_id": "one", "port_id": None, "port_details": None},
        {"id": "c", "project_id": "two", "port_id": "q", "port_details": {"device_id": number}},
    ]
    assert site.run(before, service.now)[number].public_ips == 1


@pytest.mark.parametrize("kind", ["no Neutron", "no details", "refused"])
def test_public_addresses_are_as_remembered_without_neutron(
    service: openstack.Cloud, site: Site, kind: str
) -> None:
    before = service.now - HOUR
    floating = {"": [{"OS-EXT-IPS:type": "floating"}, {"OS-EXT-IPS:type": "fixed"}]}
    server = odd(service, 50, status="ACTIVE", addresses=floating)
    site.run(BEGINNING, before)
    service.addresses = [{"id": "a", "project_id": "one", "port_id": "p"}]
    if kind == "no Neutron":
        service.lacks = frozenset({"network"})
    if kind == "refused":
        service.fault = lambda request: Answer(403, {}) if "floating" in request.path else None
    assert site.run(before, service.now)[server["id"]].public_ips == 1
    assert len(site.warnings) == (kind == "refused")


def test_a_dry_run_uses_the_memory_and_changes_nothing(
    service: openstack.Cloud, site: Site
) -> None:
    before = service.now - HOUR
    assert len(site.run(before, service.now, read_only=True)) == 28
    assert not site.path.exists()
    site.run(BEGINNING, before)
    content = site.path.read_bytes()
    assert len(site.run(before, service.now, read_only=True)) == 28
    assert site.asked()["servers"] == 0
    assert site.path.read_bytes() == content
    assert [path.name for path in site.path.parent.iterdir()] == ["memory.sqlite"]


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE servers (id)")
    connection.close()


DAMAGE: dict[str, Any] = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "overwritten": lambda path: path.write_bytes(
        path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)
    ),
    "no database": lambda path: path.write_bytes(b"x" * 5000),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "another program's": _foreign,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_memory_costs_requests_alone(
    service: openstack.Cloud, site: Site, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = service.now - HOUR
    wanted = site.run(BEGINNING, before)
    DAMAGE[kind](site.path)
    found = site.run(before, service.now)
    assert len(found) == 28
    assert found.keys() <= wanted.keys()
    assert len(caplog.records) == (kind != "empty")
    if kind != "a directory":
        site.run(before, service.now)
        assert site.asked()["servers"] == 0  # it works again


def test_the_memory_of_another_cloud_does_not_count(
    service: openstack.Cloud, site: Site, tmp_path: Path
) -> None:
    before = service.now - HOUR
    site.run(BEGINNING, before)
    with openstack.serving(openstack.Cloud(servers=40, deleted=12, max_limit=1000)) as other:
        other.now = service.now
        found = Site(other, tmp_path).run(before, service.now)
    assert len(found) == 28
    site.run(before, service.now)
    assert site.asked()["servers"] == 0
    assert (tmp_path / "memory.sqlite").stat().st_mode & 0o777 == 0o640


def test_projects_side_by_side_keep_their_servers(
    service: openstack.Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of one removes only what was not accounted for a long time."""

    def kept(*projects: str) -> dict[str, int]:
        memory = CloudMemory(tmp_path / "m", "k", names_age=HOUR, read_only=False)
        found = {name: memory.servers("", name) for name in projects}
        for name, servers in found.items():
            servers.learn(service.server(name, 20), since=service.now)
        for servers in found.values():
            servers.finish()
        counts = {name: len(servers.others(set())) for name, servers in found.items()}
        memory.close()
        return counts

    assert kept("a", "b", "c") == {"a": 1, "b": 1, "c": 1}
    later = clock.now() + timedelta(days=91)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert kept("a", "b") == {"a": 1, "b": 1}
    with sqlite3.connect(tmp_path / "m") as connection:
        assert connection.execute("SELECT count(*) FROM servers").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM projects").fetchone() == (2,)
    connection.close()


ODD_ANSWERS: dict[str, dict[str, Any]] = {
    "half a surrogate pair": {"id": "\ud800"},
    "no user": {"user_id": None},
    "no flavor": {"flavor": None},
    "huge": {"flavor": {"vcpus": 10**400, "ram": 1, "disk": 1, "ephemeral": 0}},
    "image is a list": {"image": []},
    "addresses": {"addresses": {"a": 5}},
}


@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_what_cannot_be_remembered_stops_nothing(
    service: openstack.Cloud, tmp_path: Path, kind: str
) -> None:
    memory = CloudMemory(tmp_path / "m", "k", names_age=HOUR, read_only=False)
    servers = memory.servers("", "one")
    for number in range(3):
        server = service.server("one", 20 + number) | (ODD_ANSWERS[kind] if number == 1 else {})
        servers.learn(server, since=service.now)
    servers.finish()
    memory.close()
    again = CloudMemory(tmp_path / "m", "k", names_age=HOUR, read_only=False)
    kept = again.servers("", "one").others(set())
    assert {service.server("one", 20)["id"], service.server("one", 22)["id"]} <= kept.keys()
    again.close()


def test_servers_that_are_younger_than_the_window_are_no_contradiction(
    service: openstack.Cloud, site: Site
) -> None:
    """A run with ``--extract-to`` in the past sees them among the changed ones, and remembers."""
    young = service.now - 4 * HOUR
    launched = young.replace(tzinfo=None).isoformat(timespec="microseconds")
    for number in range(50, 75):
        odd(
            service,
            number,
            created=z(young),
            updated=z(young),
            **{"OS-SRV-USG:launched_at": launched},
        )
    long_ago = service.now - timedelta(days=5)
    site.run(long_ago - HOUR, long_ago)
    found = site.run(long_ago, long_ago + HOUR)
    assert walls(found) == living_truth(service, long_ago, long_ago + HOUR)
    found = site.run(long_ago + HOUR, service.now)
    assert walls(found) == living_truth(service, long_ago + HOUR, service.now)
