"""Direct mode: a backend in this process, which the entry point makes.

Frontend and backend do not import each other. The entry point may import both, and hands a function
that makes a `DirectBackend` over with the command line (`FrontendSettings.direct`).
"""

from __future__ import annotations

from typing import Protocol

from appliance.core.run.errors import ConfigurationError, Problem
from cloudkeeper.frontend.backend_client import BackendConnection
from cloudkeeper.frontend.settings import DIRECT, FrontendSettings


class DirectBackend(Protocol):
    """A backend with its configuration read."""

    def __str__(self) -> str:
        """Return its configuration in a line, for people."""

    def connection(self) -> BackendConnection:
        """Return a connection to it.

        Raises:
            LocalFailure: its state directory cannot be read.

        """


def backend(configured: FrontendSettings) -> DirectBackend:
    """Return the backend of direct mode.

    Raises:
        ConfigurationError: its configuration is wrong, or it is not installed.

    """
    if configured.direct is None:
        path, line = configured.endpoint_place
        words = f"{DIRECT}: this program has no backend in it; name the endpoint of one"
        raise ConfigurationError([Problem(path, line, "[cloudkeeper.backend] endpoint", words)])
    return configured.direct(configured)
