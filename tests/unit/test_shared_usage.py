"""The usage of many projects from one listing: the same records, whatever the listing lacks.

The truth is the simulated cloud's own. Each test also reads without the listing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from caso.kinds.cloud import CloudRecord
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.memory.cloud import CloudMemory
from caso.sources import shared_usage
from caso.sources.nova import SOURCE
from caso.sources.shared_usage import SharedUsage
from caso.sources.source import Names, ProjectContext, Unaccountable
from tests.simulators import openstack
from tests.simulators.openstack import Answer, Request

HOUR = timedelta(hours=1)
ALL = "/compute/v2.1/os-simple-tenant-usage"
PROJECTS = tuple(f"p{number}" for number in range(10))

Records = dict[str, dict[str, int]]
"""Wall seconds of each server, by project."""


@pytest.fixture
def service() -> Iterator[openstack.Cloud]:
    cloud = openstack.Cloud(PROJECTS, servers=6, deleted=2, max_limit=17, is_administrator=True)
    with openstack.serving(cloud) as served:
        yield served


class ManyProjects:
    """Runs over all projects, with a memory in a file."""

    def __init__(self, service: openstack.Cloud, path: Path) -> None:
        self.service = service
        self.path = path / "memory.sqlite"
        self.asked: list[str] = []

    def run(
        self,
        since: datetime,
        until: datetime,
        *,
        is_shared: bool = True,
        begins: dict[str, datetime] | None = None,
    ) -> Records:
        """Return the amounts of the last record of each server."""
        url = f"{self.service.url}/v3"
        options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
        cloud = Cloud(Access("v3password", url, options))
        memory = CloudMemory(self.path, url, names_age=timedelta(0), read_only=False)
        usage = SharedUsage(memory.listings, "u")
        if is_shared:
            usage.expect(PROJECTS)
        self.asked.clear()
        fault = self.service.fault

        def noting(request: Request) -> Answer | None:
            if request.path.startswith("/compute"):
                self.asked.append(request.path)
            return fault(request)

        self.service.fault = noting
        found: Records = {}
        try:
            for name in PROJECTS:
                context = ProjectContext(
                    vo="vo.x",
                    names=Names("S", "S"),
                    user_name=lambda _: "jane",
                    image=lambda image: image,
                    warn=lambda _: None,
                    servers=memory.servers("", name),
                    usage=usage,
                )
                begin = (begins or {}).get(name, since)
                window = ExtractionWindow(begin, until, is_first=since == BEGINNING)
                found[name] = {}
                for one in SOURCE.records(cloud.project(name), window, context):
                    assert not isinstance(one, Unaccountable)
                    record = one.record
                    assert isinstance(record, CloudRecord)
                    assert record.project_id == name
                    assert record.amount >= found[name].get(record.key, 0)
                    found[name][record.key] = record.amount
        finally:
            memory.close()
            self.service.fault = fault
        return found

    def of_all(self) -> int:
        """Return the requests of the last run for the usage of all projects."""
        return self.asked.count(ALL)

    def of_one(self) -> int:
        """Return the requests of the last run for the usage of single projects."""
        return sum(path.startswith(f"{ALL}/") for path in self.asked)


@pytest.fixture
def site(service: openstack.Cloud, tmp_path: Path) -> ManyProjects:
    made = ManyProjects(service, tmp_path)
    made.run(BEGINNING, service.now - HOUR)
    return made


def truth(service: openstack.Cloud) -> Records:
    """Return the seconds of the servers that live; those that ended did so days ago."""
    found = {}
    for name in PROJECTS:
        ended = {one["id"] for one in service.all_servers(name) if one["status"] == "DELETED"}
        walls = service.truth(name, until=service.now)
        found[name] = {key: wall for key, wall in walls.items() if key not in ended}
    return found


def changed(service: openstack.Cloud, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Have the service change its answers to the listing of all projects: a list of groups."""

    def fault(request: Request) -> Answer | None:
        if request.path != ALL:
            return None
        answer = service._usage_of_all(request, PROJECTS[0])
        change(answer.body["tenant_usages"])  # type: ignore[index]
        return answer

    service.fault = fault


def test_many_quiet_projects_take_one_listing(service: openstack.Cloud, site: ManyProjects) -> None:
    """40 living servers, in three pages of 17."""
    assert site.run(service.now - HOUR, service.now) == truth(service)
    assert site.asked == [ALL] * 3


def test_a_server_that_ended_before_the_window_is_left_alone(
    service: openstack.Cloud, site: ManyProjects
) -> None:
    """The listing begins an hour earlier than the window of the first project."""
    ended = service.now - 1.5 * HOUR
    stamp = f"{ended:%Y-%m-%dT%H:%M:%S}"
    gone = {"status": "DELETED", "updated": f"{stamp}Z", "OS-SRV-USG:terminated_at": f"{stamp}.0"}
    service.more = {name: [{**service.server(name, 50), **gone}] for name in PROJECTS}
    assert site.run(service.now - HOUR, service.now) == {
        name: {key: wall for key, wall in walls.items() if key != service.uuid(name, 50)}
        for name, walls in truth(service).items()
    }
    assert set(site.asked) == {ALL}


