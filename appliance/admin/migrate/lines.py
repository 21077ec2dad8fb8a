"""Changes of single lines of a text; all other lines, their numbers and comments stay."""

from __future__ import annotations

import re

from appliance.admin.configure import edit

_VERSION_2 = re.compile(r"/v2\.0/*(?=[\"'\s]|$)")


def renamed(text: str, line: int, old: str, new: str) -> str:
    """Return a text with another name for the option that a line sets; its value stays."""
    lines = text.split("\n")
    pattern = rf"^(\s*(?:export\s+)?){re.escape(old)}(?=\s*[=:])"
    lines[line - 1] = re.sub(pattern, lambda match: f"{match[1]}{new}", lines[line - 1])
    return "\n".join(lines)


def replaced(text: str, line: int, value: str, *, is_continued: bool = False) -> str:
    """Return a text with another value for the option that a line sets; its name stays.

    With ``is_continued``, lines below it that begin with a blank are a part of the old value.
    """
    lines = text.split("\n")
    head = re.match(r"[^=:]*[=:][ \t]*", lines[line - 1])
    assert head is not None  # noqa: S101  the line sets an option
    follows = line
    while is_continued and follows < len(lines) and re.match(r"[ \t]+\S", lines[follows]):
        follows += 1
    return "\n".join([*lines[: line - 1], f"{head[0]}{value}", *lines[follows:]])


def with_version_3(text: str, line: int) -> str:
    """Return a text whose line has the URL of Keystone's version 3 in place of version 2."""
    lines = text.split("\n")
    lines[line - 1] = _VERSION_2.sub("/v3", lines[line - 1], count=1)
    return "\n".join(lines)


def is_version_2(url: str) -> bool:
    """Return whether a URL is that of Keystone's version 2, which was removed in 2018."""
    return url.rstrip("/").endswith("/v2.0")


def without(text: str, numbers: set[int]) -> str:
    """Return a text without these lines, which count from 1."""
    kept = [line for number, line in enumerate(text.split("\n"), 1) if number not in numbers]
    return "\n".join(kept)


def with_option(text: str, section: str, option: str, value: str, *, separator: str = " = ") -> str:
    """Return a text with an option set; a section that is missing is added at the end."""
    if not re.search(rf"^\[{re.escape(section)}\]\s*$", text, re.MULTILINE):
        head = f"{text.rstrip(chr(10))}\n\n" if text.strip() else ""
        text = f"{head}[{section}]\n"
    return edit.set_ini(text, section, option, value, separator=separator)
