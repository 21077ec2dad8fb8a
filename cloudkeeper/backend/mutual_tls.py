"""Mutual TLS on the backend's TCP port: a frontend must hold a certificate of the right authority and of one name.

The authority is the installation's own as a rule, and it signs the backend's certificate too: the
name is what tells a frontend from other holders of its certificates.
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
    """Return credentials that take up renewed files at the next connection, without a restart.

    :raises LocalFailure: a file cannot be read, or certificate and key are no pair
    """
    last = _read(tls)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        try:
            found = _read(tls)
        except LocalFailure as error:  # half-written as a rule: the next connection looks again
            logger.warning("%s", error)
            return None
        if found == last:
            return None
        last = found
        return _configuration(found)

    fetch: Any = renewed  # gRPC takes None for "as before", its type stubs do not know
    return grpc.dynamic_ssl_server_credentials(
        _configuration(last), fetch, require_client_authentication=True
    )


def _read(tls: MutualTLS) -> tuple[bytes, bytes, bytes]:
    """Return key, certificate and authority; they fit each other."""
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
        cause = f"no certificate with its key {tls.key} and authority {tls.frontend_authority}, in PEM: {error.reason}"
        raise LocalFailure(tls.certificate, cause, _REMEDY) from error
    except OSError as error:
        raise LocalFailure.from_os(error, subject=error.filename or tls.certificate) from error


def _configuration(read: tuple[bytes, bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    key, certificate, authority = read
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


class OnlyFrontend(grpc.ServerInterceptor):
    """Refuse each call over TLS whose caller does not prove the name; calls over the unix socket pass."""

    def __init__(self, name: str) -> None:
        self._name = name

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        """Return the method's handler with the check before it (the protocol has no client streams)."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
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
        proven: Any = context.auth_context()  # by name: lists of bytes
        names = proven.get("x509_subject_alternative_name") or proven.get("x509_common_name") or ()
        if self._name.encode() not in names:
            shown = ", ".join(name.decode(errors="replace") for name in names) or "no name"
            logger.warning(
                "%s: refused: its certificate is for %s, not %s", context.peer(), shown, self._name
            )
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, f"the certificate is not for {self._name}"
            )
