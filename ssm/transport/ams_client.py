"""The Argo Messaging Service (AMS): messages published to topics and pulled from subscriptions.

    GET  https://HOST:8443/v1/service-types/ams/hosts/HOST:authx509
                                            a token in exchange for this host's certificate
    POST https://HOST/v1/projects/PROJECT/topics/TOPIC:publish
    POST https://HOST/v1/projects/PROJECT/subscriptions/NAME:pull
    POST https://HOST/v1/projects/PROJECT/subscriptions/NAME:acknowledge

An error is an answer with a status of 4xx or 5xx and ``{"error": {"code": …, "message": …}}``.
A proxy in front of the service answers with a page of its own instead. A subscription is an offset
into its topic: acknowledging a message acknowledges all before it, and until then each pull returns
the same messages.

    Unavailable
    ├── Interrupted       it may pass by itself: no connection, half an answer, 408, 429, 5xx
    ├── TooLarge          413
    ├── RequestRefused    any other 4xx: perhaps only these messages are refused
    ├── NoSuchTopic       404: no project, topic or subscription of this name
    └── AccessDenied      401, or a certificate that is not registered
        └── TopicDenied   403

A plain `Unavailable` stays until the configuration changes: a retry is useless.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import json
import re
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from appliance.core import hosts
from appliance.core.run.errors import AccessDenied, Unavailable
from ssm.transport.request import (
    CLOSED,
    LASTS,
    LOOK,
    HTTPAnswer,
    Interrupted,
    KeptConnection,
)

MAX_REQUEST = 1024 * 1024
"""Bytes of a request; the service's own limit is for one message, and is the same."""

_MAX_ANSWER = 64 * 1024
_MAX_PULLED = 64 * 1024 * 1024
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_TOKEN = re.compile(r"[!-~]{1,4096}")


class TooLarge(Unavailable):
    """A message is larger than the service accepts."""


class NoSuchTopic(Unavailable):
    """The service has no project, topic or subscription of this name."""


class TopicDenied(AccessDenied):
    """The service knows this account, which may not use the topic or subscription."""


class RequestRefused(Unavailable):
    """The service refuses a request; the connection or one of the messages may be at fault."""


