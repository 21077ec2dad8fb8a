"""F-A9: every listing follows links page by page and ends, whatever the service sends.

The services answer over HTTP; each listing of the product is read through its own function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from appliance.core.cloud import compute, identity, network, offer, pages, storage
from appliance.core.cloud.glance import Glance
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import Unavailable
from tests.simulators import openstack
from tests.simulators.openstack import Answer, Request

NOVA = offer.Compute("https://nova.example.org", "v2.1", (2, 96))
SINCE = datetime(2026, 11, 1, tzinfo=UTC)
Listing = Callable[[Cloud], Iterable[object]]


def in_list(key: str) -> Callable[[str], dict[str, Any]]:
    return lambda link: {f"{key}_links": [{"rel": "next", "href": link}]}


USAGE = "/compute/v2.1/os-simple-tenant-usage/one"
ACTIONS = "/compute/v2.1/servers/s/os-instance-actions"


LISTINGS: dict[str, tuple[str, str, Callable[[str], dict[str, Any]], Listing]] = {
    "Nova, living": (
        *("/compute/v2.1/servers/detail", "servers", in_list("servers")),
        lambda cloud: compute.Servers(cloud.project("one")).living(),
    ),
    "Nova, changed": (
        *("/compute/v2.1/servers/detail", "servers", in_list("servers")),
        lambda cloud: compute.Servers(cloud.project("one")).changed(SINCE),
    ),
    "Nova, usage": (
        *(USAGE, "tenant_usage", in_list("tenant_usage")),
        lambda cloud: compute.Servers(cloud.project("one")).used(SINCE, SINCE),
    ),
    "Nova, actions": (
        *(ACTIONS, "instanceActions", lambda link: {"links": [{"rel": "next", "href": link}]}),
        lambda cloud: compute.Servers(cloud.project("one")).actions("s"),
    ),
    "Nova, flavors": (
        *("/compute/v2.1/flavors/detail", "flavors", in_list("flavors")),
        lambda cloud: offer.flavors(cloud.project("one"), NOVA),
    ),
    "Glance, offered": (
        *("/image/v2/images", "images", lambda link: {"next": link}),
        lambda cloud: offer.images(cloud.project("one")),
    ),
    "Glance, owned": (
        *("/image/v2/images", "images", lambda link: {"next": link}),
        lambda cloud: Glance(cloud.project("one")).images(owner="one", hidden=False),
    ),
    "Keystone": (
        *("/v3/auth/projects", "projects", lambda link: {"links": {"next": link}}),
        identity.projects,
    ),
    "Keystone, tagged": (
        *("/v3/projects", "projects", lambda link: {"links": {"next": link}}),
        lambda cloud: identity.projects(cloud, tag="caso"),
    ),
    "Neutron": (
        *("/network/v2.0/floatingips", "floatingips", in_list("floatingips")),
        lambda cloud: network.floating_ips(cloud.project("one")),
    ),
    "Cinder": (
        *("/volume/v3/one/volumes/detail", "volumes", in_list("volumes")),
        lambda cloud: storage.volumes(cloud.project("one")),
    ),
}


@pytest.fixture(autouse=True)
def _few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_MOST_PAGES", 20)
    assert compute._MOST_ACTION_PAGES == 20
    defaults: Any = pages.follow.__kwdefaults__
    assert defaults["most"] == pages.MOST_PAGES == 1000
    monkeypatch.setitem(defaults, "most", 20)


@pytest.fixture
def service() -> Iterator[openstack.Cloud]:
    with openstack.serving(openstack.Cloud()) as served:
        yield served


def client(service: openstack.Cloud) -> Cloud:
    url = f"{service.url}/v3"
    options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
    return Cloud(Access("v3password", url, options))


def item(number: int) -> dict[str, Any]:
    ids = dict.fromkeys(("id", "instance_id", "request_id"), f"{number}")
    return {**ids, "name": f"n{number}", "visibility": "public", "status": "active", **OWNER}


OWNER = {"project_id": "one", "os-vol-tenant-attr:tenant_id": "one"}


def holding(key: str, items: object) -> dict[str, Any]:
    """Return a body with items under a key; those of usage are in an object."""
    return {key: {"server_usages": items} if key == "tenant_usage" else items}


@pytest.mark.parametrize("name", LISTINGS)
def test_f_a9_each_page_is_read_once(service: openstack.Cloud, name: str) -> None:
    path, key, link, listing = LISTINGS[name]
    asked: list[dict[str, str]] = []

    def fault(request: Request) -> Answer | None:
        if request.path != path:
            return None
        asked.append(request.query)
        page = int(request.query.get("marker", 0))
        more = link(f"{service.url}{path}?marker={page + 1}") if page < 3 else {}
        return Answer(body={**holding(key, [item(2 * page), item(2 * page + 1)]), **more})

    service.fault = fault
    found = list(listing(client(service)))
    # The tagged projects are added to those in which the account has a role.
    assert len(found) == 8 + (name == "Keystone, tagged")
    assert [query.get("marker") for query in asked] == [None, "1", "2", "3"]


BAD_LINKS: dict[str, tuple[Callable[[int], str], str]] = {
    "to itself": (
        lambda _: "?marker=x",
        "link to the next page of {key} leads to a page that was already read",
    ),
    "in a circle": (
        lambda page: f"?marker={page % 3}",
        "link to the next page of {key} leads to a page that was already read",
    ),
    "without end": (
        lambda page: f"?marker={page}",
        "listing of {key} does not end after 20 pages",
    ),
    "growing": (
        lambda page: f"?marker={'x' * 3000 * (page + 1)}",
        "listing of {key} does not end after 3 pages",
    ),
    "elsewhere": (
        lambda page: f"http://elsewhere.example.org/?marker={page}",
        "link to the next page of {key} leads to another host, 'elsewhere.example.org'",
    ),
    "elsewhere, without a scheme": (
        lambda page: f"//elsewhere.example.org/?marker={page}",
        "link to the next page of {key} leads to another host, 'elsewhere.example.org'",
    ),
    "no URL": (
        lambda page: f"http://[half?marker={page}",
        "link to the next page of {key} leads to another host, 'http://[half?marker=0'",
    ),
}


@pytest.mark.parametrize("kind", BAD_LINKS)
@pytest.mark.parametrize("name", LISTINGS)
def test_f_a9_a_bad_link_is_refused_in_one_line(
    service: openstack.Cloud, name: str, kind: str
) -> None:
    path, key, link, listing = LISTINGS[name]
    bad, words = BAD_LINKS[kind]
    numbers = itertools.count()

    def fault(request: Request) -> Answer | None:
        if request.path != path:
            return None
        return Answer(body={**holding(key, [item(1)]), **link(bad(next(numbers)))})

    service.fault = fault
    with pytest.raises(Unavailable) as raised:
        list(listing(client(service)))
    line = str(raised.value)
    who = name.partition(",")[0]
    host = service.url.removeprefix("http://")
    assert line.startswith(f"{host}: {who}'s {words.format(key=key)}; ")
    assert "\n" not in line
    assert next(numbers) <= 20


@pytest.mark.parametrize("name", LISTINGS)
@pytest.mark.parametrize(
    "body", ["<html>", [], {}, {"KEY": 5}, {"KEY": ["x"]}, {"KEY": [{}]}, {"KEY": [], "next": 7}]
)
def test_f_a9_what_is_no_page_is_refused(service: openstack.Cloud, name: str, body: object) -> None:
    path, key, _, listing = LISTINGS[name]
    if isinstance(body, dict):
        body = {
            name: value
            for found, items in body.items()
            for name, value in (holding(key, items) if found == "KEY" else {found: items}).items()
        }
    service.fault = lambda request: Answer(body=body) if request.path == path else None
    with pytest.raises(Unavailable, match=f" answers 200 to a listing of {key}: "):
        list(listing(client(service)))


def test_a_link_may_name_another_endpoint_of_the_catalog(service: openstack.Cloud) -> None:
    """A service that is reached by its internal URL may name its public one."""
    cloud = client(service)
    scope = cloud.project("one")
    answers = iter(
        [
            {"things": [item(1)], "next": "https://public.example.org/things?marker=1"},
            {"things": [item(2)]},
        ]
    )
    service.fault = lambda _: Answer(body=next(answers))

    def fetch(url: str) -> requests.Response:
        return requests.get(service.url + url, timeout=10)

    found = pages.follow(
        *(fetch, "/things"),
        key="things",
        service="It",
        catalog=lambda: {*scope.catalog_hosts(), "public.example.org"},
    )
    assert [one["id"] for one in found] == ["1", "2"]
    assert scope.catalog_hosts() == {"127.0.0.1"}


def test_a_page_leaves_memory_before_the_next_one_arrives(service: openstack.Cloud) -> None:
    held: list[int] = []

    class Counted(dict[str, Any]):
        def __del__(self) -> None:
            held.append(-1)

    class Response(requests.Response):
        def json(self, **_: Any) -> Any:
            assert sum(held) <= 1  # the caller still has the last item
            held.extend([1] * 10)
            number = len(held)
            link = {"next": f"?marker={number}"} if number < 100 else {}
            return {"servers": [Counted(id=n) for n in range(1, 11)], **link}

    def fetch(url: str) -> requests.Response:
        response = Response()
        response.url = f"http://nova.example.org{url}"
        return response

    found = pages.follow(fetch, "/servers", key="servers", service="Nova", catalog=set)
    assert sum(1 for _ in found) >= 50
