"""The offer of a cloud to a project: flavors, images, quotas, and the compute service.

None of these listings grows with the number of servers. The listing of flavors includes their
extra specs (Nova's microversion 2.61): one request for each flavor used to be most of the requests
of an information provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter

from appliance.core import hosts
from appliance.core.cloud import pages
from appliance.core.cloud.glance import Glance
from appliance.core.cloud.session import Scope
from appliance.core.cloud.transport import not_in_catalog
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, Unavailable

if TYPE_CHECKING:
    import requests

_WITH_SPECS = (2, 61)


@dataclass(frozen=True, slots=True)
class Compute:
    """Nova as the catalog and its version document describe it."""

    url: str
    """Public URL, without a project's id and without a slash at its end."""
    version: str
    """``v2.1``."""
    microversion: tuple[int, int]
    """The newest that it supports."""


def compute(scope: Scope) -> Compute:
    """Return the Nova of a scope; its version document is requested once in a session.

    Raises:
        Unavailable: the catalog has no Nova, or none in the account's region.

    """
    try:
        data = scope.nova.get_endpoint_data()
    except exceptions.CatalogException as error:
        wanted = {"service_type": "compute", "region_name": scope.access.region}
        raise not_in_catalog(wanted, scope.access) from error
    if data is None or not data.catalog_url:
        raise Unavailable(
            "the catalog",
            "has no endpoint of a compute service",
            "check `openstack catalog list`",
        )
    url = str(data.catalog_url).rstrip("/").removesuffix(f"/{scope.project_id}")
    major = data.api_version or (2, 1)
    newest = data.max_microversion or major
    return Compute(url, "v" + ".".join(map(str, major)), (newest[0], newest[1]))


def flavors(scope: Scope, service: Compute) -> Iterator[Mapping[str, Any]]:
    """Yield the flavors that the project may boot: public ones, and private ones it has access to.

    They have the key ``extra_specs`` unless Nova is older than Rocky. The request leaves out
    ``is_public``, which would show an administrator the private flavors of all projects.
    """
    microversion = ".".join(map(str, min(_WITH_SPECS, service.microversion)))
    listed = pages.follow(
        lambda url: _get(scope, url, microversion),
        "/flavors/detail",
        key="flavors",
        service="Nova",
        catalog=scope.catalog_hosts,
        query={"limit": pages.PAGE_SIZE},
    )
    return (flavor for flavor in listed if not flavor.get("OS-FLV-DISABLED:disabled"))


def images(scope: Scope) -> Iterator[Mapping[str, Any]]:
    """Yield the active images that the project may boot: public, own, and accepted shared ones."""
    for image in Glance(scope).listed({"status": "active"}):
        # Glance shows an administrator's account the private images of all projects.
        if image["visibility"] != "private" or image.get("owner") == scope.project_id:
            yield image


def quotas(scope: Scope) -> Mapping[str, int]:
    """Return Nova's quotas of the project, -1 for unlimited; none if they are not visible."""
    path = f"/os-quota-sets/{scope.project_id}"
    try:
        response = _get(scope, path, "2.1")
    except AccessDenied:
        return {}
    try:
        quota_set = response.json()["quota_set"]
        return {name: value for name, value in quota_set.items() if isinstance(value, int)}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        words = f"Nova answers {response.status_code} to GET {path} without quotas"
        raise Unavailable(hosts.of_url(response.url), words, CHECK_LOGS) from error


def _get(scope: Scope, path: str, microversion: str) -> requests.Response:
    try:
        # The own methods of the client turn each status into an exception.
        response = Adapter.request(
            scope.nova, path, "GET", raise_exc=False, microversion=microversion
        )
    except exceptions.ClientException as error:
        words = f"GET {urlsplit(path).path}: {error}"
        raise Unavailable("Nova", words, CHECK_LOGS) from error
    words = f"Nova answers {response.status_code} to GET {urlsplit(path).path}"
    if response.status_code in (401, 403):
        remedy = "the account needs the role reader in the project"
        raise AccessDenied(hosts.of_url(response.url), words, remedy)
    if not response.ok:
        raise Unavailable(hosts.of_url(response.url), words, CHECK_LOGS)
    return response
