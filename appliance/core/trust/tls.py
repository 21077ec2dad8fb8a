"""TLS connections whose peers are verified by the CA directory, as signatures are.

OpenSSL checks chain, host name, purpose and validity during the handshake. It has no signing
policies, no minimum for keys, and cannot warn about a missing CRL. So the chain of each peer goes
to `CADirectory.verify_chain` right after the handshake, before any data are sent: the sockets of
these contexts neither read nor write until it has accepted the peer.

The rules of the directory do not apply to a peer whose chain ends only at a CA of the operating
system; a line reports that once for each host.
"""

from __future__ import annotations

import _ssl
import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from appliance.core import clock
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.errors import Malformed, NoAnchor, Untrusted
from appliance.core.trust.unreadable import UNREADABLE

if TYPE_CHECKING:
    _Connection = ssl.SSLSocket | ssl.SSLObject

logger = logging.getLogger(__name__)


class PeerRefused(ssl.SSLCertVerificationError):
    """The CA directory refuses a peer that OpenSSL accepted.

    An `OSError` like all that a handshake raises, so that libraries close the connection.
    ``verify_message`` has the cause, ``remedy`` the remedy.
    """

    def __init__(self, error: ApplianceError) -> None:
        super().__init__(1, error.cause)
        self.verify_message = error.cause
        self.reason = "CERTIFICATE_VERIFY_FAILED"
        self.remedy = error.remedy


def remedy(error: ssl.SSLCertVerificationError) -> str:
    """Return the remedy for a certificate that OpenSSL or the CA directory refused."""
    if isinstance(error, PeerRefused):
        return error.remedy
    return "check the host's name in the configuration, and capath"


class PeerTrust:
    """Makes TLS contexts whose peers ``directory`` verifies; safe for several threads.

    ``with_system`` also accepts peers with a chain to a CA of the operating system.
    """

    def __init__(self, directory: CADirectory, *, with_system: bool = False) -> None:
        self._directory = directory
        self._with_system = with_system
        self._log_once = log.Once(logger)

    def context(
        self, *, certificate: Path | None = None, key: Path | None = None
    ) -> ssl.SSLContext:
        """Return a context for clients, with the current CAs and CRLs of the directory.

        It presents ``certificate`` if there is one; its ``key`` must not be encrypted. If the
        directory can no longer be read, its last state stays in use, with a warning.

        Raises:
            LocalFailure: OpenSSL does not accept certificate and key.

        """
        try:
            self._directory.refresh()
        except LocalFailure as error:
            self._log_once(f"{error}; the CAs read before stay in use")
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.peer_trust = self
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # After a renegotiation the peer could have another certificate, which nobody verified.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_verify_locations(cadata=self._directory.tls_bundle())
        if self._with_system:
            context.load_default_certs()
        if certificate is not None:
            _load_certificate(context, certificate, key)
        return context

    def judge(self, connection: _Connection) -> None:
        """Verify the peer of a connection after its handshake.

        Raises:
            PeerRefused: the directory does not accept its chain.

        """
        host = connection.server_hostname or "the peer"
        try:
            certificate, *others = _presented(connection)
            chain = self._directory.verify_chain(certificate, untrusted=others, at=clock.now())
        except NoAnchor as error:
            if not self._with_system:
                raise PeerRefused(error) from error
            self._report_system_ca(host)
        except (Untrusted, Malformed) as error:
            raise PeerRefused(error) from error
        else:
            for warning in chain.warnings:
                self._log_once(f"{host}: {warning}")

    def _report_system_ca(self, host: str) -> None:
        crls = self._directory.crls
        level = logging.WARNING if crls is CRLPolicy.REQUIRE else logging.INFO
        self._log_once(
            f"{host}: its certificate is from a CA of the operating system, not of"
            f" {self._directory.path}: CRLs and signing policies of that directory do not apply"
            " to it",
            level,
        )


class _Context(ssl.SSLContext):
    """A context whose connections are verified by ``peer_trust``."""

    peer_trust: PeerTrust


class _Judged:
    """TLS that neither reads nor writes before its peer has been accepted.

    Without an explicit handshake, the first read or write makes it.
    """

    _is_accepted = False
    _sslobj: object

    def do_handshake(self, *block: bool) -> None:
        super().do_handshake(*block)  # type: ignore[misc]
        _trust_of(self).judge(self)  # type: ignore[arg-type]
        self._is_accepted = True

    def read(self, *arguments: Any) -> Any:
        self._require_acceptance()
        return super().read(*arguments)  # type: ignore[misc]

    def write(self, data: Any) -> int:
        self._require_acceptance()
        written: int = super().write(data)  # type: ignore[misc]
        return written

    def _require_acceptance(self) -> None:
        # A socket has no SSL object before it is connected; its own methods report that.
        if not self._is_accepted and self._sslobj is not None:
            self.do_handshake()


class _JudgedSocket(_Judged, ssl.SSLSocket):
    def send(self, data: Any, flags: int = 0) -> int:
        # SSLSocket writes to the SSL object here, without its own method `write`.
        self._require_acceptance()
        return super().send(data, flags)


class _JudgedObject(_Judged, ssl.SSLObject):
    """TLS without a socket: for TLS within TLS to a proxy, and for asyncio."""


_Context.sslsocket_class = _JudgedSocket
_Context.sslobject_class = _JudgedObject


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        # Without a password, OpenSSL would ask for it on the terminal if the key is encrypted.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        cause = f"cannot be used for TLS: {error.reason}"
        raise LocalFailure(certificate, cause, "renew the certificate") from None
    except OSError as error:
        raise LocalFailure.from_os(error, subject=certificate) from None


def _trust_of(connection: _Connection) -> PeerTrust:
    assert isinstance(connection.context, _Context)  # noqa: S101  these classes come from it alone
    return connection.context.peer_trust


def _presented(connection: _Connection) -> list[x509.Certificate]:
    """Return the certificates that the peer presented, its own first.

    A resumed session has the peer's own certificate, and may have lost the others.

    Raises:
        Malformed: a certificate cannot be read.

    """
    own = connection.getpeercert(binary_form=True)
    if own is None:
        raise Malformed("the peer", "presents no certificate")
    try:
        return [
            x509.load_der_x509_certificate(own),
            *(x509.load_der_x509_certificate(der) for der in _chain(connection) if der != own),
        ]
    except UNREADABLE:
        raise Malformed("the peer", "presents a certificate that cannot be read") from None


def _chain(connection: Any) -> list[bytes]:
    """Return the certificates that the peer sent; Python has a public method from 3.13 on."""
    if hasattr(connection, "get_unverified_chain"):
        return list(connection.get_unverified_chain() or ())
    presented = connection._sslobj.get_unverified_chain() or ()  # noqa: SLF001  the only way before
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in presented]
