"""An account of a registry, as the configuration holds it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field


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
