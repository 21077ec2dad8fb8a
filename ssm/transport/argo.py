"""The Argo Messaging Service (AMS): messages published to topics and pulled from subscriptions, over HTTPS and JSON.

    GET  https://HOST:8443/v1/service-types/ams/hosts/HOST:authx509       a token for this host's certificate
    POST https://HOST/v1/projects/PROJECT/topics/TOPIC:publish
    POST https://HOST/v1/projects/PROJECT/subscriptions/NAME:pull
    POST https://HOST/v1/projects/PROJECT/subscriptions/NAME:acknowledge

An error is an answer with a status of 4xx or 5xx and ``{"error": {"code": …, "message": …}}``, unless something before
the service gives it, in its own words. A subscription is an offset into its topic: acknowledging a message acknowledges
all before it, and until then a pull gives the same ones again.

    Unavailable
    ├── Interrupted     it will pass by itself: no connection, no whole answer, 408, 429, 5xx
    ├── TooLarge        413
    └── AccessDenied    401, 403, or a certificate that stands for nobody

Anything else is `Unavailable`: trying again without a change of configuration is of no use.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.version import __version__

MAX_REQUEST = 1024 * 1024
"""Bytes of a request: as much as the service takes for one message."""
MAX_DATA = (MAX_REQUEST - 1024) // 4 * 3
"""Bytes of one message's data: what fits into a request in base64, beside some short attributes."""
CONNECT_TIMEOUT = timedelta(seconds=10)
REQUEST_TIMEOUT = timedelta(seconds=60)
"""From the first byte of a request to the last of its answer."""

_MAX_ANSWER = 64 * 1024
_MAX_PULLED = 64 * 1024 * 1024
_MAX_DETAIL = 200
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_TOKEN = re.compile(r"[!-~]{1,4096}")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_CLOSED = "closes the connection without an answer"
_LASTS = "if it lasts, ask the service's operators"
_LOOK = "check [broker] host and what stands before it"


class Interrupted(Unavailable):
    """The service could not be reached or did not answer, this time."""

    def __init__(self, subject: object, cause: str, remedy: str = "", *, status: int = 0) -> None:
        super().__init__(subject, cause, remedy)
        self.http_status = status
        """0 when there was no answer."""


class TooLarge(Unavailable):
    """A message is larger than the service takes."""


