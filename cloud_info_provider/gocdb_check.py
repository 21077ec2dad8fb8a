"""The endpoint and the site's name compared with GOCDB: ``--check-live``.

EGI's tools find a site by the text of its URL in GOCDB, so one that only leads to the same service
is not enough. A GOCDB that does not answer is no fault of the site.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta

from appliance.core.cloud import faults
from appliance.core.config import document, yaml_file
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding
from appliance.core.suggestion import did_you_mean
from cloud_info_provider import gocdb
from cloud_info_provider.gocdb import RegisteredService
from cloud_info_provider.settings import ProviderSettings

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(seconds=10)
_NAMES = (("site", "name"), ("DEFAULT", "gocdb"))
"""Section and option of the site's name in the forms of openstack.yaml."""


def findings(configuration: ProviderSettings) -> Iterator[Finding]:
    """Yield what differs from GOCDB (C22, C37); nothing if it is not asked or does not answer."""
    if not configuration.gocdb_url:
        return
    try:
        known = gocdb.services(configuration.gocdb_url, timeout=_TIMEOUT)
    except ApplianceError as error:
        logger.info("%s; endpoint and name of the site are not compared with it", error)
        return
    yield from _name(configuration, known)
    yield from _endpoint(configuration, known)


def _name(configuration: ProviderSettings, known: Sequence[RegisteredService]) -> Iterator[Finding]:
    name, sites = configuration.site.name, {one.site for one in known}
    owners = {one.site for one in known if gocdb.is_of(configuration.endpoint, one)}
    if name in (owners or sites):
        return
    row = "C22" if name in sites else "C22.b"
    if owners:
        text = (
            f"GOCDB has this endpoint at the site {' and '.join(sorted(owners))}; write that name"
        )
    else:
        hint = did_you_mean(name, sites, otherwise="correct the name, or register the site there")
        text = f"GOCDB has no service {gocdb.SERVICE_TYPE} of a site {name!r}; {hint}"
    path, line, option = _place_of_name(configuration)
    yield Finding(path, line, option, text, row, tried=_tried(configuration))


def _place_of_name(configuration: ProviderSettings) -> tuple[str, int, str]:
    path = configuration.yaml_file
    sections = yaml_file.parse(path, document.read_text(path)).sections
    for section, option in _NAMES:
        if entry := sections.get(section, {}).get(option):
            return str(entry.path), entry.line, option
    return str(path), 0, ""


def _endpoint(
    configuration: ProviderSettings, known: Sequence[RegisteredService]
) -> Iterator[Finding]:
    endpoint, access = configuration.endpoint, configuration.account.access
    registered = [url for one in known for url in one.urls]
    if endpoint in registered:
        return
    near = next((url for url in registered if gocdb.is_alike(endpoint, url)), "")
    if near:
        row = "C37.a"
        text = f"GOCDB has {near}, and EGI compares the texts; write exactly {endpoint} in GOCDB"
    else:
        row = "C37"
        text = (
            f"GOCDB has no service {gocdb.SERVICE_TYPE} with the URL {endpoint}; add it there, or"
            " correct this one"
        )
    path, line = faults.place(access.places.get("auth_url", ""))
    tried = _tried(configuration)
    yield Finding(path, line, "endpoint", text, row, is_error=False, tried=tried)


def _tried(configuration: ProviderSettings) -> str:
    return f"GET {configuration.gocdb_url}?method=get_service&service_type={gocdb.SERVICE_TYPE}"
