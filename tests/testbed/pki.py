"""A throw-away certificate authority like those of the IGTF, and its directory of trust anchors.

    authority = Authority.create(directory)
    host = authority.issue("ssm.example.org", hosts=("localhost", "127.0.0.1"))
    authority.publish(certificates)          # HASH.0, HASH.r0, HASH.signing_policy

An authority lives in a directory of its own: ``ca.pem``, ``ca.key``, ``revoked.json`` and
``issued/NAME.{pem,key}``. `Authority.open` takes it up again. Everything made here is worthless
outside of tests: no key has a passphrase.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL.crypto import X509

KeyKind = Literal["rsa", "ec"]
Digest = Literal["sha256", "sha384", "sha512"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
RelativeName = tuple[str, str]

AUTHORITY_DN = "/DC=EU/DC=EXAMPLE/CN=Example Grid Authority"
HOST_DN = "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts/O=Example Site"
"""The beginning of issued names up to ``/CN=…``, as in the IGTF's host certificates."""

_OIDS = {
    "DC": NameOID.DOMAIN_COMPONENT,
    "C": NameOID.COUNTRY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
_TYPES = {oid: name for name, oid in _OIDS.items()}
_DIGESTS: dict[Digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its unencrypted private key (mode 0400), both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority in ``directory``; several threads may issue, one at a time may revoke."""

    directory: Path

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        subject: str = AUTHORITY_DN,
        key: KeyKind = "rsa",
        days: float = 3650,
    ) -> Authority:
        """Make a root CA; ``subject`` in slash form, without slashes inside of values."""
        private = _make_key(key)
        name = parse_name(subject)
        certificate = _sign(
            name, private.public_key(), issuer=name, by=private, days=days, is_ca=True
        )
        return cls._found(directory, certificate, private)

    @classmethod
    def open(cls, directory: Path) -> Authority:
        """Take up an authority that `create` or `create_subordinate` made.

        :raises FileNotFoundError: there is none
        """
        (directory / "ca.key").stat()
        return cls(directory)

    def create_subordinate(
        self, directory: Path, *, subject: str, key: KeyKind = "rsa", days: float = 1825
    ) -> Authority:
        """Make a CA whose certificate this one signs. Publish both to have chains that verify."""
        private = _make_key(key)
        certificate = _sign(
            parse_name(subject),
            private.public_key(),
            issuer=self._subject,
            by=self._key,
            days=days,
            is_ca=True,
        )
        return self._found(directory, certificate, private)

    @classmethod
    def _found(cls, directory: Path, certificate: x509.Certificate, key: PrivateKey) -> Authority:
        (directory / "issued").mkdir(parents=True)
        (directory / "revoked.json").write_text("{}\n")
        (directory / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        _write_key(directory / "ca.key", key)
        return cls(directory)

    @property
    def certificate(self) -> Path:
        """The CA's own certificate, PEM."""
        return self.directory / "ca.pem"

    @property
    def hash(self) -> str:
        """Return OpenSSL's hash of the subject, which names the files of a CA directory."""
        return f"{X509.from_cryptography(self._certificate).subject_name_hash():08x}"

    def issue(
        self,
        common_name: str,
        *,
        hosts: Sequence[str] = (),
        key: KeyKind = "rsa",
        days: float = 396,
        not_before: datetime | None = None,
        digest: Digest = "sha256",
        prefix: str = HOST_DN,
    ) -> Credential:
        """Issue a certificate for TLS servers and clients with the name ``PREFIX/CN=common_name``.

        ``hosts`` are the names and addresses of its subjectAltName (default: the common name). It
        is valid from ``not_before`` (default: an hour ago) for ``days``. Files are never replaced:
        a second one of a name is numbered.
        """
        private = _make_key(key)
        certificate = _sign(
            x509.Name([*parse_name(prefix), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]),
            private.public_key(),
            issuer=self._subject,
            by=self._key,
            days=days,
            not_before=not_before,
            digest=digest,
            alternatives=[_alternative(host) for host in hosts or (common_name,)],
        )
        stem = self._free_stem(common_name)
        credential = Credential(
            stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}.key")
        )
        _write_key(credential.key, private)
        credential.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        return credential

    def find(self, common_name: str) -> Credential | None:
        """Return the first credential that was issued for this name."""
        stem = self._stem(common_name)
        credential = Credential(
            stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}.key")
        )
        return (
            credential
            if credential.certificate.exists() and credential.certificate.stat().st_size
            else None
        )

    def revoke(self, credential: Credential) -> None:
        """Put a certificate on the next CRL that `publish` writes."""
        certificate = x509.load_pem_x509_certificate(credential.certificate.read_bytes())
        revoked = self._revoked() | {
            str(certificate.serial_number): datetime.now(UTC).isoformat(timespec="seconds")
        }
        _replace(self.directory / "revoked.json", json.dumps(revoked).encode())

    def publish(
        self,
        directory: Path,
        *,
        crl_days: float | None = 30,
        crl_issued: datetime | None = None,
        may_sign: Sequence[str] = ("/DC=EU/DC=EXAMPLE/*",),
    ) -> None:
        """Write or refresh this CA's files in a directory of trust anchors, each file in one step.

        ``crl_days`` is the time from ``crl_issued`` (default: an hour ago) to the CRL's next
        update; None writes no CRL and leaves one that is there. ``may_sign`` are the subjects of
        the signing policy; none at all, no policy.
        """
        directory.mkdir(parents=True, exist_ok=True)
        number = self._number_in(directory)
        _replace(directory / f"{self.hash}.{number}", self.certificate.read_bytes())
        if crl_days is not None:
            issued = crl_issued or datetime.now(UTC) - _CLOCK_SKEW
            crl = self._crl(issued=issued, following=issued + timedelta(days=crl_days))
            _replace(directory / f"{self.hash}.r{number}", crl.public_bytes(Encoding.PEM))
        if may_sign:
            _replace(
                directory / f"{self.hash}.signing_policy", self._signing_policy(may_sign).encode()
            )

    @property
    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    @property
    def _subject(self) -> x509.Name:
        return self._certificate.subject

    @property
    def _key(self) -> PrivateKey:
        key = serialization.load_pem_private_key(
            (self.directory / "ca.key").read_bytes(),
            password=None,
            unsafe_skip_rsa_key_validation=True,  # it takes 40 ms, longer than a signature
        )
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        return key

    def _revoked(self) -> dict[str, str]:
        return dict(json.loads((self.directory / "revoked.json").read_text()))

    def _crl(self, *, issued: datetime, following: datetime) -> x509.CertificateRevocationList:
        builder = x509.CertificateRevocationListBuilder(self._subject, issued, following)
        for serial, moment in self._revoked().items():
            entry = x509.RevokedCertificateBuilder(
                int(serial), datetime.fromisoformat(moment)
            ).build()
            builder = builder.add_revoked_certificate(entry)
        number = x509.CRLNumber(int(datetime.now(UTC).timestamp() * 1000))
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            self._certificate.public_key()  # type: ignore[arg-type]  # RSA or EC, as made here
        )
        return (
            builder.add_extension(number, critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _signing_policy(self, may_sign: Sequence[str]) -> str:
        subjects = " ".join(f'"{subject}"' for subject in may_sign)
        return (
            f"access_id_CA  X509    '{slash_form(self._subject)}'\n"
            f"pos_rights    globus  CA:sign\n"
            f"cond_subjects globus  '{subjects}'\n"
        )

    def _number_in(self, directory: Path) -> int:
        """Return the N of ``HASH.N``: other CAs may have a subject of the same hash."""
        number = 0
        while (file := directory / f"{self.hash}.{number}").exists():
            if file.read_bytes() == self.certificate.read_bytes():
                break
            number += 1
        return number

    def _stem(self, common_name: str, number: int = 1) -> Path:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", common_name)
        return self.directory / "issued" / (name if number == 1 else f"{name}-{number}")

    def _free_stem(self, common_name: str) -> Path:
        number = 1
        while True:
            stem = self._stem(common_name, number)
            try:
                os.close(os.open(stem.with_name(f"{stem.name}.pem"), os.O_CREAT | os.O_EXCL, 0o644))
            except FileExistsError:
                number += 1
            else:
                return stem


def parse_name(slash_form: str) -> x509.Name:
    """Read a DN in slash form, without slashes inside of values."""
    pairs = (part.split("=", 1) for part in slash_form.strip("/").split("/"))
    return x509.Name([x509.NameAttribute(_OIDS[kind], value) for kind, value in pairs])


def slash_form(name: x509.Name) -> str:
    """Write a DN as grid files have it: ``/DC=EU/…/CN=…``."""
    return "".join(f"/{_TYPES[part.oid]}={part.value!s}" for part in name)


_shared: Iterator[rsa.RSAPrivateKey] | None = None


def share_rsa_keys(count: int, directory: Path) -> None:
    """Take turns with ``count`` RSA keys in this process: making one takes a tenth of a second.

    They are kept in ``directory`` for other processes. Any ``count`` keys that are made one after
    the other still differ.
    """
    global _shared  # noqa: PLW0603  # of the process, like the keys
    directory.mkdir(parents=True, exist_ok=True)
    _shared = itertools.cycle(_kept_rsa_key(directory / f"{n}.der") for n in range(count))


def _kept_rsa_key(path: Path) -> rsa.RSAPrivateKey:
    """Return the key of a file, which the first process makes that asks for it."""
    if not path.exists():
        made = _make_rsa_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(made)
        os.replace(temporary, path)
    key = serialization.load_der_private_key(
        path.read_bytes(), password=None, unsafe_skip_rsa_key_validation=True
    )
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _make_key(kind: KeyKind) -> PrivateKey:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return next(_shared) if _shared else _make_rsa_key()


def _make_rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _write_key(path: Path, key: PrivateKey) -> None:
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        file.write(data)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _sign(
    subject: x509.Name,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    by: PrivateKey,
    days: float,
    not_before: datetime | None = None,
    digest: Digest = "sha256",
    alternatives: Sequence[x509.GeneralName] = (),
    is_ca: bool = False,
) -> x509.Certificate:
    begin = not_before or datetime.now(UTC) - _CLOCK_SKEW
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False
        )
    )
    if not is_ca:
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(by, _DIGESTS[digest])


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=not is_ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
