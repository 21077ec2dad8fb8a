"""Direct mode of `cloudkeeper`: the backend of cloudkeeper-os.conf, in this process.

No service runs then. All else is the backend's own: its configuration, its state directory, its
record of each run, its limits (`cloudkeeper.cmds.direct_connection`).
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core.run import place
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from cloudkeeper.frontend.settings import FrontendSettings

if TYPE_CHECKING:  # start-up is a cost, and the extra cloudkeeper has no OpenStack client
    from cloudkeeper.backend.settings import BackendSettings
    from cloudkeeper.frontend.backend_client import BackendConnection
    from cloudkeeper.frontend.direct_mode import DirectBackend

NEEDED = ("oslo_config", "keystoneauth1", "keystoneclient", "glanceclient")
"""Modules of the extra cloudkeeper-os that the extra cloudkeeper lacks."""
_INSTALL = (
    "install the extras cloudkeeper and cloudkeeper-os into one environment, or name the endpoint "
    "of a running backend"
)
_IN_CONTAINERS = (
    "with containers write unix:///run/cloudkeeper/backend.sock, and run: systemctl enable --now "
    "cloudkeeper-os"
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InProcessBackend:
    """A backend in this process, with its configuration read."""

    settings: BackendSettings

    def __str__(self) -> str:
        access = self.settings.access
        return f"{self.settings.path}, {access.auth_url} as {access.account}"

    def connection(self) -> BackendConnection:
        """Return a connection to it; see `DirectBackend`."""
        from cloudkeeper.cmds import direct_connection  # noqa: PLC0415  loads OpenStack clients

        return direct_connection.connect(self.settings)


def prepare(configured: FrontendSettings, *, layout: Layout) -> DirectBackend:
    """Read the backend's configuration.

    Raises:
        ConfigurationError: it is wrong, or does not suit the frontend's, or is not installed.

    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        words = f"direct: cloudkeeper-os is not installed here (there is no {missing[0]})"
        remedy = _IN_CONTAINERS if place.is_container() else _INSTALL
        _refuse(configured.endpoint_place, "[cloudkeeper.backend] endpoint", f"{words}; {remedy}")
    from cloudkeeper.backend import settings  # noqa: PLC0415  loads oslo.config

    found = settings.load(configured.backend_file, layout=layout, overrides={}, listens=False)
    directory = found.places.directory
    if not configured.image_dir.resolve().is_relative_to(directory.resolve()):
        words = f"{directory} does not hold the image-dir of cloudkeeper, {configured.image_dir}"
        words = f"{words}; write one directory in both files"
        _refuse((found.path, 0), "[DEFAULT] image_dir", words)
    for problem in found.warnings:
        logger.warning("%s", problem)
    return InProcessBackend(replace(found, places=replace(found.places, is_with_frontend=True)))


def _refuse(where: tuple[Path, int], option: str, text: str) -> None:
    raise ConfigurationError([Problem(*where, option, text)])
