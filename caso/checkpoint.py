"""How far each project has been accounted: the files ``lastrun.PROJECT`` that cASO reads and writes.

PROJECT is the project as the configuration writes it, name or id. Here every name of a project in
the configuration and its id get a file, so that cASO may select it either way, and so that a file
that somebody broke has a twin. cASO 1 kept one file ``lastrun`` for all projects, which counts for
projects that have none of their own.

A file holds the moment from which the next run goes on, as ``2026-11-22 07:22:42.712270+00:00``. A
file that holds anything else, or nothing (a full disk does that to cASO, which then leaves the
project out for ever), is never guessed at: its twin counts, and without one the project fails until
somebody says from when to go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.core import files
from appliance.core.lastrun import read
from appliance.core.run.errors import LocalFailure

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""From when a project is accounted that never was before."""

_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Found:
    """A project's checkpoint, None when it was never accounted, and the files that were skipped."""

    moment: datetime | None
    broken: tuple[Path, ...] = ()
    unreadable: tuple[LocalFailure, ...] = ()


class Checkpoints:
    """The checkpoint files in cASO's spool directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, names: Iterable[str]) -> Found:
        """Return the checkpoint of a project known by ``names``, the first that has a file counts.

        Raises `LocalFailure` when there are only files that are broken or cannot be read.
        """
        broken: list[Path] = []
        unreadable: list[LocalFailure] = []
        for path in [self.path(name) for name in names if is_file_name(name)]:
            try:
                moment = read(path)
            except ValueError:
                broken.append(path)
                continue
            except OSError as error:
                unreadable.append(files.describe_skipped(path, error))
                continue
            if moment is not None:
                return Found(moment, tuple(broken), tuple(unreadable))
        if unreadable:
            raise unreadable[0]
        if broken:
            raise LocalFailure(
                broken[0],
                "holds no time from which to go on" + _likewise(broken[1:]),
                "write the time of the last good run into it, like 2026-11-22 07:22:42+00:00, or run once with "
                "--extract-from; nothing is lost meanwhile",
            )
        try:
            return Found(read(self.directory / "lastrun"))
        except ValueError as error:
            raise LocalFailure(
                self.directory / "lastrun",
                "holds no time from which to go on",
                "correct or remove it",
            ) from error

    def later(self, names: Iterable[str], moment: datetime) -> dict[str, str]:
        """Return which files of a project to write, by name, and their content: no checkpoint moves back."""
        wanted: dict[str, str] = {}
        for name in dict.fromkeys(name for name in names if is_file_name(name)):
            path = self.path(name)
            if _is_before(path, moment):
                wanted[path.name] = str(moment)
        return wanted

    def write(self, contents: Mapping[str, str]) -> None:
        """Write checkpoint files, each durably; one that has moved further in the meantime stays.

        Raises `OSError` when none of them can be written: one is enough to go on from.
        """
        files.make_directory(self.directory)
        failures: list[OSError] = []
        for name, content in contents.items():
            path = self.directory / name
            if _is_before(path, datetime.fromisoformat(content)):
                try:
                    files.write_atomic(path, content.encode(), mode=_MODE)
                except OSError as error:
                    failures.append(error)
        if failures and len(failures) == len(contents):
            raise failures[0]

    def path(self, name: str) -> Path:
        """Return the file of a project by one of its names."""
        return self.directory / f"lastrun.{name}"


def _likewise(others: list[Path]) -> str:
    """Name the twins of a broken file: whoever mends the one that does not count would wonder."""
    return f" (nor {', '.join(path.name for path in others)})" if others else ""


def is_file_name(name: str) -> bool:
    """Say whether a project's name can be part of a file's name; projects may have others, and then go by id."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can hold it
        return False
    return 0 < size < 200 and "/" not in name and "\0" not in name  # noqa: PLR2004  of 255


def _is_before(path: Path, moment: datetime) -> bool:
    try:
        held = read(path)
    except (ValueError, OSError):
        return True
    return held is None or held < moment
