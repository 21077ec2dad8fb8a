"""Connections to the names and ports that programs contact, and the name of the site's BDII."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from appliance.admin.bdii.search import PORT
from appliance.admin.check import endpoints
from appliance.admin.check.endpoints import Contact
from appliance.admin.check.probe import CheckedSite
from appliance.core import directory, hosts, proxy
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding

_TIMEOUT = 8.0
_AT_ONCE = 32
_LOGIN = "login of AMS"
_LISTS = ("image list", "registry")


def outbound(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each name and port that cannot be connected to (C06)."""
    # Those without a file are in the catalog: each account reports them, as it does Keystone.
    known = [one for one in endpoints.known(site.values) if one.path]
    found = [one for one in known if one.what != "Keystone"]
    if not found:
        return
    with (
        proxy.environment(site.host.proxies),
        ThreadPoolExecutor(min(len(found), _AT_ONCE)) as pool,
    ):
        log.hide_proxies()  # messages about a proxy quote its URL
        for finding in pool.map(_connect, found):
            if finding is not None:
                yield finding


def _connect(contact: Contact) -> Finding | None:
    where = hosts.join_port(contact.host, contact.port)
    try:
        proxy.tunnel(contact.host, contact.port, timeout=_TIMEOUT).close()
    except (OSError, ApplianceError) as error:
        cause, is_timeout = _cause(error)
        text = f"{contact.what} {where}: {cause}; {_remedy(contact, error)}"
        row = _row(contact, is_timeout=is_timeout)
        return Finding(contact.path, contact.line, "", text, row, tried=f"TCP to {where}")
    return None


def _cause(error: Exception) -> tuple[str, bool]:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT:g} s", True
    if isinstance(error, socket.gaierror):
        return "there is no such name", False
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:], False


def _remedy(contact: Contact, error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "correct the name, or the resolver of this host (/etc/resolv.conf)"
    if isinstance(error, ApplianceError) or proxy.is_refusal(error):
        return "check HTTPS_PROXY and NO_PROXY in /etc/fedcloud/appliance.env"
    if contact.what == _LOGIN:
        return f"open outbound {contact.port}/tcp, or set a token in this file"
    return f"open outbound {contact.port}/tcp in the firewall, and check the name and the port"


def _row(contact: Contact, *, is_timeout: bool) -> str:
    if contact.what in _LISTS:
        return "C06.c"
    if contact.what in ("AMS", _LOGIN, "message broker"):
        return "C06.b" if is_timeout else "C06.a"
    return "C06"


def name(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if the name of the site's BDII does not lead here (C07)."""
    for value in site.values:
        if value.option != "SITE_BDII_HOST":
            continue
        path, line, host = str(value.path), value.line, value.text
        tried = f"the addresses of {host}"
        try:
            found = {
                str(row[4][0]) for row in socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
            }
        except (OSError, UnicodeError):
            text = f"{host!r} is not the name of any address; correct it, or the DNS"
            yield Finding(path, line, value.option, text, "C07.a", tried=tried)
            continue
        others = sorted(address for address in found if not leads_here(address, site))
        if others:
            text = (
                f"{host!r} leads to {', '.join(others)}, which is another machine; correct the A or"
                " AAAA record, or write the public name of this machine"
            )
            yield Finding(path, line, value.option, text, "C07.b", tried=tried)


def leads_here(address: str, site: CheckedSite) -> bool:
    """Check whether an address is one of this machine, also behind a translation of addresses."""
    if _is_own(address):
        return True
    try:
        return _serves_ours(address, site)
    except ApplianceError:
        # The BDII may not run yet. Whether a public address leads to a private one is unknown.
        return _is_behind_translation(address)


def _family(address: str) -> socket.AddressFamily:
    version = ipaddress.ip_address(address.partition("%")[0]).version
    return socket.AF_INET6 if version == 6 else socket.AF_INET  # noqa: PLR2004  IPv6


def _is_own(address: str) -> bool:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))  # only addresses of this machine can be bound
        except OSError:
            return False
    return True


def _is_behind_translation(address: str) -> bool:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, PORT))  # sends nothing, but chooses a route
            source = ipaddress.ip_address(probe.getsockname()[0])
        except OSError:
            return False
    return source.is_private and ipaddress.ip_address(address).is_global


def _serves_ours(address: str, site: CheckedSite) -> bool:
    names = {value.text for value in site.values if value.option == "SITE_NAME"}
    entries = directory.read(
        address,
        port=PORT,
        base="o=glue",
        filter_="(objectClass=GLUE2AdminDomain)",
        attributes=["GLUE2DomainID"],
        timeout=timedelta(seconds=_TIMEOUT),
    )
    known = {text for entry in entries for text in entry.attributes.get("GLUE2DomainID", ())}
    return bool(names & known)
