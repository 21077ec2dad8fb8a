"""AMS as a stream of events, like a connection to a message broker.

A thread of its own talks to the service. While a request is under way the main thread signs more
messages; those that are ready when it ends go into the next request. Published messages are
receipted one by one, in order. Pulled messages are handed out, and the thread pulls again only
after all of them were acknowledged: until then the service returns the same ones.
"""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from appliance.core import retry
from appliance.core.run.errors import Unavailable
from ssm.settings import AMSAccess, Broker
from ssm.transport import ams_client, request
from ssm.transport.events import Delivery, Event, Lost, Receipt, Rejection

MAX_MESSAGES = 64
"""Messages in one request."""
_EMPAID = "empaid"
"""The attribute that holds a message's id."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
"""Seconds between pulls that return nothing."""
_PULL_BYTES = 2 * 1024 * 1024
"""Bytes that one pull may bring, estimated from the size of the messages before."""
_FIRST_PULL = 2  # messages, before their size is known
_GATHER_SECONDS = 0.05
"""How long acknowledgements are collected for one request."""
_CLOSE_TIMEOUT = 5.0
_REQUEST_TIMEOUT = 408  # HTTP status


def max_data(message_id: str) -> int:
    """Return the most bytes that a message with this id may have."""
    return ams_client.max_data({_EMPAID: message_id})


def client_of(
    broker: Broker,
    *,
    access: AMSAccess,
    tls: ssl.SSLContext,
    answer_time: timedelta | None = None,
) -> ams_client.AMSClient:
    """Return a client that is not connected yet."""
    service = ams_client.AMSService(broker.host, access.project, broker.port, access.authn_port)
    return ams_client.AMSClient(service, tls=tls, token=access.token, answer_time=answer_time)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A bug in the thread, to be raised in the thread that asks for events."""

    error: BaseException


class AMSConnection:
    """An AMS that has accepted this host. A connection either sends or subscribes."""

    def __init__(self, broker: Broker, *, access: AMSAccess, tls: ssl.SSLContext) -> None:
        """Connect and get a token.

        Raises:
            AccessDenied: the service refuses this host.
            Unavailable: there is no connection.

        """
        self.broker = broker
        self._client = client_of(broker, access=access, tls=tls)
        self._events: queue.SimpleQueue[Event | _Failure] = queue.SimpleQueue()
        self._is_lost = False
        self._worker: threading.Thread | None = None
        self._changed = threading.Condition()
        self._outbox: list[tuple[str, ams_client.Message]] = []
        self._acks: list[str] = []
        self._is_closing = False
        self._client.open()

    def send(self, destination: str, body: bytes, *, message_id: str) -> None:
        """Queue a message; its receipt will carry ``message_id``."""
        with self._changed:
            self._outbox.append((destination, ams_client.Message(body, {_EMPAID: message_id})))
            self._changed.notify_all()
        if self._worker is None:
            self._start(self._publish_all)

    def subscribe(self, destination: str, *, prefetch: int) -> None:
        """Pull from a subscription, at most ``prefetch`` messages at a time."""
        self._start(self._pull_all, destination, prefetch)

    def ack(self, delivery: Delivery) -> None:
        """Queue the acknowledgement of a message."""
        with self._changed:
            self._acks.append(delivery.ack)
            self._changed.notify_all()

    def next_event(self, *, timeout: float) -> Event | None:
        """Return the next event; None after ``timeout`` seconds without one (0: do not wait)."""
        try:
            event = self._events.get(timeout=timeout) if timeout else self._events.get_nowait()
        except queue.Empty:
            return None
        if isinstance(event, _Failure):
            raise event.error
        self._is_lost = isinstance(event, Lost)
        return event

    def close(self) -> None:
        """Send acknowledgements that are due, wait for a request under way, then disconnect."""
        with self._changed:
            self._is_closing = True
            # These messages have no receipts, so they stay in the spool for the next run.
            self._outbox.clear()
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join(_CLOSE_TIMEOUT)
            self._client.interrupt()
            self._worker.join(_CLOSE_TIMEOUT)
        self._client.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._worker = threading.Thread(
            target=self._run, args=(work, *arguments), daemon=True, name="ams"
        )
        self._worker.start()

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except request.Interrupted as error:
            self._events.put(Lost(error.cause, error, is_passing=error.http_status != 0))
        except ams_client.RequestRefused as error:
            self._events.put(Rejection(error.cause, ""))
        except Unavailable as error:
            self._events.put(Rejection(error.cause, "", error))
        except Exception as error:  # noqa: BLE001  raised again in the thread that asks for events
            self._events.put(_Failure(error))

    # Sending.

    def _publish_all(self) -> None:
        while batch := self._next_batch():
            topic = batch[0][0]
            if not self._publish(topic, [message for _, message in batch]):
                return

    def _next_batch(self) -> list[tuple[str, ams_client.Message]]:
        """Wait for messages; return those for one request, none when the connection closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._outbox or self._is_closing)
            # At least one message, however large: the service decides about that one.
            count, size = 0, 0
            for topic, message in self._outbox[:MAX_MESSAGES]:
                size += message.size
                if count and (size > ams_client.MAX_REQUEST or topic != self._outbox[0][0]):
                    break
                count += 1
            batch, self._outbox = self._outbox[:count], self._outbox[count:]
            return [] if self._is_closing else batch

    def _publish(self, topic: str, messages: list[ams_client.Message]) -> bool:
        """Publish messages and queue their receipts; return False when one is too large.

        The service does not say which one, so the request is halved until it is found.
        """
        try:
            ids = self._client.publish(topic, messages)
        except ams_client.TooLarge as error:
            if len(messages) == 1:
                self._events.put(Rejection(error.cause, messages[0].attributes[_EMPAID]))
                return False
            middle = len(messages) // 2
            return self._publish(topic, messages[:middle]) and self._publish(
                topic, messages[middle:]
            )
        for message, argo_id in zip(messages, ids, strict=True):
            self._events.put(Receipt(message.attributes[_EMPAID], argo_id))
        return True

    # Receiving.

    def _pull_all(self, subscription: str, prefetch: int) -> None:
        most = min(_FIRST_PULL, prefetch)
        pauses = retry.pauses(first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        while not self._is_closing:
            received = self._client.pull(subscription, most=most)
            if not received:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closing, next(pauses))
                continue
            pauses = retry.pauses(first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
            for message in received:
                empa_id = message.attributes.get(_EMPAID)
                self._events.put(
                    Delivery(
                        message.ack_id, message.message_id, empa_id, message.data, is_argo=True
                    )
                )
            self._acknowledge(subscription, len(received))
            average = sum(len(message.data) for message in received) // len(received)
            most = max(1, min(prefetch, _PULL_BYTES // (average + 1)))

    def _acknowledge(self, subscription: str, count: int) -> None:
        """Pass on acknowledgements until ``count`` of them came, or the connection closes."""
        while count > 0:
            acks = self._next_acks(count)
            if not acks:
                return
            count -= len(acks)
            try:
                self._client.acknowledge(subscription, acks)
            except request.Interrupted as error:
                # AMS answers 408 to a late acknowledgement: the messages come again, and are then
                # found to be duplicates.
                if error.http_status != _REQUEST_TIMEOUT:
                    raise

    def _next_acks(self, most: int) -> list[str]:
        """Return acknowledgements that came within a moment of each other; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._acks or self._is_closing)
            self._changed.wait_for(
                lambda: len(self._acks) >= most or self._is_closing, _GATHER_SECONDS
            )
            acks, self._acks = self._acks, []
            return acks
