"""The site's BDII as others reach it: from its public address, and without a right to write."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta

from appliance.admin.bdii.search import PORT
from appliance.admin.check import network, ports
from appliance.admin.check.probe import CheckedSite
from appliance.core import directory, hosts
from appliance.core.run.finding import Finding

_ANSWER = timedelta(seconds=8)
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared only
"""Where a service answers on this machine that listens on all addresses of a family."""
_ROOT = "o=glue"
_WRITTEN = frozenset({0, directory.NO_SUCH_VALUE, 17, 19, 21, 65})
"""Result codes of a server that lets the client write: done, or refused for what was written.

RFC 4511, appendix A: noSuchAttribute, undefinedAttributeType, constraintViolation,
invalidAttributeSyntax, objectClassViolation.
"""


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if the BDII does not answer outside (C50.f), or lets anyone write (C50.g).

    A BDII that does not even answer here is reported by other probes.
    """
    address, port = own = _own(site)
    if directory.why_silent(address, port, timeout=_ANSWER):
        return
    yield from _of_address(site, own)
    code = directory.try_to_write(address, port, _ROOT, timeout=_ANSWER)
    if code in _WRITTEN:
        where = hosts.join_port(address, port)
        text = (
            f"the BDII at {where} lets anyone change its entries over TCP; restart it, which writes"
            " the shipped configuration of slapd (systemctl restart bdii), or stop the program that"
            " answers there"
        )
        tried = f"a change of {_ROOT} by nobody that cannot succeed, answered with code {code}"
        yield Finding("", 0, "sitebdii", text, "C50.g", tried=tried)


def _own(site: CheckedSite) -> tuple[str, int]:
    """Return where the BDII answers on this machine."""
    address, port = site.host.listen or ("", PORT)
    return _LOOPBACK.get(address, address), port


def _of_address(site: CheckedSite, own: tuple[str, int]) -> Iterator[Finding]:
    if ports.is_on_loopback(site):
        return  # C05.b
    for value in site.values:
        if value.option != "SITE_BDII_HOST":
            continue
        for address in sorted(_addresses(value.text)):
            port = own[1]
            if address == own[0] or not network.leads_here(address, site):
                continue
            if why := directory.why_silent(address, port, timeout=_ANSWER):
                where = hosts.join_port(address, port)
                text = (
                    f"the BDII answers on {own[0]}, but not on {where}, the address of"
                    f" {value.text}: {why}; open inbound {port}/tcp, and check"
                    " FEDCLOUD_BDII_LISTEN"
                )
                path, line, tried = str(value.path), value.line, f"LDAP search at {where}"
                yield Finding(path, line, value.option, text, "C50.f", tried=tried)


def _addresses(host: str) -> set[str]:
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()  # C07.a
    return {str(row[4][0]) for row in found}
