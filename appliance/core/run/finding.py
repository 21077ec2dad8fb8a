"""The finding of a check: a fault, its place on the host, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A fault. ``line`` counts from 1; 0 stands for the whole file.

    ``path`` is empty if the fault is in no file.
    """

    path: str
    line: int
    option: str
    text: str
    """The fault, a semicolon, and the remedy."""
    identifier: str
    """The id of its row in the table of faults, ``Cxx`` or ``Cxx.y``."""
    program: str = ""
    """The job or service that was checked; empty for a contradiction between files."""
    is_error: bool = True
    """Whether it prevents a program from working; otherwise it is a warning."""
    tried: str = ""
    """What was tried, such as a request; empty if only files were read."""

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return ": ".join(part for part in (where, self.option, self.text) if part)

    @property
    def family(self) -> str:
        """Return the id without its fault, ``Cxx``."""
        return self.identifier.partition(".")[0]

    def as_json(self) -> dict[str, Any]:
        """Return the form that programs print in a check."""
        return asdict(self)


_PLACE = re.compile(r"(?<![\w:])(/[^\s:()]+):(\d+)\b")


def place(text: str) -> tuple[str, int]:
    """Return the first ``FILE:LINE`` in a text; no path and line 0 without one."""
    found = _PLACE.search(text)
    return (found[1], int(found[2])) if found else ("", 0)


def of_json(tree: Mapping[str, Any]) -> Finding:
    """Return the finding that another program has printed.

    Raises:
        KeyError, TypeError, ValueError: It is none.

    """
    texts = {
        name: str(tree[name])
        for name in ("path", "option", "text", "identifier", "program", "tried")
    }
    return Finding(**texts, line=int(tree["line"]), is_error=bool(tree["is_error"]))
