"""The messages of a run: which part of which element each is, and how it leaves the spool.

A message is an element of the spool, or a part of one that is too large to travel whole. Parts are
cut between records and get ids of their own: ``NAME``, ``NAME.1``, ``NAME.2``. An element leaves
the spool when each of its parts has been acknowledged or set aside.

    way out       when                                        element
    flush         the broker has acknowledged it, and the     removed
                  journal of sent messages has it
    dead_letter   no run could ever send it, or it would      moved to the queue of dead letters
                  take back what was sent
    _leave        it cannot be read or moved aside            unlocked, stays for the next run
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from datetime import datetime

from appliance.core import clock, usage_messages
from appliance.core.run.errors import LocalFailure
from appliance.core.run.record import RunRecord
from appliance.core.senders import LAST_DELIVERED
from appliance.core.spool import ElementName
from appliance.core.trust import mime
from ssm import envelope
from ssm.sending import split
from ssm.sending.claims import MAX_ELEMENTS, Claims
from ssm.sending.dead_letters import DeadLetters
from ssm.sending.packer import Packer
from ssm.sending.sent_journal import SentJournal, SentMessage
from ssm.sending.suspects import Suspects
from ssm.sending.window import SendWindow

logger = logging.getLogger("ssm.ssm2")

_LONGEST = 255
"""Characters of an id of AMS that the journal keeps."""
_FLUSH_SECONDS = 0.5
"""How long an acknowledged message waits for others: each write of the journal waits for the disk.

If the run is killed before, it is sent again, as messages in flight are.
"""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an element."""

    element: ElementName
    text: bytes


@dataclass(frozen=True, slots=True)
class _Receipt:
    """Where and when a message was acknowledged, and under which id."""

    message_id: str
    broker: str
    argo_id: str
    at: datetime


