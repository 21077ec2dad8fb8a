"""The authorities that a TLS handshake with an endpoint shows, which are published.

They are for information only, so each is empty if it cannot be known.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from appliance.core.run.errors import Unavailable
from appliance.core.trust import handshake
from cloud_info_provider.facts import ServerCertificate

logger = logging.getLogger(__name__)


def issuer(url: str, *, verify: bool | str, timeout: timedelta) -> str:
    """Return the issuer of the certificate in slash form, ``/C=NL/O=GEANT/CN=…``.

    ``verify`` is as in `appliance.core.cloud.login.Access`. The issuer is empty after a failed
    handshake, too, which is a warning.
    """
    try:
        found = handshake.verified(url, verify=verify, timeout=timeout)
    except Unavailable as error:
        logger.warning("%s", error)
        return ""
    return found.issuer if found else ""


def read(url: str, *, verify: bool | str, timeout: timedelta) -> ServerCertificate:
    """Return the issuer, and the authorities that the endpoint names to clients.

    Raises:
        Unavailable: the handshake fails, so nothing is known now.

    """
    found = handshake.verified(url, verify=verify, timeout=timeout)
    if found is None:
        return ServerCertificate()
    authorities: tuple[str, ...] = ()
    try:
        named = handshake.request(url, found, timeout).authorities
        authorities = tuple(map(handshake.slash_form, named))
    except Unavailable as error:
        logger.debug("no list of client authorities: %s", error)
    return ServerCertificate(found.issuer, authorities)
