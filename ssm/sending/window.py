"""Which message to send next, and which may be removed: the rules of delivery, without any input or output.

Messages are sent in their order, many before the first receipt. One may be removed when its own
receipt has come and all before it have been removed. When the connection breaks, sending starts
over from the oldest that is not removed: the repository keeps the last message that it receives
about a server, so none may arrive only after its successor.

    event                     waiting   sent      done
    send(id)                  → sent
    receipt(id)                         → done
    break                               → waiting → waiting     all that are not removed
    give_up(id)               removed   removed   removed
    removal                                       removed       when it is the oldest

After a break messages go one at a time until there is a receipt, so that it is known which of them
the broker minds.

A suspect (a message on which connections broke) always goes alone. While it is held, its successors
may overtake it. A receipt for one that overtook is kept through breaks, because it is certain: only
when the suspect itself gets a receipt after all must the other be sent again, so that it arrives
last.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class _State(enum.Enum):
    WAITING = enum.auto()
    SENT = enum.auto()
    DONE = enum.auto()


class SendWindow:
    """Messages by id, in order."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._states = dict.fromkeys(ids, _State.WAITING)
        self._is_careful = False
        self._suspects: set[str] = set()
        self._held: set[str] = set()
        self._overtaking: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Say whether all have been removed."""
        return not self._states

    @property
    def is_holding(self) -> bool:
        """Say whether any is held."""
        return bool(self._held)

    @property
    def is_settled(self) -> bool:
        """Say whether nothing is in flight."""
        return _State.SENT not in self._states.values()

    @property
    def is_stuck(self) -> bool:
        """Say whether nothing can be done but for what is held."""
        return not any(
            state is _State.SENT or (state is _State.WAITING and name not in self._held)
            for name, state in self._states.items()
        )

    @property
    def waiting(self) -> list[str]:
        """Return what is not in flight and has no receipt, oldest first."""
        return [name for name, state in self._states.items() if state is _State.WAITING]

    @property
    def in_flight(self) -> list[str]:
        """Return what was sent and has no receipt yet, oldest first."""
        return [name for name, state in self._states.items() if state is _State.SENT]

    def __contains__(self, name: object) -> bool:
        return name in self._states

    def add(self, ids: Iterable[str]) -> None:
        """Add messages behind all others."""
        self._states |= dict.fromkeys(ids, _State.WAITING)

    def replace(self, name: str, parts: Iterable[str]) -> None:
        """Put parts in the place of a message that waits."""
        states: dict[str, _State] = {}
        for known, state in self._states.items():
            states |= dict.fromkeys(parts, state) if known == name else {known: state}
        self._states = states

    def next_to_send(self) -> str | None:
        """Return what to send now; None: first there must be a receipt."""
        in_flight = self.in_flight
        if in_flight and (self._is_careful or not self._suspects.isdisjoint(in_flight)):
            return None
        for name, state in self._states.items():
            if state is _State.WAITING and name not in self._held:
                return None if in_flight and name in self._suspects else name
        return None

    def mark_sent(self, name: str) -> None:
        """Note that a message was handed to the connection."""
        if self.overtakes(name):
            self._overtaking.add(name)
        self._states[name] = _State.SENT

    def overtakes(self, name: str) -> bool:
        """Say whether an older one still waits."""
        for known, state in self._states.items():
            if known == name:
                return False
            if state is _State.WAITING:
                return True
        return False

    def receipt(self, name: str) -> list[str]:
        """Note a receipt and return what may now be removed, in order.

        A receipt for what is not in flight is ignored. Those that overtook this one wait again.
        """
        if self._states.get(name) is not _State.SENT:
            return []
        self._states[name] = _State.DONE
        self._suspects.discard(name)
        self._is_careful = False
        for other in self.overtakers(name):
            self._overtaking.discard(other)
            self._states[other] = _State.WAITING
        return self._remove_oldest()

    def overtakers(self, name: str) -> list[str]:
        """Return those behind a message that were sent while it waited and have their receipts."""
        return [
            other
            for other, state in self._states.items()
            if state is _State.DONE and other in self._overtaking and self.is_behind(other, name)
        ]

    def is_behind(self, name: str, older: str) -> bool:
        """Say whether a message comes after another; one that is not here yet comes after all."""
        if name not in self._states or older not in self._states:
            return name not in self._states
        names = list(self._states)
        return names.index(name) > names.index(older)

    def connection_broke(self) -> None:
        """Note that nothing in flight is certain any more."""
        for name, state in self._states.items():
            if state is _State.SENT or name not in self._overtaking:
                self._states[name] = _State.WAITING
        self._is_careful = True

    def suspect(self, name: str, *, hold: bool = False) -> None:
        """Send a message only alone from now on; with ``hold`` not before `release`."""
        self._suspects.add(name)
        if hold:
            self._held.add(name)

    def release(self) -> None:
        """Let those that are held be sent again."""
        self._held.clear()

    def give_up(self, name: str) -> list[str]:
        """Take out a message that will not be sent; return what may now be removed after it."""
        del self._states[name]
        for names in (self._suspects, self._held, self._overtaking):
            names.discard(name)
        return self._remove_oldest()

    def _remove_oldest(self) -> list[str]:
        removed = []
        for oldest, state in list(self._states.items()):
            if state is not _State.DONE:
                break
            del self._states[oldest]
            self._overtaking.discard(oldest)
            removed.append(oldest)
        return removed
