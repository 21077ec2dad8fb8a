"""From the spool to the broker: an element leaves it only after the broker has acknowledged that message.

The rules of order and receipts are `Window`'s, those of locks `Outgoing`'s, those of blame
`Suspects`'; here they meet certificate and connection. A message that no run could ever send goes,
with the reason, to the queue of failed messages beside the spool; all others stay until they are
confirmed. Whatever ends a run, the locks are given back.

A message that is too large goes in parts, cut between its records, each under an id of its own
(``NAME``, ``NAME.1``, …). Its element leaves the spool after the last of them.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from appliance.core.run.errors import (
    AccessDenied,
    ApplianceError,
    ExitStatus,
    LocalFailure,
    Unavailable,
)
from appliance.core.run.record import RunRecord
from appliance.core.spool import ElementName
from appliance.core.trust import mime
from ssm import envelope, split
from ssm.failed import DeadLetters
from ssm.outgoing import Outgoing
from ssm.packer import Packer
from ssm.settings import SenderSettings
from ssm.suspects import Suspects, Verdict
from ssm.transport.brokers import Brokers, pauses
from ssm.transport.events import Connection, Lost, Receipt, Refusal
from ssm.window import Window

logger = logging.getLogger("ssm.ssm2")

RECEIPT_TIMEOUT = timedelta(minutes=2)
"""For the first receipt; a quarter of it after that, and half as much again in all, without any receipt."""
RECONNECT_LIMIT = timedelta(minutes=10)
"""How long a broker may be away in the middle of a run."""
MAX_REFUSALS = 3
"""Connections one after the other, without a receipt between them, that end in words known to be about the broker."""
MAX_BREAKS = 6
"""The same for all other ends: enough to isolate a message and to try three others."""
_LONGEST_PAUSE = 2.0
"""Seconds between tries while a message is isolated; a service that says it is out of order is given longer."""
_POLL_SECONDS = 0.5
_LISTED = 20
_DRAIN_SECONDS = 3.0
"""How long to wait, when a run is to end, for receipts of what was sent: what has none will be sent again."""
_TOO_LARGE = re.compile(
    r"too (large|big|long)|frame size|data length|message size|larger than", re.IGNORECASE
)
"""What brokers say of one message. They speak of limits and maxima also when they are full, which passes."""
_NOT_THE_MESSAGE = re.compile(
    r"(store|memory|disk|temp\w*)[\w ]* (is )?(full|limit)|limit reached|maximum number"
    r"|not authori[sz]ed|access (is )?denied|not permitted|permission|credential",
    re.IGNORECASE,
)
"""What brokers say when they are full, or do not want us."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an element."""

    element: ElementName
    text: bytes
    is_last: bool


