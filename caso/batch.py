"""A project's messages reach the spool exactly once, together with its checkpoint, whenever the program dies.

    SPOOL/.caso-staged/OWNER/PROJECT.new/    messages are being written; worthless if the program
                                             dies now
    SPOOL/.caso-staged/OWNER/PROJECT/        committed: messages, and manifest.json with the
                                             checkpoint files to write

| step      | what happens                                         | killed before, the next run |
|-----------|------------------------------------------------------|-----------------------------|
| write     | messages and manifest, each fsynced, into PROJECT.new | deletes PROJECT.new, repeats |
| commit    | PROJECT.new is renamed to PROJECT                    | deletes PROJECT.new, repeats |
| hand over | messages are renamed into elements, oldest first     | moves those that are left   |
| check     | the checkpoint files are written                     | writes them                 |
| clear     | manifest and directory are removed                   | removes them                |

A message is at every moment either here or in the spool. The staging area is on the spool's file
system because it is inside it; its name is none that dirq uses, so every SSM passes it by. OWNER
stands for the directory of the checkpoints, so that two configurations (regions, say) may share a
spool.

Whatever else lies in the area is moved aside as PROJECT.foreign, which every run names until
somebody has looked. Only a directory with a project's name that cannot be read holds back that
project: it may be a batch, and older messages must not follow newer ones.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.spool import Spool
from caso.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

_AREA = ".caso-staged"
_MANIFEST = "manifest.json"
_UNCOMMITTED = ".new"
_FOREIGN = ".foreign"
_MESSAGE = re.compile(r"\d{6}-\d{7}")
_MAX_MANIFEST = 2**20
_MODE = 0o640

Composer = Callable[[Sequence[str]], bytes]
"""Makes one message of rendered records."""


class Batch:
    """Messages of one project that are being written. Of each month at most one incomplete message is in memory."""

    def __init__(self, directory: Path, *, compose: Composer, size: int) -> None:
        self.directory = directory
        self.messages = 0
        self._compose = compose
        self._size = size
        self._pending: dict[datetime, list[str]] = {}
        self._new = directory.with_name(directory.name + _UNCOMMITTED)
        _remove(self._new)
        files.make_directory(self._new)

    def add(self, record: str, *, month: datetime) -> None:
        """Add a rendered record to its month's messages."""
        pending = self._pending.setdefault(month, [])
        pending.append(record)
        if len(pending) >= self._size:
            self._write(month)

    def commit(self, checkpoints: Mapping[str, str]) -> None:
        """Make the batch durable, with the checkpoint files that are to be written when its messages are spooled."""
        for month in sorted(self._pending):
            self._write(month)
        manifest = json.dumps({"checkpoints": dict(checkpoints)}).encode()
        files.write_new(self._new / _MANIFEST, manifest, mode=_MODE)
        files.sync_directory(self._new)
        self._new.rename(self.directory)
        files.sync_directory(self.directory.parent)

    def discard(self) -> None:
        """Forget a batch that is not committed."""
        shutil.rmtree(self._new, ignore_errors=True)

    def _write(self, month: datetime) -> None:
        if records := self._pending.pop(month):
            path = self._new / f"{month:%Y%m}-{self.messages:07d}"
            files.write_new(path, self._compose(records), mode=_MODE)
            self.messages += 1


@dataclass(slots=True)
class Recovered:
    """What an earlier run left: messages moved to the spool, and why batches stay unfinished."""

    messages: int = 0
    stuck: dict[str, ApplianceError] = field(default_factory=dict)
    """Nothing can be staged for these projects until an administrator has helped."""
    foreign: list[ApplianceError] = field(default_factory=list)


