"""The receiver: judge messages from the broker, store them, and only then acknowledge them.

    state         holds while                     what the run does
    connecting    there is no connection          tries the brokers in turn, with pauses; a run
                                                  with a limit of idle time gives up in the end
    serving       a subscription is open          gathers a batch, judges, stores, acknowledges
    paused        the disk is full                keeps the batch, acknowledges nothing, retries

    event                                         effect
    deliveries                                    one batch of up to `PREFETCH` messages
    rejection with an error of its own            ends a run with a limit of idle time; any other
                                                  run connects again
    any other rejection                           logged
    lost connection                               the run connects again
    SIGHUP, or every `_REFRESH_SECONDS`           lists, CAs, CRLs and certificate are reloaded
    SIGTERM, or a limit                           the run ends after the batch

Messages are acknowledged only after they are stored, so a receiver that is killed at any point
loses none: see `ssm.receiving.inbox`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from appliance.core import retry
from appliance.core.run.errors import Unavailable
from appliance.core.run.record import RunRecord
from ssm.receiving.inbox import Inbox
from ssm.receiving.judge import Judge
from ssm.transport.brokers import Brokers
from ssm.transport.events import Connection, Delivery, Lost, Rejection

logger = logging.getLogger("ssm.ssm2")

PREFETCH = 32
"""Messages that may be unacknowledged. The connection bounds their bytes."""
_BATCH_BYTES = 2 * 1024 * 1024
"""Bytes at which a batch is complete: it is in memory several times while it is judged."""
_POLL_SECONDS = 0.5
_REFRESH_SECONDS = 10.0
_REPORT_SECONDS = 60.0
_DISK_PAUSE_SECONDS = 1.0
_PATIENCE = timedelta(minutes=10)
"""How long a run with a limit of idle time waits for a broker that it has lost."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to end: after a number of messages, or after a time without any; None means never."""

    messages: int | None = None
    idle: timedelta | None = None


class Receiver:
    """One run: a subscription that is kept alive, a `Judge` and an `Inbox`.

    ``is_stopping`` is called at least twice a second; ``reload`` returns whether files must be
    reloaded now. ``report`` is called once a minute, and with the failure whenever no broker can be
    reached.
    """

    def __init__(
        self,
        judge: Judge,
        inbox: Inbox,
        *,
        brokers: Brokers,
        record: RunRecord,
        destination: str,
        limits: Limits,
        is_stopping: Callable[[], bool],
        reload: Callable[[], bool],
        report: Callable[[Unavailable | None], None],
    ) -> None:
        self._judge, self._inbox, self._brokers, self._record = judge, inbox, brokers, record
        self._destination, self._limits = destination, limits
        self._is_stopping, self._reload, self._report = is_stopping, reload, report
        self.handled = 0
        """Messages that were stored, rejected or dropped."""
        self._is_away = False
        self._idle_since: float | None = None
        self._last_refresh = self._last_report = time.monotonic()

    def run(self) -> None:
        """Receive until a signal or a limit ends the run.

        Raises:
            Unavailable: with a limit of idle time, no broker answered for that time, or for ten
                minutes after the connection was lost.

        """
        waits, patience, away_since = retry.pauses(), self._limits.idle, time.monotonic()
        while not self._is_over():
            try:
                connection = self._brokers.connect()
            except Unavailable as error:
                if (
                    patience is not None
                    and time.monotonic() - away_since > patience.total_seconds()
                ):
                    raise
                logger.warning("%s", error)
                self._is_away = True
                self._report(error)
                self._sleep(next(waits))
                continue
            if self._is_away:
                self._is_away = False
                self._report(None)
            handled = self.handled
            try:
                self._idle_since = time.monotonic()
                self._serve(connection)
            finally:
                connection.close()
            if self._is_over():
                return
            self._record.add("reconnects")
            # A broker that accepts connections and delivers nothing is left alone ever longer.
            waits = retry.pauses() if self.handled > handled else waits
            patience, away_since, self._idle_since = (
                self._limits.idle and _PATIENCE,
                time.monotonic(),
                None,
            )
            self._sleep(next(waits))

    def _serve(self, connection: Connection) -> None:
        """Receive messages until the connection is lost, or the run is over."""
        connection.subscribe(self._destination, prefetch=PREFETCH)
        logger.info("Waiting for messages from %s at %s.", self._destination, connection.broker)
        while not self._is_over():
            self._refresh()
            batch, end = _gather(connection, most=self._room())
            if batch:
                self._take(batch, connection)
            match end:
                case Rejection(error=Unavailable() as final):
                    if self._limits.idle is not None:  # a run that is meant to end
                        raise final
                    logger.error("%s", final)
                    return
                case Rejection(text, _):
                    logger.error("%s: the broker says: %s", connection.broker, text)
                case Lost(cause, error):
                    logger.warning("%s", error or f"{connection.broker}: connection lost: {cause}")
                    return

    def _take(self, batch: list[Delivery], connection: Connection) -> None:
        """Store a batch and acknowledge it; while the disk is full, wait."""
        verdicts = self._judge.judge(batch)
        is_paused = False
        while True:
            try:
                self._inbox.add(verdicts)
                break
            except OSError as error:
                if not is_paused:
                    logger.warning(
                        "%s: %s; free space there; tried again each second, nothing is lost",
                        error.filename,
                        error.strerror,
                    )
                is_paused = True
                if self._is_over():
                    raise
                self._sleep(_DISK_PAUSE_SECONDS)
        if is_paused:
            logger.info("Going on.")
        for delivery in batch:
            connection.ack(delivery)
        self.handled += len(batch)
        self._idle_since = time.monotonic()

    def _room(self) -> int:
        return (
            PREFETCH
            if self._limits.messages is None
            else min(PREFETCH, self._limits.messages - self.handled)
        )

    def _is_over(self) -> bool:
        is_enough = self._limits.messages is not None and self.handled >= self._limits.messages
        return self._is_stopping() or is_enough or self._is_idle()

    def _is_idle(self) -> bool:
        # Only time with a connection counts as idle.
        if self._limits.idle is None or self._idle_since is None:
            return False
        return time.monotonic() - self._idle_since > self._limits.idle.total_seconds()

    def _refresh(self) -> None:
        is_asked = self._reload()
        if is_asked or time.monotonic() - self._last_refresh > _REFRESH_SECONDS:
            self._last_refresh = time.monotonic()
            self._judge.refresh(force=is_asked)
        if time.monotonic() - self._last_report > _REPORT_SECONDS:
            self._last_report = time.monotonic()
            self._report(None)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(left, _POLL_SECONDS))


def _gather(connection: Connection, *, most: int) -> tuple[list[Delivery], Rejection | Lost | None]:
    """Return the messages that have come, and the event after them that is not a message.

    Wait a moment for the first one.
    """
    batch: list[Delivery] = []
    size = 0
    while len(batch) < most and size < _BATCH_BYTES:
        event = connection.next_event(timeout=0 if batch else _POLL_SECONDS)
        match event:
            case Delivery():
                batch.append(event)
                size += len(event.body)
            case Rejection() | Lost():
                return batch, event
            case None:
                break
    return batch, None
