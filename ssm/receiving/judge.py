"""The verdict on a received message.

The first line that fits counts:

    id "ping"                                           dropped
    no body, cannot be decrypted, signature not valid   reject queue, with the reason
    signer banned                                       dropped
    signer not in the list of accepted ones             reject queue
    text not UTF-8                                      reject queue
    anything else                                       incoming queue

A dropped message is acknowledged like any other, so that it does not come again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import clock
from appliance.core.run.errors import ApplianceError
from appliance.core.run.record import RunRecord
from appliance.core.trust import mime
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.certificates import Identity
from appliance.core.trust.errors import Malformed, Tampered, Untrusted
from appliance.core.trust.smime import Verified
from ssm import envelope
from ssm.receiving.journal import MessageKey
from ssm.receiving.signers import AcceptedSigners
from ssm.settings import ReceiverSettings
from ssm.transport.events import Delivery

logger = logging.getLogger("ssm.ssm2")

INCOMING = "incoming"
REJECT = "reject"
# Words of SSM for values that are missing; readers of its queues know them.
_NO_ID, _NO_ARGO_ID = "noid", "N/A"
_NO_SIGNER = "Not available."


@dataclass(frozen=True, slots=True)
class Verdict:
    """A message for the queue `INCOMING` or `REJECT`: its key, and the fields of its element."""

    key: MessageKey
    fields: dict[str, bytes]


@dataclass(slots=True)
class Judge:
    """Verifies messages and looks up their signers."""

    trust: CADirectory
    names: AcceptedSigners
    identity: Identity
    max_bytes: int
    record: RunRecord
    _warned: set[str] = field(default_factory=set, init=False)

    def judge(self, batch: Sequence[Delivery]) -> list[Verdict]:
        """Return the verdicts on a batch, in its order, without the messages to be dropped."""
        self.record.add("messages_received", len(batch))
        self.record.add("bytes_received", sum(len(delivery.body) for delivery in batch))
        return [verdict for delivery in batch if (verdict := self._judge(delivery)) is not None]

    def refresh(self, *, force: bool = False) -> None:
        """Reload changed lists, CAs, CRLs and certificates; log failures and keep the old ones."""
        self.names.refresh(force=force)
        try:
            if self.trust.refresh():
                self._warned.clear()
            self.identity = self.identity.reload_if_changed(at=clock.now())
        except ApplianceError as error:
            self._warn_once(str(error))
        if warning := self.identity.expiry_warning(at=clock.now()):
            self._warn_once(warning)

    def _judge(self, delivery: Delivery) -> Verdict | None:
        argo_id = f", Argo ID = {delivery.message_id}" if delivery.is_argo else ""
        logger.info("Received message. ID = %s%s", _id_of(delivery), argo_id)
        # Operators of brokers test the way with such messages; SSM ignores them as well.
        if delivery.empa_id == "ping":
            return None
        if not delivery.body:
            return _refuse(delivery, "Empty text passed to _handle_msg.")
        try:
            verified = envelope.open_envelope(
                delivery.body,
                identity=self.identity,
                trust=self.trust,
                at=clock.now(),
                max_bytes=self.max_bytes,
            )
        except (Malformed, Untrusted) as error:
            return _refuse(delivery, _reason(error))
        except Exception as error:  # noqa: BLE001  see below
            # A bug of this program. Without a verdict the broker would deliver the message again
            # and again, and none after it.
            words = f"{type(error).__name__}: {error}"
            logger.error("bug in this program: %s; please report it", words)  # noqa: TRY400
            self.record.add("bugs")
            return _refuse(
                delivery,
                f"Failed to verify message: this program failed on it: {type(error).__name__}",
            )
        for warning in verified.warnings:
            self._warn_once(warning)
        return self._look_up(delivery, verified)

    def _look_up(self, delivery: Delivery, verified: Verified) -> Verdict | None:
        signer = str(verified.signer)
        if self.names.bans(signer):
            logger.info("Message dropped: %s is banned", signer)
            self.record.add("banned")
            return None
        if not self.names.accepts(signer):
            return _refuse(delivery, f"Signer not in valid DNs list: {signer}", signer=signer)
        # SSM stores texts as UTF-8, and so do the readers of its queues expect them.
        try:
            verified.body.decode("utf-8")
        except UnicodeDecodeError:
            return _refuse(
                delivery, "Failed to verify message: its text is not UTF-8", signer=signer
            )
        logger.info("Valid signer: %s", signer)
        return _verdict(INCOMING, delivery, signer=signer, body=verified.body)

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            logger.warning("%s", text)
            self._warned.add(text)


def load_judge(settings: ReceiverSettings, names: Path, record: RunRecord) -> Judge:
    """Return the judge of a configuration; ``names`` is the file of accepted signers.

    Raises:
        ApplianceError: certificate, key or one of the lists cannot be used.

    """
    return Judge(
        trust=CADirectory(settings.link.capath, crls=CRLPolicy(settings.crls)),
        names=AcceptedSigners(names, banned=names.with_name("banned-dns")),
        identity=envelope.load_identity(settings.link),
        max_bytes=settings.max_message_size,
        record=record,
    )


def _refuse(delivery: Delivery, error: str, *, signer: str = _NO_SIGNER) -> Verdict:
    logger.warning("Message rejected: %s", error)
    return _verdict(REJECT, delivery, signer=signer, body=delivery.body, error=error.encode())


def _verdict(
    queue: str, delivery: Delivery, *, signer: str, body: bytes, error: bytes = b""
) -> Verdict:
    # The key of a message without a sender's id has the broker's id. That id is the same when the
    # broker delivers again, and another one when the sender sends again: a correction with the
    # same text is not a duplicate.
    message_id = delivery.empa_id or f"broker's {delivery.message_id}"
    key = MessageKey.of(queue, signer=signer, message_id=message_id, body=body)
    fields = {"body": body, "signer": signer.encode(), "empaid": _id_of(delivery).encode()}
    return Verdict(key, fields | ({"error": error} if error else {}))


def _id_of(delivery: Delivery) -> str:
    return delivery.empa_id or (_NO_ARGO_ID if delivery.is_argo else _NO_ID)


def _reason(error: ApplianceError) -> str:
    """Return SSM's words for a failed verification, which operators search for, and the cause."""
    if error.cause == mime.NO_BLANK_LINE:
        return f"Failed to verify message: {mime.NO_BLANK_LINE}"
    match error:
        case envelope.Undecipherable():
            return f"Failed to decrypt message: {error.cause}"
        case Tampered():
            return f"Failed to verify message: Possible tampering. See OpenSSL error: {error.cause}"
        case Untrusted():
            return f"Failed to verify message: Unverified signer: {error}"
        case _:
            return f"Failed to verify message: {error.cause}"
