"""The authorities that a TLS handshake with an endpoint shows.

They are for information only, so each is empty if it cannot be known: without TLS, and without
verification, because anybody could claim a name then.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from datetime import timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from appliance.core import hosts, proxy
from appliance.core.run.errors import Unavailable
from cloud_info_provider.facts import ServerCertificate

if TYPE_CHECKING:
    from OpenSSL import SSL

logger = logging.getLogger(__name__)

_BLOCK = 65536
# OpenSSL's long names of attributes, as Python shows them, with the short names of slash form.
_SHORT = {
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "commonName": "CN",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
}


class _Shown(NamedTuple):
    """A verified certificate."""

    issuer: str
    encoded: bytes


def issuer(url: str, *, verify: bool | str, timeout: timedelta) -> str:
    """Return the issuer of the certificate in slash form, ``/C=NL/O=GEANT/CN=…``.

    ``verify`` is as in `appliance.core.cloud.login.Access`. The issuer is empty after a failed
    handshake, too, which is a warning.
    """
    try:
        found = _verified(url, verify=verify, timeout=timeout)
    except Unavailable as error:
        logger.warning("%s", error)
        return ""
    return found.issuer if found else ""


def read(url: str, *, verify: bool | str, timeout: timedelta) -> ServerCertificate:
    """Return the issuer, and the authorities that the endpoint names to clients.

    Python shows no such list, and pyOpenSSL verifies no host names. So the list of a second
    handshake counts only if the certificate is the verified one.

    Raises:
        Unavailable: the handshake fails, so nothing is known now.

    """
    found = _verified(url, verify=verify, timeout=timeout)
    if found is None:
        return ServerCertificate()
    from OpenSSL import SSL  # noqa: PLC0415  start-up is a cost

    authorities: tuple[str, ...] = ()
    try:
        authorities = _client_authorities(url, found.encoded, timeout)
    except (OSError, SSL.Error, HTTPException) as error:
        logger.debug("%s: no list of client authorities: %r", hosts.of_url(url), error)
    return ServerCertificate(found.issuer, authorities)


def _verified(url: str, *, verify: bool | str, timeout: timedelta) -> _Shown | None:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or verify is False:
        return None
    try:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
        connection = proxy.https_connection(
            parts.hostname, parts.port or 443, timeout=timeout.total_seconds(), tls=context
        )
        with contextlib.closing(connection):
            connection.connect()
            shown = cast("ssl.SSLSocket", connection.sock)
            encoded = shown.getpeercert(binary_form=True) or b""
            certificate = cast("dict[str, Any]", shown.getpeercert() or {})
    except (OSError, ValueError, HTTPException) as error:
        words = f"cannot read the issuer of its certificate: {error}"
        raise Unavailable(hosts.of_url(url), words) from error
    named = certificate.get("issuer", ())
    text = "".join(f"/{_SHORT.get(kind, kind)}={value}" for rdn in named for kind, value in rdn)
    return _Shown(text, encoded)


def _client_authorities(url: str, encoded: bytes, timeout: timedelta) -> tuple[str, ...]:
    """Return the names in the server's request for a certificate; none if it has another one."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415
    from OpenSSL import SSL  # noqa: PLC0415  start-up is a cost

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    # From TLS 1.3 on, servers ask for a certificate after the handshake.
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    host = urlsplit(url).hostname or ""
    connection.set_tlsext_host_name(host.encode("idna"))
    _shake_hands(connection, host, urlsplit(url).port or 443, timeout)
    shown = connection.get_peer_certificate(as_cryptography=True)
    if shown is None or shown.public_bytes(Encoding.DER) != encoded:
        return ()
    names = (name.get_components() for name in connection.get_client_ca_list())
    return tuple(
        "".join(f"/{_text(kind)}={_text(value)}" for kind, value in parts) for parts in names
    )


def _shake_hands(connection: SSL.Connection, host: str, port: int, timeout: timedelta) -> None:
    """Complete a handshake; pyOpenSSL itself takes no timeout."""
    from OpenSSL import SSL  # noqa: PLC0415  start-up is a cost

    with contextlib.closing(proxy.tunnel(host, port, timeout=timeout.total_seconds())) as plain:
        while True:
            try:
                connection.do_handshake()
            except SSL.WantReadError:
                with contextlib.suppress(SSL.WantReadError):
                    plain.sendall(connection.bio_read(_BLOCK))
                received = plain.recv(_BLOCK)
                if not received:
                    raise ConnectionResetError("closed during the handshake") from None
                connection.bio_write(received)
            else:
                return


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
