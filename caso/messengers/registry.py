"""The messengers, and their names in all releases of cASO."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

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


def _readers() -> Mapping[str, Reader]:
    modules = [importlib.import_module(f"caso.messengers.{name}") for name in _MODULES]
    return {name: module.read for module in modules for name in module.NAMES}


MESSENGERS = _readers()