@dataclass(frozen=True, slots=True)
class Service:
    """Where an AMS and its authentication service listen, and the project there."""

    host: str
    project: str
    port: int = 443
    authn_port: int = 8443

    def __str__(self) -> str:
        return _address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to be published."""

    data: bytes
    attributes: Mapping[str, str]

    @property
    def size(self) -> int:
        """Return about how many bytes it has in a request, never less."""
        return (len(self.data) + 2) // 3 * 4 + sum(len(k) + len(v) + 8 for k, v in self.attributes.items()) + 64


@dataclass(frozen=True, slots=True)
class Pulled:
    """A message of a subscription; ``ack_id`` is what `Client.acknowledge` wants."""

    ack_id: str
    message_id: str
    attributes: Mapping[str, str]
    data: bytes


class Client:
    """One account at one service; for one thread, except `interrupt`.

    ``tls`` verifies the service and shows this host's certificate. Without a ``token`` the certificate is exchanged for
    one, again when the service no longer knows it. No message of an error holds the token.
    """

    def __init__(self, service: Service, *, tls: ssl.SSLContext, token: str = "") -> None:
        self.service = service
        self._tls = tls
        self._token = token
        self._is_token_given = bool(token)
        self._line = _Line(service.host, service.port, tls=tls)

    def open(self) -> None:
        """Connect, and get a token unless there is one; raises `Unavailable`."""
        self._line.open()
        if not self._token:
            self._token = self._exchange_certificate()

    def publish(self, topic: str, messages: Sequence[Message]) -> list[str]:
        """Publish messages in their order and return the service's ids for them.

        After an error some of them may have been published nevertheless.

        :raises TooLarge: one of them is too large
        """
        listed = [
            {"attributes": dict(message.attributes), "data": base64.b64encode(message.data).decode("ascii")}
            for message in messages
        ]
        answer = self._post(f"topics/{_quote(topic)}:publish", {"messages": listed})
        ids = answer.get("messageIds")
        if not isinstance(ids, list) or len(ids) != len(messages):
            given = len(ids) if isinstance(ids, list) else "none"
            raise Unavailable(self.service, f"confirms {given} of {len(messages)} published messages", _LOOK)
        return [str(message_id) for message_id in ids]

    def pull(self, subscription: str, *, most: int) -> list[Pulled]:
        """Return the oldest messages that are not acknowledged, at most so many, without waiting for any."""
        request = {"maxMessages": str(most), "returnImmediately": "true"}
        answer = self._post(f"subscriptions/{_quote(subscription)}:pull", request, limit=_MAX_PULLED)
        received = answer.get("receivedMessages") or []
        try:
            return [_read_message(entry) for entry in received]
        except (KeyError, TypeError, AttributeError):
            raise Unavailable(
                self.service, "answers a pull with something that is no list of messages", _LOOK
            ) from None

    def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """Tell the service that it may forget these messages and all before them.

        :raises Interrupted: with status 408: too late, they will come again
        """
        self._post(f"subscriptions/{_quote(subscription)}:acknowledge", {"ackIds": list(ack_ids)})

    def interrupt(self) -> None:
        """End a request that another thread has under way: it raises `Interrupted`."""
        self._line.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._line.close()

    def _post(self, path: str, content: dict[str, Any], *, limit: int = _MAX_ANSWER) -> dict[str, Any]:
        body = json.dumps(content, separators=(",", ":")).encode("ascii")
        target = f"/v1/projects/{_quote(self.service.project)}/{path}"
        answer = self._ask(target, body, limit=limit)
        if answer.status == http.client.UNAUTHORIZED and not self._is_token_given:
            self._token = self._exchange_certificate()
            answer = self._ask(target, body, limit=limit)
        return self._content(answer, path)

    def _ask(self, target: str, body: bytes, *, limit: int) -> _Answer:
        headers = {"x-api-key": self._token, "Content-Type": "application/json"}
        return self._line.ask("POST", target, body, headers=headers, limit=limit)

    def _content(self, answer: _Answer, path: str) -> dict[str, Any]:
        """Return what an answer says; raises what its status means."""
        subject = f"{self.service}, {path.partition(':')[0]} of project {self.service.project}"
        if answer.status == http.client.OK:
            return _parse(answer, subject=self.service)
        told = f"{answer.status}: {answer.detail}"
        match answer.status:
            case http.client.REQUEST_ENTITY_TOO_LARGE:
                raise TooLarge(subject, f"too large ({told})")
            case http.client.UNAUTHORIZED:
                remedy = "check [messaging] token" if self._is_token_given else "register this host's certificate"
                raise AccessDenied(self.service, f"does not accept the token ({told})", remedy)
            case http.client.FORBIDDEN:
                raise AccessDenied(
                    subject, f"access is refused ({told})", "check destination, and that this host is registered for it"
                )
            case http.client.NOT_FOUND:
                raise Unavailable(subject, f"does not exist ({told})", "check [messaging] ams_project and destination")
            case status if status in _PASSING:
                raise Interrupted(self.service, f"is out of order ({told})", _LASTS, status=status)
            case status if status // 100 == 3:  # noqa: PLR2004  the class of redirections
                raise Unavailable(self.service, f"sends elsewhere ({answer.status}): {answer.location}", _LOOK)
            case _:
                raise Unavailable(subject, f"refuses the request ({told})", _LOOK)

    def _exchange_certificate(self) -> str:
        """Return the token that this host's certificate stands for."""
        host, port = self.service.host, self.service.authn_port
        subject = _address(host, port)
        line = _Line(host, port, tls=self._tls)
        target = f"/v1/service-types/ams/hosts/{_quote(host)}:authx509"
        with contextlib.closing(line):
            try:
                answer = line.ask("GET", target, None, headers={}, limit=_MAX_ANSWER)
            except Interrupted as error:
                raise _refused_certificate(error) from None
        if answer.status in _PASSING:
            raise Interrupted(
                subject, f"is out of order ({answer.status}: {answer.detail})", _LASTS, status=answer.status
            )
        if answer.status // 100 == 3:  # noqa: PLR2004  the class of redirections
            raise Unavailable(subject, f"sends elsewhere ({answer.status}): {answer.location}", _LOOK)
        if answer.status != http.client.OK:
            cause = f"gives no token for this host's certificate ({answer.status}: {answer.detail})"
            raise AccessDenied(subject, cause, "register the certificate's subject in GOCDB, or set [messaging] token")
        token = _parse(answer, subject=subject).get("token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise Unavailable(subject, "answers without a token", _LOOK)
        return token


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    reason: str
    location: str
    body: bytes
    secret: str

    @property
    def detail(self) -> str:
        """Return the words for people: of the JSON error, or of a page; on one line, cut, printable, without secret."""
        text = self.body[:_MAX_ANSWER].decode("utf-8", "replace")
        try:
            text = str(json.loads(text)["error"]["message"])
        except (ValueError, TypeError, KeyError, RecursionError):
            title = _TITLE.search(text)
            text = _TAG.sub(" ", title[1] if title else text)
        if self.secret:
            text = text.replace(self.secret, "…")
        words = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or self.reason
        return words if len(words) <= _MAX_DETAIL else f"{words[:_MAX_DETAIL]}…"


class _Line:
    """A connection that is kept from one request to the next, and made anew when the other side has closed it."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext) -> None:
        self._address = _address(host, port)
        self._is_interrupted = False
        seconds = CONNECT_TIMEOUT.total_seconds()
        if (proxy := _proxy(host)) is None:
            self._http = http.client.HTTPSConnection(host, port, timeout=seconds, context=tls)
            return
        self._http = http.client.HTTPSConnection(proxy.hostname or "", proxy.port or 3128, timeout=seconds, context=tls)
        self._http.set_tunnel(host, port, headers=_proxy_headers(proxy))

    def open(self) -> None:
        try:
            self._http.connect()
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            raise _explain(self._address, error) from error

    def ask(self, method: str, target: str, body: bytes | None, *, headers: Mapping[str, str], limit: int) -> _Answer:
        """Return the answer to a request, whole, at most ``limit`` bytes of it."""
        is_kept = self._http.sock is not None
        if not is_kept:
            self.open()
        try:
            with self._deadline():
                return self._exchange(method, target, body, headers=headers, limit=limit)
        except (ssl.SSLEOFError, ConnectionError):  # http.client's RemoteDisconnected is one
            self.close()
            if not is_kept or self._is_interrupted:
                raise Interrupted(self._address, _CLOSED, _LASTS) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _explain(self._address, error) from error
        return self.ask(method, target, body, headers=headers, limit=limit)  # it was closed while nothing was asked

    def _exchange(
        self, method: str, target: str, body: bytes | None, *, headers: Mapping[str, str], limit: int
    ) -> _Answer:
        sent = {"Accept": "application/json", "User-Agent": f"egi-fedcloud-appliance/{__version__}", **headers}
        self._http.request(method, target, body, sent)
        with self._http.getresponse() as response:
            content = response.read(limit + 1)
            if len(content) > limit:
                raise Unavailable(self._address, f"answers with more than {limit} bytes", _LOOK)
            if response.length:  # read() with a limit returns a half answer like a whole one
                raise http.client.IncompleteRead(content, response.length)
            if response.will_close:
                self.close()
            location = _site(response.getheader("Location") or "")
            return _Answer(response.status, response.reason, location, content, headers.get("x-api-key", ""))

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Cut the connection when a request takes too long, however its answer trickles."""
        assert self._http.sock is not None  # noqa: S101  it was opened
        self._http.sock.settimeout(REQUEST_TIMEOUT.total_seconds())
        is_late = threading.Event()

        def cut() -> None:
            is_late.set()
            self._shut()

        timer = threading.Timer(REQUEST_TIMEOUT.total_seconds(), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if is_late.is_set() or isinstance(error, TimeoutError):
                cause = f"gives no whole answer within {REQUEST_TIMEOUT.total_seconds():.0f} s"
                self.close()
                raise Interrupted(self._address, cause, _LASTS) from error
            raise
        finally:
            timer.cancel()

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._shut()

    def _shut(self) -> None:
        made = self._http.sock
        if made is not None:
            with contextlib.suppress(OSError):
                # SSLSocket's own method would first end TLS, under the thread that reads.
                socket.socket.shutdown(made, socket.SHUT_RDWR)

    def close(self) -> None:
        self._http.close()


def _read_message(entry: dict[str, Any]) -> Pulled:
    message = entry["message"]
    attributes = message.get("attributes") or {}
    data = message.get("data") or ""
    try:
        body = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        body = data.encode()  # whoever reads it will find what is wrong; here it would block all after it
    known = {str(name): str(value) for name, value in attributes.items()}
    return Pulled(str(entry["ackId"]), str(message.get("messageId", "")), known, body)


def _parse(answer: _Answer, *, subject: object) -> dict[str, Any]:
    text = answer.body.strip()
    if not text:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith(b"{"):
            raise Interrupted(subject, "breaks off in the middle of an answer", _LASTS) from None
        raise Unavailable(subject, f"does not answer as an AMS: {answer.detail}", _LOOK) from None
    if not isinstance(content, dict):
        raise Unavailable(subject, "does not answer as an AMS: no JSON object", _LOOK)
    return content


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _site(location: str) -> str:
    """Return scheme and host of a URL; the rest of it may hold secrets."""
    parts = urllib.parse.urlsplit(location)
    return f"{parts.scheme}://{parts.hostname or ''}" if parts.scheme else "another path"


def _proxy(host: str) -> urllib.parse.SplitResult | None:
    """Return the proxy that the environment names for this host (HTTPS_PROXY, NO_PROXY)."""
    import urllib.request  # noqa: PLC0415  twenty milliseconds

    address = urllib.request.getproxies().get("https")
    if not address or urllib.request.proxy_bypass(host):
        return None
    return urllib.parse.urlsplit(address if "//" in address else f"//{address}")


def _proxy_headers(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    login = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode('ascii')}"}


def _refused_certificate(error: Interrupted) -> Unavailable:
    """Say what it means when the authentication service ends TLS: since TLS 1.3 it does so after the handshake."""
    if "alert" not in error.cause and _CLOSED not in error.cause:
        return error
    cause = f"does not accept this host's certificate: {error.cause}"
    return AccessDenied(error.subject, cause, "check that it is valid and from a CA that the service knows")


def _explain(address: str, error: OSError | http.client.HTTPException) -> Unavailable:
    match error:
        case ssl.SSLCertVerificationError():
            cause = f"the service's certificate is not to be believed: {error.verify_message}"
            return Unavailable(address, cause, "check the host's name in the configuration, and capath")
        case ssl.SSLEOFError() | ConnectionResetError():
            return Interrupted(address, _CLOSED, "check that the service accepts this host's certificate")
        case ssl.SSLError():
            words = (error.reason or str(error)).replace("_", " ").lower()
            return Interrupted(address, f"no TLS connection: {words}", "check host and port")
        case socket.gaierror():
            return Interrupted(address, "the host's name is not known", "check [broker] host")
        case TimeoutError():
            cause = f"does not answer within {CONNECT_TIMEOUT.total_seconds():.0f} s"
            return Interrupted(address, cause, "check [broker] host, and the firewall")
        case http.client.IncompleteRead():
            return Interrupted(address, "breaks off in the middle of an answer", _LASTS)
        case http.client.HTTPException():
            return Interrupted(address, f"does not answer in HTTP: {type(error).__name__}", _LOOK)
        case _:
            words = (error.strerror or str(error)).lower()
            return Interrupted(address, f"cannot be reached: {words}", "check that the service runs")
