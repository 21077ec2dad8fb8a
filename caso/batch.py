"""A project's messages reach the spool exactly once, together with its checkpoint, whenever the program dies.

    SPOOL/.caso-staged/OWNER/PROJECT.new/    messages are being written; worthless if the program dies now
    SPOOL/.caso-staged/OWNER/PROJECT/        committed: messages, and manifest.json with the checkpoint files to write

| step     | what happens                                            | killed before it, the next run         |
|----------|---------------------------------------------------------|----------------------------------------|
| write    | messages and manifest, each fsynced, into PROJECT.new   | deletes PROJECT.new and extracts again |
| commit   | PROJECT.new is renamed to PROJECT                       | deletes PROJECT.new and extracts again |
| hand over| each message is renamed into its element, oldest first  | moves those that are still there       |
| check    | the checkpoint files are written                        | writes them                            |
| clear    | manifest and directory are removed                      | removes them                           |

A message is at every moment either here or in the spool. The staging area is on the spool's file system because it is
inside it; its name is none that dirq uses, so every SSM passes it by. OWNER stands for the directory of the
checkpoints, so that two configurations (regions, say) may share a spool.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.spool import Spool
from caso.checkpoint import Checkpoints

_AREA = ".caso-staged"
_MANIFEST = "manifest.json"
_UNCOMMITTED = ".new"
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
        if self._new.exists():
            shutil.rmtree(self._new)
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


class Staging:
    """The staging area of one configuration inside a spool."""

    def __init__(self, spool: Path, checkpoints: Checkpoints) -> None:
        self._spool = spool
        self._checkpoints = checkpoints
        owner = hashlib.sha256(str(checkpoints.directory).encode()).hexdigest()[:8]
        self.path = spool / _AREA / owner

    def begin(self, project_id: str, *, compose: Composer, size: int) -> Batch:
        """Begin a project's batch."""
        return Batch(self.path / project_id, compose=compose, size=size)

    def pending(self) -> list[str]:
        """Return the projects with a committed batch that an earlier run could not finish."""
        return [path.name for path in self._directories() if path.suffix != _UNCOMMITTED]

    def recover(self) -> int:
        """Finish every committed batch and delete every other; returns how many messages went to the spool."""
        handed_over = 0
        for path in self._directories():
            if path.suffix == _UNCOMMITTED:
                shutil.rmtree(path)
            else:
                handed_over += self.hand_over(path)
        return handed_over

    def hand_over(self, directory: Path) -> int:
        """Move a committed batch's messages into the spool, then its checkpoints; returns how many were moved."""
        spool = Spool(self._spool)
        messages = sorted(path for path in directory.iterdir() if path.name != _MANIFEST)
        for message in messages:
            spool.adopt(message)
        manifest = directory / _MANIFEST
        self._checkpoints.write(_checkpoints(manifest))
        manifest.unlink(missing_ok=True)
        directory.rmdir()
        files.sync_directory(directory.parent)
        return len(messages)

    def _directories(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else []


def _checkpoints(manifest: Path) -> dict[str, str]:
    try:
        told = json.loads(manifest.read_bytes())["checkpoints"]
    except FileNotFoundError:  # killed between the last two steps
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise LocalFailure(manifest, "is broken", "remove this file; the project is then extracted again") from error
    return {name: content for name, content in told.items() if name.startswith("lastrun.") and "/" not in name}
