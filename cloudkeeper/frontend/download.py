"""Downloads over HTTP from servers that need not be friendly: verified, bounded in size and in time.

Server certificates are checked against the system's authorities and those of the CA directory,
which also judges the chains that end at its own: CRLs, signing policies, strength of keys.
Redirects are followed by hand: at most five, never from https to http, and credentials go to the
host they are meant for only. Connection failures and answers that ask for deadline (429, 5xx) are
tried again, with growing pauses.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from appliance.core import proxy, retry
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Untrusted
from appliance.core.trust.tls import PeerRefused, PeerTrust
from appliance.core.version import __version__
from cloudkeeper.frontend import deadline
from cloudkeeper.frontend.deadline import Deadline

BLOCK = 2**20
"""Bytes that are read at a time."""
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DENIED = frozenset({401, 403})
_PATIENCE = frozenset({429, 500, 502, 503, 504})
_OK = 200
_LONGEST_PAUSE = 5.0
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one download: ``total`` for all of it, attempts included, the others for single waits."""

    connect: timedelta = timedelta(seconds=20)
    read: timedelta = timedelta(seconds=60)
    total: timedelta = timedelta(minutes=5)


class Transient(Unavailable):
    """A failure that may be gone a moment later."""


class Downloader:
    """Fetches with the trust of one CA directory. ``attempts`` is how often an answer is asked for."""

    def __init__(self, trust: CADirectory, *, attempts: int = 3) -> None:
        proxy.check()
        self._attempts = attempts
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"egi-fedcloud-appliance/{__version__}"
        # a checksum is over the file, and sizes mean its bytes
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.mount("http://", _Adapter())
        self._session.mount(
            "https://", _TrustingAdapter(PeerTrust(trust, with_system=True).context())
        )

    def fetch(
        self,
        url: str,
        *,
        name: str,
        max_bytes: int,
        user: str = "",
        password: str = "",
        timeouts: Timeouts = Timeouts(),
    ) -> bytes:
        """Return the whole content of ``url``; ``name`` stands for it in messages.

        :raises Unavailable: it cannot be had, in time or at all, or is larger than ``max_bytes``
        :raises AccessDenied: the server wants other credentials
        :raises Untrusted: the server's certificate is not trusted
        """
        content = bytearray()
        with self.stream(url, name=name, user=user, password=password, timeouts=timeouts) as (
            _,
            blocks,
        ):
            for block in blocks:
                content += block
                if len(content) > max_bytes:
                    raise Unavailable(
                        name, f"is larger than {max_bytes} bytes, which no image list is"
                    )
        return bytes(content)

    @contextlib.contextmanager
    def stream(
        self,
        url: str,
        *,
        name: str,
        user: str = "",
        password: str = "",
        timeouts: Timeouts = Timeouts(),
    ) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """Open ``url``: gives its size, if the server tells it, and its content in blocks.

        :raises Unavailable: also from within the blocks
        """
        auth = (user, password) if user or password else None
        with deadline.limit(timeouts.total) as watch:
            try:
                response = retry.call(
                    lambda: self._open(url, name=name, auth=auth, timeouts=timeouts),
                    on=Transient,
                    attempts=self._attempts,
                    longest=_LONGEST_PAUSE,
                    decide=lambda _, pause: None if watch.is_over else pause,
                )
            except ApplianceError as error:
                if watch.is_over:
                    raise Unavailable(
                        name, "is too slow: no answer came within the time for all of it"
                    ) from error
                raise
            with response:
                length = response.headers.get("Content-Length", "")
                size = int(length) if length.isascii() and length.isdigit() else None
                yield size, _blocks(response, name=name, size=size, watch=watch)

    def _open(
        self, url: str, *, name: str, auth: tuple[str, str] | None, timeouts: Timeouts
    ) -> requests.Response:
        start = place = urlsplit(url)
        for _ in range(_MAX_REDIRECTS + 1):
            if start.scheme == "https" and place.scheme != "https":
                raise Unavailable(name, f"the server redirects to {place.scheme}, away from https")
            if place.scheme not in {"http", "https"}:
                raise Unavailable(name, f"the server redirects to {place.scheme}")
            is_home = (place.scheme, place.netloc) == (start.scheme, start.netloc)
            response = self._get(url, name=name, auth=auth if is_home else None, timeouts=timeouts)
            if response.status_code not in _REDIRECTS:
                return _checked(response, name)
            response.close()
            try:
                url = urljoin(url, response.headers.get("Location", ""))
                place = urlsplit(url)
            except ValueError:
                raise Unavailable(
                    name, "the server redirects to something that is no URL"
                ) from None
        raise Unavailable(name, f"the server redirects more than {_MAX_REDIRECTS} times")

    def _get(
        self, url: str, *, name: str, auth: tuple[str, str] | None, timeouts: Timeouts
    ) -> requests.Response:
        try:
            return self._session.get(
                url,
                auth=auth or _anonymous,
                stream=True,
                allow_redirects=False,
                timeout=(timeouts.connect.total_seconds(), timeouts.read.total_seconds()),
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise _translated(error, url, name) from error


class _Adapter(HTTPAdapter):
    """Makes connections that can be watched."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = deadline.POOLS

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = deadline.POOLS
        return manager


class _TrustingAdapter(_Adapter):
    """Gives all connections one TLS context, whose authorities are chosen by us."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        return super().proxy_manager_for(*arguments, ssl_context=self._context, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Add a bundle that the environment names, and not the one that comes with requests."""
        if isinstance(verify, str):
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials, not even those that a .netrc file has for the host."""
    return request


def _checked(response: requests.Response, name: str) -> requests.Response:
    status = response.status_code
    if status == _OK:
        return response
    response.close()
    told = f"the server answers {status} {(response.reason or '')[:80]}".rstrip()
    if status in _DENIED:
        raise AccessDenied(name, told, "check the access token in its URL")
    raise (Transient if status in _PATIENCE else Unavailable)(name, told)


def _blocks(
    response: requests.Response, *, name: str, size: int | None, watch: Deadline
) -> Iterator[bytes]:
    received = 0

    def too_slow() -> Unavailable:
        return Unavailable(
            name, f"is too slow: {received} bytes came within the time for all of it"
        )

    try:
        while block := response.raw.read(BLOCK):
            received += len(block)
            if watch.is_over:
                raise too_slow()
            yield block
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if watch.is_over:
            raise too_slow() from error
        raise Unavailable(
            name, f"the connection broke after {received} bytes: {_cause(error)}"
        ) from error
    if watch.is_over:  # an end of the connection that we have made is no end of the content
        raise too_slow()
    if size is not None and received != size:
        raise Unavailable(name, f"the connection ended after {received} of {size} bytes")


def _translated(error: Exception, url: str, name: str) -> ApplianceError:
    if isinstance(error, requests.exceptions.ProxyError):
        cause, remedy = proxy.explain(url, error, _cause(error))
        return (Unavailable if proxy.is_refusal(error) else Transient)(
            name, f"cannot be reached: {cause}", remedy
        )
    if isinstance(error, requests.exceptions.SSLError):
        refused = _innermost(error)
        remedy = "install its CA, or ask its administrator"
        if isinstance(refused, PeerRefused):
            remedy = refused.remedy
        return Untrusted(name, f"the server's certificate is not trusted: {_cause(error)}", remedy)
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return Transient(name, f"cannot be reached: {_cause(error)}")
    return Unavailable(name, f"cannot be fetched: {_cause(error)}")


def _cause(error: BaseException) -> str:
    """Return the words of the innermost cause, without the addresses of objects that libraries put in."""
    inner = _innermost(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message.rstrip(".")
    if isinstance(inner, TimeoutError | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return type(inner).__name__


def _innermost(error: BaseException) -> BaseException:
    while not isinstance(error, PeerRefused) and isinstance(
        following := _reason(error), BaseException
    ):
        error = following
    return error


def _reason(error: BaseException) -> object:
    """Return what an exception says it was caused by."""
    reason = getattr(error, "reason", None) or error.__cause__ or error.__context__
    return reason if isinstance(reason, BaseException) else next(iter(error.args), None)
