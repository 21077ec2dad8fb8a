"""The Docker engine, Compose, and the images of the installed bundle."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.admin.check.finding import of_error
from appliance.admin.check.probe import CheckedSite
from appliance.admin.check.programs import row_of_container
from appliance.admin.images import needed
from appliance.admin.inventory import CONTAINERS
from appliance.admin.runtime import compose
from appliance.admin.runtime.engine import Engine
from appliance.core.run.errors import Unavailable
from appliance.core.run.finding import Finding


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield the findings on engine, Compose and images (C04); none without containers."""
    host = site.host
    if host.is_native or host.is_beside:
        return
    try:
        compose.version(host.compose)
    except Unavailable as error:
        tried = f"{host.compose} version"
        yield of_error("", error, identifier="C04.b", tried=tried)
    try:
        with Engine(host.socket) as engine:
            yield from _images(site, engine)
    except Unavailable as error:
        yield of_error("", error, identifier="C04.a")


def _images(site: CheckedSite, engine: Engine) -> Iterator[Finding]:
    # The check of each program reports its own image.
    for service in dict.fromkeys(CONTAINERS):
        if service not in site.services and site.host.is_wanted(service):
            try:
                needed.require(engine, site.host, [service])
            except Unavailable as error:
                yield of_error("", error, identifier=row_of_container(error))
