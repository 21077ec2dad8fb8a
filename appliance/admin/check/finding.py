"""The finding of a check: a fault, its place on the host, and the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from appliance.core.run.errors import Problem


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

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return ": ".join(part for part in (where, self.option, self.text) if part)


# By words of the message, because the programs of other packages report nothing but text.
_RULES = (
    ("C20.c", r"APPDB_TOKEN"),
    ("C20.a", r"placeholder '?SITE[-_]NAME"),
    ("C20.b", r"placeholder|the shipped example"),
    ("C21.b", r"belongs in \["),
    ("C21.c", r"deprecated"),
    ("C21.d", r"there is .* too; remove one|exists, and .* too"),
    ("C21.e", r"nothing is executed"),
    ("C21.a", r"unknown (option|section)"),
    ("C23.a", r"is not (JSON|YAML)"),
    ("C24.a", r"is a test queue"),
    ("C22.a", r"write one name"),
    ("C30.b", r"the domain of the account"),
    ("C30.c", r"Keystone's version 2"),
    ("C10.c", r"certificate.*(has expired|expired)"),
    ("C10.b", r"(does not belong|do not belong|no pair|not match)"),
    ("C40.b", r"not mounted in the container; write the shipped directory|nested|sub-directories"),
)
"""The row of each message, by a pattern; the first one that matches counts."""
_OTHERWISE = "C21"


def identify(option: str, text: str) -> str:
    """Return the id of the row in the table of faults for a message."""
    found = (row for row, pattern in _RULES if re.search(pattern, f"{option}: {text}"))
    return next(found, _OTHERWISE)


def of_problem(problem: Problem, *, program: str = "") -> Finding:
    """Return the finding for a problem of a configuration."""
    row = identify(problem.option, problem.text)
    path = "" if problem.path == Path() else str(problem.path)
    return Finding(path, problem.line, problem.option, problem.text, row, program, problem.is_fatal)
