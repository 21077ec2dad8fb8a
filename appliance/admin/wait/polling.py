"""Repeated queries of a service, which end early if the service cannot start any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.admin.inventory import SERVICES
from appliance.admin.runtime.engine import Engine, ServiceState
from appliance.core.run.errors import ExitStatus, Unavailable

_LOOK_EVERY = 2.0
"""Seconds between two queries of the engine."""
_ENOUGH = 3
"""Restarts of the container during the wait after which it has failed."""


@dataclass(slots=True)
class ServiceWatch:
    """The container of a service, and the process that runs it, as seen during a wait."""

    socket: Path | None
    """The socket of the engine; None on a host without containers."""
    service: str
    pid: int | None
    _restarts: int | None = field(default=None, init=False)

    def look(self) -> None:
        """Check that the service can still start.

        Raises:
            Unavailable: The process has ended, the program has rejected its configuration, or it
                has ended repeatedly; the cause is its last line of output.

        """
        if words := self._last_words():
            raise Unavailable(
                self.service, f"does not start: {words}", f"see appliance logs {self.service}"
            )
        if self.pid is not None and not Path(f"/proc/{self.pid}").exists():
            unit = SERVICES.get(self.service, self.service)
            remedy = f"see its messages above, or systemctl status {unit}"
            raise Unavailable(self.service, "the process that runs it has ended", remedy)

    def _last_words(self) -> str:
        """Return the last line of a program that has failed; empty if it may still start."""
        if self.socket is None:
            return ""
        try:
            with Engine(self.socket) as engine:
                state = next(
                    (one for one in engine.services() if one.service == self.service), None
                )
                if not self._has_given_up(state) or state is None:
                    return ""
                line = (
                    b"".join(engine.logs(self.service, lines=1, follow=False))
                    .decode(errors="replace")
                    .strip()
                )
        except Unavailable:
            return ""
        return line or f"it ended with status {state.exit_status}"

    def passes_check(self) -> bool | None:
        """Return whether the service passes its health check; None if no engine answers."""
        if self.socket is None:
            return None
        try:
            with Engine(self.socket) as engine:
                return engine.passes_check(self.service)
        except Unavailable:
            return None

    def _has_given_up(self, state: ServiceState | None) -> bool:
        restarts = state.restarts if state else 0
        # The first query, or the count of another container, which starts from 0.
        if self._restarts is None or restarts < self._restarts:
            self._restarts = restarts
        ended = restarts - self._restarts
        # A wrong configuration does not become right by a restart, other faults may.
        return state is not None and ended >= (
            1 if state.exit_status == ExitStatus.USAGE else _ENOUGH
        )


def wait_until(
    fault: Callable[[], str],
    *,
    subject: str,
    service: str,
    timeout: int,
    pause: float,
    watch: ServiceWatch | None,
) -> None:
    """Call ``fault`` every ``pause`` seconds until it returns an empty text.

    Raises:
        Unavailable: There was still a fault after ``timeout`` seconds, or ``watch`` found that the
            service cannot start; the cause contains the last fault.

    """
    now = time.monotonic()
    # Look at once: restarts are counted from the number at the beginning.
    deadline, look = now + timeout, now
    while cause := fault():
        now = time.monotonic()
        if now >= deadline:
            raise Unavailable(
                subject,
                f"no answer within {timeout} s; last fault: {cause}",
                f"see appliance logs {service}",
            )
        if watch and now >= look:
            watch.look()
            look = time.monotonic() + _LOOK_EVERY
        time.sleep(pause)
