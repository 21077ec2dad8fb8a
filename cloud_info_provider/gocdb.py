"""GOCDB, EGI's registry of services: the entry of a Keystone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from appliance.core import causes, hosts, proxy
from appliance.core.run.errors import Unavailable
from cloud_info_provider.facts import GocdbEntry

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

URL = "https://goc.egi.eu/gocdbpi/public/"
SERVICE_TYPE = "org.openstack.nova"
_LARGEST = 32 * 2**20
_OK = 200
_VERSION = re.compile(r"(^|/)v3$")
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class RegisteredService:
    """A service, its site, and its URLs as they are written in GOCDB."""

    id: str
    site: str
    urls: tuple[str, ...]


def find(base: str, endpoint: str, site: str, *, timeout: timedelta) -> GocdbEntry:
    """Return the entry of an endpoint; if several sites have its URL, that of ``site``.

    Raises:
        Unavailable: GOCDB does not answer, or has no such entry.

    """
    found = [one for one in services(base, timeout=timeout) if is_of(endpoint, one)]
    named = [GocdbEntry(one.id, one.site) for one in found if one.id]
    if not named:
        words = f"has no service {SERVICE_TYPE} with the URL {endpoint}"
        remedy = "correct the URL in the site's description, or add the service in GOCDB"
        raise Unavailable("GOCDB", words, remedy)
    return next((entry for entry in named if entry.site == site), named[0])


def services(base: str, *, timeout: timedelta) -> list[RegisteredService]:
    """Return all clouds.

    Raises:
        Unavailable: GOCDB does not answer.

    """
    return [
        RegisteredService(
            one.get("PRIMARY_KEY", ""), one.findtext("SITENAME") or "", tuple(_urls(one))
        )
        for one in _parse(_get(base, timeout), base).iter("SERVICE_ENDPOINT")
    ]


def is_of(endpoint: str, service: RegisteredService) -> bool:
    """Check whether an endpoint is that of a service, however its URL is written."""
    return _place(endpoint) in map(_place, service.urls)


def is_alike(endpoint: str, url: str) -> bool:
    """Check whether two URLs differ at most by the usual port, slashes and the version."""
    one, other = _place(endpoint), _place(url)
    return _without_version(one) == _without_version(other)


def _without_version(place: tuple[str, ...]) -> tuple[str, ...]:
    return (*place[:-1], _VERSION.sub("", place[-1]))


def _get(base: str, timeout: timedelta) -> bytes:
    import requests  # noqa: PLC0415  start-up is a cost

    from appliance.core.cloud.bounded import BoundedSession  # noqa: PLC0415

    host = hosts.of_url(base)
    try:
        with BoundedSession(longest=timeout, largest=_LARGEST) as session:
            answer = session.get(
                base,
                params={"method": "get_service", "service_type": SERVICE_TYPE},
                timeout=timeout.total_seconds(),
            )
    except requests.exceptions.ProxyError as error:
        raise Unavailable(host, *proxy.explain(base, error, "no answer")) from error
    except requests.exceptions.RequestException as error:
        words = f"GOCDB cannot be reached: {causes.of_connection(error)}"
        raise Unavailable(host, words, "check the network and --gocdb-url") from error
    if answer.status_code != _OK:
        raise Unavailable(host, f"GOCDB answers {answer.status_code}", "check --gocdb-url")
    return answer.content


def _parse(content: bytes, base: str) -> Element:
    from xml.etree import ElementTree as ET  # noqa: PLC0415  start-up is a cost

    # A document type could define entities that expand without end; GOCDB's answers have none.
    # Nor are they in UTF-16, in which the word would look otherwise.
    if b"<!DOCTYPE" not in content and b"\0" not in content:
        try:
            return ET.fromstring(content)  # noqa: S314  no entities, see above
        except ET.ParseError:
            pass
    words = "GOCDB answers with something else than a list of services"
    raise Unavailable(hosts.of_url(base), words, "check --gocdb-url")


def _urls(service: Element) -> Iterator[str]:
    yield service.findtext("URL") or ""
    for endpoint in service.iterfind("ENDPOINTS/ENDPOINT"):
        yield endpoint.findtext("URL") or ""


def _place(url: str) -> tuple[str, ...]:
    """Return what two URLs of one service have in common; the text of one that is none."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return (url,)
    return parts.scheme, parts.hostname or "", str(port), parts.path.strip("/")
