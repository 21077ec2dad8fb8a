"""What a project may use: flavors, images, quotas, and where its compute service is.

Listings come page by page and are returned whole; none grows with the number of servers. Flavors
come with their extra specs in the listing itself (Nova's microversion 2.61): asked for one by one
they were most of the requests that information providers used to make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter

from appliance.core.cloud.pages import Pages
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import AccessDenied, Unavailable

_PAGE = "500"
_MOST_PAGES = 1000
_WITH_SPECS = (2, 61)


@dataclass(frozen=True, slots=True)
class Compute:
    """Nova as the catalog and its version document tell it."""

    url: str
    """Public URL, without a project's id and without a slash at its end."""
    version: str
    """``v2.1``."""
    microversion: tuple[int, int]
    """The newest that it speaks."""


def compute(scope: Scope) -> Compute:
    """Return where the scope's Nova is; its version document is asked for once in a session."""
    data = scope.nova.get_endpoint_data()
    if data is None or not data.catalog_url:
        raise Unavailable(
            "the catalog",
            "has no endpoint of a compute service",
            "look at `openstack catalog list`",
        )
    url = str(data.catalog_url).rstrip("/").removesuffix(f"/{scope.project_id}")
    major = data.api_version or (2, 1)
    newest = data.max_microversion or major
    return Compute(url, "v" + ".".join(map(str, major)), (newest[0], newest[1]))


def flavors(scope: Scope, service: Compute) -> Iterator[Mapping[str, Any]]:
    """Yield the flavors that the project may boot: public ones, and private ones that were opened to it.

    ``extra_specs`` is among their keys unless Nova is older than Rocky. No ``is_public`` is asked
    for: with it an administrator's account would see the private flavors of all other projects.
    """
    microversion = ".".join(map(str, min(_WITH_SPECS, service.microversion)))
    query, pages = {"limit": _PAGE}, Pages("Nova", most=_MOST_PAGES)
    while True:
        body = _get(
            scope.nova, f"/flavors/detail?{urlencode(query)}", "Nova", microversion=microversion
        )
        for flavor in body["flavors"]:
            if not flavor.get("OS-FLV-DISABLED:disabled"):
                yield flavor
        links = [link["href"] for link in body.get("flavors_links", ()) if link["rel"] == "next"]
        if not links or not body["flavors"]:
            return
        query = pages.follow(links[0])


def images(scope: Scope) -> Iterator[Mapping[str, Any]]:
    """Yield the active images that the project may boot: public, its own, and those shared with it and accepted."""
    query, pages = {"status": "active", "limit": _PAGE}, Pages("Glance", most=_MOST_PAGES)
    while True:
        body = _get(scope.glance, f"/v2/images?{urlencode(query)}", "Glance")
        for image in body["images"]:
            # An administrator's account is shown the private images of all projects.
            if image["visibility"] != "private" or image.get("owner") == scope.project_id:
                yield image
        if not body.get("next"):
            return
        query = pages.follow(body["next"])


def quotas(scope: Scope) -> Mapping[str, int]:
    """Return Nova's quotas of the project, -1 for unlimited ones; none when the account may not know them."""
    try:
        body = _get(scope.nova, f"/os-quota-sets/{scope.project_id}", "Nova", microversion="2.1")
    except AccessDenied:
        return {}
    return {name: value for name, value in body["quota_set"].items() if isinstance(value, int)}


def _get(adapter: Any, path: str, service: str, **more: Any) -> dict[str, Any]:
    try:
        # The clients' own methods turn each status into an exception of their own.
        response = Adapter.request(adapter, path, "GET", raise_exc=False, **more)
    except exceptions.ClientException as error:
        raise Unavailable(service, f"GET {urlsplit(path).path}: {error}") from error
    host = urlsplit(response.url).netloc
    what = f"{service} answers {response.status_code} to GET {urlsplit(path).path}"
    if response.status_code in (401, 403):
        raise AccessDenied(host, what, "the account needs the role reader in the project")
    try:
        body = response.json()
    except ValueError:
        body = None
    if not response.ok or not isinstance(body, dict):
        raise Unavailable(
            host, what if not response.ok else f"{what} with something that is no JSON object"
        )
    return body
