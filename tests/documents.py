"""The documents as tests read them: pages, headings, links, and commands down to single words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.bench import readme
from tests.bench.readme import Block

TOP = Path(__file__).resolve().parents[1]
HOW_TO = TOP / "docs/how-to"
_BRACES = re.compile(r"(.*?)\{([^{}]*,[^{}]*)\}(.*)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Return every page for readers, the decisions and the changelog apart."""
    top = [TOP / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
    return top + [path for path in sorted(TOP.glob("docs/**/*.md")) if path.parent.name != "adr"]


def links(text: str) -> list[str]:
    """Return the targets of all links outside code."""
    return _LINK.findall(_FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as forges make them."""
    found = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def block(page: str, name: str) -> Block:
    """Return a named block of commands of a how-to page."""
    (found,) = [one for one in readme.blocks((HOW_TO / page).read_text()) if one.name == name]
    return found


def words(command: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a line, braces expanded, without redirections."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    simple: list[str] = []
    for token in lexer:
        if set(token) <= set("|&;"):
            yield simple
            simple = []
        elif not set(token) <= set("<>"):
            simple += _expanded(token)
    yield simple


def _expanded(word: str) -> list[str]:
    """Expand the first list in braces, and those behind it."""
    found = _BRACES.fullmatch(word)
    if found is None:
        return [word]
    return [
        one for middle in found[2].split(",") for one in _expanded(f"{found[1]}{middle}{found[3]}")
    ]
