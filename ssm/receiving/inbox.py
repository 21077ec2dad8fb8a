"""Received messages on disk, each exactly once, whenever the program is killed.

    step        effect                                      killed after it, the next start
    stage       elements are durable beside their queue     discards them: the broker delivers again
    record      one row each in the journal, in a single    publishes them; a second delivery is
                transaction                                 found to be a duplicate
    publish     elements are in their queue                 has nothing to do

The messages of a batch are acknowledged to the broker after all three steps.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from appliance.core import clock
from appliance.core.run.errors import LocalFailure
from appliance.core.run.record import RunRecord
from ssm.disk_queue import DiskQueue
from ssm.receiving.journal import Journal, MessageKey
from ssm.receiving.judge import INCOMING, REJECT, Verdict

logger = logging.getLogger("ssm.ssm2")

_KEEP = timedelta(days=30)
"""How long duplicates of a message are found."""


class Inbox:
    """The queues ``incoming`` and ``reject`` of a directory, and their journal. For one process."""

    def __init__(self, path: Path, *, record: RunRecord) -> None:
        self._queues = {name: DiskQueue(path / name) for name in (INCOMING, REJECT)}
        self._journal = Journal(path / ".received.sqlite")
        self._record = record
        self._unpublished: list[tuple[str, str]] = []
        """Queue and name of elements that are in the journal."""

    def recover(self) -> None:
        """Finish the batch of a run that was killed."""
        for kind, queue in self._queues.items():
            for name in queue.staged():
                if self._journal.has_element(kind, name):
                    self._unpublished.append((kind, name))
                else:
                    queue.discard(name)
        self._publish()
        self.tidy()

    def tidy(self) -> None:
        """Remove old rows from the journal; to be called now and then."""
        with contextlib.suppress(OSError):  # the disk is full: next time
            self._journal.forget(before=clock.now() - _KEEP)

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Store messages durably, except duplicates.

        Raises:
            OSError: the disk is full; nothing is lost, and the same may be given again.
            LocalFailure: the journal is broken.

        """
        self._publish()
        fresh = {
            verdict.key: verdict for verdict in verdicts if not self._journal.knows(verdict.key)
        }
        rows: list[tuple[MessageKey, str]] = []
        try:
            for key, verdict in fresh.items():
                rows.append((key, self._queues[key.queue].stage(verdict.fields)))
            # Elements must be durable before their rows: a row is the promise not to lose one.
            for kind in {key.queue for key in fresh}:
                self._queues[kind].seal()
            if rows:
                self._journal.add(rows, at=clock.now())
        except OSError:
            for kind, queue in self._queues.items():
                queue.abandon(name for key, name in rows if key.queue == kind)
            raise
        # From here on the messages are safe, whatever happens to `publish`.
        self._record.add("duplicates", len(verdicts) - len(fresh))
        self._unpublished += [(key.queue, name) for key, name in rows]
        self._publish()

    def skipped(self) -> list[LocalFailure]:
        """Return a failure for each unusable path in the queues."""
        return [failure for queue in self._queues.values() for failure in queue.skipped.values()]

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _publish(self) -> None:
        for kind, queue in self._queues.items():
            moved = queue.publish([name for place, name in self._unpublished if place == kind])
            # An element that cannot be moved now is tried again with each batch.
            self._unpublished = [
                (place, name)
                for place, name in self._unpublished
                if place != kind or (name not in moved and queue.is_staged(name))
            ]
            for place in moved.values():
                logger.info("Message saved to %s queue as %s", kind, place)
            self._record.add("stored" if kind == INCOMING else "rejected", len(moved))
