"""Downloads over HTTP from servers that may be hostile: verified, and limited in size and time.

Certificates of servers are verified against the authorities of the system and of the CA directory.
Chains that end at a CA of the directory must also pass its CRLs, signing policies and rules for
keys. Redirects are followed here and not by requests: at most five, never from https to http, and
credentials are sent to the first host only. Connection failures and the answers 429 and 5xx are
retried with growing pauses.
"""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
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
from cloudkeeper.frontend.addresses import SCHEMES
from cloudkeeper.frontend.deadline import Deadline

BLOCK = 2**20
"""Bytes that are read at a time."""
_LENGTH = re.compile("[0-9]{1,18}")
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DENIED = frozenset({401, 403})
_RETRIED = frozenset({429, 500, 502, 503, 504})
_OK = 200
# Seconds between two attempts.
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of a download: ``total`` covers all attempts, the others single waits."""

    connect: timedelta = timedelta(seconds=20)
    read: timedelta = timedelta(seconds=60)
    total: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a server whose body is read block by block.

    ``size`` is in bytes, None when the server does not announce it.
    """

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    size: int | None
    blocks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Question:
    """A request: its URL, the ``name`` that stands for it in messages, and what goes with it.

    ``authorization`` is the value of the header of this name; no other host gets it.
    ``expected`` are the statuses that the caller handles, every other one is an error.
    """

    url: str
    name: str
    authorization: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    expected: frozenset[int] = frozenset({_OK})


class Transient(Unavailable):
    """A failure that a retry may overcome."""


