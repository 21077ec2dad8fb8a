"""A configuration as its files set it: texts of options, each with file and line."""

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
    """The value of an option as a file sets it. ``line`` counts from 1; 0 is another source."""

    text: str
    path: Path
    line: int


@dataclass(slots=True)
class Document:
    """Sections of options from one or several files, in their order; the last setting wins."""

    sections: dict[str, dict[str, Setting]] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)
    """Warnings about the form of the text, whatever its options mean."""

    def get(self, section: str, option: str) -> Setting | None:
        """Return the setting of an option; None if no file sets it."""
        return self.sections.get(section, {}).get(option)

    def set(self, section: str, option: str, entry: Setting) -> None:
        """Add a setting, which wins over earlier ones of the same option."""
        self.sections.setdefault(section, {})[option] = entry

    def update(self, other: Document) -> None:
        """Add the settings of another document, which win over those of this one."""
        self.paths += other.paths
        self.remarks += other.remarks
        # Options are merged one by one: a later file may set a single option of a section.
        for section, options in other.sections.items():
            self.sections.setdefault(section, {}).update(options)


def remark_comment(value: str, path: Path, line: int, option: str) -> list[Problem]:
    """Return a warning if a value seems to end in a comment.

    It is for dialects that have comments on lines of their own only.
    """
    if not re.search(r"\s[#;]\s", value):
        return []
    text = "the # or ; and the text after it belong to the value; write comments on their own line"
    return [Problem(path, line, option, text, is_fatal=False)]


Dialect = Callable[[Path, str], Document]
"""Parses the text of a file; raises `ConfigurationError` with all lines that are wrong."""


def read(paths: Sequence[Path], dialect: Dialect) -> Document:
    """Read files in order; later ones win over earlier ones.

    Raises:
        ConfigurationError: some files cannot be read or parsed; it has the problems of all.

    """
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
    """Return the text of a file.

    Raises:
        ConfigurationError: the file is missing, unreadable, too large or not UTF-8.

    """
    try:
        with _open(path) as file:
            data = file.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            raise ConfigurationError(
                [
                    Problem(
                        path,
                        0,
                        "",
                        "is larger than 1 MiB, the limit of a configuration; check the path",
                    )
                ]
            )
        text = data.decode("utf-8-sig")  # editors on Windows write a byte order mark
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
    """Open a regular file, or a pipe that the caller passed as an open descriptor."""
    # A shell's <(command) is such a pipe. Any other one could have no writer, and never end.
    is_passed = path.is_relative_to("/dev") or path.is_relative_to("/proc/self/fd")
    return path.open("rb") if is_passed else files.open_regular(path, follow=True)


def lines(text: str) -> list[str]:
    """Return the lines of a text, split as `open` does.

    `str.splitlines` would also split values at form feeds, NEL and Unicode's separators.
    """
    return re.split(r"\r\n|\r|\n", text)


def first_existing(candidates: Iterable[Path]) -> list[Path]:
    """Return a list of the first file of ``candidates`` that exists, or an empty one."""
    return next(([path] for path in candidates if may_exist(path)), [])


def may_exist(path: Path) -> bool:
    """Check whether a file exists, or may: reading it then reports why it cannot be seen."""
    try:
        return path.is_file()
    except OSError:
        return True
