"""Help of the scripts that administrators run, which is the comment at their head."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from docs.generator.sites import TOP

_ROW = re.compile(r"  (\S.*?)(?:\s{2,}(\S.*))?")
_INDENT = re.compile(r" {10,}")


@dataclass(frozen=True, slots=True)
class Help:
    """What ``--help`` prints: sentences, a table of calls or options, and sentences again."""

    description: str
    rows: Sequence[tuple[str, str]]
    remarks: str


def help_of(name: str) -> Help:
    """Return the help of a script in its parts."""
    command = [str(TOP / "scripts" / name), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before: list[str] = []
    rows: list[list[str]] = []
    after: list[str] = []
    for line in shown.splitlines():
        if rows and _INDENT.match(line):
            rows[-1].append(line.strip())
        elif match := _ROW.fullmatch(line):
            rows.append([match[1], match[2] or ""])
        else:
            (after if rows else before).append(line.strip())
    table = [(call, " ".join(" ".join(words).split())) for call, *words in rows]
    return Help(" ".join(before), table, " ".join(after))
