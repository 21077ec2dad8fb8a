"""The messenger by which the use of each kind is counted."""

from __future__ import annotations

from caso.settings import CasoConfiguration


def destinations(configuration: CasoConfiguration) -> dict[str, str]:
    """Return the messenger by which each kind is counted: ssm, which EGI hears, if it sends it."""
    found: dict[str, str] = {}
    for messenger in sorted(configuration.messengers, key=lambda one: one.name != "ssm"):
        for kind in messenger.kinds:
            found.setdefault(kind.name, messenger.name)
    return found
