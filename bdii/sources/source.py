"""A source of LDIF: a file, or a program with its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.core.ldif import Entry

Translate = Callable[[Iterable[Entry]], Iterable[Entry]]


@dataclass(frozen=True, slots=True)
class LdifSource:
    """A file, or a program with its arguments, that gives LDIF. ``name`` is unique among the sources."""

    name: str
    command: Sequence[str | Path]
    """One path for a file that is read, else what to run."""
    is_program: bool
    timeout: timedelta
    limit: int
    """The longest output that is taken, in octets."""
    translate: Translate = iter
    meanings: Mapping[int, str] = field(default_factory=dict)
    """What to do about an exit status, for programs that do not say it."""