def test_changes_are_seen_as_without_it(service: openstack.Cloud, site: ManyProjects) -> None:
    middle = service.now - HOUR / 2
    stamps = {
        "created": f"{middle:%Y-%m-%dT%H:%M:%SZ}",
        "updated": f"{middle:%Y-%m-%dT%H:%M:%SZ}",
        "OS-SRV-USG:launched_at": f"{middle:%Y-%m-%dT%H:%M:%S}.000000",
    }
    service.more = {name: [{**service.server(name, 50), **stamps}] for name in PROJECTS[:3]}
    ended = {"status": "DELETED", "OS-SRV-USG:terminated_at": f"{service.now:%Y-%m-%dT%H:%M:%S}.0"}
    service.more["p2"][0] |= ended
    shared = site.run(service.now - HOUR, service.now)
    assert shared["p0"][service.uuid("p0", 50)] == HOUR.total_seconds() / 2
    assert service.uuid("p2", 50) in shared["p2"]
    assert shared == site.run(service.now - HOUR, service.now, is_shared=False)


def test_an_account_that_may_not_is_refused_once_a_day(
    service: openstack.Cloud, site: ManyProjects
) -> None:
    service.is_administrator = False
    for requests in (1, 0):
        assert site.run(service.now - HOUR, service.now) == truth(service)
        assert (site.of_all(), site.of_one()) == (requests, 10)


def test_a_listing_of_the_account_s_own_project_alone_loses_nothing(
    service: openstack.Cloud, site: ManyProjects
) -> None:
    """A service that answers 200 and silently leaves the projects of others out."""

    def own(groups: list[dict[str, Any]]) -> None:
        groups[:] = [one for one in groups if one["tenant_id"] == "p0"]

    changed(service, own)
    assert site.run(service.now - HOUR, service.now) == truth(service)
    assert site.of_one() == 9


def test_servers_that_the_listing_leaves_out_are_asked_for(
    service: openstack.Cloud, site: ManyProjects
) -> None:
    def without_the_first(groups: list[dict[str, Any]]) -> None:
        for group in groups:
            del group["server_usages"][0]

    changed(service, without_the_first)
    assert site.run(service.now - HOUR, service.now) == truth(service)


@pytest.mark.parametrize("forged", ["another's id", "no id", "an end that is no time"])
def test_rows_that_cannot_be_right_discard_the_listing(
    service: openstack.Cloud, site: ManyProjects, forged: str
) -> None:
    values = {
        "another's id": {"tenant_id": "p9"},
        "no id": {"instance_id": None},
        "an end that is no time": {"ended_at": "soon"},
    }
    changed(service, lambda groups: groups[0]["server_usages"][0].update(values[forged]))
    assert site.run(service.now - HOUR, service.now) == truth(service)
    assert site.of_one() == 10


def test_a_server_that_is_listed_in_another_project_counts_where_it_is(
    service: openstack.Cloud, site: ManyProjects
) -> None:
    """The whole group of a project is given to another one; neither may be doubled or moved."""

    def swapped(groups: list[dict[str, Any]]) -> None:
        foreign = json.loads(json.dumps(groups[0]["server_usages"]))
        for row in foreign:
            row["tenant_id"] = groups[1]["tenant_id"]
        groups[1]["server_usages"] += foreign

    changed(service, swapped)
    assert site.run(service.now - HOUR, service.now) == truth(service)


def test_a_listing_that_fails_half_way_is_not_used(
    service: openstack.Cloud, site: ManyProjects
) -> None:
    broken = Answer(400, {"badRequest": {"code": 400, "message": "no"}})

    def fault(request: Request) -> Answer | None:
        return broken if request.path == ALL and "marker" in request.query else None

    service.fault = fault
    assert site.run(service.now - HOUR, service.now) == truth(service)
    assert site.of_one() == 10


def test_a_large_cloud_is_read_project_by_project(
    service: openstack.Cloud, site: ManyProjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_usage, "_MOST_ROWS", 20)
    for requests in (2, 0):
        assert site.run(service.now - HOUR, service.now) == truth(service)
        assert (site.of_all(), site.of_one()) == (requests, 10)


def test_a_project_with_an_earlier_window_is_asked_itself(
    service: openstack.Cloud, site: ManyProjects
) -> None:
    """The first project asks for the listing; another one was left out by the runs of a month."""
    ended = service.now - timedelta(days=30)
    begins = {"p4": ended - timedelta(days=1)}
    found = site.run(service.now - HOUR, service.now, begins=begins)
    assert site.of_one() == 1
    gone = {service.uuid("p4", 0), service.uuid("p4", 1)}
    assert set(found["p4"]) == set(truth(service)["p4"]) | gone
    assert {name: walls for name, walls in found.items() if name != "p4"} == {
        name: walls for name, walls in truth(service).items() if name != "p4"
    }


def test_few_projects_do_not_ask_for_the_whole_cloud() -> None:
    usage = SharedUsage({}, "u")
    usage.expect(PROJECTS[:7])
    nobody: Any = None  # a request would fail
    assert usage.of(nobody, "p0", BEGINNING, BEGINNING + HOUR) is None
