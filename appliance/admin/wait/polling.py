"""Whether it is of any use to go on waiting for a service of this host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.admin.inventory import SERVICES
from appliance.admin.runtime.engine import Engine, ServiceState
from appliance.core.run.errors import ExitStatus, Unavailable

_LOOK_EVERY = 2.0
"""Seconds between two looks."""
_ENOUGH = 3
"""How often a container may be started again meanwhile."""


@dataclass(slots=True)
class ServiceWatch:
    """What the waiting is about: the container of a service, and the process that has it run."""

    socket: Path | None
    """Of the engine; None on a host without containers."""
    service: str
    pid: int | None
    _restarts: int | None = field(default=None, init=False)

    def look(self) -> None:
        """Raise `Unavailable`, with the program's last words, when nothing will come of it.

        That is when the process has ended, when the program in the container calls its
        configuration wrong, which no other start mends, or when it ends again and again.
        """
        if words := self._last_words():
            raise Unavailable(
                self.service, f"does not come up: {words}", f"see appliance logs {self.service}"
            )
        if self.pid is not None and not Path(f"/proc/{self.pid}").exists():
            remedy = f"see its words above, or systemctl status {SERVICES.get(self.service, self.service)}"
            raise Unavailable(self.service, "what has it run has ended", remedy)

    def _last_words(self) -> str:
        """Return what the program said before it gave up; nothing while it has not, or the engine does not tell."""
        if self.socket is None:
            return ""
        try:
            with Engine(self.socket) as engine:
                state = next(
                    (one for one in engine.services() if one.service == self.service), None
                )
                if not self._has_given_up(state) or state is None:
                    return ""
                said = (
                    b"".join(engine.logs(self.service, lines=1, follow=False))
                    .decode(errors="replace")
                    .strip()
                )
        except Unavailable:
            return ""
        return said or f"it ended with status {state.exit_status}"

    def passes_check(self) -> bool | None:
        """Say whether the service's own check in its container passes now; None when no engine answers."""
        if self.socket is None:
            return None
        try:
            with Engine(self.socket) as engine:
                return engine.passes_check(self.service)
        except Unavailable:
            return None

    def _has_given_up(self, state: ServiceState | None) -> bool:
        restarts = state.restarts if state else 0
        # the first look, or another container
        if self._restarts is None or restarts < self._restarts:
            self._restarts = restarts
        ended = restarts - self._restarts
        return state is not None and ended >= (
            1 if state.exit_status == ExitStatus.USAGE else _ENOUGH
        )


def wait_until(
    amiss: Callable[[], str],
    *,
    subject: str,
    service: str,
    timeout: int,
    pause: float,
    watch: ServiceWatch | None,
) -> None:
    """Ask every ``pause`` seconds what is amiss, until it is nothing; raises `Unavailable` with the last answer.

    What a ``watch`` sees ends the waiting sooner; else ``timeout`` does, in seconds.
    """
    now = time.monotonic()
    # the first look tells how often the container had ended before
    deadline, look = now + timeout, now
    while cause := amiss():
        now = time.monotonic()
        if now >= deadline:
            raise Unavailable(
                subject,
                f"no answer within {timeout} s, lastly: {cause}",
                f"see appliance logs {service}",
            )
        if watch and now >= look:
            watch.look()
            look = time.monotonic() + _LOOK_EVERY
        time.sleep(pause)
