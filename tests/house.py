"""Holds rules of the house that no linter knows: ``python -m tests.house``, part of scripts/check.

- Messages and help use plain words: none of `_WORDS` stands in a string of the product.
- A class name has one meaning: it is defined once in the whole product.
- A file is named for what it does: none is called ``verb.py``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_TOP = Path(__file__).resolve().parents[1]
_PRODUCT = ("appliance", "bdii", "caso", "cloud_info_provider", "cloudkeeper", "deploy", "ssm")
_GENERATED = re.compile(r"_pb2(_grpc)?\.py$")
_WORDS = re.compile(
    r"\b(tell|tells|told|octets?(?!-stream)|believed?|believes|anew)\b", re.IGNORECASE
)


def main() -> int:
    """Print each breach as ``file:line: what it is``; the exit status is 1 if there are any."""
    found = sorted(_breaches())
    for place, breach in found:
        print(f"{place}: {breach}")
    return 1 if found else 0


def _breaches() -> Iterator[tuple[str, str]]:
    classes: dict[str, list[str]] = defaultdict(list)
    for path in _sources():
        name = str(path.relative_to(_TOP))
        if path.name == "verb.py":
            yield f"{name}:1", f"{name}: a file is named for what it does"
        tree = ast.parse(path.read_bytes(), name)
        for line, text in _texts(tree):
            for word in _WORDS.findall(text):
                yield f"{name}:{line}", f"{word!r} in a message: use a plainer word"
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(f"{name}:{node.lineno}")
    for name, places in classes.items():
        if len(places) > 1:
            yield places[1], f"class {name} is defined {len(places)} times, also in {places[0]}"


def _sources() -> Iterator[Path]:
    for package in _PRODUCT:
        for path in sorted((_TOP / package).rglob("*.py")):
            if not _GENERATED.search(path.name):
                yield path


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module with their lines, but for docstrings."""
    documentation = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if node not in documentation:
                yield node.lineno, text


if __name__ == "__main__":
    sys.exit(main())
