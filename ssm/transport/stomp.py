"""STOMP 1.2 over TLS: one connection to one broker, as a stream of events.

stomp.py speaks the protocol (frames, heart-beats), in a thread of its own. Its way of opening and
closing connections is replaced, because it hides the cause of a failure, accepts no TLS context,
misses the end of a TLS stream, and waits without limit for the peer when it closes one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.trust.tls import remedy
from ssm.settings import Broker
from ssm.transport.events import Delivery, Event, Greeting, Lost, Receipt, Rejection

# At import, stomp.py asks the DNS three times for names of this host.
os.environ.setdefault("STOMP_SKIP_HOSTNAME_SCAN", "1")
from stomp.connect import BaseConnection, StompConnection12
from stomp.exception import StompException
from stomp.listener import ConnectionListener
from stomp.protocol import Protocol12
from stomp.transport import Transport
from stomp.utils import PollableQueue

logging.getLogger("stomp.py").setLevel(logging.CRITICAL)  # events report its failures

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS, and again for the broker's greeting."""
HEART_BEAT_MS = 30_000
"""In both directions. stomp.py ends a connection after one and a half times this silence."""
_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # For brokers that decline heart-beats: about two minutes until a vanished one is noticed.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
_MAX_WAITING = 2 * 1024 * 1024
"""Bytes of messages that wait for `next_event`; one more message may be on its way."""
_ROOM_SECONDS = 0.5
_CLOSE_TIMEOUT = 5.0
_RECEIVE_BYTES = 64 * 1024
_SUBSCRIPTION = "1"


class STOMPConnection:
    """An open connection. Its methods do nothing after it was lost: `Lost` is the report."""

    def __init__(self, broker: Broker, *, tls: ssl.SSLContext | None) -> None:
        """Connect, and wait for the broker's greeting.

        Raises:
            AccessDenied: the broker refuses this host.
            Unavailable: there is no connection.

        """
        self.broker = broker
        self._is_lost = False
        self._transport = _Transport(broker, tls=tls)
        self._session = _Session(self._transport)
        listener = _Listener(self._transport, is_alive=self._session.on_heartbeat)
        self._events, self._room = listener.events, listener.room
        self._transport.set_listener("events", listener)
        try:
            self._transport.start()
        except (OSError, UnicodeError) as error:
            raise _explain(broker, error) from error
        try:
            self._greet()
        except Unavailable:
            self._transport.disconnect_socket()
            raise

    def send(self, destination: str, body: bytes, *, message_id: str) -> None:
        """Queue a message; its receipt will carry ``message_id``."""
        headers = {"empa-id": message_id, "receipt": message_id, "persistent": "true"}
        with self._unless_lost():
            self._session.send(destination, body, headers=headers)

    def subscribe(self, destination: str, *, prefetch: int) -> None:
        """Ask for messages, at most ``prefetch`` unacknowledged at a time."""
        # ActiveMQ reads the first header, RabbitMQ the second.
        headers = {"activemq.prefetchSize": str(prefetch), "prefetch-count": str(prefetch)}
        with self._unless_lost():
            self._session.subscribe(
                destination, _SUBSCRIPTION, ack="client-individual", headers=headers
            )

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge a message, so that the broker deletes it."""
        with self._unless_lost():
            self._session.ack(delivery.ack)

    def next_event(self, *, timeout: float) -> Event | None:
        """Return the next event; None after ``timeout`` seconds without one (0: do not wait)."""
        try:
            event = self._events.get(timeout=timeout) if timeout else self._events.get_nowait()
        except queue.Empty:
            return None
        self._is_lost = isinstance(event, Lost)
        if isinstance(event, Delivery):
            self._room.leave(len(event.body))
        return event

    def close(self) -> None:
        """Disconnect, and wait up to five seconds until the broker has processed what was sent."""
        with self._unless_lost():
            self._session.disconnect()
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        while not self._is_lost and (left := deadline - time.monotonic()) > 0:
            self.next_event(timeout=left)
        self._transport.disconnect_socket()

    def _greet(self) -> None:
        with self._unless_lost():
            self._session.connect()
        match self.next_event(timeout=CONNECT_TIMEOUT):
            case Greeting():
                return
            case Rejection(text, _):
                raise AccessDenied(self.broker, f"the broker refuses this host: {text}", _REGISTER)
            case Lost(cause):
                # With TLS 1.3 a broker refuses a certificate only after the handshake, by closing.
                raise AccessDenied(
                    self.broker, f"ends the connection before greeting: {cause}", _REGISTER
                )
            case _:
                cause = (
                    "accepts connections but does not answer in STOMP within"
                    f" {CONNECT_TIMEOUT:.0f} s"
                )
                advice = "check that this port speaks STOMP"
                raise Unavailable(self.broker, cause, advice) from TimeoutError()

    @contextlib.contextmanager
    def _unless_lost(self) -> Iterator[None]:
        """Ignore what stomp.py raises when its other thread has just closed the connection."""
        try:
            yield
        except (StompException, OSError, AttributeError, KeyError, ValueError):
            # On a connection that still runs, it is a bug.
            if self._transport.running:
                raise


class _Session(BaseConnection, Protocol12):  # type: ignore[misc]  # stomp.py has no types
    """stomp.py's `StompConnection12` over our transport."""

    def __init__(self, transport: _Transport) -> None:
        BaseConnection.__init__(self, transport)
        Protocol12.__init__(self, transport, (HEART_BEAT_MS, HEART_BEAT_MS))

    # BaseConnection's method, which does nothing, would come first otherwise.
    disconnect = Protocol12.disconnect


