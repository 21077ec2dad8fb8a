"""The wire form of messages: signed, encrypted where configured, in parts that fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from appliance.core import clock
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.trust import mime, smime
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.certificates import Identity
from appliance.core.trust.errors import Malformed, Untrusted
from appliance.core.trust.unreadable import UNREADABLE
from ssm import envelope
from ssm.sending import split
from ssm.settings import Link, SenderSettings

logger = logging.getLogger("ssm.ssm2")

_SIGNATURE = 16 * 1024
"""Upper bound of the bytes that a signature adds, certificate included.

It is fixed, where the real size is known: a run that repeats a killed one must cut the same parts,
also when certificate or key was renewed in between.
"""
_LONGEST_ID = 64
"""Characters of an id: names of elements and parts are shorter."""


def load_packer(settings: SenderSettings) -> Packer:
    """Return the packer of a configuration.

    Raises:
        ApplianceError: certificate, key or recipient cannot be used.

    """
    trust = CADirectory(settings.link.capath, crls=CRLPolicy(settings.crls))
    return Packer(
        identity=envelope.load_identity(settings.link),
        trust=trust,
        recipient=load_recipient(settings, trust=trust, at=clock.now()),
        cipher=settings.cipher,
        max_size=settings.max_message_size,
        max_wire=max_wire(settings.link),
    )


def load_recipient(
    settings: SenderSettings, *, trust: CADirectory, at: datetime
) -> x509.Certificate | None:
    """Return the certificate to encrypt to, None when messages are only signed.

    Raises:
        ApplianceError: it cannot be read, is not valid, not trusted, or cannot be encrypted to.

    """
    path = settings.server_cert
    if path is None:
        return None
    try:
        recipient = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise LocalFailure.from_os(error) from None
    except UNREADABLE:
        remedy = "install the receiver's certificate"
        raise Malformed(path, "is not a certificate in PEM form", remedy) from None
    envelope.check_recipient(recipient, subject=path)
    if at > recipient.not_valid_after_utc:
        cause = f"expired on {recipient.not_valid_after_utc:%Y-%m-%d}"
        raise Untrusted(path, cause, "install the receiver's new one")
    if settings.verify_server_cert:
        trust.verify_chain(recipient, at=at)
    return recipient


def max_wire(link: Link) -> Callable[[str], int] | None:
    """Return a function from the id of a message to the most bytes that may be sent for it.

    None: the limit is the broker's, and not known.
    """
    if link.ams is None:
        return None
    from ssm.transport.ams import max_data  # noqa: PLC0415  start-up is a cost

    return max_data


@dataclass(slots=True)
class Packer:
    """Packs messages: signs them and, with a ``recipient``, encrypts them."""

    identity: Identity
    trust: CADirectory
    recipient: x509.Certificate | None
    cipher: str
    max_size: int
    """Bytes of a message before it is signed."""
    max_wire: Callable[[str], int] | None = None
    """Bytes of the wire form of a message with a given id."""
    _is_checked: bool = False

    def parts(self, text: bytes) -> list[bytes]:
        """Return ``text`` in parts that fit, cut between records; itself alone when it fits.

        The same text gives the same parts in every run. A text of an unknown form, and a single
        record that is too large, stay whole: `pack` refuses them.
        """
        # The id takes room in a request, too; the longest one gives the smallest limit.
        limit = self.max_wire("x" * _LONGEST_ID) if self.max_wire is not None else None
        if len(text) <= self.max_size and (limit is None or self._bound(text) <= limit):
            return [text]
        records = split.take_apart(mime.with_newlines(text))
        if records is None:
            return [text]
        # The need of the whole text counts for each part, so that no part is larger than planned.
        is_quoted = envelope.needs_quoting(text)
        budgets = [self.max_size] if limit is None else [self.max_size, self._budget(limit)]
        return list(
            records.grouped(
                budget=min(budgets), weight=lambda piece: self._weight(piece, is_quoted=is_quoted)
            )
        )

    def pack(self, text: bytes, *, message_id: str) -> bytes:
        """Return the wire form of ``text``.

        The first signature of a run is verified as the receiver will do. Otherwise a wrong key, or
        a certificate that is not trusted, would empty the spool into the receiver's reject queue.

        Raises:
            Unsendable: the message can never be sent as it is.
            Untrusted: our own signature would not be trusted.

        """
        if len(text) > self.max_size:
            cause = f"it has {len(text)} bytes, at most {self.max_size} are sent"
            raise envelope.Unsendable("message", cause)
        signed = envelope.sign(text, identity=self.identity)
        if not self._is_checked:
            self._check(signed, text)
        wire = signed
        if self.recipient is not None:
            wire = envelope.encrypt(signed, recipient=self.recipient, cipher=self.cipher)
        limit = self.max_wire(message_id) if self.max_wire is not None else len(wire)
        if len(wire) > limit:
            is_known = split.take_apart(mime.with_newlines(text)) is not None
            form = "it is a single record" if is_known else "its form is unknown"
            size = f"it has {len(wire)} bytes when signed, AMS accepts at most {limit}"
            cause = f"{size}, and it cannot be split, because {form}"
            raise envelope.Unsendable("message", cause, "put less into one record or message")
        return wire

    def _bound(self, text: bytes) -> int:
        """Return an upper bound of the bytes of a message as it is sent."""
        is_quoted = envelope.needs_quoting(text)
        return self._wire(self._weight(text, is_quoted=is_quoted) + _SIGNATURE)

    def _weight(self, text: bytes, *, is_quoted: bool) -> int:
        """Return the bytes of ``text`` inside a signed message, or a little more."""
        size = envelope.quoted_size(text) if is_quoted else len(text)
        if self.recipient is None:
            return size
        # Encryption is over CRLF line ends; quoted-printable adds line ends every 76 bytes.
        return size + (size // 25 if is_quoted else 0) + text.count(b"\n")

    def _wire(self, signed: int) -> int:
        # Base64 in lines of 76 characters; the envelope itself takes less than `_SIGNATURE`.
        if self.recipient is None:
            return signed
        return (signed + _SIGNATURE) * 4 // 3 * 77 // 76

    def _budget(self, limit: int) -> int:
        """Return the bytes that the records of a part may have; the inverse of `_wire`."""
        if self.recipient is None:
            return limit - _SIGNATURE
        return limit * 76 // 77 * 3 // 4 - 2 * _SIGNATURE

    def _check(self, signed: bytes, text: bytes) -> None:
        for warning in check_signature(signed, text, identity=self.identity, trust=self.trust):
            logger.warning("%s", warning)
        self._is_checked = True


def check_signature(
    signed: bytes, text: bytes, *, identity: Identity, trust: CADirectory
) -> Sequence[str]:
    """Verify our own signature of ``text`` as a receiver does; return the doubts that remain.

    Raises:
        Untrusted: a receiver with the same authorities would refuse the message.

    """
    try:
        verified = smime.verify(signed, trust=trust, at=clock.now(), max_bytes=len(signed))
    except ApplianceError as error:
        remedy = error.remedy or "install a matching pair of certificate and key"
        reason = f"{error.subject}: {error.cause}" if error.remedy else str(error)
        cause = f"messages signed with it are refused: {reason}"
        raise Untrusted(identity.certificate_path, cause, remedy) from error
    if verified.body != mime.with_newlines(text):
        cause = "our own signature covers another text"
        raise Untrusted(identity.key_path, cause, "report this")
    return verified.warnings
