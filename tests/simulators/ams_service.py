"""An Argo Messaging Service over TLS that keeps to the protocol, and misbehaves on demand.

    with AMS(credential, trust.grid.certificate, [Fault(Kind.STATUS, on="publish", after=2)]) as
    service:
        service.create("topic", "subscription")
        ...
        assert service.ids("topic") == […]

Topics are lists, a subscription is an offset into one: acknowledging a message acknowledges all
before it, and what is not acknowledged is pulled again. Publishing wants the token that the
authentication port gives to known certificates. A fault strikes the requests of its kind, after so
many that go well, so often.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import http.server
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.simulators.answering import answering
from tests.testbed.pki import Credential

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    408: "TIMEOUT",
}
_PATHS = {
    "publish": re.compile(r"/v1/projects/([^/]+)/topics/([^/:]+):publish"),
    "pull": re.compile(r"/v1/projects/([^/]+)/subscriptions/([^/:]+):pull"),
    "acknowledge": re.compile(r"/v1/projects/([^/]+)/subscriptions/([^/:]+):acknowledge"),
    "token": re.compile(r"/v1/service-types/ams/hosts/([^/:]+):(authx509)"),
}


class Kind(enum.Enum):
    STATUS = enum.auto()
    """Does nothing and answers with the fault's status and body (default: AMS's own JSON)."""
    HANG = enum.auto()
    """Does nothing and says nothing until the client goes."""
    CLOSE_BEFORE = enum.auto()
    """Closes the connection, having done nothing."""
    CLOSE_AFTER = enum.auto()
    """Does what it is asked for and closes the connection instead of answering."""
    HALF = enum.auto()
    """Does what it is asked for, announces the answer, and sends half of it."""
    HALF_UNANNOUNCED = enum.auto()
    """The same without a length: the end of the connection is the end of the answer."""
    TRICKLE = enum.auto()
    """Does what it is asked for, and sends a byte every tenth of a second."""
    ANSWER = enum.auto()
    """Does nothing, and answers 200 with the fault's body."""
    FORGET_TOKENS = enum.auto()
    """Forgets all tokens first, then works as usual."""
    REDIRECT = enum.auto()
    NO_HTTP = enum.auto()


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    on: str = "publish"
    after: int = 0
    times: int = 1
    status: int = 503
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of a topic, ``data`` as it came."""

    attributes: dict[str, str]
    data: str

    @property
    def body(self) -> bytes:
        return base64.b64decode(self.data)


@dataclass(slots=True)
class Subscription:
    topic: str
    offset: int = 0
    pulled: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    kind: str
    path: str
    headers: dict[str, str]
    content: Any


@dataclass(slots=True)
class AMS:
    credential: Credential
    clients_ca: Path
    faults: Sequence[Fault] = ()
    poison: tuple[bytes, Fault] | None = None
    """What goes wrong with each request that publishes a message with these bytes."""
    project: str = "accounting"
    ack_deadline: float = 10.0
    max_message: int = 1024 * 1024
    """Bytes of a message in a request."""
    topics: dict[str, list[Stored]] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)
    """Names of topics and subscriptions that nobody may use."""
    knows_certificates: bool = True
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    _servers: list[_Server] = field(default_factory=list)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _counts: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        for mode in (ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED):
            server = _Server(("127.0.0.1", 0), _Responder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.credential.certificate, self.credential.key)
            context.load_verify_locations(self.clients_ca)
            context.verify_mode = mode
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            server.world = self
            self._servers.append(server)
            self._stack.enter_context(answering(server))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def port(self) -> int:
        return int(self._servers[0].server_address[1])

    @property
    def authn_port(self) -> int:
        return int(self._servers[1].server_address[1])

    def create(self, topic: str, *subscriptions: str) -> None:
        self.topics.setdefault(topic, [])
        for name in subscriptions:
            self.subscriptions[name] = Subscription(topic)

    def ids(self, topic: str) -> list[str]:
        """Return the ``empaid`` of all that was published, in order."""
        return [message.attributes["empaid"] for message in self.topics[topic]]

    def enqueue(
        self, topic: str, bodies: Sequence[bytes], *, ids: Sequence[str | None] = ()
    ) -> None:
        """Put messages into a topic as if they had been published."""
        with self.lock:
            for number, body in enumerate(bodies):
                empaid = ids[number] if ids else f"00000000/{len(self.topics[topic]):014x}"
                attributes = {"empaid": empaid} if empaid else {}
                self.topics[topic].append(Stored(attributes, base64.b64encode(body).decode()))

    def left(self, subscription: str) -> int:
        """Return how many messages of a subscription are not acknowledged."""
        found = self.subscriptions[subscription]
        return len(self.topics[found.topic]) - found.offset

    def asked(self, kind: str) -> list[Request]:
        return [request for request in self.requests if request.kind == kind]

    def fault_for(self, request: Request) -> Fault | None:
        kind = request.kind
        with self.lock:
            if kind == "publish" and self.poison is not None:
                messages = request.content["messages"]
                if any(self.poison[0] in base64.b64decode(message["data"]) for message in messages):
                    return self.poison[1]
            number = self._counts.get(kind, 0)
            self._counts[kind] = number + 1
            for fault in self.faults:
                if fault.on == kind and fault.after <= number < fault.after + fault.times:
                    return fault
            return None

    def act(self, request: Request, names: tuple[str, ...]) -> tuple[int, dict[str, Any]]:
        """Do what a request asks for; returns status and answer."""
        with self.lock:
            if request.kind == "token":
                return self._give_token(names[0])
            if request.headers.get("x-api-key") not in self.tokens:
                return _error(401, "Unauthorized")
            project, name = names
            if project != self.project:
                return _error(404, "project doesn't exist")
            if name in self.forbidden:
                return _error(403, "Access to this resource is forbidden")
            if name not in (self.topics if request.kind == "publish" else self.subscriptions):
                return _error(
                    404,
                    "Topic doesn't exist"
                    if request.kind == "publish"
                    else "Subscription doesn't exist",
                )
            actions = {
                "publish": self._publish,
                "pull": self._pull,
                "acknowledge": self._acknowledge,
            }
            return actions[request.kind](name, request.content)

    def _give_token(self, host: str) -> tuple[int, dict[str, Any]]:
        if host != "localhost":
            return _error(404, f"Service-type with host {host} was not found")
        if not self.knows_certificates:
            return _error(404, "Binding was not found")
        token = f"secret-{len(self.tokens)}-0123456789abcdef"
        self.tokens.add(token)
        return 200, {"token": token}

    def _publish(self, topic: str, content: Any) -> tuple[int, dict[str, Any]]:
        if content is None:  # as the service: the body comes last
            return _error(400, "Invalid Message Arguments")
        ids = []
        for message in content["messages"]:
            if len(json.dumps(message)) > self.max_message:  # those before it stay published
                return _error(413, "Message size is too large")
            self.topics[topic].append(Stored(message.get("attributes") or {}, message["data"]))
            ids.append(str(len(self.topics[topic]) - 1))
        return 200, {"messageIds": ids}

    def _pull(self, name: str, content: Any) -> tuple[int, dict[str, Any]]:
        subscription = self.subscriptions[name]
        subscription.pulled = time.monotonic()
        begin = subscription.offset
        chosen = self.topics[subscription.topic][begin : begin + int(content["maxMessages"])]
        return 200, {
            "receivedMessages": [
                {
                    "ackId": f"projects/{self.project}/subscriptions/{name}:{number}",
                    "message": {
                        **({"attributes": message.attributes} if message.attributes else {}),
                        "data": message.data,
                        "messageId": str(number),
                        "publishTime": "2026-01-01T00:00:00.000000000Z",
                    },
                }
                for number, message in enumerate(chosen, start=begin)
            ]
        }

    def _acknowledge(self, name: str, content: Any) -> tuple[int, dict[str, Any]]:
        subscription, begin = (
            self.subscriptions[name],
            f"projects/{self.project}/subscriptions/{name}:",
        )
        if not content["ackIds"] or not all(ack.startswith(begin) for ack in content["ackIds"]):
            return _error(400, "Invalid ack id")
        if time.monotonic() - subscription.pulled > self.ack_deadline:
            return _error(408, "ack timeout")
        subscription.offset = max(int(ack.removeprefix(begin)) for ack in content["ackIds"]) + 1
        return 200, {}


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    name = _STATUS.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL_SERVER_ERROR")
    return status, {"error": {"code": status, "message": message, "status": name}}


class _Responder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.server.world.lock:
            self.server.world.connections += 1

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        world = self.server.world
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for kind, pattern in _PATHS.items():
            if match := pattern.fullmatch(self.path):
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(kind, self.path, headers, json.loads(text or b"null"))
                with world.lock:
                    world.requests.append(request)
                with contextlib.suppress(OSError):
                    self._answer(request, match.groups(), world.fault_for(request))
                return
        self._send(404, b"404 page not found\n")

    def _answer(self, request: Request, names: tuple[str, ...], fault: Fault | None) -> None:
        world = self.server.world
        match fault:
            case Fault(Kind.STATUS, status=status, body=body):
                self._send(
                    status,
                    body
                    if body is not None
                    else json.dumps(_error(status, "broken on demand")[1]).encode(),
                )
                return
            case Fault(Kind.ANSWER, body=body):
                self._send(200, body or b"")
                return
            case Fault(Kind.REDIRECT):
                self._send(302, b"", location="https://elsewhere.example.org/login?key=secret")
                return
            case Fault(Kind.NO_HTTP):
                self.wfile.write(b"220 mail.example.org ESMTP\r\n")
                self.close_connection = True
                return
            case Fault(Kind.HANG):
                self.connection.recv(1)
                self.close_connection = True
                return
            case Fault(Kind.CLOSE_BEFORE):
                self.close_connection = True
                return
            case Fault(Kind.FORGET_TOKENS):
                world.tokens.clear()
        status, content = world.act(request, names)
        self._send(status, json.dumps(content).encode(), fault=fault)

    def _send(
        self, status: int, body: bytes, *, location: str = "", fault: Fault | None = None
    ) -> None:
        kind = fault.kind if fault else None
        if kind is Kind.CLOSE_AFTER:
            self.close_connection = True
            return
        self.send_response(status)
        if kind is not Kind.HALF_UNANNOUNCED:
            self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        if kind in {Kind.HALF, Kind.HALF_UNANNOUNCED}:
            self.close_connection = True
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            return
        self.end_headers()
        if kind is Kind.TRICKLE:
            for number in range(len(body)):
                self.wfile.write(body[number : number + 1])
                time.sleep(0.1)
            return
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    world: AMS

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients of these tests hang up when they do not believe the certificate."""
