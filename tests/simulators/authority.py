"""A certificate authority in memory for weak keys, foreign lists and forged names.

`tests.testbed.pki` is the well-behaved one, in files.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL.crypto import X509

from tests.testbed.pki import slash_form

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)

_OIDS = {
    "DC": NameOID.DOMAIN_COMPONENT,
    "C": NameOID.COUNTRY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "UID": NameOID.USER_ID,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
HOST_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""What certificates of grid hosts are for."""
_SERIALS = itertools.count(1000)


@functools.cache
def rsa_key(label: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key per label and run: making them is what takes time."""
    assert label
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ec_key(label: str) -> ec.EllipticCurvePrivateKey:
    assert label
    return ec.generate_private_key(ec.SECP256R1())


def name(slash_form: str) -> x509.Name:
    """Read ``/DC=ORG/CN=x``, without slashes inside of values."""
    pairs = (part.split("=", 1) for part in slash_form.strip("/").split("/"))
    return x509.Name([x509.NameAttribute(_OIDS[kind], value) for kind, value in pairs])


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, and files of both for the openssl program."""

    certificate: x509.Certificate
    key: PrivateKey

    def write(self, directory: Path) -> tuple[Path, Path]:
        stem = self.certificate.fingerprint(hashes.SHA256()).hex()[:16]
        certificate, key = directory / f"{stem}.pem", directory / f"{stem}.key"
        directory.mkdir(exist_ok=True)
        certificate.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        key.write_bytes(private_pem(self.key))
        return certificate, key


@dataclass
class Authority:
    pair: Pair
    revoked: list[int] = field(default_factory=list)

    @classmethod
    def root(
        cls, subject: str = "/DC=ORG/DC=TEST-GRID/CN=Test Root", *, key: PrivateKey | None = None
    ) -> Authority:
        key = key or ec_key(subject)
        return cls(
            Pair(
                _certificate(
                    name(subject), key.public_key(), issuer=name(subject), signing_key=key, ca=True
                ),
                key,
            )
        )

    def sub(
        self, subject: str = "/DC=ORG/DC=TEST-GRID/CN=Test Issuing", **options: object
    ) -> Authority:
        return Authority(self.issue(subject, ca=True, key=ec_key(subject), **options))  # type: ignore[arg-type]

    def issue(
        self,
        subject: str | x509.Name,
        *,
        key: PrivateKey | None = None,
        ca: bool = False,
        starts: datetime = NOW - DAY,
        ends: datetime = NOW + 30 * DAY,
        serial: int | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
        purposes: Sequence[x509.ObjectIdentifier] = HOST_PURPOSES,
    ) -> Pair:
        key = key or rsa_key("host")
        certificate = _certificate(
            name(subject) if isinstance(subject, str) else subject,
            key.public_key(),
            issuer=self.pair.certificate.subject,
            signing_key=self.pair.key,
            ca=ca,
            starts=starts,
            ends=ends,
            serial=serial,
            extensions=extensions,
            purposes=() if ca else purposes,
        )
        return Pair(certificate, key)

    def issue_with(self, digest: str, subject: str, *, directory: Path) -> Pair:
        """Issue a certificate signed over a digest that cryptography refuses to sign with."""
        key = rsa_key("host")
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(name(subject))
            .sign(key, hashes.SHA256())
        )
        authority, signing_key = map(str, self.pair.write(directory))
        command = [
            "openssl",
            "x509",
            "-req",
            "-CA",
            authority,
            "-CAkey",
            signing_key,
            f"-{digest}",
            "-days",
            "30",
        ]
        pem = subprocess.run(
            [*command, "-set_serial", str(next(_SERIALS))],
            input=request.public_bytes(Encoding.PEM),
            capture_output=True,
            check=True,
        ).stdout
        return Pair(x509.load_pem_x509_certificate(pem), key)

    def revoke(self, pair: Pair) -> None:
        self.revoked.append(pair.certificate.serial_number)

    def crl(
        self,
        *,
        last: datetime = NOW - DAY,
        following: datetime = NOW + 7 * DAY,
        key: PrivateKey | None = None,
        extension: x509.ExtensionType | None = None,
        number: int | None = None,
        entries: Sequence[x509.RevokedCertificate] = (),
    ) -> x509.CertificateRevocationList:
        builder = x509.CertificateRevocationListBuilder(
            self.pair.certificate.subject, last, following
        )
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder(serial, last).build()
            builder = builder.add_revoked_certificate(entry)
        for entry in entries:
            builder = builder.add_revoked_certificate(entry)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            (key or self.pair.key).public_key()
        )
        builder = builder.add_extension(signer, critical=False)
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        if extension is not None:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(key or self.pair.key, hashes.SHA256())

    @functools.cached_property
    def hash(self) -> str:
        """Return OpenSSL's name of the CA's files."""
        return f"{X509.from_cryptography(self.pair.certificate).subject_name_hash():08x}"

    def publish(
        self,
        directory: Path,
        *,
        crl: x509.CertificateRevocationList | None = None,
        policy: str | None = "/*",
        number: int = 0,
    ) -> None:
        """Write certificate, the CRL if one is given, and a policy that lets it sign ``policy``."""
        directory.mkdir(exist_ok=True)
        (directory / f"{self.hash}.{number}").write_bytes(
            self.pair.certificate.public_bytes(Encoding.PEM)
        )
        if crl is not None:
            (directory / f"{self.hash}.r{number}").write_bytes(crl.public_bytes(Encoding.PEM))
        if policy is not None:
            subject = slash_form(self.pair.certificate.subject)
            (directory / f"{self.hash}.signing_policy").write_text(
                f"access_id_CA X509 '{subject}'\npos_rights globus CA:sign\n"
                f"cond_subjects globus '\"{policy}\"'\n"
            )


