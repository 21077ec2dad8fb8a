"""What the demo found: one table for people, one file for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One claim: what our programs did, what arrived, what somebody else counted."""

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
    """Return the rows as a table of text."""
    cells = [HEADINGS]
    cells += [
        (row.flow, row.done, row.delivered, row.counted, row.counted_by, "yes" if row.is_equal else "NO")
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write(path: Path, rows: list[Row], seconds: dict[str, float]) -> None:
    """Write ``report.json``: the rows, whether all are equal, and how long each part took in seconds."""
    entry = {
        "rows": [asdict(row) | {"equal": row.is_equal} for row in rows],
        "equal": all(row.is_equal for row in rows),
        "seconds": seconds,
    }
    path.write_text(json.dumps(entry, indent=1) + "\n")
