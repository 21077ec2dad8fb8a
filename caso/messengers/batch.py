"""The hand-over to the spool: a project's messages reach it exactly once, with the checkpoint.

    SPOOL/.caso-staged/OWNER/PROJECT.new/    messages are being written
    SPOOL/.caso-staged/OWNER/PROJECT/        a committed batch: messages, and manifest.json with the
                                             checkpoint files to write
    SPOOL/.caso-staged/OWNER/X.foreign       moved aside: not made by caso

    step        effect                                           killed before it, the next run
    seal        messages and manifest are in PROJECT.new,        deletes PROJECT.new and extracts
                each fsynced                                     again
    commit      PROJECT.new is renamed to PROJECT                the same
    hand over   each message is renamed into its element,        moves those that are still there
                oldest first
    check       the checkpoint files are written                 writes them
    clear       manifest and directory are removed               removes them

At every moment a message is either in the staging area or in the spool. The area is inside the
spool, and so on the same file system, where a rename is atomic. Its name is none that dirq uses, so
every SSM ignores it. OWNER stands for the directory of the checkpoints: two configurations, of two
regions say, may share a spool.

Anything else in the area is renamed to X.foreign and reported by every run until an administrator
removes it. One thing is not moved aside: an unreadable directory with the name of a project. It may
be a committed batch, and newer messages must not go before older ones, so its project waits.
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
from datetime import datetime
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.spool import Spool
from caso.checkpoint import Checkpoints
from caso.kinds.kind import UsageRecord
from caso.messengers.messenger import Recovered, Written

logger = logging.getLogger(__name__)

_AREA = ".caso-staged"
_MANIFEST = "manifest.json"
_UNCOMMITTED = ".new"
_FOREIGN = ".foreign"
_MESSAGE = re.compile(r"\d{6}-\d{7}")
_MAX_MANIFEST = 2**20
_MODE = 0o640  # messages name users, so not for everybody

Composer = Callable[[Sequence[str]], bytes]
"""Returns one message of rendered records."""


class Batch:
    """The batch of one project while it is written.

    Memory holds at most one incomplete message for each month.
    """

    def __init__(self, directory: Path, *, compose: Composer, size: int, written: Written) -> None:
        self.directory = directory
        self.messages = 0
        self._compose = compose
        self._size = size
        self._written = written
        self._pending: dict[datetime, list[tuple[str, UsageRecord]]] = {}
        self._new = directory.with_name(directory.name + _UNCOMMITTED)
        # The ledger would take the batch that waits for this one, and count what was never sent.
        if os.path.lexists(directory):
            cause = "a batch of the project waits here"
            remedy = "the next caso-extract moves it to the spool"
            raise LocalFailure(directory, cause, remedy)
        _remove(self._new)
        files.make_directory(self._new)

    def add(self, text: str, *, month: datetime, record: UsageRecord) -> None:
        """Add a rendered record to the messages of its month."""
        pending = self._pending.setdefault(month, [])
        pending.append((text, record))
        if len(pending) >= self._size:
            self._write(month)

    def seal(self, checkpoints: Mapping[str, str]) -> None:
        """Make the batch durable, with the checkpoint files to write after its messages.

        ``checkpoints`` has their contents by name.
        """
        # Oldest month first: of two records for a server the later one counts at the repository.
        for month in sorted(self._pending):
            self._write(month)
        manifest = json.dumps({"checkpoints": dict(checkpoints)}).encode()
        files.write_new(self._new / _MANIFEST, manifest, mode=_MODE)
        files.sync_directory(self._new)

    def commit(self) -> None:
        """Make the next run finish the batch if this one does not."""
        # Everything before this is worthless after a crash, everything after it is done.
        self._new.rename(self.directory)
        files.sync_directory(self.directory.parent)

    def discard(self) -> None:
        """Delete a batch that is not committed."""
        shutil.rmtree(self._new, ignore_errors=True)

    def _write(self, month: datetime) -> None:
        if pending := self._pending.pop(month):
            # Sorted by name, messages are in the order of months, and within one as they came.
            path = self._new / f"{month:%Y%m}-{self.messages:07d}"
            message = self._compose([text for text, _ in pending])
            files.write_new(path, message, mode=_MODE)
            self._written(hashlib.sha256(message).digest(), [record for _, record in pending])
            self.messages += 1


class Staging:
    """The staging area of one configuration inside a spool."""

    def __init__(self, spool: Path, checkpoints: Checkpoints) -> None:
        self._spool = spool
        self._checkpoints = checkpoints
        self._named: set[Path] = set()
        """Unusable paths in the spool that were reported already."""
        # A digest, because a path is no name of a directory; the same one in every run.
        owner = hashlib.sha256(str(checkpoints.directory).encode()).hexdigest()[:8]
        self.path = spool / _AREA / owner

    def begin(self, project_id: str, *, compose: Composer, size: int, written: Written) -> Batch:
        """Begin a project's batch."""
        return Batch(self.path / project_id, compose=compose, size=size, written=written)

    def pending(self) -> list[str]:
        """Return the projects with a committed batch that waits to be handed over."""
        kinds = (_UNCOMMITTED, _FOREIGN)
        return [path.name for path in self._listing().paths if path.suffix not in kinds]

    def unusable(self) -> list[ApplianceError]:
        """Return a failure for each path in the area that the next run will report."""
        listing = self._listing()
        kept = [path for path in (*listing.paths, *listing.skipped) if path.suffix == _FOREIGN]
        others = [line for path, line in listing.skipped.items() if path not in kept]
        return [*others, *map(_of_foreign, kept)]

    def recover(self) -> Recovered:
        """Finish every committed batch and delete every other one; a failure stops no other."""
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
            except (ApplianceError, OSError) as error:
                failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
                done.stuck[path.name.removesuffix(_UNCOMMITTED)] = failure
        return done

    def hand_over(self, directory: Path) -> int:
        """Move the messages of a committed batch into the spool, then write its checkpoints.

        Return the number of messages moved.

        Raises:
            LocalFailure: a message or the manifest is unusable.
            OSError: the disk is full, or a file cannot be written.

        """
        spool = Spool(self._spool)
        messages = files.listed(directory, _MESSAGE.fullmatch)
        for message in messages.paths:
            spool.adopt(message)
        for path in spool.skipped.keys() - self._named:
            self._named.add(path)
            logger.warning("%s", spool.skipped[path])
        for unusable in messages.skipped.values():
            raise unusable
        # Checkpoints come last: the next window may begin only after these messages are spooled.
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
    cause = "another program made it, or a file in it"
    remedy = f"look at it, then: rm -r {files.shell_word(path)}"
    return LocalFailure(files.shown(path), cause, remedy)


