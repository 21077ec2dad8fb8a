"""Files that a site may have in several places, and the choice between them.

A path in ``appliance.env`` has priority, then the path of releases since 2018, then that of 2017,
which `scripts/install` writes. Two configurations of the backend hold two accounts, and only the
administrator knows which one is right. The module uses Python's standard library only, because the
installer imports it.
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
"""By variable of the compose file, the paths in order; the last one counts if no file exists."""


def variables(layout: Layout) -> Mapping[str, str]:
    """Return the variables of ``appliance.env``; none without the file.

    Raises:
        ConfigurationError: The file has errors.

    """
    return texts(environment(layout))


def texts(read: document.Document) -> Mapping[str, str]:
    """Return the variables of a document as text."""
    return {name: entry.text for name, entry in read.sections.get(shell.SECTION, {}).items()}


def environment(layout: Layout) -> document.Document:
    """Return the document ``appliance.env``; an empty one without the file.

    Raises:
        ConfigurationError: The file has errors.

    """
    path = layout.path(ENVIRONMENT)
    return document.read([path], shell.parse) if path.exists() else document.Document(paths=[path])


def choose(named: Mapping[str, str], layout: Layout) -> dict[str, str]:
    """Return the path of each variable; ``named`` are the variables of ``appliance.env``."""
    return {name: named.get(name) or _first(places, layout) for name, places in PLACES.items()}


def _first(places: tuple[str, ...], layout: Layout) -> str:
    return next((place for place in places if layout.path(place).exists()), places[-1])


def check(named: Mapping[str, str], layout: Layout) -> None:
    """Check that one configuration of the backend is chosen.

    Raises:
        ConfigurationError: There are two, and ``appliance.env`` names neither.

    """
    newer, older = (layout.path(place) for place in PLACES[BACKEND_CONFIG])
    if (
        not named.get(BACKEND_CONFIG)
        and newer.exists()
        and older.exists()
        # One may be a link to the other, which is a way to have one file at both paths.
        and not newer.samefile(older)
    ):
        line = f"{BACKEND_CONFIG}={PLACES[BACKEND_CONFIG][0]}"
        cause = (
            f"there is {older} too; remove one,"
            f" or name the other in {layout.path(ENVIRONMENT)}, such as {line}"
        )
        raise ConfigurationError([Problem(newer, 0, "", cause)])
