"""Dead letters: the queue of messages that cannot be sent, beside their spool.

An element has the fields ``body``, ``reason``, ``empaid`` (the id under which it was to be sent),
``firstseen`` (when it was made), ``attempts`` and ``lasterror``.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

from appliance.core.run.errors import LocalFailure
from ssm.disk_queue import DiskQueue

_ELEMENT = re.compile(r"[0-9a-f]{8}/([0-9a-f]{14})")


class DeadLetters:
    """The queue at a path. Creating the object touches nothing; the first `add` makes the queue."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: dict[Path, LocalFailure] = {}
        """What lies in the queue and cannot be used, by path."""
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
        """Keep a message, durably; one that a killed run has added already is not added again.

        :raises OSError: it could not be written; nothing is left of it
        :raises LocalFailure: the queue cannot be used
        """
        queue = self._queue = self._queue or DiskQueue(self.path)
        self.skipped = queue.skipped
        name = _name(message_id)
        while (known := queue.field(name, "empaid")) is not None:
            if known == message_id.encode():
                return
            name = f"{(int(name, 16) + 1) % 16**14:014x}"
        fields = {
            "body": body,
            "reason": reason.encode(),
            "empaid": message_id.encode(),
            "firstseen": first_seen.astimezone(UTC).isoformat(timespec="seconds").encode(),
            "attempts": str(attempts).encode(),
            "lasterror": last_error.encode(),
        }
        try:
            queue.stage(fields, name=name)
            queue.seal()
            moved = queue.publish([name])
        except OSError:
            queue.abandon([name])
            raise
        if name not in moved:
            raise next(iter(queue.skipped.values()))


def _name(message_id: str) -> str:
    """Return a name for an element: the one that it has in a spool, else one made of its id."""
    if found := _ELEMENT.match(message_id):
        return found[1]
    return hashlib.sha256(message_id.encode()).hexdigest()[:14]
