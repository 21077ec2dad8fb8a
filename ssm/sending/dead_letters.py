"""Dead letters: the queue of messages that can never be sent, beside their spool.

    field        content
    body         the message as it was in the spool, unsigned
    reason       why it cannot be sent
    empaid       the id under which it was to be sent: the name of its element, or of a part
    firstseen    when the element was made (ISO 8601, UTC)
    attempts     how often it was sent alone
    lasterror    the last error of the broker

A message goes back to the spool by a rename of its ``body``: at every moment it is in one of the
two. An element without a body is what a killed `DeadLetters.requeue` left; the next one removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.core import files
from appliance.core.run import log
from appliance.core.run.errors import Busy, LocalFailure
from appliance.core.spool import ElementName, Spool
from ssm.disk_queue import DiskQueue

_ELEMENT = re.compile(r"[0-9a-f]{8}/([0-9a-f]{14})")
_DIRECTORY, _NAME = re.compile(r"[0-9a-f]{8}"), re.compile(r"[0-9a-f]{14}")
_LOCK = "locked"  # the directory by which dirq locks an element
_MAX_FIELD = 64 * 1024


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in the queue, for an administrator to read."""

    element: Path
    message_id: str
    reason: str
    first_seen: str
    attempts: str

    @property
    def body(self) -> Path:
        """Return the file with the message."""
        return self.element / "body"


class DeadLetters:
    """The queue at a path. Making the object touches nothing; the first `add` creates the queue."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: dict[Path, LocalFailure] = {}
        """Why paths of the queue could not be used."""
        self._queue: DiskQueue | None = None

    def add(
        self,
        message_id: str,
        body: bytes,
        *,
        reason: str,
        first_seen: datetime,
        attempts: int,
        last_error: str,
    ) -> None:
        """Add a message, durably, unless a run that was killed has already added it.

        Raises:
            OSError: it could not be written; nothing is left of it.
            LocalFailure: the queue cannot be used.

        """
        queue = self._queue = self._queue or DiskQueue(self.path)
        self.skipped = queue.skipped
        name = _name(message_id)
        while (known := queue.field(name, "empaid")) is not None:
            if known == message_id.encode():
                return
            # Another message has this name: a part of the same element, say.
            name = f"{(int(name, 16) + 1) % 16**14:014x}"
        fields = {
            "body": body,
            "reason": reason.encode(),
            "empaid": message_id.encode(),
            "firstseen": first_seen.astimezone(UTC).isoformat(timespec="seconds").encode(),
            "attempts": str(attempts).encode(),
            "lasterror": last_error.encode(),
        }
        # Durable before the caller removes the message from the spool.
        try:
            queue.stage(fields, name=name)
            queue.seal()
            moved = queue.publish([name])
        except OSError:
            queue.abandon([name])
            raise
        if name not in moved:
            raise next(iter(queue.skipped.values()))

    def letters(self) -> list[DeadLetter]:
        """Return the dead letters, oldest first; unusable paths go to `skipped`.

        Raises:
            OSError: the queue itself cannot be read.

        """
        return [_read(element) for element in self._elements() if _has_body(element)]

    def requeue(self, letter: DeadLetter, spool: Spool) -> ElementName:
        """Move a message back to the spool, as the newest one; return its new name.

        Raises:
            Busy: another program has locked the dead letter.
            OSError: the spool is on another file system, or cannot be written.

        """
        if os.path.lexists(letter.element / _LOCK):
            cause = "another program has locked this dead letter"
            raise Busy(letter.message_id, cause, "repeat the command when that program has ended")
        name = spool.adopt(letter.body)
        for element in self._elements():
            if not _has_body(element):
                shutil.rmtree(element)
        return name

    def _elements(self) -> Iterator[Path]:
        if self.path.is_dir():
            for directory in self._listed(self.path, _DIRECTORY):
                yield from self._listed(directory, _NAME)

    def _listed(self, path: Path, pattern: re.Pattern[str]) -> list[Path]:
        listing = files.listed(path, pattern.fullmatch, directories=True)
        self.skipped.update(listing.skipped)
        return list(listing.paths)


def _has_body(element: Path) -> bool:
    return os.path.lexists(element / "body")


def _read(element: Path) -> DeadLetter:
    def text(field: str) -> str:
        with contextlib.suppress(OSError):  # a missing or unreadable field is empty
            data = files.read_regular(element / field, limit=_MAX_FIELD)
            return log.one_line(data.decode("utf-8", "backslashreplace"))
        return ""

    message_id = text("empaid") or element.name
    return DeadLetter(element, message_id, text("reason"), text("firstseen"), text("attempts"))


def _name(message_id: str) -> str:
    """Return a name for an element: its name in the spool, else one made from its id."""
    if found := _ELEMENT.match(message_id):
        return found[1]
    return hashlib.sha256(message_id.encode()).hexdigest()[:14]