def entry(
    pair: Pair, *, reason: x509.ReasonFlags | None = None, issuer: x509.Name | None = None
) -> x509.RevokedCertificate:
    """Return an entry of a CRL; ``issuer`` is the certificate's in an indirect CRL."""
    builder = x509.RevokedCertificateBuilder(pair.certificate.serial_number, NOW - 2 * DAY)
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    if issuer is not None:
        names = x509.CertificateIssuer([x509.DirectoryName(issuer)])
        builder = builder.add_extension(names, critical=True)
    return builder.build()


def lists_signed_by(issuer: x509.Name) -> x509.CRLDistributionPoints:
    """The extension of a certificate that names another issuer of its lists."""
    names = [x509.DirectoryName(issuer)]
    where = x509.UniformResourceIdentifier("http://crl.example.org/list.crl")
    return x509.CRLDistributionPoints([x509.DistributionPoint([where], None, None, names)])


def identifiers(key: PrivateKey, issuer: PrivateKey) -> list[x509.ExtensionType]:
    """Certificates of one name need them, or OpenSSL cannot know them apart."""
    return [
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),
    ]


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def serial_zero(subject: str, serial: int = 0) -> Pair:
    """Return a self-signed CA with a serial number that cryptography refuses to write."""
    key = ec_key(subject)
    command = [
        "openssl",
        "req",
        "-x509",
        "-new",
        "-key",
        "/dev/stdin",
        "-subj",
        subject,
        "-set_serial",
        str(serial),
    ]
    pem = subprocess.run(
        [*command, "-days", "9"], input=private_pem(key), capture_output=True, check=True
    ).stdout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Pair(x509.load_pem_x509_certificate(pem), key)


def _certificate(
    subject: x509.Name,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    signing_key: PrivateKey,
    ca: bool,
    starts: datetime = NOW - DAY,
    ends: datetime = NOW + 365 * DAY,
    serial: int | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
    purposes: Sequence[x509.ObjectIdentifier] = (),
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial or next(_SERIALS))
        .not_valid_before(starts)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing_key, hashes.SHA256())


def sign(
    text: bytes,
    pair: Pair,
    *options: str,
    directory: Path,
    more: tuple[x509.Certificate, ...] = (),
    eol: bytes = b"\n",
) -> bytes:
    """Let openssl sign ``text`` with SSM's options; return it with the line ends ``eol``."""
    certificate, key = pair.write(directory)
    command = [
        "openssl",
        "smime",
        "-sign",
        "-inkey",
        str(key),
        "-signer",
        str(certificate),
        *options,
    ]
    if more:
        bag = directory / "bag.pem"
        bag.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in more))
        command += ["-certfile", str(bag)]
    signed = subprocess.run(command, input=text, capture_output=True, check=True).stdout
    return signed if "DER" in options else signed.replace(b"\r\n", b"\n").replace(b"\n", eol)
