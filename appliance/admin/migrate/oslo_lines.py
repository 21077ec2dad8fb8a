"""The dialect of oslo.config, for a host: the ``appliance`` command is installed without oslo.

It reads what `appliance.core.config.oslo` reads, which the programs use: sections, ``name = value``
or ``name: value``, one pair of quotes, continuation lines. Values are not interpolated.
"""

from __future__ import annotations

import re
from pathlib import Path

from appliance.core.config.document import Document, Setting, lines
from appliance.core.run.errors import ConfigurationError, Problem

_ASSIGNMENT = re.compile(r"(?P<key>[^:=]+?)\s*[:=]\s*(?P<value>.*)")


def parse(path: Path, text: str) -> Document:
    """Parse a file; sections other than DEFAULT are folded to lower case.

    Raises:
        ConfigurationError: some lines are wrong; all of them are listed.

    """
    reader = _LineReader(path)
    for number, raw in enumerate(lines(text), start=1):
        reader.read(number, raw.rstrip())
    if reader.problems:
        raise ConfigurationError(reader.problems)
    return reader.document


class _LineReader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.document = Document(paths=[path])
        self.problems: list[Problem] = []
        self._section = ""
        self._open = ""
        """The option that an indented line continues."""

    def read(self, number: int, line: str) -> None:
        """Read one line, without blanks at its end."""
        if not line:
            self._open = ""
        elif line[0] in " \t":
            self._continue(number, line.strip())
        elif line[0] == "[":
            self._begin(number, line)
        elif line[0] in "#;":
            self._open = ""
        else:
            self._assign(number, line)

    def _continue(self, number: int, rest: str) -> None:
        entry = self.document.get(self._section, self._open) if self._open else None
        if entry is None:
            words = "begins with a blank, and there is no option to continue; remove the blank"
            self._note(number, "", words)
            return
        joined = Setting(f"{entry.text}\n{rest}", self.path, entry.line)
        self.document.set(self._section, self._open, joined)

    def _begin(self, number: int, line: str) -> None:
        self._open = ""
        name = line[1:-1]
        if not line.endswith("]") or not name:
            self._note(number, "", "not a section header, write [name]")
            return
        self._section = name if name == "DEFAULT" else name.lower()
        self.document.sections.setdefault(self._section, {})

    def _assign(self, number: int, line: str) -> None:
        self._open = ""
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            # The message does not quote the line, which may be a part of a secret.
            self._note(number, "", "neither 'option = value' nor a [section]")
            return
        name, value = match["key"].strip().replace("-", "_"), match["value"].strip()
        if value and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        earlier = self.document.get(self._section, name)
        if not self._section:
            self._note(number, name, "stands above the first section; write [DEFAULT]")
            return
        if earlier:
            words = f"is set a second time in [{self._section}]; first in line {earlier.line}"
            self._note(number, name, f"{words}; remove one")
        self.document.set(self._section, name, Setting(value, self.path, number))
        self._open = name

    def _note(self, number: int, option: str, words: str) -> None:
        self.problems.append(Problem(self.path, number, option, words))
