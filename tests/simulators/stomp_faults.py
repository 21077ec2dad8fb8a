"""A small STOMP broker over TLS that misbehaves on demand, as a real broker cannot.

    with FaultBroker(credential, trust.grid.certificate, [Fault(Kind.CLOSE_AFTER_SEND, after=3)]) as
    broker:
        ...
        assert broker.ids() == […]

Each connection takes the next fault of the list; when the list is used up, connections are served
properly. What was sent is kept in order of arrival. It also serves subscribers: see
`FaultBroker.enqueue`.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from tests.testbed.pki import Credential


class Kind(enum.Enum):
    NONE = enum.auto()
    NO_GREETING = enum.auto()
    """Never answers the connect frame."""
    REFUSES_US = enum.auto()
    """Answers the connect frame with ERROR."""
    NO_RECEIPT = enum.auto()
    WRONG_RECEIPT = enum.auto()
    """Confirms an id that nobody sent."""
    SWAPPED_RECEIPTS = enum.auto()
    """Confirms each pair of messages in reverse."""
    CLOSE_AFTER_SEND = enum.auto()
    """Takes a message over and closes the connection instead of confirming it."""
    ERROR_AFTER_SEND = enum.auto()
    SLOW = enum.auto()
    """Confirms after a fifth of a second."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in one connection, after so many messages that go well."""

    kind: Kind
    after: int = 0
    text: str = "not authorised"


@dataclass(frozen=True, slots=True)
class Frame:
    command: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Message:
    """A message in the queue; the same ``message-id`` however often it is delivered."""

    id: str
    headers: dict[str, str]
    body: bytes
    is_taken: bool = False


