"""The authorities that Keystone's TLS offers to users with a certificate (C72)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from appliance.admin.check.probe import CheckedSite
from appliance.admin.mounts import site_files
from appliance.admin.runtime.native import authorities
from appliance.core import proxy
from appliance.core.config.settings import KEYSTONE, Value
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding
from appliance.core.trust import handshake
from appliance.core.trust.handshake import Request

_TIMEOUT = timedelta(seconds=10)
_NAMED = 3
"""Missing authorities that a message names."""
_LATER = (
    "a server that asks later, in a renegotiation of TLS 1.2 or after the handshake of TLS 1.3,"
    " cannot be seen to ask"
)
_REMEDY = (
    "for Apache, SSLVerifyClient optional and SSLCADNRequestPath {directory}; for HAProxy, verify"
    " optional and a ca-file of its *.pem"
)


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if Keystone does not offer the installed authorities to its clients."""
    urls, directory = site.facts(KEYSTONE), site.layout.grid_certificates
    if not urls:
        return
    expected = _installed(directory)
    if not expected:
        text = f"{directory} has no authorities, so those that Keystone offers are not compared"
        site.notes.append(("C72", text))
        return
    try:
        asked = _asked(site, urls[0].text)
    except ApplianceError as error:
        # The account's own check reports a Keystone that cannot be reached, with the line.
        site.notes.append(("C72", f"what Keystone offers to clients could not be seen: {error}"))
        return
    if asked is None:
        site.notes.append(("C72", "Keystone is reached without TLS, so it offers nothing"))
        return
    yield from _of_request(asked, expected, directory, urls[0])


def _asked(site: CheckedSite, url: str) -> Request | None:
    named = site_files.variables(site.layout).get("FEDCLOUD_CA_BUNDLE", "")
    with proxy.environment(site.host.proxies):
        shown = handshake.verified(url, verify=authorities(named), timeout=_TIMEOUT)
        return shown and handshake.request(url, shown, _TIMEOUT)


def _of_request(
    asked: Request, expected: set[str], directory: Path, url: Value
) -> Iterator[Finding]:
    offered = set(map(handshake.slash_form, asked.authorities))
    missing = sorted(expected - offered)
    if not missing:
        return
    if not asked.is_made:
        words = f"Keystone asks its clients for no certificate ({asked.protocol}; {_LATER})"
    elif not offered:
        words = f"Keystone asks for a certificate and names no authority ({asked.protocol})"
    else:
        first = ", ".join(missing[:_NAMED])
        count = f"{len(missing)} of the {len(expected)} authorities in {directory}"
        words = f"Keystone does not offer {count}, such as {first}"
    remedy = _REMEDY.format(directory=directory)
    text = f"{words}, so users with certificates of them cannot log in; {remedy}"
    tried = f"TLS handshake with {url.text}"
    place = str(url.path), url.line, "auth_url"
    yield Finding(*place, text, "C72", is_error=False, tried=tried)


def _installed(directory: Path) -> set[str]:
    """Return the names of the installed authorities; unreadable files are reported elsewhere."""
    from appliance.core.trust import certificates  # noqa: PLC0415  start-up is a cost
    from appliance.core.trust.distinguished_name import slash_form  # noqa: PLC0415

    found: set[str] = set()
    for path in sorted(directory.glob("*.0")):
        try:
            loaded = certificates.load_certificates(path)
        except (ApplianceError, OSError):
            continue
        found.update(slash_form(one.subject) for one in loaded)
    return found
