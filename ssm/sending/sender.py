"""The sender's state machine: an element leaves the spool after the broker has acknowledged it.

    state        holds while                              what the run does
    connecting   there is no connection                   tries the brokers in turn; once anything
                                                          was sent, for up to `RECONNECT_LIMIT`
    sending      `SendWindow.next_to_send` has a message  signs it, sends it, takes events that are
                                                          there
    waiting      all that may be sent now is in flight    waits for an event
    draining     the run is over, receipts are missing    waits for them, for `_DRAIN_SECONDS`

    event                                      effect
    receipt of a message in flight             the elements that the window names leave the spool
                                               at the next flush, after the journal has them;
                                               breaks and silence count from 0 again
    any other receipt                          none: it is no sign of progress
    rejection with an error of its own         the run ends with that error
    rejection: "too large"                     the message is halved, or dead-lettered
    rejection about the broker (full, …)       no message is blamed; the run ends after
                                               `MAX_REFUSALS` of them
    any other end, several in flight           no message is blamed; from now on they go one by one
    any other end, one in flight               `Suspects` counts it: retry, hold or dead-letter
    no receipt for the receipt timeout         the same as a lost connection

After every end but the first the run connects again, with pauses, until `MAX_BREAKS` connections
have ended without a receipt between them.

The rules of order and receipts are in `ssm.sending.window`, those of locks in `ssm.sending.claims`,
those of blame in `ssm.sending.suspects`; `ssm.sending.messages` has the parts of messages and their
ways out of the spool. Whatever ends a run, its locks are given back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from appliance.core import retry
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure, Unavailable
from appliance.core.run.record import RunRecord
from ssm.sending import diagnosis, summary
from ssm.sending.claims import Claims
from ssm.sending.dead_letters import DeadLetters
from ssm.sending.messages import Messages
from ssm.sending.packer import Packer
from ssm.sending.sent_journal import SentJournal
from ssm.sending.suspects import Suspects, Treatment
from ssm.sending.window import SendWindow
from ssm.settings import SenderSettings
from ssm.transport.brokers import Brokers
from ssm.transport.events import Connection, Lost, Receipt, Rejection

logger = logging.getLogger("ssm.ssm2")

RECEIPT_TIMEOUT = timedelta(minutes=2)
"""For the first receipt; after a silence a quarter of it. Silence ends a run after 1.5 times it."""
RECONNECT_LIMIT = timedelta(minutes=10)
"""How long a broker may be away in the middle of a run."""
MAX_REFUSALS = 3
"""Connections in a row that end without a receipt, the last with words about the broker."""
MAX_BREAKS = 6
"""The same for all other ends: enough to isolate a message and to try three others."""
_LONGEST_PAUSE = 2.0
"""Seconds between tries while a message is isolated.

