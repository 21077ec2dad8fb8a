"""The endpoint and the site's name compared with GOCDB: ``--check-live``.

EGI's tools find a site by the text of its URL in GOCDB, so one that only leads to the same service
is not enough. A GOCDB that does not answer is no fault of the site.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta

from appliance.core import gocdb
from appliance.core.config import document, yaml_file
from appliance.core.gocdb import RegisteredService
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding, place
from cloud_info_provider import gocdb as registry
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
        known = registry.services(configuration.gocdb_url, timeout=_TIMEOUT)
    except ApplianceError as error:
        logger.info("%s; endpoint and name of the site are not compared with it", error)
        return
    yield from _name(configuration, known)
    yield from _endpoint(configuration, known)


def _name(configuration: ProviderSettings, known: Sequence[RegisteredService]) -> Iterator[Finding]:
    fault = gocdb.fault_of_name(configuration.site.name, configuration.endpoint, known)
    if fault:
        path, line, option = _place_of_name(configuration)
        yield Finding(path, line, option, fault.text, fault.row, tried=_tried(configuration))


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
    fault = gocdb.fault_of_endpoint(configuration.endpoint, known)
    if fault:
        path, line = place(configuration.access.places.get("auth_url", ""))
        tried = _tried(configuration)
        yield Finding(path, line, "endpoint", fault.text, fault.row, is_error=False, tried=tried)


def _tried(configuration: ProviderSettings) -> str:
    return f"GET {configuration.gocdb_url}?method=get_service&service_type={gocdb.CLOUD}"
