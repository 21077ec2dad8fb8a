"""The kinds of usage records, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from caso.kinds.kind import RecordKind

_MODULES = (
    "cloud",
    "storage",
    "ip",
    "accelerator",
)
"""Modules of this folder, each with its ``KIND``."""


def _kinds() -> Mapping[str, RecordKind[Any]]:
    kinds = [importlib.import_module(f"caso.kinds.{name}").KIND for name in _MODULES]
    return {kind.name: kind for kind in kinds}


KINDS = _kinds()

SERVICES: Mapping[str, tuple[str, ...]] = {
    "nova": ("cloud", "accelerator"),
    "cinder": ("storage",),
    "neutron": ("ip",),
}
"""The kinds that each service gives, by the name of its source.

The first one is sent where a site names the service.
"""