class Sender:
    """One run over a spool.

    ``deadline`` is a `time.monotonic` value; ``is_stopping`` is asked at least twice a second.
    """

    def __init__(
        self,
        settings: SenderSettings,
        outgoing: Outgoing,
        *,
        packer: Packer,
        brokers: Brokers,
        record: RunRecord,
        deadline: float,
        is_stopping: Callable[[], bool],
        receipt_timeout: timedelta = RECEIPT_TIMEOUT,
    ) -> None:
        self._settings, self._outgoing = settings, outgoing
        self._packer, self._brokers = packer, brokers
        self._record, self._deadline, self._is_stopping = record, deadline, is_stopping
        self._failed = DeadLetters(settings.failed)
        self._suspects = Suspects(settings.suspects, limit=settings.max_attempts)
        self._window = Window()
        self._connection: Connection | None = None
        self._receipt_timeout = receipt_timeout.total_seconds()
        self._silence = 0.0
        """Seconds waited in vain for receipts since the last one."""
        self._sent = 0
        self._breaks = 0
        """Connections that ended since the last receipt."""
        self._pauses = pauses()
        self._last_receipt = 0.0
        self._on_wire: dict[str, str] = {}
        """Names of messages by the ids under which they were sent."""
        self._argo_ids: dict[str, str] = {}
        self._parts: dict[str, _Part] = {}
        self._part_numbers: dict[ElementName, int] = {}
        """The last number given to a part, by element."""

    def run(self, *, limit: int | None = None) -> ExitStatus:
        """Send what is in the spool, at most ``limit`` elements; what was left undone is in the run record.

        :raises ApplianceError: nothing at all could be sent
        """
        spool = self._outgoing.spool
        logger.info("Found %d messages.", spool.count())
        is_complete = False
        try:
            is_complete = self._send_all(limit)
            if is_complete:
                logger.info("Tidying message directory.")
                spool.purge()
        except (ApplianceError, OSError) as error:
            if not self._sent and not self._record.counts.get("dead_letters"):
                raise
            failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
            self._record.fail(str(failure))
            logger.error("%s", failure)  # noqa: TRY400  one line, no traceback
        finally:
            self._close()
            left = self._outgoing.release()
            self._name_skipped()
        self._name_left(left, is_complete=is_complete)
        return ExitStatus.PARTLY if self._record.failures else ExitStatus.DONE

    def dry_run(self, *, limit: int | None = None) -> ExitStatus:
        """Sign every message and print what would be sent; touches nothing."""
        status = ExitStatus.DONE
        spool = self._outgoing.spool
        for number, name in enumerate(spool.names()):
            if number == limit:
                break
            state = "locked by another sender"
            if not spool.is_locked(name):
                try:
                    state = self._describe((spool.path / name).read_bytes())
                except (envelope.Unsendable, OSError) as error:
                    status, state = ExitStatus.PARTLY, f"cannot be sent: {error}"
            print(f"{name}: {state}")
        for failure in spool.skipped.values():
            status = ExitStatus.PARTLY
            print(failure)
        return status

    def _describe(self, text: bytes) -> str:
        """Return what would be sent; raises `Unsendable` when any of it cannot be."""
        parts = self._packer.parts(text)
        size = sum(len(self._packer.pack(part, message_id="")) for part in parts)
        split = f" in {len(parts)} parts" if len(parts) > 1 else ""
        return f"{len(text)} bytes, {size} as sent{split}, to {self._settings.link.destination}"

    # ------------------------------------------------------------------------------------ sending

    def _send_all(self, limit: int | None) -> bool:
        """Send block after block; tell whether none was left because the time was over."""
        if self._suspects:
            there = set(self._outgoing.spool.names())
            self._suspects.keep(lambda name: name in there or name.rpartition(".")[0] in there)
        for block in self._outgoing.blocks(limit=limit):
            self._window.add(block)
            self._hold_suspects()
            self._work()
            if self._is_over():
                return False
        # only suspects, or nothing, is left
        while not self._window.is_empty and not self._is_over():
            self._window.release()
            self._work()
        return not self._is_over()

    def _hold_suspects(self) -> None:
        """Send what earlier runs suspected alone, all but the oldest only when others went through."""
        suspects = [name for name in self._window.waiting if name in self._suspects]
        for name in suspects:
            self._window.suspect(name, hold=name != suspects[0])

    def _work(self) -> None:
        """Send until nothing is left but what is held, or the run is to end."""
        window = self._window
        while not window.is_stuck and not self._is_over():
            if self._connection is None:
                self._connection = self._connect()
                self._last_receipt = time.monotonic()
            name = window.next_to_send()
            if name is not None:
                self._send(name)
            self._handle_events(self._connection, wait=name is None)
            self._outgoing.refresh()
        end = time.monotonic() + _DRAIN_SECONDS
        while self._connection is not None and not window.is_settled and time.monotonic() < end:
            self._handle_events(self._connection, wait=True)

    def _send(self, name: str) -> None:
        assert self._connection is not None  # noqa: S101  _work sees to it
        name, text = self._read(name)
        if text is None:
            return
        message_id = self._suspects.id_on_wire(name)
        try:
            wire = self._packer.pack(text, message_id=message_id)
        except envelope.Unsendable as error:
            self._bury(name, str(error))
            return
        if self._window.is_settled:
            self._last_receipt = time.monotonic()
        if self._window.overtakes(name):
            self._suspects.overtaking(name)
        logger.info("Sending message: %s", message_id)
        self._on_wire[message_id] = name
        self._connection.send(self._settings.link.destination, wire, message_id=message_id)
        self._window.mark_sent(name)
        self._record.add("bytes_sent", len(wire))

    def _read(self, name: str) -> tuple[str, bytes | None]:
        """Return the name and the text of what to send; no text when there is nothing to send.

        An element that is too large is replaced by its parts, of which this is the first.
        """
        if name in self._parts:
            return name, self._parts[name].text
        element = ElementName(name)
        try:
            text = self._outgoing.spool.read(element)
        except OSError as error:
            self._leave(name, _words(error))
            return name, None
        texts = self._packer.parts(text)
        if len(texts) > 1:
            self._replace(name, texts)
        return name, texts[0]

    def _replace(self, name: str, texts: list[bytes]) -> None:
        """Put parts in the place of a message; the first keeps its name."""
        whole = self._parts.get(name) or _Part(ElementName(name), b"", is_last=True)
        used = self._part_numbers.get(whole.element, 0)
        numbers = range(used + 1, used + len(texts))
        self._part_numbers[whole.element] = numbers[-1]
        names = [name, *(f"{whole.element}.{number}" for number in numbers)]
        logger.info("Message %s is too large: it goes in %d parts", name, len(texts))
        self._record.add("messages_split")
        for part, text in zip(names, texts, strict=True):
            is_last = whole.is_last and part == names[-1]
            self._parts[part] = _Part(whole.element, text, is_last=is_last)
        self._window.replace(name, names)
        for part in filter(self._suspects.__contains__, names):
            self._window.suspect(part)

    def _halve(self, name: str) -> bool:
        """Cut in two what the broker calls too large; tell whether that can be done."""
        part = self._parts.get(name)
        try:
            text = part.text if part else self._outgoing.spool.read(ElementName(name))
        except OSError:
            return False
        halves = split.halves(mime.with_newlines(text))
        if halves:
            self._replace(name, halves)
        return bool(halves)

    # ------------------------------------------------------------------------------------- events

    def _handle_events(self, connection: Connection, *, wait: bool) -> None:
        """Take all events that are there, after waiting a moment for the first one if there is nothing else to do."""
        timeout = _POLL_SECONDS if wait else 0
        while (event := connection.next_event(timeout=timeout)) is not None:
            timeout = 0
            match event:
                case Receipt(message_id, argo_id) if message_id in self._on_wire:
                    self._confirm(self._on_wire[message_id], argo_id, connection)
                case Refusal() | Lost():
                    self._start_over(connection, event)
                    return
        if self._window.is_settled:
            return
        limit = self._receipt_timeout / (4 if self._silence else 1)
        if time.monotonic() - self._last_receipt > limit:
            self._silence += limit
            self._start_over(connection, Lost(f"no receipt for {self._silence:.0f} s"))

    def _confirm(self, name: str, argo_id: str, connection: Connection) -> None:
        """Note a receipt for what is in flight; others are no sign of progress."""
        if name not in self._window.in_flight:
            return
        self._last_receipt, self._breaks, self._silence = time.monotonic(), 0, 0.0
        self._pauses = pauses()
        self._argo_ids[name] = argo_id
        self._suspects.arrived(
            name,
            broker=str(connection.broker),
            is_behind=lambda other: self._window.is_behind(other, name),
        )
        self._window.release()
        self._settle(self._window.receipt(name))

    def _start_over(self, connection: Connection, end: Refusal | Lost) -> None:
        """Leave a connection that is of no more use; find out what it broke on; give up, or go on."""
        self._close()
        self._breaks += 1
        self._record.add("reconnects")
        in_flight = self._window.in_flight
        if isinstance(end, Refusal) and end.error is not None:
            raise end.error
        if (culprit := _too_large(end, in_flight, self._on_wire)) is not None:
            self._window.connection_broke()
            self._breaks = 0
            if not self._halve(culprit):
                self._bury(culprit, f"the broker says: {_text(end)}")
            return
        is_known = isinstance(end, Refusal) and _NOT_THE_MESSAGE.search(end.text)
        if is_known or len(in_flight) != 1:
            self._suspects.broke()
        elif self._is_condemned(in_flight[0], end, connection):
            return
        self._window.connection_broke()
        error = self._describe_end(connection, end, in_flight)
        is_silent = self._silence >= 1.5 * self._receipt_timeout
        if is_silent or self._breaks >= (MAX_REFUSALS if is_known else MAX_BREAKS):
            raise error
        logger.warning("%s: %s", error.subject, error.cause)
        pause = next(self._pauses)
        is_passing = isinstance(end, Lost) and end.is_passing
        self._sleep(pause if is_passing else min(pause, _LONGEST_PAUSE))

    def _is_condemned(self, name: str, end: Refusal | Lost, connection: Connection) -> bool:
        """Count a break against the message that was alone in flight; set it aside if it is proven."""
        verdict = self._suspects.failed(name, broker=str(connection.broker), error=_text(end))
        if verdict is Verdict.CONDEMNED:
            times = self._suspects.suspicion(name).attempts
            reason = f"sent alone {times} times, it broke each connection to {connection.broker}"
            self._bury(name, f"{reason}, while others went through; at last: {_text(end)}")
            self._breaks = 0
            return True
        is_trial = self._window.is_holding  # one that is tried for comparison is tried once
        self._window.suspect(name, hold=is_trial or verdict is Verdict.HOLD)
        return False

    def _describe_end(
        self, connection: Connection, end: Refusal | Lost, in_flight: list[str]
    ) -> Unavailable:
        """Return what to tell of a connection that ended."""
        if isinstance(end, Lost) and end.error is not None:
            return end.error
        alone = f"; {in_flight[0]} was sent alone" if len(in_flight) == 1 else ""
        remedy = "look into the broker's log"
        if alone:
            remedy += "; if it takes others and never this one, the message is set aside then"
        if isinstance(end, Lost):
            cause = f"connection broken: {end.cause}{alone}"
            return Unavailable(connection.broker, cause, remedy)
        cause = f"the broker refuses messages: {end.text}{alone}"
        subject = f"{connection.broker}, {self._settings.link.destination}"
        if _NOT_THE_MESSAGE.search(end.text):
            remedy = "check that this host's certificate may write to this queue"
        return AccessDenied(subject, cause, remedy)

    def _connect(self) -> Connection:
        """Connect; in the middle of a run try again while there is hope."""
        end = min(self._deadline, time.monotonic() + RECONNECT_LIMIT.total_seconds())
        waits = pauses()
        while True:
            try:
                return self._brokers.connect()
            except Unavailable as error:
                self._suspects.broke()
                pause = next(waits)
                is_first = not self._breaks and not self._sent
                if is_first or self._is_stopping() or time.monotonic() + pause > end:
                    raise
                logger.warning("%s; trying again in %.0f s", error, pause)
                self._sleep(pause)

    # -------------------------------------------------------------------------- leaving the spool

    def _settle(self, names: list[str]) -> None:
        for name in names:
            message_id = self._suspects.id_on_wire(name)
            logger.info("Broker received message: %s", message_id)
            self._let_go(name)
            argo_id = self._argo_ids.pop(name, "")
            logger.info("Sent %s%s", message_id, f", Argo ID: {argo_id}" if argo_id else "")
        self._sent += len(names)
        self._record.add("messages_sent", len(names))

    def _let_go(self, name: str) -> None:
        """Remove the element of a message that is safe elsewhere, when all its parts are."""
        part = self._parts.pop(name, None)
        if part is None or part.is_last:
            element = part.element if part else ElementName(name)
            self._outgoing.settle(element)
            self._part_numbers.pop(element, None)
        self._on_wire.pop(self._suspects.id_on_wire(name), None)
        self._suspects.removed(name)

    def _bury(self, name: str, reason: str) -> None:
        """Move a message that can never be sent to the queue of failed ones; if that fails, leave it."""
        part = self._parts.get(name)
        element = part.element if part else ElementName(name)
        suspicion = self._suspects.suspicion(name)
        try:
            self._failed.add(
                name,
                part.text if part else self._outgoing.spool.read(element),
                reason=reason,
                first_seen=self._outgoing.spool.made_at(element),
                attempts=max(suspicion.attempts, 1),
                last_error=suspicion.last_error or reason,
            )
        except (OSError, LocalFailure) as error:
            words = _words(error) if isinstance(error, OSError) else str(error)
            self._leave(name, f"{reason}; it cannot be moved to {self._settings.failed}: {words}")
            return
        logger.error("Message %s cannot be sent: %s; moved to %s", name, reason, self._failed.path)
        self._record.add("dead_letters")
        self._record.fail(f"{name}: {reason}; it is now in {self._failed.path}")
        following = self._window.give_up(name)
        self._let_go(name)
        self._settle(following)

    def _leave(self, name: str, reason: str) -> None:
        """Give back an element that this run can do nothing with; the others go on."""
        part = self._parts.get(name)
        element = part.element if part else ElementName(name)
        self._outgoing.refuse(element, reason)
        siblings = [key for key, other in self._parts.items() if other.element == element]
        for sibling in siblings or [name]:
            self._parts.pop(sibling, None)
            if sibling in self._window:
                self._settle(self._window.give_up(sibling))

    # --------------------------------------------------------------------------------- conclusion

    def _name_skipped(self) -> None:
        """Name what could not be used, once; also when the run ends by an error."""
        for failure in [*self._outgoing.spool.skipped.values(), *self._failed.skipped.values()]:
            logger.warning("%s", failure)
            self._record.fail(str(failure))
            self._record.add("skipped")

    def _name_left(self, left: list[ElementName], *, is_complete: bool) -> None:
        for name in self._outgoing.foreign:
            logger.warning("Message was locked. %s will not be sent.", name)
        if self._outgoing.foreign:
            self._record.fail(f"{_some(self._outgoing.foreign)}: locked by another sender")
        for name, reason in self._outgoing.refused.items():
            logger.error("Message %s was left: %s", name, reason)
            self._record.fail(f"{name}: {reason}")
        if left:
            logger.warning("%s: not sent; the next run goes on from here", _some(left))
            self._record.fail(f"{_some(left)}: not sent; the next run goes on from here")
        further = 0 if is_complete else self._outgoing.count_unreached(left)
        if further > 0:
            words = f"{further} further messages: not reached; the next run goes on from here"
            logger.warning("%s", words)
            self._record.fail(words)

    def _is_over(self) -> bool:
        return self._is_stopping() or time.monotonic() > self._deadline

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(remaining, _POLL_SECONDS))
            self._outgoing.refresh()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _text(end: Refusal | Lost) -> str:
    return end.text if isinstance(end, Refusal) else end.cause


def _too_large(end: Refusal | Lost, in_flight: list[str], on_wire: dict[str, str]) -> str | None:
    """Return the message that the broker calls too large, if it does."""
    if not isinstance(end, Refusal) or not _TOO_LARGE.search(end.text):
        return None
    named = on_wire.get(end.message_id, "")
    if named in in_flight:
        return named
    return in_flight[0] if len(in_flight) == 1 else None


def _words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "another sender took it"
    return str(LocalFailure.from_os(error, subject=""))


def _some(names: list[ElementName]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