def _put_aside(path: Path) -> Path | None:
    """Rename a path that cannot be a batch and return its new path; None when it may be one."""
    if path.suffix == _FOREIGN:
        return path
    is_directory = path.is_dir() and not path.is_symlink()
    if is_directory and path.suffix != _UNCOMMITTED:
        return None
    return _rename_aside(path, path.name.removesuffix(_UNCOMMITTED))


def _rename_aside(path: Path, name: str) -> Path:
    """Rename a path to the first free ``.foreign`` name and return that."""
    for number in itertools.count():
        aside = path.with_name(f"{name}-{number}{_FOREIGN}" if number else f"{name}{_FOREIGN}")
        if not os.path.lexists(aside):
            path.rename(aside)
            return aside
    raise AssertionError


def _remove(path: Path) -> None:
    """Remove a path with the name of an uncommitted batch, of whatever kind it is."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        remedy = f"as root: rm -r {files.shell_word(path)}"
        raise LocalFailure.from_os(error, remedy=remedy) from error


def _clear(directory: Path) -> None:
    """Remove the directory of a batch that was handed over; move it aside if it has other files."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _rename_aside(directory, directory.name)


def _checkpoints(manifest: Path) -> dict[str, str]:
    try:
        wanted = json.loads(files.read_regular(manifest, limit=_MAX_MANIFEST))["checkpoints"]
        names = [name for name in wanted if name.startswith("lastrun.") and "/" not in name]
        found = {name: str(wanted[name]) for name in names}
        for content in found.values():
            datetime.fromisoformat(content)  # raises ValueError for anything else
    except FileNotFoundError:  # a run was killed between manifest and directory
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LocalFailure(
            manifest, "is broken", "remove this file; the project is then extracted again"
        ) from error
    return found
