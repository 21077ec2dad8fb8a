"""The paths of a site's files. All derive from one root, so one host can serve many sites."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT_VARIABLE = "FEDCLOUD_ROOT"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one site below its root directory, which is ``/`` on an appliance."""

    root: Path = Path("/")

    @classmethod
    def of_environment(cls) -> Layout:
        """Return the layout whose root the environment names, else the host's."""
        return cls(Path(os.environ.get(ROOT_VARIABLE) or "/").absolute())

    def path(self, absolute: str) -> Path:
        """Return the path that ``absolute``, a path on an appliance, has in this layout."""
        # Joining an absolute path would discard the root.
        return self.root / absolute.lstrip("/")

    @property
    def runs(self) -> Path:
        """Directory of run records and metrics, two files for each program."""
        return self.path("/var/lib/fedcloud/runs")

    @property
    def grid_certificates(self) -> Path:
        """Directory of the IGTF trust anchors (HASH.0, HASH.r0, HASH.signing_policy)."""
        return self.path("/etc/grid-security/certificates")
