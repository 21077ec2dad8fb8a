"""Signals that a run asks for between two steps of its work."""

from __future__ import annotations

import signal


class SignalFlag:
    """Set when this process gets a signal.

    It is not a `threading.Event`: the handler may interrupt the main thread while that thread
    holds the event's lock.
    """

    def __init__(self, number: signal.Signals) -> None:
        self._raised = self._taken = 0
        signal.signal(number, self._raise)

    def _raise(self, *_: object) -> None:
        self._raised += 1

    def is_up(self) -> bool:
        """Check whether the signal came since the flag was last cleared."""
        return self._raised != self._taken

    def take(self) -> bool:
        """Clear the flag and return whether it was set.

        The counter is read once, so that a signal that comes meanwhile sets the flag again.
        """
        raised = self._raised
        is_up, self._taken = raised != self._taken, raised
        return is_up
