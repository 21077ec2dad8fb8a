"""What accounting asks of a cloud: usage, single servers, actions, volumes, floating addresses.

Forms of answers come from real services (Nova 34, Cinder, Neutron of the same release); who owns
what comes from the simulated cloud's own lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from appliance.core.cloud import network, storage
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import AccessDenied, Unavailable
from tests.simulators import openstack
from tests.simulators.openstack import Answer, Request


@pytest.fixture
def service() -> Iterator[openstack.Cloud]:
    cloud = openstack.Cloud(projects=("one", "two"), servers=25, deleted=9, max_limit=7)
    with openstack.serving(cloud) as served:
        yield served


def client(service: openstack.Cloud, **more: Any) -> Cloud:
    url = f"{service.url}/v3"
    options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
    return Cloud(Access("v3password", url, options, **more))


def ids(found: Iterable[dict[str, Any]], key: str = "id") -> list[str]:
    return [one[key] for one in found]


def test_f_a3_usage_has_all_pages_and_what_a_listing_hides(service: openstack.Cloud) -> None:
    """Soft-deleted servers accrue until they are reclaimed; long ended ones do not count."""
    hidden = {**service.server("one", 99), "status": "SOFT_DELETED", "_hidden": True}
    service.more["one"] = [hidden]
    servers = Servers(client(service).project("one"))
    since = service.now - timedelta(days=35)
    rows = list(servers.used(since, service.now))
    assert len(rows) == 26 > 3 * service.max_limit
    assert sorted(ids(iter(rows), "instance_id")) == sorted(
        one["id"] for one in service.all_servers("one")
    )
    (row,) = [row for row in rows if row["instance_id"] == hidden["id"]]
    assert (row["state"], row["ended_at"]) == ("soft-delete", None)
    assert hidden["id"] not in ids(servers.living())
    later = ids(servers.used(service.now - timedelta(days=5), service.now), "instance_id")
    assert len(later) == 17


def test_usage_of_a_project_without_servers(service: openstack.Cloud) -> None:
    service.servers = service.deleted = 0
    servers = Servers(client(service).project("one"))
    assert list(servers.used(service.now - timedelta(hours=1), service.now)) == []


def test_a_nova_that_would_cut_usage_is_refused(service: openstack.Cloud) -> None:
    """Below 2.40 usage ends at Nova's limit without a word; 2.47 is needed anyway."""
    service.newest = (2, 38)
    with pytest.raises(Unavailable, match=r"microversions up to 2\.38 only"):
        list(Servers(client(service).project("one")).used(service.now, service.now))


def test_one_server(service: openstack.Cloud) -> None:
    servers = Servers(client(service).project("one"))
    living, deleted = service.server("one", 12), service.server("one", 3)
    assert servers.one(living["id"]) == living
    assert servers.one(deleted["id"]) is None  # Nova answers 404, to an administrator too
    assert servers.one("nobody") is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(body={"server": {"id": "other"}}), Unavailable),
        (Answer(body="<html>"), Unavailable),
        (Answer(body={"server": []}), Unavailable),
        (Answer(403, {}), AccessDenied),
        (Answer(400, {}), Unavailable),
    ],
)
def test_one_server_that_is_no_server(
    service: openstack.Cloud, answer: Answer, error: type[Unavailable]
) -> None:
    servers = Servers(client(service).project("one"))
    service.fault = lambda request: answer if request.path.endswith("/servers/x") else None
    with pytest.raises(error) as raised:
        servers.one("x")
    assert "\n" not in str(raised.value)


def test_a_server_of_another_project_is_not_the_accounts(service: openstack.Cloud) -> None:
    """Nova shows an administrator's account the servers of all projects."""
    foreign = service.server("two", 12)
    body = Answer(body={"server": foreign})
    servers = Servers(client(service).project("one"))
    service.fault = lambda request: body if foreign["id"] in request.path else None
    assert servers.one(foreign["id"]) is None


