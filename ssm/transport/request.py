"""Requests to one service over one kept HTTPS connection, each with a deadline.

`http.client` speaks the protocol. It follows no redirection, which is wanted here: a redirection
would carry the token elsewhere. It limits neither time nor size of an answer, which is added here.
Each failure is a line with subject, cause and remedy.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from appliance.core import hosts, proxy
from appliance.core.run.errors import Unavailable
from appliance.core.trust.tls import remedy
from appliance.core.version import __version__

CONNECT_TIMEOUT = timedelta(seconds=10)
REQUEST_TIMEOUT = timedelta(seconds=60)
"""From the first byte of a request to the last of its answer."""

CLOSED = "closes the connection without an answer"
LASTS = "if it lasts, ask the service's operators"
LOOK = "check [broker] host, and any proxy in front of it"

_MAX_DETAIL = 200
_MAX_READ_FOR_DETAIL = 64 * 1024
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


class Interrupted(Unavailable):
    """The service could not be reached, or did not answer; a retry may help."""

    def __init__(self, subject: object, cause: str, remedy: str = "", *, status: int = 0) -> None:
        super().__init__(subject, cause, remedy)
        self.http_status = status
        """The status of the answer; 0 without one."""


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """An answer; ``location`` is the site of a redirection, ``secret`` is kept out of `detail`."""

    status: int
    reason: str
    location: str
    body: bytes
    secret: str

    @property
    def detail(self) -> str:
        """Return the service's explanation: of its JSON error, else of the page, as one line.

        It is printable, at most `_MAX_DETAIL` characters long, and without the secret.
        """
        text = self.body[:_MAX_READ_FOR_DETAIL].decode("utf-8", "replace")
        try:
            text = str(json.loads(text)["error"]["message"])
        except (ValueError, TypeError, KeyError, RecursionError):
            title = _TITLE.search(text)
            text = _TAG.sub(" ", title[1] if title else text)
        if self.secret:
            text = text.replace(self.secret, "…")
        words = (
            " ".join("".join(c if c.isprintable() else " " for c in text).split()) or self.reason
        )
        return words if len(words) <= _MAX_DETAIL else f"{words[:_MAX_DETAIL]}…"


class KeptConnection:
    """A connection kept between requests, and opened again when the service has closed it."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext,
        answer_time: timedelta | None = None,
    ) -> None:
        self._address = hosts.join_port(host, port)
        self._answer_seconds = (answer_time or REQUEST_TIMEOUT).total_seconds()
        self._is_interrupted = False
        seconds = CONNECT_TIMEOUT.total_seconds()
        self._http = proxy.https_connection(host, port, timeout=seconds, tls=tls)
        self._is_direct = proxy.find(f"https://{self._address}") is None

    def open(self) -> None:
        """Connect; raise `Unavailable` on failure."""
        try:
            self._http.connect()
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            # With a socket, the tunnel stands: the failure is of the service behind the proxy.
            is_direct = self._is_direct or (
                self._http.sock is not None and not proxy.is_refusal(error)
            )
            self._http.close()
            raise (_explain if is_direct else _explain_proxy)(self._address, error) from error

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None,
        *,
        headers: Mapping[str, str],
        limit: int,
    ) -> HTTPAnswer:
        """Return the complete answer to a request, of at most ``limit`` bytes.

        Raises:
            Interrupted: no answer, or only a part of one, came in time.
            Unavailable: the answer is too long, or the connection cannot be secured.

        """
        is_kept = self._http.sock is not None
        if not is_kept:
            self.open()
        try:
            with self._deadline():
                return self._exchange(method, target, body, headers=headers, limit=limit)
        except (ssl.SSLEOFError, ConnectionError):  # http.client's RemoteDisconnected is one
            self.close()
            if not is_kept or self._is_interrupted:
                raise Interrupted(self._address, CLOSED, LASTS) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _explain(self._address, error) from error
        # The service closed the kept connection between two requests, which is its right.
        return self.ask(method, target, body, headers=headers, limit=limit)

    def _exchange(
        self,
        method: str,
        target: str,
        body: bytes | None,
        *,
        headers: Mapping[str, str],
        limit: int,
    ) -> HTTPAnswer:
        sent = {
            "Accept": "application/json",
            "User-Agent": f"egi-fedcloud-appliance/{__version__}",
            **headers,
        }
        self._http.request(method, target, body, sent)
        with self._http.getresponse() as response:
            # One byte more shows that an answer is too long.
            content = response.read(limit + 1)
            if len(content) > limit:
                self.close()
                raise Unavailable(self._address, f"answers with more than {limit} bytes", LOOK)
            if response.length:  # read() with a limit returns half an answer without an error
                raise http.client.IncompleteRead(content, response.length)
            if response.will_close:
                self.close()
            location = _site(response.getheader("Location") or "")
            return HTTPAnswer(
                response.status, response.reason, location, content, headers.get("x-api-key", "")
            )

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Cut the connection when a request takes too long.

        A socket's timeout is not enough: it starts again with each byte that trickles in.
        """
        assert self._http.sock is not None  # noqa: S101  ask() opened it
        self._http.sock.settimeout(self._answer_seconds)
        is_late = threading.Event()

        def cut() -> None:
            is_late.set()
            self._shut()

        timer = threading.Timer(self._answer_seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if is_late.is_set() or isinstance(error, TimeoutError):
                cause = f"sends no complete answer within {self._answer_seconds:.0f} s"
                self.close()
                # After the cut, the error is one of a connection that has ended.
                raise Interrupted(self._address, cause, LASTS) from TimeoutError(str(error))
            raise
        finally:
            timer.cancel()

    def interrupt(self) -> None:
        """End a request of another thread, and let no other follow."""
        self._is_interrupted = True
        self._shut()

    def _shut(self) -> None:
        made = self._http.sock
        if made is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own shutdown: that would drop the TLS object while the other
                # thread reads from it.
                socket.socket.shutdown(made, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._http.close()


def _site(location: str) -> str:
    """Return scheme and host of a URL; the rest of it may hold secrets."""
    parts = urllib.parse.urlsplit(location)
    return f"{parts.scheme}://{parts.hostname or ''}" if parts.scheme else "another path"


def _explain_proxy(
    subject: str, error: OSError | UnicodeError | http.client.HTTPException
) -> Unavailable:
    words = (
        "no answer in time"
        if isinstance(error, TimeoutError)
        else str(getattr(error, "strerror", "") or error)
    )
    return Interrupted(subject, *proxy.explain(f"https://{subject}", error, words.lower()))


def _explain(
    subject: str, error: OSError | UnicodeError | http.client.HTTPException
) -> Unavailable:
    match error:
        case ssl.SSLCertVerificationError():
            cause = f"the service's certificate is not trusted: {error.verify_message}"
            return Unavailable(subject, cause, remedy(error))
        case ssl.SSLEOFError() | ConnectionResetError():
            return Interrupted(
                subject, CLOSED, "check that the service accepts this host's certificate"
            )
        case ssl.SSLError():
            words = (error.reason or str(error)).replace("_", " ").lower()
            return Interrupted(subject, f"no TLS connection: {words}", "check host and port")
        case socket.gaierror() | UnicodeError():  # the latter: a name that DNS cannot have
            return Interrupted(subject, "the host's name is not known", "check [broker] host")
        case TimeoutError():
            cause = f"does not answer within {CONNECT_TIMEOUT.total_seconds():.0f} s"
            return Interrupted(subject, cause, "check [broker] host, and the firewall")
        case http.client.IncompleteRead():
            return Interrupted(subject, "breaks off in the middle of an answer", LASTS)
        case http.client.HTTPException():
            return Interrupted(subject, "does not answer in HTTP", LOOK)
        case _:
            words = (error.strerror or str(error)).lower()
            return Interrupted(
                subject, f"cannot be reached: {words}", "check that the service runs"
            )
