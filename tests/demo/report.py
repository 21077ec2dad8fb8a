"""What the demo found: one table for people, one file for programs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One claim: what our programs did, what arrived, what somebody else counted."""

    act: str
    flow: str
    done: str
    delivered: str
    counted: str
    counted_by: str

    @property
    def is_equal(self) -> bool:
        """Say whether all three agree."""
        return self.done == self.delivered == self.counted


HEADINGS = ("flow", "done", "delivered", "counted", "counted independently by", "equal")


def table(rows: list[Row]) -> str:
    """Return the rows as a table of text, act by act."""
    cells = {row: _cells(row) for row in rows}
    widths = [max(map(len, column)) for column in zip(HEADINGS, *cells.values(), strict=True)]

    def line(texts: Sequence[str]) -> str:
        return "  ".join(
            text.ljust(width) for text, width in zip(texts, widths, strict=True)
        ).rstrip()

    lines = [line(HEADINGS), line(["-" * width for width in widths])]
    for act, group in itertools.groupby(rows, key=lambda row: row.act):
        lines += [f"{act}:", *(line(cells[row]) for row in group)]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "yes" if row.is_equal else "NO"
    return (f"  {row.flow}", row.done, row.delivered, row.counted, row.counted_by, verdict)


def write(path: Path, rows: list[Row], seconds: dict[str, float]) -> None:
    """Write ``report.json``: the rows, whether all are equal, and the seconds of each part."""
    entry = {
        "rows": [asdict(row) | {"equal": row.is_equal} for row in rows],
        "equal": all(row.is_equal for row in rows),
        "seconds": seconds,
    }
    path.write_text(json.dumps(entry, indent=1) + "\n")
