"""The sender's window: which message to send next, and which may be removed. No input or output.

Messages are sent in their order, many before the first receipt. A message may be removed when its
own receipt has come and all before it have been removed. When the connection breaks, sending
restarts from the oldest that is not removed. The reason for this strictness: the repository keeps
the last message that it receives about a server, so a message must not arrive after its successor.

    event                       waiting     sent         done
    mark_sent(id)               → sent
    receipt(id)                             → done
    connection_broke()                      → waiting    → waiting, unless it overtook a suspect
    give_up(id)                 removed     removed      removed
    receipt, give_up                                     removed, when it is the oldest

After a break messages go one at a time until there is a receipt: if the connection breaks again, it
is known on which message.

A suspect (a message on which connections broke) is always sent alone. While it is held, its
successors may overtake it. The receipt of one that overtook is kept through breaks, because the
message has arrived. When the suspect gets a receipt after all, those that overtook it go back to
waiting, so that they arrive last.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class _State(enum.Enum):
    WAITING = enum.auto()
    SENT = enum.auto()
    DONE = enum.auto()


class SendWindow:
    """The messages of a run by name, in order."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._states = dict.fromkeys(ids, _State.WAITING)
        self._is_careful = False
        self._suspects: set[str] = set()
        self._held: set[str] = set()
        self._overtaking: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Check whether all messages have been removed."""
        return not self._states

    @property
    def is_holding(self) -> bool:
        """Check whether any message is held."""
        return bool(self._held)

    @property
    def is_stuck(self) -> bool:
        """Check whether only held messages, or none, are left to send."""
        return not any(
            state is _State.SENT or (state is _State.WAITING and name not in self._held)
            for name, state in self._states.items()
        )

    @property
    def waiting(self) -> list[str]:
        """Return the messages neither in flight nor receipted, oldest first."""
        return [name for name, state in self._states.items() if state is _State.WAITING]

    @property
    def in_flight(self) -> list[str]:
        """Return the messages that were sent and have no receipt yet, oldest first."""
        return [name for name, state in self._states.items() if state is _State.SENT]

    def __contains__(self, name: object) -> bool:
        return name in self._states

    def add(self, ids: Iterable[str]) -> None:
        """Add messages after all others."""
        self._states |= dict.fromkeys(ids, _State.WAITING)

    def replace(self, name: str, parts: Iterable[str]) -> None:
        """Put the parts of a message in its place; each gets its state."""
        states: dict[str, _State] = {}
        for known, state in self._states.items():
            states |= dict.fromkeys(parts, state) if known == name else {known: state}
        self._states = states

    def next_to_send(self) -> str | None:
        """Return the message to send now; None until a receipt comes."""
        # One at a time after a break, and while a suspect is in flight.
        in_flight = self.in_flight
        if in_flight and (self._is_careful or not self._suspects.isdisjoint(in_flight)):
            return None
        for name, state in self._states.items():
            if state is _State.WAITING and name not in self._held:
                return None if in_flight and name in self._suspects else name
        return None

    def mark_sent(self, name: str) -> None:
        """Note that a message was passed to the connection."""
        if self.overtakes(name):
            self._overtaking.add(name)
        self._states[name] = _State.SENT

    def overtakes(self, name: str) -> bool:
        """Check whether an older message still waits."""
        for known, state in self._states.items():
            if known == name:
                return False
            if state is _State.WAITING:
                return True
        return False

    def receipt(self, name: str) -> list[str]:
        """Note a receipt and return the messages that may now be removed, in order.

        A receipt for a message that is not in flight is ignored.
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
        """Return the receipted messages that overtook this one."""
        return [
            other
            for other, state in self._states.items()
            if state is _State.DONE and other in self._overtaking and self.is_behind(other, name)
        ]

    def is_behind(self, name: str, older: str) -> bool:
        """Check whether a message comes after another; an unknown one comes after all."""
        if name not in self._states or older not in self._states:
            return name not in self._states
        names = list(self._states)
        return names.index(name) > names.index(older)

    def connection_broke(self) -> None:
        """Note that messages in flight may be lost."""
        for name, state in self._states.items():
            if state is _State.SENT or name not in self._overtaking:
                self._states[name] = _State.WAITING
        self._is_careful = True

    def suspect(self, name: str, *, hold: bool = False) -> None:
        """Send a message only alone from now on; with ``hold``, not before `release`."""
        self._suspects.add(name)
        if hold:
            self._held.add(name)

    def release(self) -> None:
        """Let held messages be sent again."""
        self._held.clear()

    def give_up(self, name: str) -> list[str]:
        """Drop a message that will not be sent; return those that may now be removed after it."""
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