@dataclass(frozen=True, slots=True)
class AMSService:
    """The addresses of an AMS and of its authentication service, and a project there."""

    host: str
    project: str
    port: int = 443
    authn_port: int = 8443

    def __str__(self) -> str:
        return hosts.join_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to be published."""

    data: bytes
    attributes: Mapping[str, str]

    @property
    def size(self) -> int:
        """Return an upper bound of the bytes that it takes in a request."""
        return (
            (len(self.data) + 2) // 3 * 4
            + sum(len(k) + len(v) + 8 for k, v in self.attributes.items())
            + 64
        )


@dataclass(frozen=True, slots=True)
class Pulled:
    """A message of a subscription; ``ack_id`` is the id to acknowledge it by."""

    ack_id: str
    message_id: str
    attributes: Mapping[str, str]
    data: bytes


class AMSClient:
    """One account at one service. Only `interrupt` may be called from another thread.

    ``tls`` verifies the service and presents this host's certificate. Without a ``token`` the
    certificate is exchanged for one, and again when the service no longer accepts that. No error
    message contains the token.
    """

    def __init__(
        self,
        service: AMSService,
        *,
        tls: ssl.SSLContext,
        token: str = "",
        answer_time: timedelta | None = None,
    ) -> None:
        self.service = service
        self._answer_time = answer_time
        self._tls = tls
        self._token = token
        self._is_token_given = bool(token)
        self._line = KeptConnection(service.host, service.port, tls=tls, answer_time=answer_time)

    def open(self) -> None:
        """Connect, and get a token unless one was given; raise `Unavailable` on failure."""
        self._line.open()
        if not self._token:
            self._token = self._exchange_certificate()

    def publish(self, topic: str, messages: Sequence[Message]) -> list[str]:
        """Publish messages in their order and return the service's ids for them.

        After an error some of them may have been published nevertheless.

        Raises:
            TooLarge: one of them is too large.

        """
        content = _publication(messages)
        answer = self._post(f"topics/{_quote(topic)}:publish", content)
        ids = answer.get("messageIds")
        if not isinstance(ids, list) or len(ids) != len(messages):
            given = len(ids) if isinstance(ids, list) else "none"
            raise Unavailable(
                self.service, f"confirms {given} of {len(messages)} published messages", LOOK
            )
        return [str(message_id) for message_id in ids]

    def try_publish(self, topic: str) -> None:
        """Check that this account may publish to a topic, without a message.

        The request has no body. The service looks for the topic and the account's right first, and
        only then into the body, which it rejects.

        Raises:
            NoSuchTopic: there is no such project or topic.
            AccessDenied: this account may not publish to it.

        """
        path = f"topics/{_quote(topic)}:publish"
        answer = self._ask(
            f"/v1/projects/{_quote(self.service.project)}/{path}", b"", limit=_MAX_ANSWER
        )
        if answer.status != http.client.BAD_REQUEST:
            self._content(answer, path)

    def pull(self, subscription: str, *, most: int) -> list[Pulled]:
        """Return the oldest unacknowledged messages, at most ``most``, without waiting for any."""
        request = {"maxMessages": str(most), "returnImmediately": "true"}
        answer = self._post(
            f"subscriptions/{_quote(subscription)}:pull", request, limit=_MAX_PULLED
        )
        received = answer.get("receivedMessages") or []
        try:
            return [_read_message(entry) for entry in received]
        except (KeyError, TypeError, AttributeError):
            raise Unavailable(
                self.service, "answers a pull with something other than a list of messages", LOOK
            ) from None

    def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """Acknowledge these messages and, by that, all before them.

        Raises:
            Interrupted: with status 408: too late, they will come again.

        """
        self._post(f"subscriptions/{_quote(subscription)}:acknowledge", {"ackIds": list(ack_ids)})

    def interrupt(self) -> None:
        """Make a request of another thread raise `Interrupted`."""
        self._line.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._line.close()

    def _post(
        self, path: str, content: dict[str, Any], *, limit: int = _MAX_ANSWER
    ) -> dict[str, Any]:
        body = _encode(content)
        target = f"/v1/projects/{_quote(self.service.project)}/{path}"
        answer = self._ask(target, body, limit=limit)
        # The operators of AMS may replace a token at any time.
        if answer.status == http.client.UNAUTHORIZED and not self._is_token_given:
            self._token = self._exchange_certificate()
            answer = self._ask(target, body, limit=limit)
        return self._content(answer, path)

    def _ask(self, target: str, body: bytes, *, limit: int) -> HTTPAnswer:
        headers = {"x-api-key": self._token, "Content-Type": "application/json"}
        return self._line.ask("POST", target, body, headers=headers, limit=limit)

    def _content(self, answer: HTTPAnswer, path: str) -> dict[str, Any]:
        """Return the JSON object of an answer, or raise the error that its status stands for."""
        subject = f"{self.service}, {path.partition(':')[0]} of project {self.service.project}"
        if answer.status == http.client.OK:
            return _parse(answer, subject=self.service)
        said = f"{answer.status}: {answer.detail}"
        match answer.status:
            case http.client.REQUEST_ENTITY_TOO_LARGE:
                raise TooLarge(subject, f"too large ({said})")
            case http.client.UNAUTHORIZED:
                remedy = (
                    "check [messaging] token"
                    if self._is_token_given
                    else "register this host's certificate"
                )
                raise AccessDenied(self.service, f"does not accept the token ({said})", remedy)
            case http.client.FORBIDDEN:
                raise TopicDenied(
                    subject,
                    f"access is refused ({said})",
                    "check destination, and that this host is registered for it",
                )
            case http.client.NOT_FOUND:
                raise NoSuchTopic(
                    subject,
                    f"does not exist ({said})",
                    "check [messaging] ams_project and destination",
                )
            case _:
                _require_working(answer, self.service)
                raise RequestRefused(subject, f"refuses the request ({said})", LOOK)

    def _exchange_certificate(self) -> str:
        """Return the token that the authentication service gives for this host's certificate."""
        host, port = self.service.host, self.service.authn_port
        subject = hosts.join_port(host, port)
        line = KeptConnection(host, port, tls=self._tls, answer_time=self._answer_time)
        target = f"/v1/service-types/ams/hosts/{_quote(host)}:authx509"
        with contextlib.closing(line):
            try:
                answer = line.ask("GET", target, None, headers={}, limit=_MAX_ANSWER)
            except Interrupted as error:
                raise _refused_certificate(error) from None
        _require_working(answer, subject)
        if answer.status != http.client.OK:
            cause = f"gives no token for this host's certificate ({answer.status}: {answer.detail})"
            raise AccessDenied(
                subject,
                cause,
                "register the certificate's subject in GOCDB, or set [messaging] token",
            )
        token = _parse(answer, subject=subject).get("token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise Unavailable(subject, "answers without a token", LOOK)
        return token


def max_data(attributes: Mapping[str, str]) -> int:
    """Return the most bytes of data in a request that publishes a single message."""
    frame = len(_encode(_publication([Message(b"", attributes)])))
    return (MAX_REQUEST - frame) // 4 * 3


def _publication(messages: Sequence[Message]) -> dict[str, Any]:
    return {
        "messages": [
            {
                "attributes": dict(message.attributes),
                "data": base64.b64encode(message.data).decode("ascii"),
            }
            for message in messages
        ]
    }


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _read_message(entry: dict[str, Any]) -> Pulled:
    message = entry["message"]
    attributes = message.get("attributes") or {}
    data = message.get("data") or ""
    try:
        body = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        # The receiver refuses it like any broken message. An error here would stop the
        # subscription at it for ever.
        body = data.encode()
    known = {str(name): str(value) for name, value in attributes.items()}
    return Pulled(str(entry["ackId"]), str(message.get("messageId", "")), known, body)


def _parse(answer: HTTPAnswer, *, subject: object) -> dict[str, Any]:
    text = answer.body.strip()
    if not text:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        # A proxy that gives up in the middle of an answer leaves the beginning of an object.
        if text.startswith(b"{"):
            raise Interrupted(subject, "breaks off in the middle of an answer", LASTS) from None
        raise Unavailable(subject, f"does not answer as an AMS: {answer.detail}", LOOK) from None
    if not isinstance(content, dict):
        raise Unavailable(subject, "does not answer as an AMS: no JSON object", LOOK)
    return content


def _require_working(answer: HTTPAnswer, subject: object) -> None:
    """Raise `Interrupted` when a service is out of order, `Unavailable` when it redirects."""
    status = answer.status
    if status in _PASSING:
        cause = f"is out of order ({status}: {answer.detail})"
        raise Interrupted(subject, cause, LASTS, status=status)
    if status // 100 == 3:  # noqa: PLR2004  the class of redirections
        raise Unavailable(subject, f"redirects ({status}): {answer.location}", LOOK)


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _refused_certificate(error: Interrupted) -> Unavailable:
    """Return the failure when the authentication service ends TLS.

    With TLS 1.3 a server refuses a client's certificate only after the handshake, so that the
    refusal looks like a connection that breaks during the first request.
    """
    if "alert" not in error.cause and CLOSED not in error.cause:
        return error
    cause = f"does not accept this host's certificate: {error.cause}"
    return AccessDenied(
        error.subject, cause, "check that it is valid and from a CA that the service knows"
    )
