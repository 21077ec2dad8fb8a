"""Accounts of registries, and the file that has one ``HOST USER:SECRET`` a line."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import hosts
from appliance.core.config.document import read_text
from appliance.core.run import log
from appliance.core.run.errors import ConfigurationError, Problem


@dataclass(frozen=True, slots=True)
class RegistryAccount:
    """An account of a registry. ``origin`` is where its secret is configured."""

    user: str
    secret: str = field(repr=False)
    origin: str = ""

    @property
    def basic(self) -> str:
        """The value of the header ``Authorization``."""
        pair = f"{self.user}:{self.secret}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"


def read(path: Path) -> dict[str, RegistryAccount]:
    """Return the accounts of a file by host; robots of Harbor have a ``$`` in their name.

    Raises:
        ConfigurationError: a line is not of the form ``HOST USER:SECRET``.

    """
    found: dict[str, RegistryAccount] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        host, _, rest = line.strip().partition(" ")
        user, colon, secret = rest.strip().partition(":")
        if not (hosts.place_fault(host) == "" and user and colon and secret):
            text = "is not HOST USER:SECRET, for example registry.egi.eu robot$site:SECRET"
            raise ConfigurationError([Problem(path, number, "", text)])
        found[host] = hidden(user, secret, f"{path}:{number}")
    return found


def hidden(user: str, secret: str, origin: str) -> RegistryAccount:
    """Return an account whose secret no message and no log shows."""
    account = RegistryAccount(user, secret, origin)
    for word in (secret, account.basic.removeprefix("Basic ")):
        log.hide(word)
    return account
