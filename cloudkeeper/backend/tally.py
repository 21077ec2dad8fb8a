"""The figures and failures of a run, for its record."""

from __future__ import annotations

import logging
import threading

from appliance.core.run.record import RunRecord

logger = logging.getLogger(__name__)


class RunTally:
    """Figures and failures of one run; safe for use by several threads."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._lock = threading.Lock()

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