class _Room:
    """A bound on the bytes of messages that wait. Brokers limit their number, not their size."""

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()

    def enter(self, size: int, *, wait: Callable[[], bool]) -> None:
        """Take room for a message; wait for it while ``wait`` returns true."""
        with self._changed:
            while self._taken > _MAX_WAITING and wait():
                self._changed.wait(_ROOM_SECONDS)
            self._taken += size

    def leave(self, size: int) -> None:
        """Give back the room of a message."""
        with self._changed:
            self._taken -= size
            self._changed.notify()


class _Listener(ConnectionListener):  # type: ignore[misc]  # stomp.py has no types
    """The callbacks of stomp.py, which run in its thread."""

    def __init__(self, transport: _Transport, *, is_alive: Callable[[], None]) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.room = _Room()
        self._transport = transport
        self._is_alive = is_alive

    def on_connected(self, _frame: Any) -> None:
        self.events.put(Greeting())

    def on_receipt(self, frame: Any) -> None:
        self.events.put(Receipt(frame.headers.get("receipt-id", "")))

    def on_message(self, frame: Any) -> None:
        headers = frame.headers
        self.room.enter(len(frame.body), wait=self._is_waiting)
        self.events.put(
            Delivery(
                headers.get("ack", ""),
                headers.get("message-id", ""),
                headers.get("empa-id"),
                frame.body,
            )
        )

    def _is_waiting(self) -> bool:
        """Check whether the connection is still open.

        The broker's heart-beats are not read while this thread waits, so they count as received.
        """
        self._is_alive()
        return bool(self._transport.running)

    def on_error(self, frame: Any) -> None:
        words = [
            frame.headers.get("message", ""),
            *frame.body.decode("utf-8", "replace").splitlines()[:1],
        ]
        text = " ".join(dict.fromkeys(filter(None, words)))[:500] or "without a reason"
        self.events.put(Rejection(text, frame.headers.get("receipt-id", "")))

    def on_disconnected(self) -> None:
        self.events.put(Lost(self._transport.cause))


class _Transport(Transport):  # type: ignore[misc]  # stomp.py has no types
    """stomp.py's transport over sockets that this module opens and closes."""

    def __init__(self, broker: Broker, *, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            [(broker.host, broker.port)],
            prefer_localhost=False,
            try_loopback_connect=False,
            auto_decode=False,
            is_eol_fc=StompConnection12.is_eol,
        )
        self._broker = broker
        self._tls = tls
        self.cause = "closed by the broker"

    def attempt_connection(self) -> None:
        address = (self._broker.host, self._broker.port)
        made = socket.create_connection(address, CONNECT_TIMEOUT)
        try:
            for level, option, value in _SOCKET_OPTIONS:
                made.setsockopt(level, option, value)
            if self._tls is not None:
                made = self._tls.wrap_socket(made, server_hostname=self._broker.host)
        except (OSError, UnicodeError):
            made.close()
            raise
        made.setblocking(False)
        self.socket, self.current_host_and_port, self.blocking = made, address, False
        self.send_queue, self.sel = _FrameQueue(), selectors.DefaultSelector()
        self.sel.register(self.send_queue, selectors.EVENT_READ)
        self.sel.register(self.socket, selectors.EVENT_READ)

    def receive(self) -> bytes:
        try:
            data: bytes = self.socket.recv(_RECEIVE_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except BlockingIOError:
            raise ssl.SSLWantReadError from None
        except OSError as error:
            self.cause = _words(error)
            data = b""
        if not data and not self.blocking:
            # The end of the stream, which stomp.py misses on a socket that does not block.
            self.running = False
            # This sets `blocking`, which makes stomp.py take an empty read for the end.
            self.shutdown_queue()
        return data

    def disconnect_socket(self) -> None:
        """End the stream. stomp.py calls this when heart-beats fail, `close` at the end."""
        self.running = False
        self.cause = f"no heart-beat for {1.5 * HEART_BEAT_MS / 1000:.0f} s"
        open_socket = self.socket
        if open_socket is not None:
            with contextlib.suppress(OSError):
                # It wakes the thread that reads, which cleans up. SSLSocket's own shutdown would
                # make that thread read ciphertext.
                socket.socket.shutdown(open_socket, socket.SHUT_RDWR)


class _FrameQueue(PollableQueue):  # type: ignore[misc]  # stomp.py has no types
    def put(self, frame: bytes) -> None:
        # TLS takes 16 KiB at a time, and stomp.py slices off what was taken: with bytes, that
        # would copy a message of 1 MB once for each of them.
        super().put(memoryview(frame))


_REGISTER = (
    "check that this host's certificate is registered with the broker, valid, and from a CA that it"
    " knows"
)


def _explain(broker: Broker, error: OSError | UnicodeError) -> Unavailable:
    match error:
        case ssl.SSLCertVerificationError():
            cause = f"the broker's certificate is not trusted: {error.verify_message}"
            return Unavailable(broker, cause, remedy(error))
        case ssl.SSLError():
            return Unavailable(
                broker, f"no TLS connection: {_words(error)}", "check port and use_ssl"
            )
        case socket.gaierror() | UnicodeError():  # the latter: a name that DNS cannot have
            return Unavailable(broker, "the host's name is not known", "check [broker] host")
        case TimeoutError():
            cause = f"does not answer within {CONNECT_TIMEOUT:.0f} s"
            return Unavailable(broker, cause, "check [broker] host and port, and the firewall")
        case _:
            return Unavailable(
                broker, f"cannot be reached: {_words(error)}", "check that the broker runs"
            )


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror or str(error)).lower()
