"""Which message to send next, and which may be removed: the rules of delivery, without any input or output.

Messages are sent in their order, many before the first receipt. One may be removed when its own receipt has come and
all before it have been removed. When the connection breaks, sending starts over from the oldest that is not removed:
the repository keeps the last message that it receives about a server, so none may arrive only after its successor.

    event                     waiting   sent      done
    send(id)                  → sent
    receipt(id)                         → done
    break                               → waiting → waiting     all that are not removed
    give_up(id)               removed   removed
    removal                                       removed       when it is the oldest

After a break messages go one at a time until there is a receipt, so that it is known which of them the broker minds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class _State(enum.Enum):
    WAITING = enum.auto()
    SENT = enum.auto()
    DONE = enum.auto()


class Window:
    """The messages of one block, by id, in order."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._states = dict.fromkeys(ids, _State.WAITING)
        self._is_careful = False

    @property
    def is_empty(self) -> bool:
        """Say whether all have been removed."""
        return not self._states

    @property
    def is_settled(self) -> bool:
        """Say whether nothing is in flight."""
        return _State.SENT not in self._states.values()

    @property
    def in_flight(self) -> list[str]:
        """Return what was sent and has no receipt yet, oldest first."""
        return [name for name, state in self._states.items() if state is _State.SENT]

    def next_to_send(self) -> str | None:
        """Return what to send now; None: first there must be a receipt."""
        if self._is_careful and not self.is_settled:
            return None
        return next((name for name, state in self._states.items() if state is _State.WAITING), None)

    def mark_sent(self, name: str) -> None:
        """Note that a message was handed to the connection."""
        self._states[name] = _State.SENT

    def receipt(self, name: str) -> list[str]:
        """Note a receipt and return what may now be removed, in order; one for what is not in flight is ignored."""
        if self._states.get(name) is not _State.SENT:
            return []
        self._states[name] = _State.DONE
        self._is_careful = False
        return self._remove_oldest()

    def connection_broke(self) -> None:
        """Note that nothing in flight is certain any more."""
        self._states = dict.fromkeys(self._states, _State.WAITING)
        self._is_careful = True

    def give_up(self, name: str) -> list[str]:
        """Take out a message that will not be sent, and return what may now be removed after it."""
        del self._states[name]
        return self._remove_oldest()

    def _remove_oldest(self) -> list[str]:
        removed = []
        for oldest, state in list(self._states.items()):
            if state is not _State.DONE:
                break
            del self._states[oldest]
            removed.append(oldest)
        return removed
