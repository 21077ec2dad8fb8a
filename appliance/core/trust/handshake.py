"""The names that a server's TLS handshake shows: the issuer of its certificate, and client CAs.

They count only from a server that was verified, because anybody could claim a name otherwise.
Python shows no list of client authorities, and pyOpenSSL verifies no host names. So the list of a
second handshake counts only if the certificate is the verified one.

The second handshake is one of TLS 1.2 if the server speaks it: many servers ask there for a
certificate that they ask for after the handshake in TLS 1.3, which no client can provoke. A server
that asks later, for some paths only, is seen to ask for none.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from appliance.core import hosts, proxy
from appliance.core.run.errors import Unavailable

if TYPE_CHECKING:
    from OpenSSL import SSL

_BLOCK = 65536
_ASKED = b"read server certificate request"
"""Words of OpenSSL's state in which the server has asked for a certificate."""
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

Name = tuple[tuple[bytes, bytes], ...]
"""The attributes of a name: OpenSSL's short name and the value of each, in their order."""


@dataclass(frozen=True, slots=True)
class Request:
    """A server's request for a certificate of the client."""

    is_made: bool
    authorities: tuple[Name, ...]
    protocol: str
    """The version of TLS in which it was looked for, such as ``TLSv1.2``."""


class Shown(NamedTuple):
    """A verified certificate."""

    issuer: str
    """In slash form, ``/C=NL/O=GEANT/CN=…``."""
    encoded: bytes


def verified(url: str, *, verify: bool | str, timeout: timedelta) -> Shown | None:
    """Return the certificate of a server; None without TLS and without verification.

    ``verify`` is as in `appliance.core.cloud.login.Access`.

    Raises:
        Unavailable: the handshake fails, so nothing is known now.

    """
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
    return Shown(text, encoded)


def request(url: str, shown: Shown, timeout: timedelta) -> Request:
    """Return what the verified server asks its clients for.

    Raises:
        Unavailable: it does not complete a second handshake, or is another one now.

    """
    from OpenSSL import SSL  # noqa: PLC0415  start-up is a cost

    try:
        try:
            return _request(url, shown, SSL.TLS1_2_VERSION, timeout)
        except SSL.Error:
            return _request(url, shown, SSL.TLS1_3_VERSION, timeout)
    except (OSError, SSL.Error, HTTPException) as error:
        words = f"a second handshake, which shows its request for a certificate, fails: {error!r}"
        raise Unavailable(hosts.of_url(url), words) from error


def _request(url: str, shown: Shown, version: int, timeout: timedelta) -> Request:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415
    from OpenSSL import SSL  # noqa: PLC0415

    asked: list[bool] = []

    def note(connection: SSL.Connection, _where: int, _result: int) -> None:
        if _ASKED in connection.get_state_string():
            asked.append(True)

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version if version == SSL.TLS1_3_VERSION else 0)
    context.set_max_proto_version(version)
    context.set_info_callback(note)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    host = urlsplit(url).hostname or ""
    connection.set_tlsext_host_name(host.encode("idna"))
    _shake_hands(connection, host, urlsplit(url).port or 443, timeout)
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None or certificate.public_bytes(Encoding.DER) != shown.encoded:
        raise ConnectionAbortedError("another certificate than in the first handshake")
    names = tuple(tuple(name.get_components()) for name in connection.get_client_ca_list())
    return Request(bool(asked or names), names, connection.get_protocol_version_name())


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


def slash_form(name: Name) -> str:
    """Return a name in slash form."""
    return "".join(f"/{_text(kind)}={_text(value)}" for kind, value in name)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