class Messages:
    """The claimed messages of one run, by name."""

    def __init__(
        self,
        claims: Claims,
        *,
        window: SendWindow,
        suspects: Suspects,
        packer: Packer,
        dead_letters: DeadLetters,
        journal: SentJournal,
        record: RunRecord,
    ) -> None:
        self._claims, self._window, self._suspects = claims, window, suspects
        self._packer, self._dead_letters, self._record = packer, dead_letters, record
        self._journal = journal
        self.on_wire: dict[str, str] = {}
        """Names of messages by the ids under which they were sent."""
        self.sent = 0
        self._receipts: dict[str, _Receipt] = {}
        self._settled: list[str] = []
        """Messages that may leave the spool, as soon as the journal has them."""
        self._settled_since = 0.0
        self._digests: dict[ElementName, str] = {}
        """SHA-256 of elements."""
        self._contents: dict[str, tuple[int, usage_messages.Contents]] = {}
        """Size and records of messages."""
        self._parts: dict[str, _Part] = {}
        self._part_numbers: dict[ElementName, int] = {}
        """The last number given to a part, by element."""

    def pack(self, name: str) -> bytes | None:
        """Return the wire form of a message; None when it cannot be sent, and was moved aside.

        An element that is too large is replaced by its parts. The first part keeps its name; its
        wire form is returned.
        """
        text = self._read(name)
        if text is None:
            return None
        if self._journal.is_on:
            read = usage_messages.read(text)
            self._contents[name] = (len(text), read)
            if replaced := self._journal.replaced(self._part(name).element, read):
                first = replaced[0]
                self.dead_letter(
                    name,
                    f"would replace records that later messages have delivered further:"
                    f" {len(replaced)}, such as {first.key} of {first.month}",
                )
                return None
        try:
            return self._packer.pack(text, message_id=self._suspects.id_on_wire(name))
        except envelope.Unsendable as error:
            self.dead_letter(name, str(error))
            return None

    def halve(self, name: str) -> bool:
        """Cut in two a message that the broker calls too large; return whether it can be cut."""
        try:
            halves = split.halves(mime.with_newlines(self._text(name)))
        except OSError:
            return False
        if halves:
            self._replace(name, halves)
        return bool(halves)

    def confirm(self, name: str, argo_id: str, *, broker: str) -> None:
        """Take in a receipt: the next `flush` removes the elements that may now leave the spool."""
        message_id = self._suspects.id_on_wire(name)
        self._receipts[name] = _Receipt(message_id, broker, argo_id, at=clock.now())
        self._record.counts[LAST_DELIVERED] = self._receipts[name].at.timestamp()
        self._settle(self._window.receipt(name))

    def flush_if_due(self) -> None:
        """Flush when many messages or old ones wait for it."""
        if self._settled:
            age = time.monotonic() - self._settled_since
            if age > _FLUSH_SECONDS or len(self._settled) >= MAX_ELEMENTS:
                self.flush()

    def flush(self) -> None:
        """Write the acknowledged messages to the journal, then remove them from the spool."""
        settled, self._settled = self._settled, []
        if not settled:
            return
        if self._journal.is_on:
            self._journal.write([self._delivery(name) for name in settled])
        for name in settled:
            receipt = self._receipts.pop(name)
            logger.info("Broker received message: %s", receipt.message_id)
            self._remove(name)
            argo_id = f", Argo ID: {receipt.argo_id}" if receipt.argo_id else ""
            logger.info("Sent %s%s", receipt.message_id, argo_id)

    def dead_letter(self, name: str, reason: str) -> None:
        """Move a message that can never be sent to the dead letters; if that fails, leave it."""
        suspicion = self._suspects.suspicion(name)
        path = self._dead_letters.path
        try:
            self._dead_letters.add(
                name,
                self._text(name),
                reason=reason,
                first_seen=self._claims.spool.made_at(self._part(name).element),
                attempts=max(suspicion.attempts, 1),
                last_error=suspicion.last_error or reason,
            )
        except (OSError, LocalFailure) as error:
            cause = _words(error) if isinstance(error, OSError) else str(error)
            self._leave(name, f"{reason}; it cannot be moved to {path}: {cause}")
            return
        logger.error("Message %s cannot be sent: %s; moved to %s", name, reason, path)
        self._record.add("dead_letters")
        self._record.fail(f"{name}: {reason}; it is now in {path}")
        self.flush()  # while parts of the same element are known
        following = self._window.give_up(name)
        self._forget(name)
        self._remove(name)
        self._settle(following)

    def _part(self, name: str) -> _Part:
        """Return a part; a message that is not split is the only part of its element."""
        return self._parts.get(name) or _Part(ElementName(name), b"")

    def _text(self, name: str) -> bytes:
        """Return the text of a message; raise `OSError` when its element cannot be read."""
        part = self._parts.get(name)
        return part.text if part else self._claims.spool.read(ElementName(name))

    def _read(self, name: str) -> bytes | None:
        """Return the text to send for a message, after a split that is needed; None on failure."""
        try:
            text = self._text(name)
        except OSError as error:
            self._leave(name, _words(error))
            return None
        if name in self._parts:
            return text
        if self._journal.is_on:
            self._digests[ElementName(name)] = hashlib.sha256(text).hexdigest()
        texts = self._packer.parts(text)
        if len(texts) > 1:
            self._replace(name, texts)
        return texts[0]

    def _replace(self, name: str, texts: list[bytes]) -> None:
        """Put parts in the place of a message; the first keeps its name."""
        whole = self._part(name)
        # Numbers go on where a part is split again, so that no id is used for two texts.
        used = self._part_numbers.get(whole.element, 0)
        numbers = range(used + 1, used + len(texts))
        self._part_numbers[whole.element] = numbers[-1]
        names = [name, *(f"{whole.element}.{number}" for number in numbers)]
        logger.info("Message %s is too large: it goes in %d parts", name, len(texts))
        self._record.add("messages_split")
        for part, text in zip(names, texts, strict=True):
            self._parts[part] = _Part(whole.element, text)
        self._window.replace(name, names)
        # An earlier run may have suspected one of these parts: they are cut the same way each time.
        for part in filter(self._suspects.__contains__, names):
            self._window.suspect(part)

    def _settle(self, names: list[str]) -> None:
        if names and not self._settled:
            self._settled_since = time.monotonic()
        for name in names:
            self._forget(name)
        self._settled += names
        self.sent += len(names)
        self._record.add("messages_sent", len(names))

    def _delivery(self, name: str) -> SentMessage:
        receipt, element = self._receipts[name], self._part(name).element
        size, found = self._contents[name]
        return SentMessage(
            id=receipt.message_id,
            element=element,
            sha256=self._digests[element],
            size=size,
            broker=receipt.broker,
            # AMS may answer with any text; SQLite stores no half of a surrogate pair.
            argo_id=receipt.argo_id[:_LONGEST].encode(errors="backslashreplace").decode(),
            at=receipt.at,
            contents=found,
        )

    def _remove(self, name: str) -> None:
        """Remove a message that is safe elsewhere, and its element when no part of it is left."""
        element = self._part(name).element
        self._parts.pop(name, None)
        self._contents.pop(name, None)
        # The last part may be set aside while an earlier one still waits for its receipt.
        if not any(other.element == element for other in self._parts.values()):
            self._claims.settle(element)
            self._part_numbers.pop(element, None)
            self._digests.pop(element, None)

    def _forget(self, name: str) -> None:
        """Drop what was known of a message that is not sent again.

        At once, and not at the next flush: a suspect that arrives meanwhile must not find it among
        the messages that overtook.
        """
        self.on_wire.pop(self._suspects.id_on_wire(name), None)
        self._suspects.removed(name)

    def _leave(self, name: str, reason: str) -> None:
        """Give back an element that this run can do nothing with, and all of its parts."""
        element = self._part(name).element
        self.flush()  # while the parts of the element are known
        self._claims.refuse(element, reason)
        siblings = [key for key, other in self._parts.items() if other.element == element]
        gone = siblings or [name]
        for sibling in gone:
            self._parts.pop(sibling, None)
            self._contents.pop(sibling, None)
            if sibling in self._window:
                # The element stays, so no part of it is settled: the next run sends all of them.
                following = self._window.give_up(sibling)
                self._settle([other for other in following if other not in gone])


def _words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "another sender took it"
    return str(LocalFailure.from_os(error, subject=""))
