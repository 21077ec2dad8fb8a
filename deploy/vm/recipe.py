"""The Debian packages of the machine: a root file system, cached by their versions."""

from __future__ import annotations

from pathlib import Path

from appliance.admin.install import progress
from deploy import debian, images

HERE = Path(__file__).resolve().parent
RELEASE = "13"
"""The release of Debian whose suite `deploy/vm/root` names."""
ROOT = "root.tar"


def fetch(cache: Path, *, fresh: bool, step: progress.Step) -> tuple[debian.Base, list[str]]:
    """Return the packages, from the cache or from the archive, and what changed if ``fresh``.

    Raises:
        DaemonError: mmdebstrap fails; the message has the end of its output.

    """
    asked = [HERE / "root", HERE / "packages", HERE.parent / "package-list"]
    recipe = [images.epoch().encode(), *(path.read_bytes() for path in asked)]

    def make(directory: Path) -> None:
        with step("Debian packages of the machine"):
            images.quietly([HERE / "root", directory], {"SOURCE_DATE_EPOCH": images.epoch()})

    return debian.fetch(cache, recipe, make, fresh=fresh)
