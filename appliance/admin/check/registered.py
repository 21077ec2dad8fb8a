"""The entries of this site in GOCDB: the host's certificate, the site's name, and Keystone.

The provider compares name and Keystone itself where it is checked; here they are compared for a
site that runs accounting only.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

from appliance.admin.check import certificates
from appliance.admin.check.across import SITE_NAMES
from appliance.admin.check.probe import CheckedSite
from appliance.admin.run import hostkey
from appliance.admin.settings import PROFILES
from appliance.core import gocdb, hosts
from appliance.core.config.settings import KEYSTONE
from appliance.core.gocdb import RegisteredService
from appliance.core.run.errors import ApplianceError, Unavailable
from appliance.core.run.finding import Finding

_BROKERS = "argo.grnet.gr"
"""The domain of EGI's AMS: who sends elsewhere needs no entry in GOCDB."""
_PROVIDERS = frozenset({"cloudbdii", "cloud-info"})


def of_certificate(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if GOCDB has not the name of the host's certificate (C11)."""
    name = certificates.name(site.layout)
    if name is None or not site.host.egi.gocdb or not _sends_to_egi(site):
        return
    known = _known(site, gocdb.ACCOUNTING, "C11")
    if known is None:
        return
    if known and not any(one.dn for one in known):
        site.notes.append(("C11", "GOCDB shows no names of certificates; compare it there by hand"))
        return
    if fault := gocdb.fault_of_dn(name.gocdb, known):
        path = str(site.layout.path(hostkey.CERTIFICATE))
        text = f"{fault.text} (RFC 2253: {name.rfc2253})"
        yield Finding(path, 0, "", text, fault.row, tried=_tried(site, gocdb.ACCOUNTING))


def _sends_to_egi(site: CheckedSite) -> bool:
    """Check whether a sender is configured for EGI's AMS; with ``--as-egi`` one for any broker."""
    brokers = [one.text for one in site.values if (one.section, one.option) == ("broker", "host")]
    if site.is_as_egi:
        return bool(brokers)
    return site.host.profile in PROFILES[:2] and any(_BROKERS in text for text in brokers)


def of_cloud(site: CheckedSite) -> Iterator[Finding]:
    """Yield findings if GOCDB has another name or URL (C22, C37); nothing beside a provider."""
    urls = site.facts(KEYSTONE)
    if not site.host.egi.gocdb or not urls or _PROVIDERS & set(site.services):
        return
    known = _known(site, gocdb.CLOUD, "C37")
    if known is None:
        return
    tried, url = _tried(site, gocdb.CLOUD), urls[0]
    for name in site.values:
        is_name = (name.section, name.option) in SITE_NAMES
        if is_name and (fault := gocdb.fault_of_name(name.text, url.text, known)):
            yield Finding(
                str(name.path), name.line, name.option, fault.text, fault.row, tried=tried
            )
    if fault := gocdb.fault_of_endpoint(url.text, known):
        place = str(url.path), url.line, "auth_url"
        yield Finding(*place, fault.text, fault.row, is_error=False, tried=tried)


def _known(site: CheckedSite, kind: str, row: str) -> list[RegisteredService] | None:
    """Return the services of a type; None, and a note, if GOCDB does not answer.

    That is no fault of the site; where EGI's view was asked for, it is reported as one.

    Raises:
        Unavailable: GOCDB does not answer, and EGI's view was asked for.

    """
    url, reader = site.host.egi.gocdb, site.reader("gocdb")
    try:
        content = reader.read(f"{url}?{urlencode(gocdb.query(kind))}")
        try:
            return gocdb.services(content)
        except ValueError as error:
            words = f"check {reader.setting}"
            raise Unavailable(hosts.of_url(url), str(error), words) from error
    except ApplianceError as error:
        if site.is_as_egi:
            raise
        site.notes.append((row, f"not compared with GOCDB: {error}"))
        return None


def _tried(site: CheckedSite, kind: str) -> str:
    return f"GET {site.host.egi.gocdb}?{urlencode(gocdb.query(kind))}"
