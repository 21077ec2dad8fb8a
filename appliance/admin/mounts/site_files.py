"""Files that a site may have in one place or another: which of them the containers get.

What ``appliance.env`` names counts. Else a file in the place that releases since 2018 gave it does,
and then the one of 2017, which `scripts/install` fills. Two configurations of the backend hold two
accounts: which one is meant, nobody but the administrator knows. With Python's standard library
alone: the installer asks, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.config import document, shell
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

ENVIRONMENT = "/etc/fedcloud/appliance.env"
BACKEND_CONFIG = "FEDCLOUD_BACKEND_CONFIG"
PLACES = {
    "FEDCLOUD_CASO_MAPPING": ("/etc/caso/voms.json", "/etc/voms.json"),
    "FEDCLOUD_BACKEND_MAPPING": (
        "/etc/cloudkeeper-os/mapping.json",
        "/etc/cloudkeeper-os/voms.json",
        "/etc/voms.json",
    ),
    BACKEND_CONFIG: (
        "/etc/cloudkeeper-os/cloudkeeper-os.conf",
        "/etc/cloudkeeper/cloudkeeper-os.conf",
    ),
}
"""By the variable of the compose file; the newest place first, and last the one that counts when there is no file."""


def variables(layout: Layout) -> Mapping[str, str]:
    """Return what ``appliance.env`` sets, nothing without the file; raises `ConfigurationError`."""
    return texts(environment(layout))


def texts(read: document.Document) -> Mapping[str, str]:
    """Return the settings of ``appliance.env`` as they are written there."""
    return {name: entry.text for name, entry in read.sections.get(shell.SECTION, {}).items()}


def environment(layout: Layout) -> document.Document:
    """Return ``appliance.env`` as read, empty without the file; raises `ConfigurationError`."""
    path = layout.path(ENVIRONMENT)
    return document.read([path], shell.parse) if path.exists() else document.Document(paths=[path])


def choose(named: Mapping[str, str], layout: Layout) -> dict[str, str]:
    """Return the path for each variable, as on an appliance; ``named`` is what ``appliance.env`` sets."""
    return {name: named.get(name) or _first(places, layout) for name, places in PLACES.items()}


def _first(places: tuple[str, ...], layout: Layout) -> str:
    return next((place for place in places if layout.path(place).exists()), places[-1])


def check(named: Mapping[str, str], layout: Layout) -> None:
    """Raise `ConfigurationError` when there are two configurations of the backend and none of them is named."""
    newer, older = (layout.path(place) for place in PLACES[BACKEND_CONFIG])
    if (
        not named.get(BACKEND_CONFIG)
        and newer.exists()
        and older.exists()
        and not newer.samefile(older)
    ):
        line = f"{BACKEND_CONFIG}={PLACES[BACKEND_CONFIG][0]}"
        cause = f"there is {older} too; remove one, or name the other in {layout.path(ENVIRONMENT)}, such as {line}"
        raise ConfigurationError([Problem(newer, 0, "", cause)])