def test_actions_are_read_to_their_end(service: openstack.Cloud) -> None:
    actions = [
        {"action": "resize", "request_id": f"req-{n}", "start_time": "2026-11-01T00:00:00.000000"}
        for n in range(20)
    ]
    service.more["one"] = [{**service.server("one", 99), "_actions": actions}]
    servers = Servers(client(service).project("one"))
    assert list(servers.actions(service.more["one"][0]["id"])) == actions
    assert list(servers.actions("archived")) == []


def volume(number: int, project: str) -> dict[str, Any]:
    return {"id": f"v{number}", "size": 1, "os-vol-tenant-attr:tenant_id": project}


def test_volumes_are_those_of_the_project(service: openstack.Cloud) -> None:
    service.volumes["one"] = [volume(number, "one") for number in range(20)]
    service.volumes["one"].insert(5, volume(99, "two"))  # as a policy might show it
    found = ids(storage.volumes(client(service).project("one")))
    assert found == [f"v{number}" for number in range(20)]


def test_b11_addresses_are_those_of_the_project(service: openstack.Cloud) -> None:
    """B11: to an administrator's account Neutron shows the whole cloud's."""
    service.addresses = [
        {"id": f"{project}{n}", "project_id": project} for n in range(9) for project in ("one", "x")
    ]
    scope = client(service).project("one")
    assert ids(network.floating_ips(scope)) == [f"one{n}" for n in range(9)]
    scope = client(service).project("one")
    everything = Answer(body={"floatingips": service.addresses})
    service.fault = lambda request: everything if "floatingips" in request.path else None
    assert ids(network.floating_ips(scope)) == [f"one{n}" for n in range(9)]


def test_a_neutron_whose_endpoint_has_its_version(
    service: openstack.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.addresses = [{"id": "a", "tenant_id": "one", "project_id": "one"}]
    monkeypatch.setitem(openstack._CATALOG, "network", "network/v2.0")
    asked: list[str] = []

    def fault(request: Request) -> Answer | None:
        if request.path.startswith("/network"):
            asked.append(request.path)
        return None

    service.fault = fault
    assert ids(network.floating_ips(client(service).project("one"))) == ["a"]
    assert asked == ["/network/v2.0/floatingips"]


def test_a_cloud_without_a_service_says_so(service: openstack.Cloud) -> None:
    service.lacks = frozenset({"volumev3"})
    scope = client(service).project("one")
    assert scope.offers(network.SERVICE)
    assert not scope.offers(storage.SERVICE)
    with pytest.raises(Unavailable, match="its catalog has no public endpoint for block-storage"):
        list(storage.volumes(scope))


def test_b21_the_region_counts_for_every_service(service: openstack.Cloud) -> None:
    service.regions = ("R", "S")
    service.volumes = {"one": [volume(1, "one")], "S/one": [volume(2, "one")]}
    service.more["S/one"] = [service.server("one", 77)]
    asked: list[str] = []

    def fault(request: Request) -> Answer | None:
        asked.append(request.path)
        return None

    service.fault = fault
    cloud = client(service).in_region("S")
    scope = cloud.project("one")
    assert ids(storage.volumes(scope)) == ["v2"]
    assert ids(Servers(scope).living()) == [service.server("one", 77)["id"]]
    list(network.floating_ips(scope))
    paths = [path for path in asked if not path.startswith("/v3")]
    assert len(paths) == 3
    assert all(path.startswith("/S/") for path in paths)
    assert not client(service).in_region("T").project("one").offers(storage.SERVICE)


@pytest.mark.parametrize("status", [401, 403, 400])
def test_a_refusal_is_one_line_with_its_remedy(service: openstack.Cloud, status: int) -> None:
    scope = client(service).project("one")
    service.fault = lambda request: Answer(status, "no") if "volumes" in request.path else None
    with pytest.raises(Unavailable) as raised:
        list(storage.volumes(scope))
    line = str(raised.value)
    if status == 400:
        assert "Cinder answers 400 to a listing of volumes: " in line
    else:
        assert "Cinder does not let the account list the volumes of project one" in line
        assert "openstack role add --user u --user-domain D --project one reader" in line
