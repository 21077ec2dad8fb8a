"""The files of an earlier set-up, the texts that this host gets, and what is to be reported.

Names of files are absolute paths as on the appliance, such as ``/etc/caso/caso.conf``, wherever the
earlier set-up and this host have their roots. A file of the earlier set-up is carried as it is
unless a form (`appliance.admin.migrate.registry`) plans another text for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from appliance.core.config import document
from appliance.core.config.document import Document
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

_LINKS = 4
Read = TypeVar("Read", bound=Document)


@dataclass(slots=True)
class Workspace:
    """What a migration has read and planned so far."""

    source: Path
    """The root of the earlier set-up, or a copy of its ``/etc``."""
    layout: Layout
    """The paths of this host."""
    destination: str = ""
    """The administrator's answer where messages go; empty without one."""
    planned: dict[str, str] = field(default_factory=dict)
    """By name, the text that the file gets on this host."""
    dropped: dict[str, str] = field(default_factory=dict)
    """By name, why the file makes way on this host."""
    notes: list[str] = field(default_factory=list)
    """What the administrator should know."""
    findings: list[Problem] = field(default_factory=list)
    """What a person must decide or correct; the rest goes on."""
    questions: list[str] = field(default_factory=list)
    """What must be answered on the command line before anything is changed."""

    @property
    def is_in_place(self) -> bool:
        """Return whether the earlier set-up is this host itself."""
        return self.source.resolve() == self.layout.root.resolve()

    def path(self, name: str) -> Path:
        """Return where the earlier set-up has a file."""
        if not (self.source / "etc").is_dir() and name.startswith("/etc/"):
            name = name.removeprefix("/etc")  # a copy of /etc alone
        path = self.source / name.lstrip("/")
        for _ in range(_LINKS):
            if not path.is_symlink():
                break
            # In a copy, a link to /etc/… means the copy's file, and not this host's.
            target = path.readlink()
            path = self.path(str(target)) if target.is_absolute() else path.parent / target
        return path

    def has(self, name: str) -> bool:
        """Return whether the earlier set-up has a file."""
        return self.path(name).is_file()

    def read(self, name: str) -> str | None:
        """Return the planned text of a file, else that of the earlier set-up; None without one.

        A file that cannot be read is a finding, and counts as missing.
        """
        if name in self.planned:
            return self.planned[name]
        if not self.has(name):
            return None
        try:
            text = document.read_text(self.path(name))
        except ConfigurationError as error:
            self.findings += error.problems
            return None
        self.planned[name] = text
        return text

    def parse(self, name: str, dialect: Callable[[Path, str], Read]) -> Read | None:
        """Return a file as a document; None without one, or with faults, which are findings."""
        text = self.read(name)
        if text is None:
            return None
        try:
            return dialect(self.path(name), text)
        except ConfigurationError as error:
            self.findings += error.problems
            return None

    def base(self, name: str) -> str:
        """Return the text that a form extends: the planned one, else this host's, else nothing."""
        text = self.read(name)
        if text is not None:
            return text
        path = self.layout.path(name)
        try:
            return document.read_text(path) if path.is_file() else ""
        except ConfigurationError as error:
            self.findings += error.problems
            return ""

    def note(self, name: str, line: int, words: str) -> None:
        """Add what the administrator should know about a line of the earlier set-up."""
        self.notes.append(str(Problem(self.path(name), line, "", words)))

    def find(self, name: str, line: int, words: str) -> None:
        """Add what a person must decide about a line of the earlier set-up."""
        self.findings.append(Problem(self.path(name), line, "", words))
