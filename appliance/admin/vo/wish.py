"""What an administrator wants for a VO: names, roles, quotas, and the identity provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

COMPUTE_QUOTAS = ("instances", "cores", "ram")
VOLUME_QUOTAS = ("volumes", "gigabytes")


@dataclass(frozen=True, slots=True)
class VoWish:
    """The wish; all names are as in Keystone."""

    vo: str
    project: str
    domain: str
    group: str
    role: str
    """The role of the VO's members in their project."""
    entitlement: str
    """The role in the VO whose members are let in."""
    provider: str
    protocol: str
    issuer: str
    quotas: Mapping[str, int] = field(default_factory=dict)
    """Limits by Nova's and Cinder's names; those that are not given stay as they are."""

    def as_json(self) -> dict[str, Any]:
        """Return the form in a plan's file."""
        return asdict(self)


def of_json(tree: Mapping[str, Any]) -> VoWish:
    """Return the wish in a plan's file.

    Raises:
        KeyError, TypeError, ValueError: It is none.

    """
    quotas = {str(name): int(limit) for name, limit in tree["quotas"].items()}
    names = [name for name in VoWish.__dataclass_fields__ if name != "quotas"]
    return VoWish(**{name: str(tree[name]) for name in names}, quotas=quotas)
