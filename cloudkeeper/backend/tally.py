"""The figures of a run, for its record and for the limit of its removals."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable

from appliance.core.run.record import RunRecord
from cloudkeeper.backend.errors import Failed
from cloudkeeper.model import ListId
from cloudkeeper.wire.status import CallStatus

# Removals of a list that every run may do: half of a small list would be none or one.
_ALWAYS = 3
logger = logging.getLogger(__name__)


class RunTally:
    """Figures and failures of one run; safe for use by several threads.

    A run may remove three images of a list, or half of those that were there when it began,
    whichever is more. ``allowance`` is a higher number that an administrator has confirmed.
    """

    def __init__(self, record: RunRecord, *, allowance: int = 0) -> None:
        self._record = record
        self._allowance = allowance
        self._lock = threading.Lock()
        self._at_start: Counter[ListId] = Counter()
        self._removed: Counter[ListId] = Counter()

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a figure."""
        with self._lock:
            self._record.add(name, amount)

    def note(self, name: str, line: str) -> None:
        """Add 1 to a figure, with the line that says what was counted."""
        logger.info("%s", line)
        with self._lock:
            self._record.note(name, line)

    def fail(self, failure: object) -> None:
        """Record and log something that was not done."""
        logger.error("%s", failure)
        with self._lock:
            self._record.fail(str(failure))

    def expect(self, lists: Iterable[ListId]) -> None:
        """Count the images that are there when the run begins, by the list of each."""
        with self._lock:
            self._at_start.update(lists)

    def allow_removal(self, list_id: ListId, number: int) -> None:
        """Count images of a list before they are removed.

        The frontend has the same limit. The backend checks again, because a frontend that is not
        ours, or a compromised one, has none.

        Raises:
            Failed: the run would remove too many.

        """
        with self._lock:
            there = self._at_start[list_id]
            # Removals add up over the calls of a run, so many small ones do not pass the limit.
            wanted = self._removed[list_id] + number
            if wanted > max(_ALWAYS, there // 2, self._allowance):
                limit = f"more than half, and more than {_ALWAYS}"
                raise Failed(
                    f"image list {list_id}",
                    f"{wanted} of its {there} images would be removed: {limit}",
                    f"to confirm that, run: cloudkeeper sync --allow-remove {wanted}",
                    status=CallStatus.RESOURCE_STATE,
                )
            self._removed[list_id] = wanted
