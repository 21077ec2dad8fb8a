"""A row of ``appliance status``: one thing that a site needs, its light, and the one reason."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from appliance.core.run import log

Figure = float | str | None


class Light(enum.StrEnum):
    """How a thing is; the words are those of the screen and of ``--json``."""

    OK = "ok"
    OFF = "off"
    UNKNOWN = "-"
    """Nothing is known yet, which is no fault."""
    WARNING = "warn"
    BAD = "BAD"

    @property
    def needs_somebody(self) -> bool:
        """Check whether a person is to look."""
        return self in (Light.WARNING, Light.BAD)


Figures = Mapping[str, Figure]
_ORDER = (Light.OFF, Light.UNKNOWN, Light.OK, Light.WARNING, Light.BAD)


def worst(lights: Sequence[Light]) -> Light:
    """Return the light of several things together."""
    return max(lights, key=_ORDER.index, default=Light.UNKNOWN)


def stamp(moment: datetime | None) -> str | None:
    """Return a time for programs, in ISO 8601."""
    return moment.isoformat() if moment else None


@dataclass(frozen=True, slots=True)
class Row:
    """A thing and its state; all texts may come from containers and from other hosts."""

    flow: str
    """The flow that it belongs to, or ``host``."""
    name: str
    light: Light
    details: str = ""
    """The figures in words, the most important first."""
    reason: str = ""
    """Why the light is not good."""
    last_run: datetime | None = None
    next_run: datetime | None = None
    figures: Figures = field(default_factory=dict)
    is_source: bool = False
    """Whether it is a source of images, of which the screen shows the first few."""

    def as_json(self) -> dict[str, object]:
        """Return the row for ``--json``; the names are those of docs/formats/status.md."""
        return {
            "flow": self.flow,
            "name": log.redact(self.name),
            "light": self.light.value,
            "last_run": stamp(self.last_run),
            "next_run": stamp(self.next_run),
            "figures": dict(self.figures),
            "reason": log.redact(self.reason),
        }
