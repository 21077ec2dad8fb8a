"""The wire form of messages: signed, perhaps encrypted, in parts that fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from appliance.core import clock
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.trust import mime, smime
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.certificates import Identity
from appliance.core.trust.errors import Malformed, Untrusted
from ssm import envelope
from ssm.sending import split
from ssm.settings import Link, SenderSettings

logger = logging.getLogger("ssm.ssm2")

_SIGNATURE = 16 * 1024
"""Bytes that a signature adds at most, certificate included.

A fixed bound and not what it really has: parts must come out the same when a killed run is
repeated, whatever certificate or key was renewed meanwhile.
"""
_LONGEST_ID = 64


def load_recipient(
    settings: SenderSettings, *, trust: CADirectory, at: datetime
) -> x509.Certificate | None:
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
        remedy = "install the receiver's certificate"
        raise Malformed(path, "no certificate in PEM form", remedy) from None
    envelope.check_recipient(recipient, subject=path)
    if at > recipient.not_valid_after_utc:
        cause = f"expired on {recipient.not_valid_after_utc:%Y-%m-%d}"
        raise Untrusted(path, cause, "install the receiver's new one")
    if settings.verify_server_cert:
        trust.verify_chain(recipient, at=at)
    return recipient


def max_wire(link: Link) -> Callable[[str], int] | None:
    """Return what says how many bytes a message may have as it is sent, given its id.

    None: the broker will say.
    """
    if link.ams is None:
        return None
    from ssm.transport.ams import max_data  # noqa: PLC0415  start-up is a cost

    return max_data


@dataclass(slots=True)
class Packer:
    """Makes the wire form of messages: signed and, with a ``recipient``, encrypted."""

    identity: Identity
    trust: CADirectory
    recipient: x509.Certificate | None
    cipher: str
    max_size: int
    """Of a message before it is signed, in bytes."""
    max_wire: Callable[[str], int] | None = None
    """Of the wire form of a message with this id, in bytes."""
    _is_checked: bool = False

    def parts(self, text: bytes) -> list[bytes]:
        """Return ``text`` in parts that fit, cut between records; just itself when it fits.

        The same text gives the same parts in every run. What has no records that are known, and a
        record that is too large, stays as it is: `pack` refuses it.
        """
        limit = self.max_wire("x" * _LONGEST_ID) if self.max_wire is not None else None
        if len(text) <= self.max_size and (limit is None or self._bound(text) <= limit):
            return [text]
        records = split.take_apart(mime.with_newlines(text))
        if records is None:
            return [text]
        # As if each had what makes quoted-printable necessary: whether one has it decides for all.
        is_quoted = envelope.needs_quoting(text)
        budgets = [self.max_size] if limit is None else [self.max_size, self._budget(limit)]
        return list(
            records.grouped(
                budget=min(budgets), weight=lambda piece: self._weight(piece, is_quoted=is_quoted)
            )
        )

    def pack(self, text: bytes, *, message_id: str) -> bytes:
        """Return what is sent for ``text``.

        The first signature of a run is verified as the receiver will do: a key that signs
        nonsense, or a certificate that nobody trusts, would otherwise empty the spool into the
        receiver's waste bin.

        :raises Unsendable: the message can never be sent as it is
        :raises Untrusted: our own signature would not be trusted
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
            form = "a single record" if is_known else "of no form that can be split"
            cause = f"signed, it has {len(wire)} bytes, AMS takes at most {limit}, and it is {form}"
            raise envelope.Unsendable("message", cause, "put less into one record or message")
        return wire

    def _bound(self, text: bytes) -> int:
        """Return how many bytes a message has at most when it is sent."""
        is_quoted = envelope.needs_quoting(text)
        return self._wire(self._weight(text, is_quoted=is_quoted) + _SIGNATURE)

    def _weight(self, text: bytes, *, is_quoted: bool) -> int:
        """Return how many bytes ``text`` has when it is signed, or more."""
        size = envelope.quoted_size(text) if is_quoted else len(text)
        if self.recipient is None:
            return size
        # What is encrypted has CRLF; lines are broken every 76 bytes when quoted.
        return size + (size // 25 if is_quoted else 0) + text.count(b"\n")

    def _wire(self, signed: int) -> int:
        if self.recipient is None:
            return signed
        return (signed + _SIGNATURE) * 4 // 3 * 77 // 76

    def _budget(self, limit: int) -> int:
        """Return how much the records of a part may weigh; the reverse of `_wire`."""
        if self.recipient is None:
            return limit - _SIGNATURE
        return limit * 76 // 77 * 3 // 4 - 2 * _SIGNATURE

    def _check(self, signed: bytes, text: bytes) -> None:
        try:
            verified = smime.verify(signed, trust=self.trust, at=clock.now(), max_bytes=len(signed))
        except ApplianceError as error:
            remedy = error.remedy or "install a matching pair of certificate and key"
            cause = f"messages signed with it are refused: {error}"
            raise Untrusted(self.identity.certificate_path, cause, remedy) from error
        if verified.body != mime.with_newlines(text):
            cause = "our own signature covers another text"
            raise Untrusted(self.identity.key_path, cause, "report this")
        for warning in verified.warnings:
            logger.warning("%s", warning)
        self._is_checked = True