class Staging:
    """The staging area of one configuration inside a spool."""

    def __init__(self, spool: Path, checkpoints: Checkpoints) -> None:
        self._spool = spool
        self._checkpoints = checkpoints
        self._named: set[Path] = set()
        """What was named in the spool already."""
        owner = hashlib.sha256(str(checkpoints.directory).encode()).hexdigest()[:8]
        self.path = spool / _AREA / owner

    def begin(self, project_id: str, *, compose: Composer, size: int) -> Batch:
        """Begin a project's batch."""
        return Batch(self.path / project_id, compose=compose, size=size)

    def pending(self) -> list[str]:
        """Return the projects with a committed batch that an earlier run could not finish."""
        kinds = (_UNCOMMITTED, _FOREIGN)
        return [path.name for path in self._listing().paths if path.suffix not in kinds]

    def unusable(self) -> list[ApplianceError]:
        """Return a line for each name in the area that the next run will report."""
        listing = self._listing()
        kept = [path for path in (*listing.paths, *listing.skipped) if path.suffix == _FOREIGN]
        others = [line for path, line in listing.skipped.items() if path not in kept]
        return [*others, *map(_of_foreign, kept)]

    def recover(self) -> Recovered:
        """Finish every committed batch and delete every other; a stuck one stops no neighbour."""
        done, listing = Recovered(), self._listing()
        for path, line in listing.skipped.items():
            try:
                aside = _put_aside(path)
            except OSError:
                aside = None
            if aside is None:
                done.stuck[path.name.removesuffix(_UNCOMMITTED)] = line
            else:
                done.foreign.append(_of_foreign(aside))
        for path in listing.paths:
            if path.suffix == _FOREIGN:
                done.foreign.append(_of_foreign(path))
                continue
            try:
                if path.suffix == _UNCOMMITTED:
                    _remove(path)
                else:
                    done.messages += self.hand_over(path)
            except ApplianceError as error:
                done.stuck[path.name.removesuffix(_UNCOMMITTED)] = error
            except OSError as error:
                done.stuck[path.name.removesuffix(_UNCOMMITTED)] = LocalFailure.from_os(error)
        return done

    def hand_over(self, directory: Path) -> int:
        """Move a committed batch's messages into the spool, then its checkpoints; returns how many were moved."""
        spool = Spool(self._spool)
        messages = files.listed(directory, _MESSAGE.fullmatch)
        for message in messages.paths:
            spool.adopt(message)
        for path in spool.skipped.keys() - self._named:  # passed over; the sender is held up by it
            self._named.add(path)
            logger.warning("%s", spool.skipped[path])
        for unusable in messages.skipped.values():
            raise unusable
        manifest = directory / _MANIFEST
        self._checkpoints.write(_checkpoints(manifest))
        manifest.unlink(missing_ok=True)
        _clear(directory)
        files.sync_directory(directory.parent)
        return len(messages.paths)

    def _listing(self) -> files.Listing:
        try:
            return files.listed(self.path, lambda _: True, directories=True)
        except FileNotFoundError:
            return files.Listing()


def _of_foreign(path: Path) -> LocalFailure:
    cause = "is or holds something that caso did not make"
    return LocalFailure(
        files.shown(path), cause, f"look at it, then: rm -r {files.shell_word(path)}"
    )


def _put_aside(path: Path) -> Path | None:
    """Rename what cannot be a batch; return its new name, or None for what may be one."""
    if path.suffix == _FOREIGN:
        return path
    is_directory = path.is_dir() and not path.is_symlink()
    if is_directory and path.suffix != _UNCOMMITTED:
        return None
    return _rename_aside(path, path.name.removesuffix(_UNCOMMITTED))


def _rename_aside(path: Path, name: str) -> Path:
    """Rename a directory or file to the first free name for foreign things."""
    for number in itertools.count():
        aside = path.with_name(f"{name}-{number}{_FOREIGN}" if number else f"{name}{_FOREIGN}")
        if not os.path.lexists(aside):
            path.rename(aside)
            return aside
    raise AssertionError


def _remove(path: Path) -> None:
    """Remove what has the name of an uncommitted batch, whatever it is."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        remedy = f"as root: rm -r {files.shell_word(path)}"
        raise LocalFailure.from_os(error, remedy=remedy) from error


def _clear(directory: Path) -> None:
    """Remove the directory of a batch that was handed over; put it aside with others' files."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _rename_aside(directory, directory.name)


def _checkpoints(manifest: Path) -> dict[str, str]:
    try:
        told = json.loads(files.read_regular(manifest, limit=_MAX_MANIFEST))["checkpoints"]
        names = [name for name in told if name.startswith("lastrun.") and "/" not in name]
        found = {name: str(told[name]) for name in names}
        for content in found.values():
            datetime.fromisoformat(content)
    except FileNotFoundError:  # killed between the last two steps
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LocalFailure(
            manifest, "is broken", "remove this file; the project is then extracted again"
        ) from error
    return found
