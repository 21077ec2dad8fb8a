"""The issuer of an endpoint's certificate."""

from __future__ import annotations

import contextlib
import logging
import ssl
from datetime import timedelta
from http.client import HTTPException
from typing import cast
from urllib.parse import urlsplit

from appliance.core import hosts, proxy

logger = logging.getLogger(__name__)

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


def read(url: str, *, verify: bool | str, timeout: timedelta) -> str:
    """Return the name of the issuer in slash form, ``/C=NL/O=GEANT/CN=…``, read by a TLS handshake.

    ``verify`` is as in `appliance.core.cloud.login.Access`. The name is empty without TLS, without
    verification (anybody could claim a name then), and after a failed handshake: nothing depends on
    it.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or verify is False:
        return ""
    try:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
        connection = proxy.https_connection(
            parts.hostname, parts.port or 443, timeout=timeout.total_seconds(), tls=context
        )
        with contextlib.closing(connection):
            connection.connect()
            certificate = connection.sock.getpeercert() or {}
    except (OSError, ValueError, HTTPException) as error:
        name = hosts.of_url(url)
        logger.warning("%s: cannot read the issuer of its certificate: %s", name, error)
        return ""
    issuer = cast("tuple[tuple[tuple[str, str], ...], ...]", certificate.get("issuer", ()))
    return "".join(f"/{_SHORT.get(kind, kind)}={value}" for rdn in issuer for kind, value in rdn)
