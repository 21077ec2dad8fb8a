"""The clock of this machine: what keeps it, and what other hosts say."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from appliance.admin.check import endpoints
from appliance.admin.check.endpoints import Contact
from appliance.admin.check.probe import CheckedSite
from appliance.admin.mounts import site_files
from appliance.core import clock, hosts
from appliance.core.run.finding import Finding

_LIMIT = timedelta(seconds=2)
_STEP = timedelta(seconds=1)
"""HTTP gives the time in whole seconds."""
_TIMEOUT = 8.0
_KEEPERS = (
    *("chrony", "chronyd", "systemd-timesyncd", "ntp", "ntpd", "ntpsec", "openntpd"),
    *("qemu-guest-agent-time", "vmtoolsd"),
)
_REMEDY = "systemctl enable --now chrony"


def keeper(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if nothing keeps the clock (C01.b)."""
    machine = site.machine
    if not machine.has_systemd or machine.ask(["systemd-detect-virt", "--container"])[0] == 0:
        return  # the clock is the host's, and is kept there
    if any(machine.is_active(unit) for unit in _KEEPERS):
        return
    is_installed = machine.ask(["chronyd", "--version"])[0] == 0
    words = "chrony is installed, but does not run" if is_installed else "nothing keeps this clock"
    remedy = _REMEDY if is_installed else f"apt-get install chrony; {_REMEDY}"
    tried = f"systemctl is-active {' '.join(_KEEPERS)}"
    yield Finding("", 0, "", f"{words}; {remedy}", "C01.b", is_error=False, tried=tried)


def offset(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if this clock differs from those of the services (C01.a)."""
    asked = [one for one in endpoints.known(site.values) if one.scheme in ("http", "https")]
    places = {(one.host, one.port): one for one in asked}
    if not places:
        return
    tls = _tls(site)
    with ThreadPoolExecutor(len(places)) as pool:
        ahead = pool.map(lambda one: ahead_of(one, tls), places.values())
        answers = zip(places.values(), ahead, strict=True)
        found = {one: ahead for one, ahead in answers if ahead is not None}
    if not found:
        return
    # One host with a wrong clock does not accuse ours.
    middle = timedelta(seconds=statistics.median_low(one.total_seconds() for one in found.values()))
    if abs(middle) > _LIMIT:
        word = "ahead of" if middle > timedelta(0) else "behind"
        names = ", ".join(sorted({one.host for one in found}))
        text = (
            f"this machine's clock is {abs(middle).total_seconds():.0f} s {word} that of {names};"
            f" start chrony ({_REMEDY}), and check its servers: chronyc sources"
        )
        yield Finding("", 0, "", text, "C01.a", tried=f"the Date of answers of {names}")


def _tls(site: CheckedSite) -> ssl.SSLContext:
    """Return what verifies web servers: this system's authorities, and the ones of the site."""
    tls = ssl.create_default_context()
    named = site_files.variables(site.layout).get("FEDCLOUD_CA_BUNDLE", "")
    with contextlib.suppress(OSError):  # another probe reports the file
        if named:
            tls.load_verify_locations(cafile=named)
    return tls


def ahead_of(contact: Contact, tls: ssl.SSLContext) -> timedelta | None:
    """Return how far our clock is ahead of a web server's, at least; None without an answer."""
    before = clock.now()
    try:
        connection = _connection(contact, tls)
        try:
            connection.request("HEAD", "/")
            text = connection.getresponse().getheader("Date") or ""
        finally:
            connection.close()
        there = parsedate_to_datetime(text)
        return _distance(before, clock.now(), there)
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return None


def _distance(before: datetime, after: datetime, there: datetime) -> timedelta:
    """Return the least difference that explains a time which was read in between."""
    if before > there + _STEP:
        return before - there - _STEP
    return min(after - there, timedelta(0))


def _connection(contact: Contact, tls: ssl.SSLContext) -> http.client.HTTPConnection:
    where = hosts.join_port(contact.host, contact.port)
    if contact.scheme == "http":
        return http.client.HTTPConnection(where, timeout=_TIMEOUT)
    # A server whose certificate this host does not trust shows no time. Other probes report it.
    return http.client.HTTPSConnection(where, timeout=_TIMEOUT, context=tls)
