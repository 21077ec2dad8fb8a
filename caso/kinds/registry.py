"""The kinds of usage records, by name. One is loaded when it is used."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from caso.kinds.kind import RecordKind

_MODULES = (
    "cloud",
    "storage",
    "ip",
    "accelerator",
)
"""Modules of this folder, each with its ``KIND``, which has the name of the module."""


class _Kinds(Mapping[str, RecordKind[Any]]):
    def __getitem__(self, name: str) -> RecordKind[Any]:
        return _kind(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


@functools.cache
def _kind(name: str) -> RecordKind[Any]:
    if name not in _MODULES:
        raise KeyError(name)
    found: RecordKind[Any] = importlib.import_module(f"caso.kinds.{name}").KIND
    return found


KINDS: Mapping[str, RecordKind[Any]] = _Kinds()

SERVICES: Mapping[str, tuple[str, ...]] = {
    "nova": ("cloud", "accelerator"),
    "cinder": ("storage",),
    "neutron": ("ip",),
}
"""The kinds that each service gives, by the name of its source.

The first one is sent where a site names the service.
"""
