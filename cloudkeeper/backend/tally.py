"""What a run has done so far, for its record and for the guard against removing too much."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from appliance.core.run.errors import ExitStatus
from appliance.core.run.record import RunRecord
from cloudkeeper.backend.errors import Failed
from cloudkeeper.model import ListId
from cloudkeeper.wire.status import CallStatus

PROGRAM = "cloudkeeper-os"
_ALWAYS = 3
logger = logging.getLogger(__name__)


class RunTally:
    """Figures and failures of one run; safe for use by several threads.

    Of a list's images no more than three, or half of those that there were when the run began, may
    be removed in one run; ``allowance`` is a greater number that an administrator has given.
    """

    def __init__(self, *, allowance: int = 0) -> None:
        self._record = RunRecord(PROGRAM)
        self._allowance = allowance
        self._lock = threading.Lock()
        self._at_start: Counter[ListId] = Counter()
        self._removed: Counter[ListId] = Counter()

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a figure."""
        with self._lock:
            self._record.add(name, amount)

    def fail(self, failure: object) -> None:
        """Note something that was left undone."""
        logger.error("%s", failure)
        with self._lock:
            self._record.fail(str(failure))

    def expect(self, lists: Iterable[ListId]) -> None:
        """Note the images that there are when the run begins, by the list of each."""
        with self._lock:
            self._at_start.update(lists)

    def allow_removal(self, list_id: ListId, number: int) -> None:
        """Take note that images of a list are going to be removed.

        :raises Failed: that would be too many
        """
        with self._lock:
            there = self._at_start[list_id]
            wanted = self._removed[list_id] + number
            if wanted > max(_ALWAYS, there // 2, self._allowance):
                raise Failed(
                    f"image list {list_id}",
                    f"{wanted} of its {there} images would be gone: more than half, and more than {_ALWAYS}",
                    f"if that is meant: cloudkeeper sync --allow-remove {wanted}",
                    status=CallStatus.RESOURCE_STATE,
                )
            self._removed[list_id] = wanted

    def close(self, directory: Path, *, status: ExitStatus | None = None) -> None:
        """Write the run's record."""
        with self._lock:
            found = ExitStatus.PARTLY if self._record.failures else ExitStatus.DONE
            self._record.close(found if status is None else status, directory)
