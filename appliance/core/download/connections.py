"""The connections of downloads: verified TLS, deadlines, and errors in our words.

Certificates of servers are verified against the authorities of the system and of the CA directory,
or against those of a context alone. Chains that end at a CA of the directory must also pass its
CRLs, signing policies and rules for keys.
"""

from __future__ import annotations

import ssl
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from appliance.core import causes, proxy
from appliance.core.download import deadline
from appliance.core.proxied_session import ProxiedSession
from appliance.core.run.errors import ApplianceError, Unavailable
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Untrusted
from appliance.core.trust.tls import PeerRefused, PeerTrust
from appliance.core.version import __version__

# Connections to a host that are kept, as many as there can be transfers; urllib3 warns beyond.
_CONNECTIONS = 16


class Transient(Unavailable):
    """A failure that a retry may overcome, not before ``after`` seconds."""

    def __init__(
        self, subject: object, cause: str, remedy: str = "", *, after: float = 0.0
    ) -> None:
        super().__init__(subject, cause, remedy)
        self.after = after


class Unreached(Transient):
    """No connection, or no answer on it."""


class UntrustedServer(Untrusted):
    """A server whose certificate is not trusted."""


def session(trust: CADirectory | ssl.SSLContext) -> requests.Session:
    """Return a session whose servers are verified and whose connections end at their deadline.

    A context knows the authorities of a host that has no CA directory.
    """
    made = ProxiedSession()
    made.headers["User-Agent"] = f"egi-fedcloud-appliance/{__version__}"
    # Checksum and size of an image are those of the file, not of a compressed answer.
    made.headers["Accept-Encoding"] = "identity"
    made.mount("http://", _Adapter(pool_maxsize=_CONNECTIONS))
    if isinstance(trust, CADirectory):
        trust = PeerTrust(trust, with_system=True).context()
    made.mount("https://", _TrustingAdapter(trust))
    return made


def anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials: without ``auth``, requests would look for some in a .netrc file."""
    return request


def translated(error: Exception, url: str, name: str) -> ApplianceError:
    """Return the failure of a request to ``url``; ``name`` stands for it in messages."""
    if isinstance(error, requests.exceptions.ProxyError):
        words, remedy = proxy.explain(url, error, cause(error))
        kind = Unavailable if proxy.is_refusal(error) else Transient
        return kind(name, f"cannot be reached: {words}", remedy)
    if isinstance(error, requests.exceptions.SSLError):
        refused = _innermost(error)
        remedy = "install its CA, or ask its administrator"
        if isinstance(refused, PeerRefused):
            remedy = refused.remedy
        return UntrustedServer(
            name, f"the server's certificate is not trusted: {cause(error)}", remedy
        )
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return Unreached(name, f"cannot be reached: {cause(error)}")
    return Unavailable(name, f"cannot be fetched: {cause(error)}")


def cause(error: BaseException) -> str:
    """Return the message of the innermost cause, without the object addresses of libraries."""
    inner = _innermost(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message.rstrip(".")
    if isinstance(inner, TimeoutError | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return causes.of_connection(inner)


class _Adapter(HTTPAdapter):
    """Makes connections that end at their deadline."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = deadline.POOLS

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = deadline.POOLS
        return manager


class _TrustingAdapter(_Adapter):
    """Gives all connections one TLS context, instead of the authorities of requests."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        return super().proxy_manager_for(*arguments, ssl_context=self._context, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Use a bundle that the environment names, but not the one that requests has built in."""
        if isinstance(verify, str):
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]


def _innermost(error: BaseException) -> BaseException:
    while not isinstance(error, PeerRefused) and isinstance(
        following := _reason(error), BaseException
    ):
        error = following
    return error


def _reason(error: BaseException) -> object:
    """Return the cause of an exception; requests and urllib3 keep it in different places."""
    reason = getattr(error, "reason", None) or error.__cause__ or error.__context__
    return reason if isinstance(reason, BaseException) else next(iter(error.args), None)
