"""The watch on a slapd that runs but does not answer strangers.

A busy slapd answers late, and is left alone: to end it would cut what it works on. One that a
signal has stopped, or that neither answers nor uses the processor, will not answer by itself.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from bdii.slapd.process import Slapd

logger = logging.getLogger(__name__)

# Between two queries while they are answered, and while they are not. With the time for an answer
# they add up to less than ten seconds for a slapd that stops just after a query.
PAUSE = timedelta(seconds=4)
PAUSE_IN_DOUBT = timedelta(seconds=1)
_PATIENCE = timedelta(seconds=1.5)
_UNANSWERED = 2


class AnswerWatch:
    """Queries slapd as strangers do."""

    def __init__(self, slapd: Slapd) -> None:
        self._slapd = slapd
        self._unanswered = 0

    @property
    def pause(self) -> timedelta:
        """Return the time until the next query is due."""
        return PAUSE_IN_DOUBT if self._unanswered else PAUSE

    def is_stuck(self) -> bool:
        """Query slapd; return whether it has stopped answering for good."""
        process = self._slapd.process
        if process is None:
            return False
        before = process.processor_ticks
        if self._slapd.answer_time(patience=_PATIENCE) is not None or process.has_ended:
            self._unanswered = 0
            return False
        if not process.is_stopped and process.processor_ticks > before:
            logger.warning(
                "slapd is busy: it has not answered within %g s", _PATIENCE.total_seconds()
            )
            self._unanswered = 0
            return False
        self._unanswered += 1
        if self._unanswered < _UNANSWERED:
            return False
        self._unanswered = 0
        return True
