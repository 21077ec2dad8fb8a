"""The sources of usage, by name: each is a module of this folder, with its ``SOURCE``."""

from __future__ import annotations

import importlib

from caso.kinds.registry import SERVICES
from caso.sources.source import Source

NAMES = tuple(SERVICES)


def source(name: str) -> Source:
    """Return a source; this loads the OpenStack clients."""
    found: Source = importlib.import_module(f"caso.sources.{name}").SOURCE
    return found
