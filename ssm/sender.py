"""From the spool to the broker: every element leaves it when the broker has confirmed that very element.

The rules of order and receipts are `Window`'s, those of locks `Outgoing`'s; here they meet certificate and connection.
An element that no run could ever send goes, with the reason, to the queue of failed messages beside the spool; all
others stay until they are confirmed. Whatever ends a run, the locks are given back.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from appliance.core import clock
from appliance.core.run.errors import AccessDenied, ApplianceError, ExitStatus, LocalFailure, Unavailable
from appliance.core.run.record import RunRecord
from appliance.core.spool import ElementName
from appliance.core.trust import mime, smime
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.certificates import Identity
from appliance.core.trust.errors import Malformed, Untrusted
from ssm import envelope
from ssm.outgoing import Outgoing
from ssm.queue import Queue
from ssm.settings import Link, SenderSettings
from ssm.transport.brokers import Brokers, pauses
from ssm.transport.events import Connection, Lost, Receipt, Refusal
from ssm.window import Window

logger = logging.getLogger("ssm.ssm2")

RECEIPT_TIMEOUT = timedelta(minutes=2)
RECONNECT_LIMIT = timedelta(minutes=10)
"""How long a broker may be away in the middle of a run."""
MAX_ATTEMPTS = 3
"""Connections that may break one after the other without a single receipt between them."""
MAX_PASSING_ATTEMPTS = 6
"""The same, when the service says that it is out of order for a while: half a minute in all."""
_POLL_SECONDS = 0.5
_LISTED = 20
_DRAIN_SECONDS = 3.0
"""How long to wait, when a run is to end, for receipts of what was sent: what has none will be sent again."""
_TOO_LARGE = re.compile(r"too (large|big|long)|frame size|data length|message size|larger than", re.IGNORECASE)
"""What brokers say of one message. They speak of limits and maxima also when they are full, which passes."""


def load_recipient(settings: SenderSettings, *, trust: CADirectory, at: datetime) -> x509.Certificate | None:
    """Return the certificate to encrypt to, None when messages are only signed.

    :raises ApplianceError: it cannot be read, is not valid, not trusted, or cannot be encrypted to
    """
    path = settings.server_cert
    if path is None:
        return None
    try:
        recipient = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise LocalFailure.from_os(error) from None
    except ValueError:
        raise Malformed(path, "no certificate in PEM form", "install the receiver's certificate") from None
    envelope.check_recipient(recipient, subject=path)
    if at > recipient.not_valid_after_utc:
        raise Untrusted(path, f"expired on {recipient.not_valid_after_utc:%Y-%m-%d}", "install the receiver's new one")
    if settings.verify_server_cert:
        trust.verify_chain(recipient, at=at)
    return recipient


def max_wire(link: Link) -> int | None:
    """Return how large a message may be as it is sent; None: the broker will say."""
    if link.ams is None:
        return None
    from ssm.transport.argo import MAX_DATA  # noqa: PLC0415  start-up is a cost

    return MAX_DATA


@dataclass(slots=True)
class Packer:
    """Makes the wire form of a message: signed and, with a ``recipient``, encrypted."""

    identity: Identity
    trust: CADirectory
    recipient: x509.Certificate | None
    cipher: str
    max_size: int
    max_wire: int | None = None
    """Of the wire form, in bytes."""
    _is_checked: bool = False

    def pack(self, text: bytes) -> bytes:
        """Return what is sent for ``text``.

        The first signature of a run is verified as the receiver will do: a key that signs nonsense, or a certificate
        that nobody believes, would otherwise empty the spool into the receiver's waste bin.

        :raises Unsendable: the message can never be sent as it is
        :raises Untrusted: our own signature would not be believed
        """
        if len(text) > self.max_size:
            raise envelope.Unsendable("message", f"it has {len(text)} bytes, at most {self.max_size} are sent")
        signed = envelope.sign(text, identity=self.identity)
        if not self._is_checked:
            self._check(signed, text)
        wire = signed
        if self.recipient is not None:
            wire = envelope.encrypt(signed, recipient=self.recipient, cipher=self.cipher)
        if self.max_wire is not None and len(wire) > self.max_wire:
            cause = f"signed, it has {len(wire)} bytes, and AMS takes at most {self.max_wire}"
            raise envelope.Unsendable("message", cause, "put fewer records into one: [ssm] max_size of cASO")
        return wire

    def _check(self, signed: bytes, text: bytes) -> None:
        try:
            verified = smime.verify(signed, trust=self.trust, at=clock.now(), max_bytes=len(signed))
        except ApplianceError as error:
            remedy = error.remedy or "install a matching pair of certificate and key"
            raise Untrusted(
                self.identity.certificate_path, f"messages signed with it are refused: {error}", remedy
            ) from error
        if verified.body != mime.with_newlines(text):
            raise Untrusted(self.identity.key_path, "our own signature covers another text", "report this")
        for warning in verified.warnings:
            logger.warning("%s", warning)
        self._is_checked = True


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
        self._settings, self._outgoing, self._packer, self._brokers = settings, outgoing, packer, brokers
        self._record, self._deadline, self._is_stopping = record, deadline, is_stopping
        self._connection: Connection | None = None
        self._receipt_timeout = receipt_timeout.total_seconds()
        self._sent = 0
        self._attempts = 0
        self._pauses = pauses()
        self._last_receipt = 0.0
        self._argo_ids: dict[str, str] = {}

    def run(self, *, limit: int | None = None) -> ExitStatus:
        """Send what is in the spool, at most ``limit`` elements; what was left undone is in the run record.

        :raises ApplianceError: nothing at all could be sent
        """
        logger.info("Found %d messages.", self._outgoing.spool.count())
        is_complete = False
        try:
            self._connection = self._connect()
            for block in self._outgoing.blocks(limit=limit):
                self._send_block(block)
                if self._is_over():
                    break
            else:
                is_complete = True
                logger.info("Tidying message directory.")
                self._outgoing.spool.purge()
        except (ApplianceError, OSError) as error:
            if not self._sent:
                raise
            failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
            self._record.fail(str(failure))
            logger.error("%s", failure)  # noqa: TRY400  one line, no traceback
        finally:
            self._close()
            left = self._outgoing.release()
        return self._conclude(left, is_complete=is_complete)

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
                    text = (spool.path / name).read_bytes()
                    size = len(self._packer.pack(text))
                    state = f"{len(text)} bytes, {size} as sent, to {self._settings.link.destination}"
                except (envelope.Unsendable, OSError) as error:
                    status, state = ExitStatus.PARTLY, f"cannot be sent: {error}"
            print(f"{name}: {state}")
        return status

    def _send_block(self, block: list[ElementName]) -> None:
        window = Window(block)
        while not window.is_empty and not self._is_over():
            if self._connection is None:
                self._connection = self._connect()
                self._last_receipt = time.monotonic()
            name = window.next_to_send()
            if name is not None:
                self._send(ElementName(name), window)
            self._handle_events(window, self._connection, wait=name is None)
            self._outgoing.refresh()
        end = time.monotonic() + _DRAIN_SECONDS
        while self._connection is not None and not window.is_settled and time.monotonic() < end:
            self._handle_events(window, self._connection, wait=True)

    def _send(self, name: ElementName, window: Window) -> None:
        assert self._connection is not None  # noqa: S101  _send_block sees to it
        try:
            text = self._outgoing.spool.read(name)
        except OSError as error:
            self._leave(name, _words(error), window)
            return
        try:
            wire = self._packer.pack(text)
        except envelope.Unsendable as error:
            self._bury(name, str(error), window)
            return
        if window.is_settled:
            self._last_receipt = time.monotonic()
        logger.info("Sending message: %s", name)
        self._connection.send(self._settings.link.destination, wire, message_id=name)
        window.mark_sent(name)
        self._record.add("bytes_sent", len(wire))

    def _handle_events(self, window: Window, connection: Connection, *, wait: bool) -> None:
        """Take all events that are there, after waiting a moment for the first one if there is nothing else to do."""
        while (event := connection.next_event(timeout=_POLL_SECONDS if wait else 0)) is not None:
            wait = False
            match event:
                case Receipt(name, argo_id) if name in window.in_flight:
                    self._last_receipt, self._attempts = time.monotonic(), 0
                    self._pauses = pauses()
                    self._argo_ids[name] = argo_id
                    self._settle(window.receipt(name))
                case Refusal():
                    self._start_over(window, connection, event)
                    return
                case Lost():
                    self._start_over(window, connection, event)
                    return
        if time.monotonic() - self._last_receipt > self._receipt_timeout and not window.is_settled:
            self._start_over(window, connection, Lost(f"no receipt for {self._receipt_timeout:.0f} s"))

    def _start_over(self, window: Window, connection: Connection, end: Refusal | Lost) -> None:
        """Leave a connection that is of no more use; bury the message that it broke on, or give up, or go on."""
        self._close()
        self._attempts += 1
        self._record.add("reconnects")
        in_flight = window.in_flight
        window.connection_broke()
        match end:
            case Refusal(error=Unavailable() as final):
                raise final
            case Refusal(text, name) if _TOO_LARGE.search(text) and (len(in_flight) == 1 or name in in_flight):
                culprit = name if name in in_flight else in_flight[0]
                self._bury(ElementName(culprit), f"the broker says: {text}", window)
                return
            case Refusal(text, _):
                error: Unavailable = AccessDenied(
                    f"{connection.broker}, {self._settings.link.destination}",
                    f"the broker refuses messages: {text}",
                    "check that this host's certificate may write to this queue",
                )
            case Lost(error=Unavailable() as told):
                error = told
            case Lost(cause):
                error = Unavailable(connection.broker, f"connection broken: {cause}", "look into the broker's log")
        is_passing = isinstance(end, Lost) and end.is_passing
        if self._attempts >= (MAX_PASSING_ATTEMPTS if is_passing else MAX_ATTEMPTS):
            raise error
        logger.warning("%s: %s", error.subject, error.cause)
        self._sleep(next(self._pauses))

    def _connect(self) -> Connection:
        """Connect; in the middle of a run try again while there is hope."""
        end = min(self._deadline, time.monotonic() + RECONNECT_LIMIT.total_seconds())
        waits = pauses()
        while True:
            try:
                return self._brokers.connect()
            except Unavailable as error:
                pause = next(waits)
                is_first = not self._attempts and not self._sent
                if is_first or self._is_stopping() or time.monotonic() + pause > end:
                    raise
                logger.warning("%s; trying again in %.0f s", error, pause)
                self._sleep(pause)

    def _settle(self, names: list[str]) -> None:
        for name in names:
            logger.info("Broker received message: %s", name)
            self._outgoing.settle(ElementName(name))
            argo_id = self._argo_ids.pop(name, "")
            logger.info("Sent %s%s", name, f", Argo ID: {argo_id}" if argo_id else "")
        self._sent += len(names)
        self._record.add("messages_sent", len(names))

    def _bury(self, name: ElementName, reason: str, window: Window) -> None:
        """Move an element that can never be sent to the queue of failed messages; if it cannot be moved, leave it."""
        try:
            self._copy_to_failed(name, reason)
        except OSError as error:
            self._leave(name, f"{reason}; it cannot be moved to {self._settings.failed}: {_words(error)}", window)
            return
        logger.error("Message %s cannot be sent: %s; moved to %s", name, reason, self._settings.failed)
        self._record.add("dead_letters")
        self._record.fail(f"{name}: {reason}; it is now in {self._settings.failed}")
        self._outgoing.settle(name)
        self._settle(window.give_up(name))

    def _copy_to_failed(self, name: ElementName, reason: str) -> None:
        queue = Queue(self._settings.failed)
        element = name.split("/")[1]
        if queue.holds(element):  # by a run that was killed before it removed the original
            return
        try:
            since = datetime.fromtimestamp(int(element[:8], 16), UTC)  # its mtime is that of the lock
            fields = {
                "body": self._outgoing.spool.read(name),
                "reason": reason.encode(),
                "empaid": name.encode(),
                "firstseen": since.isoformat(timespec="seconds").encode(),
                "attempts": str(max(self._attempts, 1)).encode(),
            }
            queue.stage(fields, name=element)
            queue.seal()
            queue.publish([element])
        except OSError:
            queue.abandon([element])
            raise

    def _leave(self, name: ElementName, reason: str, window: Window) -> None:
        """Give back an element that this run can do nothing with; the others go on."""
        self._outgoing.refuse(name, reason)
        self._settle(window.give_up(name))

    def _conclude(self, left: list[ElementName], *, is_complete: bool) -> ExitStatus:
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
        known = len(left) + len(self._outgoing.foreign) + len(self._outgoing.refused)
        if not is_complete and (further := self._outgoing.spool.count() - known) > 0:
            logger.warning("%d further messages were not reached; the next run goes on from here", further)
            self._record.fail(f"{further} further messages: not reached; the next run goes on from here")
            known += further
        self._record.add("left", known)
        return ExitStatus.PARTLY if self._record.failures else ExitStatus.DONE

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


def _words(error: OSError) -> str:
    return (
        "another sender took it"
        if isinstance(error, FileNotFoundError)
        else str(LocalFailure.from_os(error, subject=""))
    )


def _some(names: list[ElementName]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
