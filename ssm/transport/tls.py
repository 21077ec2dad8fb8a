"""TLS to a message broker or service: it is verified, and sees this host's certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from appliance.core.run.errors import LocalFailure


def tls_context(bundle: str, *, certificate: Path, key: Path, with_system: bool = False) -> ssl.SSLContext:
    """Return a context that verifies peer and host name against the CAs in ``bundle`` (PEM) and shows a certificate.

    ``with_system`` also believes the CAs that the operating system believes. ``key`` must not be encrypted;
    raises `LocalFailure` when OpenSSL refuses them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=bundle)
    if with_system:
        context.load_default_certs()
    try:
        context.load_cert_chain(certificate, key, password="")  # one that needs none ignores it; OpenSSL must not ask
    except ssl.SSLError as error:
        raise LocalFailure(certificate, f"cannot be used for TLS: {error.reason}", "renew the certificate") from None
    except OSError as error:
        raise LocalFailure.from_os(error, subject=certificate) from None
    return context