A service that says that it is out of order for a while is given longer.
"""
_POLL_SECONDS = 0.5
_DRAIN_SECONDS = 3.0
"""A message without a receipt at the end of a run is sent again by the next one."""


class Sender:
    """One run over a spool.

    ``deadline`` is a `time.monotonic` value; ``is_stopping`` is called at least twice a second.
    """

    def __init__(
        self,
        settings: SenderSettings,
        claims: Claims,
        *,
        packer: Packer,
        brokers: Brokers,
        record: RunRecord,
        deadline: float,
        is_stopping: Callable[[], bool],
        receipt_timeout: timedelta = RECEIPT_TIMEOUT,
    ) -> None:
        self._destination = settings.link.destination
        self._claims, self._brokers, self._record = claims, brokers, record
        self._deadline, self._is_stopping = deadline, is_stopping
        self._dead_letters = DeadLetters(settings.dead_letters)
        self._suspects = Suspects(settings.suspects, limit=settings.max_attempts)
        self._journal = SentJournal(settings)
        self._window = SendWindow()
        self._messages = Messages(
            claims,
            window=self._window,
            suspects=self._suspects,
            packer=packer,
            dead_letters=self._dead_letters,
            journal=self._journal,
            record=record,
        )
        self._connection: Connection | None = None
        self._receipt_timeout = receipt_timeout.total_seconds()
        self._silence = 0.0
        """Seconds waited in vain for receipts since the last one."""
        self._breaks = 0
        """Connections that ended since the last receipt."""
        self._pauses = retry.pauses()
        self._last_receipt = 0.0

    def run(self, *, limit: int | None = None) -> ExitStatus:
        """Send what is in the spool, at most ``limit`` elements; the run record lists what is left.

        Raises:
            ApplianceError: nothing at all could be sent.

        """
        spool = self._claims.spool
        logger.info("Found %d messages.", spool.count())
        is_complete = False
        try:
            is_complete = self._send_all(limit)
            if is_complete:
                logger.info("Tidying message directory.")
                spool.purge()
        except (ApplianceError, OSError) as error:
            if not self._messages.sent and not self._record.counts.get("dead_letters"):
                raise
            failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
            self._record.fail(str(failure))
            logger.error("%s", failure)  # noqa: TRY400  one line, no traceback
        finally:
            self._close()
            self._messages.flush()
            self._finish_journal()
            left = self._claims.release()
            skipped = [*spool.skipped.values(), *self._dead_letters.skipped.values()]
            summary.name_skipped(skipped, self._record)
        summary.name_left(self._claims, left, self._record, is_complete=is_complete)
        return ExitStatus.PARTLY if self._record.failures else ExitStatus.DONE

    def _finish_journal(self) -> None:
        self._journal.finish()
        self._record.counts["missing_in_journal"] = self._journal.lost
        for line in self._journal.failures():
            logger.error("%s", line)
            self._record.fail(line)

    def _send_all(self, limit: int | None) -> bool:
        """Send block after block; return False when the run's time ended before the spool did."""
        if self._suspects:
            # A suspect may be a part: then its element, the name without the number, is there.
            there = set(self._claims.spool.names())
            self._suspects.keep(lambda name: name in there or name.rpartition(".")[0] in there)
        for block in self._claims.blocks(limit=limit):
            self._window.add(block)
            # Suspects of earlier runs go alone; all but the oldest wait until others were sent.
            suspects = [name for name in self._window.waiting if name in self._suspects]
            for name in suspects:
                self._window.suspect(name, hold=name != suspects[0])
            self._work()
            if self._is_over():
                return False
        # Only suspects that are held are left now, if anything is.
        while not self._window.is_empty and not self._is_over():
            self._window.release()
            self._work()
        return not self._is_over()

    def _work(self) -> None:
        """Send until only held messages are left, or the run is over; then wait for receipts."""
        window = self._window
        while not window.is_stuck and not self._is_over():
            if self._connection is None:
                self._connection = self._connect()
                self._last_receipt = time.monotonic()
            name = window.next_to_send()
            if name is not None:
                self._send(name, self._connection)
            self._handle_events(self._connection, wait=name is None)
            self._messages.flush_if_due()
            self._claims.refresh()
        end = time.monotonic() + _DRAIN_SECONDS
        while self._connection is not None and window.in_flight and time.monotonic() < end:
            self._handle_events(self._connection, wait=True)
        self._messages.flush()

    def _send(self, name: str, connection: Connection) -> None:
        wire = self._messages.pack(name)
        if wire is None:
            return
        # The receipt timeout starts with the first message that is in flight.
        if not self._window.in_flight:
            self._last_receipt = time.monotonic()
        if self._window.overtakes(name):
            # Durably, before it is sent: this run may be killed before the receipt comes.
            self._suspects.overtaking(name)
        message_id = self._suspects.id_on_wire(name)
        logger.info("Sending message: %s", message_id)
        self._messages.on_wire[message_id] = name
        connection.send(self._destination, wire, message_id=message_id)
        self._window.mark_sent(name)
        self._record.add("bytes_sent", len(wire))

    def _handle_events(self, connection: Connection, *, wait: bool) -> None:
        """Handle all events that are there; with ``wait``, wait a moment for the first one."""
        timeout = _POLL_SECONDS if wait else 0
        while (event := connection.next_event(timeout=timeout)) is not None:
            timeout = 0
            match event:
                case Receipt(message_id, argo_id) if message_id in self._messages.on_wire:
                    self._confirm(self._messages.on_wire[message_id], argo_id, connection)
                case Rejection() | Lost():
                    self._start_over(connection, event)
                    return
        if not self._window.in_flight:
            return
        limit = self._receipt_timeout / (4 if self._silence else 1)
        if time.monotonic() - self._last_receipt > limit:
            self._silence += limit
            self._start_over(connection, Lost(f"no receipt for {self._silence:.0f} s"))

    def _confirm(self, name: str, argo_id: str, connection: Connection) -> None:
        """Take in a receipt; one for a message that is not in flight is no sign of progress."""
        if name not in self._window.in_flight:
            return
        self._last_receipt, self._breaks, self._silence = time.monotonic(), 0, 0.0
        self._pauses = retry.pauses()
        self._suspects.arrived(
            name,
            broker=str(connection.broker),
            is_behind=lambda other: self._window.is_behind(other, name),
        )
        # The broker works, so that held suspects can be tried again.
        self._window.release()
        self._messages.confirm(name, argo_id, broker=str(connection.broker))

    def _start_over(self, connection: Connection, end: Rejection | Lost) -> None:
        """Close a connection that has ended, and decide: blame a message, retry, or end the run.

        Raises:
            Unavailable: the run ends.

        """
        self._close()
        self._messages.flush()
        self._breaks += 1
        self._record.add("reconnects")
        in_flight = self._window.in_flight
        if isinstance(end, Rejection) and end.error is not None:
            raise end.error
        culprit = diagnosis.too_large(end, in_flight, self._messages.on_wire)
        if culprit is not None:
            self._window.connection_broke()
            self._breaks = 0
            if not self._messages.halve(culprit):
                self._messages.dead_letter(culprit, f"the broker says: {diagnosis.words(end)}")
            return
        is_about_broker = diagnosis.is_about_broker(end)
        if is_about_broker or len(in_flight) != 1:
            self._suspects.broke()
        elif self._is_condemned(in_flight[0], end, connection):
            return
        self._window.connection_broke()
        error = diagnosis.describe(
            end, broker=connection.broker, destination=self._destination, in_flight=in_flight
        )
        is_silent = self._silence >= 1.5 * self._receipt_timeout
        if is_silent or self._breaks >= (MAX_REFUSALS if is_about_broker else MAX_BREAKS):
            raise error
        logger.warning("%s: %s", error.subject, error.cause)
        pause = next(self._pauses)
        is_passing = isinstance(end, Lost) and end.is_passing
        self._sleep(pause if is_passing else min(pause, _LONGEST_PAUSE))

    def _is_condemned(self, name: str, end: Rejection | Lost, connection: Connection) -> bool:
        """Count a break against the one message in flight; dead-letter it when that is proven."""
        text = diagnosis.words(end)
        treatment = self._suspects.failed(name, broker=str(connection.broker), error=text)
        if treatment is Treatment.CONDEMN:
            times = self._suspects.suspicion(name).attempts
            reason = f"sent alone {times} times, it broke each connection to {connection.broker}"
            self._messages.dead_letter(
                name, f"{reason}, while others went through; at last: {text}"
            )
            self._breaks = 0
            return True
        # While a suspect is held, a message that is tried for comparison is tried only once.
        is_trial = self._window.is_holding
        self._window.suspect(name, hold=is_trial or treatment is Treatment.HOLD)
        return False

    def _connect(self) -> Connection:
        """Return a connection; once something was sent, retry for `RECONNECT_LIMIT`.

        Raises:
            Unavailable: no broker answers.

        """
        end = min(self._deadline, time.monotonic() + RECONNECT_LIMIT.total_seconds())
        waits = retry.pauses()
        while True:
            try:
                return self._brokers.connect()
            except Unavailable as error:
                self._suspects.broke()
                pause = next(waits)
                is_first = not self._breaks and not self._messages.sent
                if is_first or self._is_stopping() or time.monotonic() + pause > end:
                    raise
                logger.warning("%s; trying again in %.0f s", error, pause)
                self._sleep(pause)

    def _is_over(self) -> bool:
        return self._is_stopping() or time.monotonic() > self._deadline

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(remaining, _POLL_SECONDS))
            self._claims.refresh()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
