"""The kinds of usage records, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caso.kinds import accelerator, cloud, ip, storage
from caso.kinds.kind import RecordKind

KINDS: Mapping[str, RecordKind[Any]] = {
    kind.name: kind for kind in (cloud.kind(), storage.KIND, ip.KIND, accelerator.KIND)
}

SERVICES: Mapping[str, tuple[str, ...]] = {
    "nova": ("cloud", "accelerator"),
    "cinder": ("storage",),
    "neutron": ("ip",),
}
"""The kinds that each service gives, by the name of its source.

The first one is sent where a site names the service.
"""
