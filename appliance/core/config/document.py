"""A configuration as read, before anything is known of its options: text, and where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.core import files
from appliance.core.run.errors import ConfigurationError, Problem

_MAX_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """One assignment: the text of its value, its file, its line (from 1)."""

    text: str
    path: Path
    line: int


@dataclass(slots=True)
class Document:
    """Sections of options, in file order, from one or several files. Of several assignments the last one counts."""

    sections: dict[str, dict[str, Setting]] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)
    """What a dialect warns of, whatever the options mean."""

    def get(self, section: str, option: str) -> Setting | None:
        """Return an option's entry, None when no file sets it."""
        return self.sections.get(section, {}).get(option)

    def set(self, section: str, option: str, entry: Setting) -> None:
        """Add an assignment; it wins over earlier ones."""
        self.sections.setdefault(section, {})[option] = entry

    def update(self, other: Document) -> None:
        """Lay another document's assignments over this one's."""
        self.paths += other.paths
        self.remarks += other.remarks
        for section, options in other.sections.items():
            self.sections.setdefault(section, {}).update(options)


def remark_comment(value: str, path: Path, line: int, option: str) -> list[Problem]:
    """Return a warning when a value holds what looks like a comment, in a dialect that has none behind values."""
    if not re.search(r"\s[#;]\s", value):
        return []
    text = "what follows the # or ; is part of the value; write a comment on a line of its own"
    return [Problem(path, line, option, text, is_fatal=False)]


Dialect = Callable[[Path, str], Document]
"""Reads a file's text; raises `ConfigurationError` with every line that it cannot read."""


def read(paths: Sequence[Path], dialect: Dialect) -> Document:
    """Read files in order, later ones over earlier ones; raises `ConfigurationError` for all that fail, together."""
    document = Document()
    problems: list[Problem] = []
    for path in paths:
        try:
            document.update(dialect(path, read_text(path)))
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return document


def read_text(path: Path) -> str:
    """Return a file's text; one that is missing, unreadable, too large or not UTF-8 text is a `ConfigurationError`."""
    try:
        with _open(path) as file:
            data = file.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            raise ConfigurationError(
                [Problem(path, 0, "", "is larger than 1 MiB, which no configuration is")]
            )
        text = data.decode("utf-8-sig")
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise ConfigurationError([Problem(path, 0, "", f"cannot be read: {cause}")]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            [Problem(path, line, "", "is not UTF-8 text; save the file as UTF-8")]
        ) from error
    if "\0" in text:
        line = len(lines(text[: text.index("\0")]))
        raise ConfigurationError(
            [Problem(path, line, "", "holds a NUL character; save the file as UTF-8 text")]
        )
    return text


def _open(path: Path) -> BinaryIO:
    """Open a file; a pipe only when the caller passed it: without a writer it never ends."""
    # Such as a shell's <(command).
    is_passed = path.is_relative_to("/dev") or path.is_relative_to("/proc/self/fd")
    return path.open("rb") if is_passed else files.open_regular(path, follow=True)


def lines(text: str) -> list[str]:
    """Split as `open` does; `str.splitlines` would also cut values at form feeds, NEL and Unicode separators."""
    return re.split(r"\r\n|\r|\n", text)


def first_existing(candidates: Iterable[Path]) -> list[Path]:
    """Return the first file of ``candidates`` that exists, as a list; an empty list when there is none."""
    return next(([path] for path in candidates if may_exist(path)), [])


def may_exist(path: Path) -> bool:
    """Say whether a file exists, or cannot be looked for: reading it will tell why."""
    try:
        return path.is_file()
    except OSError:
        return True
