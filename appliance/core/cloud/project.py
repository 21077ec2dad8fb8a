"""A project as Keystone describes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Project:
    """A project. ``properties`` are its attributes that are texts, among them the VO's."""

    id: str
    name: str
    domain_id: str
    tags: frozenset[str]
    properties: Mapping[str, str]
    is_enabled: bool = True
    has_role: bool = True
    """Whether the account may work in it."""

    @classmethod
    def read(cls, described: Mapping[str, Any], *, has_role: bool = True) -> Self:
        """Return the project of an item of Keystone's listing."""
        return cls(
            id=described["id"],
            name=described["name"],
            domain_id=described.get("domain_id") or "",  # null for a project that is a domain
            tags=frozenset(described.get("tags") or ()),
            properties={k: value for k, value in described.items() if isinstance(value, str)},
            is_enabled=described.get("enabled", True),
            has_role=has_role,
        )

    def __str__(self) -> str:
        return f"project {self.name} ({self.id})"


def by_name_or_id(known: Iterable[Project], wanted: str) -> list[Project]:
    """Return the project with this id or, without one, all projects with this name."""
    listed = list(known)
    return [project for project in listed if project.id == wanted] or [
        project for project in listed if project.name == wanted
    ]