@dataclass(slots=True)
class FaultBroker:
    credential: Credential
    clients_ca: Path
    faults: Sequence[Fault] = ()
    poison: tuple[bytes, Fault] | None = None
    """What goes wrong with each message that contains these bytes, on every connection."""
    accepted: list[str] = field(default_factory=list)
    """Ids of the messages that were confirmed, in order."""
    sent: list[Frame] = field(default_factory=list)
    """SEND frames of all connections, also those that were never confirmed."""
    frames: list[Frame] = field(default_factory=list)
    """All other frames."""
    queue: list[Message] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    connections: int = 0
    clients: list[str] = field(default_factory=list)
    """Common names that the clients' certificates bear, one for each connection."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _sockets: list[socket.socket] = field(default_factory=list)
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """End all connections without a word."""
        with self._lock:
            for open_socket in self._sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    def ids(self) -> list[str]:
        """Return the ids of the messages that were sent, in the order of their arrival."""
        return [frame.headers["empa-id"] for frame in self.sent]

    def enqueue(self, bodies: Sequence[bytes], *, headers: Sequence[dict[str, str]] = ()) -> None:
        """Queue messages; they are delivered until acknowledged, again after a lost connection."""
        with self._lock:
            for body, extra in itertools.zip_longest(bodies, headers, fillvalue=None):
                number = str(len(self.queue) + len(self.acknowledged) + 1)
                default = {"empa-id": f"00000000/{int(number):014x}"}
                self.queue.append(
                    Message(f"m-{number}", default if extra is None else extra, body or b"")
                )

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.credential.certificate, self.credential.key)
        context.load_verify_locations(self.clients_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, raw, context)

    def _serve(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError), contextlib.closing(raw):
            made = context.wrap_socket(raw, server_side=True)
            with self._lock:
                fault = (
                    self.faults[self.connections]
                    if self.connections < len(self.faults)
                    else Fault(Kind.NONE)
                )
                self.connections += 1
                subject = (made.getpeercert() or {})["subject"]
                self.clients.append(dict(pair for rdn in subject for pair in rdn)["commonName"])  # type: ignore[misc]
                self._sockets.append(made)
            with contextlib.closing(made):
                _Session(self, made, fault).run()


@dataclass(slots=True)
class _Session:
    broker: FaultBroker
    socket: socket.socket
    fault: Fault
    confirmed: int = 0
    withheld: list[str] = field(default_factory=list)
    delivered: dict[str, Message] = field(default_factory=dict)
    prefetch: int = 0

    def run(self) -> None:
        try:
            for frame in _frames(self.socket.makefile("rb")):
                if not self._handle(frame):
                    return
        finally:
            with self.broker._lock:
                for message in self.delivered.values():
                    message.is_taken = False

    def _handle(self, frame: Frame) -> bool:
        """Answer a frame; tells whether the connection goes on."""
        with self.broker._lock:
            (self.broker.sent if frame.command == "SEND" else self.broker.frames).append(frame)
        match frame.command:
            case "STOMP" | "CONNECT":
                return self._greet()
            case "SEND":
                return self._take(frame.headers.get("receipt", ""), self._fault_of(frame))
            case "SUBSCRIBE":
                self.prefetch = int(frame.headers["activemq.prefetchSize"])
                self._start_delivering()
            case "ACK":
                self._forget(frame.headers["id"])
            case "DISCONNECT":
                self._send("RECEIPT", {"receipt-id": frame.headers["receipt"]})
                return False
        return True

    def _greet(self) -> bool:
        if self.fault.kind is Kind.NO_GREETING:
            return True
        if self.fault.kind is Kind.REFUSES_US:
            self._send("ERROR", {"message": self.fault.text})
            return False
        self._send("CONNECTED", {"version": "1.2", "heart-beat": "0,0"})
        return True

    def _fault_of(self, frame: Frame) -> Fault:
        """Return what goes wrong with a message."""
        if self.broker.poison is not None and self.broker.poison[0] in frame.body:
            return self.broker.poison[1]
        return self.fault if self.confirmed >= self.fault.after else Fault(Kind.NONE)

    def _take(self, receipt: str, fault: Fault) -> bool:
        kind = fault.kind
        answers = [receipt]
        match kind:
            case Kind.NO_RECEIPT:
                return True
            case Kind.WRONG_RECEIPT:
                answers = ["ffffffff/ffffffffffffff"]
            case Kind.CLOSE_AFTER_SEND:
                return False
            case Kind.ERROR_AFTER_SEND:
                self._send("ERROR", {"message": fault.text, "receipt-id": receipt})
                self._linger()
                return False
            case Kind.SWAPPED_RECEIPTS:
                self.withheld.append(receipt)
                answers = self.withheld[::-1] if len(self.withheld) == 2 else []
                self.withheld = [] if answers else self.withheld
            case Kind.SLOW:
                time.sleep(0.2)
        for answer in answers:
            self.broker.accepted.append(answer)
            self._send("RECEIPT", {"receipt-id": answer})
            self.confirmed += 1
        return True

    def _linger(self) -> None:
        """Read until the client is silent: closing at once would reset the frame just sent."""
        self.socket.settimeout(0.3)
        with contextlib.suppress(OSError):
            while self.socket.recv(1 << 16):
                pass

    def _start_delivering(self) -> None:
        self.broker._start(self._deliver)

    def _deliver(self) -> None:
        with contextlib.suppress(OSError):
            while self.socket.fileno() != -1:
                for message in self._waiting():
                    headers = {
                        "message-id": message.id,
                        "ack": message.id,
                        "subscription": "1",
                        **message.headers,
                    }
                    self._send("MESSAGE", headers, message.body)
                time.sleep(0.002)

    def _waiting(self) -> list[Message]:
        with self.broker._lock:
            room = self.prefetch - len(self.delivered)
            chosen = [message for message in self.broker.queue if not message.is_taken][
                : max(room, 0)
            ]
            for message in chosen:
                message.is_taken = True
                self.delivered[message.id] = message
            return chosen

    def _forget(self, message_id: str) -> None:
        with self.broker._lock:
            message = self.delivered.pop(message_id)
            self.broker.queue.remove(message)
            self.broker.acknowledged.append(message_id)

    def _send(self, command: str, headers: dict[str, str], body: bytes = b"") -> None:
        lines = [command, *(f"{name}:{_escape(value)}" for name, value in headers.items())]
        if body:
            lines.append(f"content-length:{len(body)}")
        with self.broker._lock:
            self.socket.sendall("\n".join([*lines, "", ""]).encode() + body + b"\0")


def _frames(stream: BinaryIO) -> Iterator[Frame]:
    """Read frames until the stream ends; line ends between them are heart-beats."""
    with contextlib.suppress(OSError):
        while line := stream.readline():
            command = line.strip().decode()
            if not command:
                continue
            headers: dict[str, str] = {}
            while name := stream.readline().rstrip(b"\r\n").decode():
                key, _, value = name.partition(":")
                headers[key] = _unescape(value)
            length = int(headers.get("content-length", "0"))
            body = stream.read(length)
            if len(body) < length:  # the client died in the middle of it
                return
            rest = b""
            while (byte := stream.read(1)) not in (b"\0", b""):
                rest += byte
            yield Frame(command, headers, body + rest)


_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", ":": "\\c"}


def _escape(value: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in value)


def _unescape(value: str) -> str:
    for plain, escaped in reversed(_ESCAPES.items()):
        value = value.replace(escaped, plain)
    return value
