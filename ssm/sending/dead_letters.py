"""Dead letters: the queue of messages that can never be sent, beside their spool.

field        content
body         the message as it was in the spool, unsigned
reason       why it cannot be sent
empaid       the id under which it was to be sent: the name of its element, or of a part
firstseen    when the element was made (ISO 8601, UTC)
attempts     how often it was sent alone
lasterror    the last error of the broker
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


def _name(message_id: str) -> str:
    """Return a name for an element: its name in the spool, else one made from its id."""
    if found := _ELEMENT.match(message_id):
        return found[1]
    return hashlib.sha256(message_id.encode()).hexdigest()[:14]
