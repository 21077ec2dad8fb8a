"""Checkpoints: how far each project has been accounted, in the files that cASO reads and writes.

The file is ``lastrun.PROJECT``, where PROJECT is the name or the id in the configuration. Here a
project gets a file for each of its names in the configuration and for its id. So cASO may select it
either way, and a file that was damaged has a twin. cASO 1 kept a single file ``lastrun``, which
counts for projects without one of their own.

A file holds the time from which the next run goes on, as ``2026-11-22 07:22:42.712270+00:00``. A
file with anything else, or an empty one (cASO leaves those on a full disk, and then skips the
project for ever), is never replaced by a guess: its twin counts. Without a twin the project fails
until the administrator gives a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.core import files
from appliance.core.lastrun import read
from appliance.core.run import place
from appliance.core.run.errors import LocalFailure

_MODE = 0o644  # as cASO writes them


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
        """Return the checkpoint of a project known by ``names``; the first name with a file counts.

        Raises:
            LocalFailure: all of its files are broken or unreadable.

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
            # None: no such file. The project may be known by its next name.
            if moment is not None:
                return Found(moment, tuple(broken), tuple(unreadable))
        if unreadable:
            raise unreadable[0]
        if broken:
            # Its broken twins are named as well, so that the one that counts is mended.
            twins = ", ".join(path.name for path in broken[1:])
            raise LocalFailure(
                broken[0],
                "has no time from which to go on" + (f" (nor {twins})" if twins else ""),
                "write the time of the last good run into it, like 2026-11-22 07:22:42+00:00, or"
                f" run once: {place.command('caso', 'caso-extract', '--extract-from', 'TIME')};"
                " nothing is lost in the meantime",
            )
        # The file of cASO 1, which had one for all projects.
        try:
            return Found(read(self.directory / "lastrun"))
        except ValueError as error:
            raise LocalFailure(
                self.directory / "lastrun",
                "has no time from which to go on",
                "correct or remove it",
            ) from error

    def latest(self) -> datetime | None:
        """Return the latest time in any of the files that can be read."""
        found: list[datetime] = []
        for path in self.directory.glob("lastrun*"):
            with contextlib.suppress(OSError, ValueError):
                if (moment := read(path)) is not None:
                    found.append(moment)
        return max(found, default=None)

    def later(self, names: Iterable[str], moment: datetime) -> dict[str, str]:
        """Return the contents of the checkpoint files to write, by name.

        A file with a later time is left out: no checkpoint moves back.
        """
        wanted: dict[str, str] = {}
        for name in dict.fromkeys(name for name in names if is_file_name(name)):
            path = self.path(name)
            if _is_before(path, moment):
                wanted[path.name] = str(moment)
        return wanted

    def write(self, contents: Mapping[str, str]) -> None:
        """Write checkpoint files durably; skip a file that has a later time by now.

        Raises:
            OSError: none of them can be written. One is enough for the next run.

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


def is_file_name(name: str) -> bool:
    """Check whether a project's name can be part of a file's name; otherwise its id is used."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can contain
        return False
    # Of the 255 bytes of a file's name, some go to lastrun. and to the suffix of temporary files.
    return 0 < size < 200 and "/" not in name and "\0" not in name  # noqa: PLR2004


def _is_before(path: Path, moment: datetime) -> bool:
    try:
        held = read(path)
    except (ValueError, OSError):
        return True
    return held is None or held < moment