class Downloader:
    """Downloads with the trust anchors of one CA directory, in up to ``attempts`` attempts."""

    def __init__(self, trust: CADirectory, *, attempts: int = 3) -> None:
        proxy.check()
        self._attempts = attempts
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"egi-fedcloud-appliance/{__version__}"
        # Checksum and size of an image are those of the file, not of a compressed answer.
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
        """Return the content of ``url``; messages call it ``name``, because a URL may hold a token.

        Raises:
            Unavailable: it cannot be fetched, takes too long, or is larger than ``max_bytes``.
            AccessDenied: the server rejects the credentials.
            Untrusted: the server's certificate is not trusted.

        """
        content = bytearray()
        credentials = {"user": user, "password": password}
        with self.stream(url, name=name, timeouts=timeouts, **credentials) as (_, blocks):
            for block in blocks:
                content += block
                if len(content) > max_bytes:
                    raise Unavailable(
                        name, f"is larger than {max_bytes} bytes, the limit for an image list"
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
        """Open ``url``; yield its size, if the server sends it, and an iterator over its blocks.

        Raises:
            Unavailable: it cannot be fetched; the iterator over the blocks raises it, too.
            AccessDenied: the server rejects the credentials.
            Untrusted: the server's certificate is not trusted.

        """
        secret = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        authorization = f"Basic {secret}" if user or password else ""
        with self.ask(Question(url, name, authorization), timeouts=timeouts) as answer:
            yield answer.size, answer.blocks

    @contextlib.contextmanager
    def ask(self, question: Question, *, timeouts: Timeouts = Timeouts()) -> Iterator[Answer]:
        """Send a request and yield the answer, which ends with the block.

        Raises:
            Unavailable: the server cannot be reached or its answer is not one of those expected;
                also from within the blocks.
            AccessDenied: the server rejects the credentials.
            Untrusted: the server's certificate is not trusted.

        """
        name = question.name
        with deadline.limit(timeouts.total) as limit:
            try:
                response = retry.call(
                    lambda: self._open(question, timeouts=timeouts),
                    on=Transient,
                    attempts=self._attempts,
                    longest=_LONGEST_PAUSE,
                    decide=lambda _, pause: None if limit.is_over else pause,
                )
            except ApplianceError as error:
                if limit.is_over:  # the error is that of the shut connection
                    seconds = int(timeouts.total.total_seconds())
                    raise Unavailable(
                        name, f"is too slow: the server sent no answer within {seconds} s"
                    ) from error
                raise
            with response:
                length = response.headers.get("Content-Length", "")
                size = int(length) if _LENGTH.fullmatch(length) else None
                blocks = _blocks(response, name=name, size=size, limit=limit)
                yield Answer(response.status_code, response.headers, size, blocks)

    def _open(self, question: Question, *, timeouts: Timeouts) -> requests.Response:
        url, name = question.url, question.name
        start = place = urlsplit(url)
        for _ in range(_MAX_REDIRECTS + 1):
            if start.scheme == "https" and place.scheme != "https":
                raise Unavailable(name, f"the server redirects from https to {place.scheme}")
            if place.scheme not in SCHEMES:
                raise Unavailable(name, f"the server redirects to {place.scheme}")
            is_home = (place.scheme, place.netloc) == (start.scheme, start.netloc)
            response = self._get(url, question, is_home=is_home, timeouts=timeouts)
            if response.status_code not in _REDIRECTS:
                return _checked(response, question)
            response.close()
            try:
                url = urljoin(url, response.headers.get("Location", ""))
                place = urlsplit(url)
            except ValueError:
                raise Unavailable(name, "the server redirects to an invalid URL") from None
        raise Unavailable(name, f"the server redirects more than {_MAX_REDIRECTS} times")

    def _get(
        self, url: str, question: Question, *, is_home: bool, timeouts: Timeouts
    ) -> requests.Response:
        headers = dict(question.headers)
        if question.authorization and is_home:
            headers["Authorization"] = question.authorization
        try:
            return self._session.get(
                url,
                headers=headers,
                auth=_anonymous,
                stream=True,
                allow_redirects=False,
                timeout=(timeouts.connect.total_seconds(), timeouts.read.total_seconds()),
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise _translated(error, url, question.name) from error


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
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        return super().proxy_manager_for(*arguments, ssl_context=self._context, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Use a bundle that the environment names, but not the one that requests has built in."""
        if isinstance(verify, str):
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials: without ``auth``, requests would look for some in a .netrc file."""
    return request


def _checked(response: requests.Response, question: Question) -> requests.Response:
    status, name = response.status_code, question.name
    if status in question.expected:
        return response
    response.close()
    answer = f"the server answers {status} {(response.reason or '')[:80]}".rstrip()
    if status in _DENIED:
        raise AccessDenied(name, answer, "check the access token in its URL")
    raise (Transient if status in _RETRIED else Unavailable)(name, answer)


def _blocks(
    response: requests.Response, *, name: str, size: int | None, limit: Deadline
) -> Iterator[bytes]:
    received = 0

    def too_slow() -> Unavailable:
        return Unavailable(name, f"is too slow: only {received} bytes arrived in time")

    try:
        while block := response.raw.read(BLOCK):
            received += len(block)
            if limit.is_over:
                raise too_slow()
            yield block
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if limit.is_over:
            raise too_slow() from error
        raise Unavailable(
            name, f"the connection broke after {received} bytes: {_cause(error)}"
        ) from error
    if limit.is_over:  # the deadline has closed the connection, not the server
        raise too_slow()
    if size is not None and received != size:
        raise Unavailable(name, f"the connection ended after {received} of {size} bytes")


def _translated(error: Exception, url: str, name: str) -> ApplianceError:
    if isinstance(error, requests.exceptions.ProxyError):
        cause, remedy = proxy.explain(url, error, _cause(error))
        kind = Unavailable if proxy.is_refusal(error) else Transient
        return kind(name, f"cannot be reached: {cause}", remedy)
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
    """Return the message of the innermost cause, without the object addresses of libraries."""
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
    """Return the cause of an exception; requests and urllib3 keep it in different places."""
    reason = getattr(error, "reason", None) or error.__cause__ or error.__context__
    return reason if isinstance(reason, BaseException) else next(iter(error.args), None)
