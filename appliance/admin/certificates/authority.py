"""The installation's own authority, for mutual TLS between cloudkeeper and cloudkeeper-os.

It exists only if a backend listens on a TCP port. Its key is readable by root only and stays in
``/etc/fedcloud/tls``; each side has a directory of its own below. A certificate names its holder
and its purpose, and both sides verify both. Certificates that expire soon are renewed. Both sides
trust the previous authority until it expires, so that either can be renewed first.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.admin import account
from appliance.admin.certificates import places
from appliance.core import files
from appliance.core.run.layout import Layout
from appliance.core.trust.unreadable import UNREADABLE

_AUTHORITY_NAME = "fedcloud appliance: cloudkeeper and its backend"
_AUTHORITY_LIFE = timedelta(days=3650)
# Within the 398 days that the CA/Browser Forum allowed for servers when this was written.
_LIFE = timedelta(days=397)
_DUE = timedelta(days=60)
"""A certificate that expires sooner is renewed."""
_SKEW = timedelta(hours=1)
"""Certificates are valid from an hour ago, because clocks of two hosts may differ."""


@dataclass(frozen=True, slots=True)
class Party:
    """One side: the name and purpose in its certificate, and the owner of its key."""

    name: str
    purpose: x509.ObjectIdentifier
    owner: int
    """The owner of the key: the account of the containers, or root if a copy is staged."""


BACKEND = Party("cloudkeeper-os", ExtendedKeyUsageOID.SERVER_AUTH, account.ID)
FRONTEND = Party("cloudkeeper", ExtendedKeyUsageOID.CLIENT_AUTH, 0)


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def ends_within(self, span: timedelta, *, at: datetime) -> bool:
        return self.certificate.not_valid_after_utc - at < span


class Authority:
    """The files below ``/etc/fedcloud/tls`` of one site."""

    def __init__(self, layout: Layout) -> None:
        self.directory = layout.path(places.DIRECTORY)
        self.certificate, self._key = layout.path(places.CERTIFICATE), layout.path(places.KEY)

    def maintain(self, names: Sequence[str], *, at: datetime) -> Iterator[Path]:
        """Make missing files and renew those that are due; yield the paths that were written.

        ``names`` are names of the backend. Its certificate is also renewed if it lacks one of them;
        names that it has already are kept.
        """
        own = _load(self.certificate, self._key)
        # An authority must outlive every certificate that it signs.
        if own is None or own.ends_within(_LIFE + _DUE, at=at):
            own = yield from self._found(own, at=at)
        authorities = self.certificate.read_bytes()
        for party, wanted in ((BACKEND, names), (FRONTEND, ())):
            directory = self.directory / party.name
            files.make_directory(directory, mode=0o755)
            if _differs(directory / "authority.pem", authorities):
                files.write_atomic(directory / "authority.pem", authorities, mode=0o644)
                yield directory / "authority.pem"
            yield from self._maintain(own, party, directory, wanted, at=at)

    def _found(self, before: _Pair | None, *, at: datetime) -> Generator[Path, None, _Pair]:
        """Make a new authority; the previous one stays trusted until it expires."""
        files.make_directory(self.directory, mode=0o755)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY_NAME)])
        certificate = (
            _builder(name, name, key.public_key(), life=_AUTHORITY_LIFE, at=at)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        # The new authority first: _load() takes the first certificate of the file as its pair.
        pems = [certificate.public_bytes(Encoding.PEM)]
        if before and not before.ends_within(timedelta(0), at=at):
            pems.append(before.certificate.public_bytes(Encoding.PEM))
        # Key first: if a run is killed here, the next one finds no pair and makes a new one.
        _write_key(self._key, key, owner=0)
        files.write_atomic(self.certificate, b"".join(pems), mode=0o644)
        yield self.certificate
        return _Pair(certificate, key)

    def _maintain(
        self, own: _Pair, party: Party, directory: Path, names: Sequence[str], *, at: datetime
    ) -> Iterator[Path]:
        path, key_path = directory / "certificate.pem", directory / "key.pem"
        found = _load(path, key_path)
        known = _names(found.certificate) if found else []
        wanted = list(dict.fromkeys([party.name, *known, *names]))
        if (
            found
            and not found.ends_within(_DUE, at=at)
            and wanted == known
            and _is_signed_by(found, own)
        ):
            return
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party.name)]),
                own.certificate.subject,
                key.public_key(),
                life=_LIFE,
                at=at,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([party.purpose]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in wanted]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(own.key.public_key()),
                critical=False,
            )
            .sign(own.key, hashes.SHA256())
        )
        _write_key(key_path, key, owner=party.owner)
        files.write_atomic(path, certificate.public_bytes(Encoding.PEM), mode=0o644)
        yield path


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    life: timedelta,
    at: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _SKEW)
        .not_valid_after(at + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return []
    return [str(name.value) for name in found]


def _is_signed_by(found: _Pair, own: _Pair) -> bool:
    try:
        found.certificate.verify_directly_issued_by(own.certificate)
    except Exception:  # noqa: BLE001  a certificate that fails to verify in any way is renewed
        return False
    return True


def _load(certificate: Path, key: Path) -> _Pair | None:
    """Return the pair; None if a file is missing, cannot be parsed or does not match."""
    try:
        pair = _Pair(*_parse(certificate.read_bytes(), key.read_bytes()))
    except (FileNotFoundError, TypeError, *UNREADABLE):
        return None
    return pair if pair.certificate.public_key() == pair.key.public_key() else None


def _parse(certificate: bytes, key: bytes) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    private = load_pem_private_key(key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError
    return x509.load_pem_x509_certificates(certificate)[0], private


def _differs(path: Path, content: bytes) -> bool:
    return not path.exists() or path.read_bytes() != content


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, *, owner: int) -> None:
    """Write a key that only its owner can read at any time."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write_atomic(path, pem, mode=0o400)
    if owner != path.stat().st_uid:
        os.chown(path, owner, owner)
