"""Mutual TLS on the backend's TCP port.

A frontend must hold a certificate of the configured authority that is issued for one name. Usually
that authority is the installation's own, which also signs the backend's certificate; therefore the
authority alone does not distinguish the frontend from other holders of its certificates.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any

import grpc

from appliance.core.run.errors import LocalFailure
from cloudkeeper.backend.endpoint import MutualTLS

logger = logging.getLogger(__name__)

_REMEDY = "renew the files with: appliance certificates"


def credentials(tls: MutualTLS) -> grpc.ServerCredentials:
    """Return credentials that use renewed files from the next connection on, without a restart.

    Raises:
        LocalFailure: a file cannot be read, or certificate and key do not belong together.

    """
    last = _read(tls)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        try:
            found = _read(tls)
        except LocalFailure as error:
            # Usually the files are being replaced; the next connection reads them again.
            logger.warning("%s", error)
            return None
        if found == last:
            return None
        last = found
        return _configuration(found)

    fetch: Any = renewed  # None means "no change" to gRPC, which its type stubs do not allow
    return grpc.dynamic_ssl_server_credentials(
        _configuration(last), fetch, require_client_authentication=True
    )


def _read(tls: MutualTLS) -> tuple[bytes, bytes, bytes]:
    """Return key, certificate and authority, checked: gRPC accepts any bytes and fails later."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.frontend_authority)
        return (
            tls.key.read_bytes(),
            tls.certificate.read_bytes(),
            tls.frontend_authority.read_bytes(),
        )
    except ssl.SSLError as error:
        files = f"with its key {tls.key} and authority {tls.frontend_authority}"
        raise LocalFailure(
            tls.certificate, f"cannot be used {files}: {error.reason}", _REMEDY
        ) from error
    except OSError as error:
        raise LocalFailure.from_os(error, subject=error.filename or tls.certificate) from error


def _configuration(read: tuple[bytes, bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    key, certificate, authority = read
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


class OnlyFrontend(grpc.ServerInterceptor):
    """Refuses every call over TLS whose caller's certificate is not issued for a name.

    Calls over the unix socket pass: the modes of its directory have admitted the caller.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        """Return the handler of a method with the check before it."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        # The protocol has no streams from the client, so there are two kinds of methods only.
        if handler.response_streaming:
            return handler._replace(unary_stream=self._checked(handler.unary_stream))
        return handler._replace(unary_unary=self._checked(handler.unary_unary))

    def _checked(self, method: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
        def check_first(request: Any, context: grpc.ServicerContext) -> Any:
            self._require_name(context)
            return method(request, context)

        return check_first

    def _require_name(self, context: grpc.ServicerContext) -> None:
        if context.peer().startswith("unix:"):
            return
        verified: Any = context.auth_context()  # lists of bytes by the name of the property
        # The common name counts only where there is no alternative name (RFC 6125, 6.4.4).
        names = (
            verified.get("x509_subject_alternative_name") or verified.get("x509_common_name") or ()
        )
        if self._name.encode() not in names:
            shown = ", ".join(name.decode(errors="replace") for name in names) or "no name"
            logger.warning(
                "%s: refused: its certificate is for %s, not %s", context.peer(), shown, self._name
            )
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, f"the certificate is not for {self._name}"
            )
