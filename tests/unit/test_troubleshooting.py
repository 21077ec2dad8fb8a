"""Every message that docs/troubleshooting.md quotes is one that a program prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs/troubleshooting.md").read_text()
PRODUCT = ("appliance", "bdii", "caso", "cloud_info_provider", "cloudkeeper", "ssm")
QUOTED = [
    row[1].replace(r"\|", "|")
    for row in re.finditer(r"^\| `([^`]+)` \| .+ \| .+ \|$", PAGE, re.MULTILINE)
]


def literals() -> Iterator[str]:
    """Yield the texts of the product's sources, with … for each value that is put in."""
    for package in PRODUCT:
        for path in (TOP / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(_piece(value) for value in node.values)


def _piece(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def script() -> str:
    """Return the installer, with … for each variable."""
    text = (TOP / "scripts/install").read_text()
    return re.sub(r"\$\{[^}]*\}|\$\w+", "…", text)


def pieces(message: str) -> list[str]:
    """Return the fixed words of a message."""
    return [piece for piece in message.split("…") if piece.strip(" :;,[]().")]


@pytest.mark.long
def test_quoted_messages_are_ones_that_a_program_prints() -> None:
    """The words of each are in one text, in their order, with only a value between them."""
    sources = "\n".join([*literals(), script()])
    between = "[^\n]{0,80}?"
    unknown = [
        message
        for message in QUOTED
        if not re.search(between.join(map(re.escape, pieces(message))), sources)
    ]
    assert unknown == []


def test_the_page_has_what_administrators_meet() -> None:
    assert len(QUOTED) > 60
