"""Public addresses and their owners, as Neutron describes them on a simulated cloud."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from caso.kinds.ip import IPRecord
from caso.kinds.months import ExtractionWindow, first_moment
from caso.sources.neutron import SOURCE
from caso.sources.source import Names, ProjectContext, Unaccountable
from tests.simulators import openstack
from tests.simulators.openstack import Answer, Request

OF_A_SERVER = {"device_owner": "compute:nova"}


def address(number: int, details: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": f"{number}",
        "project_id": "one",
        "floating_ip_address": f"192.0.2.{number}",
        "created_at": "2026-01-01T00:00:00Z",
        "port_details": details,
    }


def counted(cloud: openstack.Cloud, warned: list[str] | None = None) -> Counter[str]:
    """Return the number of addresses by owner in the month of the cloud's present."""
    with openstack.serving(cloud) as service:
        url = f"{service.url}/v3"
        options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
        scope = Cloud(Access("v3password", url, options)).project("one")
        context = ProjectContext(
            vo="vo.x",
            names=Names("S", "S"),
            user_name=lambda _: None,
            image=lambda image: image,
            warn=pytest.fail if warned is None else warned.append,
            kinds=frozenset({"ip"}),
        )
        start = max(cloud.now - timedelta(hours=1), first_moment(cloud.now))
        found: Counter[str] = Counter()
        for one in SOURCE.records(scope, ExtractionWindow(start, cloud.now), context):
            assert not isinstance(one, Unaccountable)
            assert isinstance(one.record, IPRecord)
            found[one.record.user_id] += one.record.count
        return found


def test_an_address_belongs_to_the_user_of_its_server() -> None:
    cloud = openstack.Cloud(projects=("one",), servers=3, deleted=1)
    living, deleted = cloud.server("one", 2), cloud.server("one", 0)
    cloud.addresses = [
        address(1, {**OF_A_SERVER, "device_id": living["id"]}),
        address(2, {**OF_A_SERVER, "device_id": deleted["id"]}),
        address(3, {"device_owner": "network:router_gateway", "device_id": living["id"]}),
        address(4, None),
    ]
    assert counted(cloud) == {living["user_id"]: 1, "one": 3}


@pytest.mark.parametrize(
    "device",
    ["detail", "../flavors/detail", "x?a=b", "../../../v3/auth/tokens", " ", "1" * 5000, 7, None],
)
def test_what_users_write_into_a_port_is_no_request_to_nova(device: object) -> None:
    """Neutron takes any ``device_id`` from a user; it must not cost the project its records."""
    cloud = openstack.Cloud(projects=("one",), servers=1, deleted=0)
    cloud.addresses = [address(1, {**OF_A_SERVER, "device_id": device}), address(2, None)]
    asked: list[str] = []

    def noted(request: Request) -> Answer | None:
        asked.append(request.path)
        return None

    cloud.fault = noted
    assert counted(cloud) == {"one": 2}
    assert [path for path in asked if "tokens" not in path] == ["/network/v2.0/floatingips"]


@pytest.mark.parametrize("project", [None, ""])
def test_an_address_without_a_project_is_in_no_record(project: str | None) -> None:
    """It is reported once, and the others count."""
    cloud = openstack.Cloud(projects=("one", "two"), servers=1, deleted=0)
    lost = {**address(3, None), "project_id": project, "tenant_id": project}
    answered = {"floatingips": [address(1, None), lost]}
    cloud.fault = lambda request: Answer(body=answered) if "/floatingips" in request.path else None
    warned: list[str] = []
    assert counted(cloud, warned) == {"one": 1}
    (line,) = set(warned)
    assert line == f"address {lost['id']}: Neutron names no project of it, so it is in no record"
