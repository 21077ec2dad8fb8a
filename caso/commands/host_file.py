"""Files that the command line names, which a container may not see."""

from __future__ import annotations

from pathlib import Path

from appliance.core.run import place
from appliance.core.run.errors import UsageError

_VISIBLE = "/var/lib/fedcloud/caso"


def named(path: Path) -> Path:
    """Return the absolute path of a file.

    Raises:
        UsageError: this program runs in a container, which has no mount with the file.

    """
    found = path.absolute()
    if place.is_container() and not place.is_mounted(str(found)):
        cause = "the container of this command does not see it"
        raise UsageError(path, cause, f"copy it to {_VISIBLE}, and name it there")
    return found
