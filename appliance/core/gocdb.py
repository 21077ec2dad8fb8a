"""GOCDB, EGI's registry of services: its answers, and how an entry there must be written.

Programs ask its public interface, each with its own client; all functions here are pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from appliance.core.suggestion import did_you_mean

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

URL = "https://goc.egi.eu/gocdbpi/public/"
CLOUD, ACCOUNTING = "org.openstack.nova", "eu.egi.cloud.accounting"
"""Types of services: a Keystone, and the sender of a site's records."""
LARGEST = 32 * 2**20
"""Bytes of an answer."""
_VERSION = re.compile(r"(^|/)v3$")
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class RegisteredService:
    """A service, its site, and its URLs and the name of its certificate as written in GOCDB."""

    id: str
    site: str
    urls: tuple[str, ...]
    dn: str = ""


class EntryFault(NamedTuple):
    """A fault of a site's entry: its row in the table of faults, and its text."""

    row: str
    text: str


def query(service_type: str) -> dict[str, str]:
    """Return the query for the services of a type."""
    return {"method": "get_service", "service_type": service_type}


def services(content: bytes) -> list[RegisteredService]:
    """Return the services in an answer.

    Raises:
        ValueError: It is something else than a list of services.

    """
    return [
        RegisteredService(
            one.get("PRIMARY_KEY", ""),
            one.findtext("SITENAME") or "",
            tuple(_urls(one)),
            (one.findtext("HOSTDN") or "").strip(),
        )
        for one in _parse(content).iter("SERVICE_ENDPOINT")
    ]


def _parse(content: bytes) -> Element:
    from xml.etree import ElementTree as ET  # noqa: PLC0415  start-up is a cost

    # A document type could define entities that expand without end; GOCDB's answers have none.
    # Nor are they in UTF-16, in which the word would look otherwise.
    if b"<!DOCTYPE" not in content and b"\0" not in content:
        try:
            return ET.fromstring(content)  # noqa: S314  no entities, see above
        except ET.ParseError:
            pass
    raise ValueError("GOCDB answers with something else than a list of services")


def _urls(service: Element) -> Iterator[str]:
    yield service.findtext("URL") or ""
    for endpoint in service.iterfind("ENDPOINTS/ENDPOINT"):
        yield endpoint.findtext("URL") or ""


# --------------------------------------------------------------------------------------------------
# URLs


def is_of(endpoint: str, service: RegisteredService) -> bool:
    """Check whether an endpoint is that of a service, however its URL is written."""
    return _place(endpoint) in map(_place, service.urls)


def is_alike(endpoint: str, url: str) -> bool:
    """Check whether two URLs differ at most by the usual port, slashes and the version."""
    one, other = _place(endpoint), _place(url)
    return _without_version(one) == _without_version(other)


def _without_version(place: tuple[str, ...]) -> tuple[str, ...]:
    return (*place[:-1], _VERSION.sub("", place[-1]))


def _place(url: str) -> tuple[str, ...]:
    """Return what two URLs of one service have in common; the text of one that is none."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return (url,)
    return parts.scheme, parts.hostname or "", str(port), parts.path.strip("/")


# --------------------------------------------------------------------------------------------------
# faults


def fault_of_name(
    name: str, endpoint: str, known: Sequence[RegisteredService]
) -> EntryFault | None:
    """Return what is wrong with a site's name (C22); ``known`` are the clouds in GOCDB."""
    sites = {one.site for one in known}
    owners = {one.site for one in known if is_of(endpoint, one)}
    if name in (owners or sites):
        return None
    row = "C22" if name in sites else "C22.b"
    if owners:
        named = " and ".join(sorted(owners))
        return EntryFault(row, f"GOCDB has this endpoint at the site {named}; write that name")
    hint = did_you_mean(name, sites, otherwise="correct the name, or register the site there")
    return EntryFault(row, f"GOCDB has no service {CLOUD} of a site {name!r}; {hint}")


def fault_of_endpoint(endpoint: str, known: Sequence[RegisteredService]) -> EntryFault | None:
    """Return what is wrong with the URL of Keystone (C37); ``known`` are the clouds in GOCDB."""
    registered = [url for one in known for url in one.urls]
    if endpoint in registered:
        return None
    if near := next((url for url in registered if is_alike(endpoint, url)), ""):
        text = f"GOCDB has {near}, and EGI compares the texts; write exactly {endpoint} in GOCDB"
        return EntryFault("C37.a", text)
    text = (
        f"GOCDB has no service {CLOUD} with the URL {endpoint}; add it there, or correct this one"
    )
    return EntryFault("C37", text)


def fault_of_dn(dn: str, known: Sequence[RegisteredService]) -> EntryFault | None:
    """Return what is wrong with the name of a certificate (C11).

    ``dn`` is in slash form. ``known`` are the senders of records in GOCDB.
    """
    registered = [one.dn for one in known if one.dn]
    if dn in registered:
        return None
    wanted = _attributes(dn)
    if near := next((other for other in registered if _attributes(other) == wanted), ""):
        text = (
            f"GOCDB has this name as {near}, and the texts are compared; write exactly {dn} there"
        )
        return EntryFault("C11.b", text)
    text = (
        f"GOCDB has no service {ACCOUNTING} with the name of this certificate, so EGI refuses its"
        f" records; write {dn} as the Host DN of that service of the site"
    )
    return EntryFault("C11.a", text)


def _attributes(dn: str) -> list[str]:
    """Return the attributes of a name in any form and order, for comparison.

    ``/C=X/CN=y``, ``C=X, CN=y`` and ``CN=y,C=X`` are the same name, with OpenSSL's or Globus's
    word for an address of mail.
    """
    text = re.sub(r"(?<!\\)[/,;]\s*(?=[A-Za-z.0-9]+\s*=)", "\n", dn.strip())
    found = []
    for part in filter(None, text.split("\n")):
        kind, _, value = part.partition("=")
        kind = kind.strip().lower()
        found.append(f"{'email' if kind in _MAIL else kind}={' '.join(value.split()).lower()}")
    return sorted(found)


_MAIL = ("email", "emailaddress", "e")
