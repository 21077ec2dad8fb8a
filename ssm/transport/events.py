"""Connections to message brokers, and their events, whatever protocol they speak.

    Greeting     the broker has accepted this host; consumed by the connection itself
    Receipt      the broker has taken over a message that was sent
    Delivery     a message from the queue
    Rejection    the broker refuses something; the connection is of no more use
    Lost         the connection has ended; the last event

`Connection.next_event` returns them in the order of their arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.core.run.errors import Unavailable
from ssm.settings import Broker


@dataclass(frozen=True, slots=True)
class Greeting:
    """The broker has accepted this host."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker has taken over the message that was sent with this id."""

    id: str
    argo_id: str = ""
    """The id that AMS gave it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the queue."""

    ack: str
    """The id to acknowledge it by."""
    message_id: str
    """The broker's id."""
    empa_id: str | None
    """The sender's id; None for a message without one."""
    body: bytes
    is_argo: bool = False
    """Whether it came from AMS, whose ids SSM's log names."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The broker refuses something: an ERROR frame of STOMP, a status 4xx of AMS."""

    text: str
    message_id: str
    """The message that it is about; empty when the broker does not say."""
    error: Unavailable | None = None
    """Set when a retry is useless: the failure to report."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection has ended."""

    cause: str
    error: Unavailable | None = None
    """The failure to report, where the protocol knows more than the cause."""
    is_passing: bool = False
    """Whether the broker itself says that it is out of order for a while."""


Event = Greeting | Receipt | Delivery | Rejection | Lost


class Connection(Protocol):
    """An open connection. Its methods do nothing after it was lost: `Lost` is the report."""

    broker: Broker

    def send(self, destination: str, body: bytes, *, message_id: str) -> None:
        """Queue a message; its receipt will carry ``message_id``."""

    def subscribe(self, destination: str, *, prefetch: int) -> None:
        """Ask for messages, at most ``prefetch`` unacknowledged at a time.

        Each message is acknowledged by itself.
        """

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge a message, so that the broker deletes it."""

    def next_event(self, *, timeout: float) -> Event | None:
        """Return the next event; None after ``timeout`` seconds without one (0: do not wait)."""

    def close(self) -> None:
        """Send acknowledgements that are due, then disconnect; wait about five seconds for that."""
