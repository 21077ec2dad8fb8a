"""The messengers, and their names in all releases of cASO."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from appliance.core.config.settings import Settings
from appliance.core.run.layout import Layout
from caso.messengers.messenger import Messenger

Reader = Callable[[Settings, Layout, str], Messenger]
"""Reads a messenger's options; takes the name by which it is configured."""

_MODULES = (
    "noop",
    "ssm",
    "logstash",
    "greendigit_cim",
)
"""Modules of this folder, each with ``NAMES`` and ``read``."""


def reader(name: str) -> Reader | None:
    """Return the reader of a messenger, by any of its names; None if there is no such messenger."""
    # Nearly all sites write the name of a module. The others need not be loaded then.
    for module in sorted(_MODULES, key=lambda one: one != name):
        found = importlib.import_module(f"caso.messengers.{module}")
        if name in found.NAMES:
            read: Reader = found.read
            return read
    return None
