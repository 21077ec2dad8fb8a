"""What a connection to a message broker has to tell, whatever protocol it speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.core.run.errors import Unavailable
from ssm.settings import Broker


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker has taken over the message that was sent with this id."""

    id: str
    argo_id: str = ""
    """What AMS calls it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the queue. ``ack`` is what `Connection.ack` wants; ``empa_id`` is None when it has no such id."""

    ack: str
    message_id: str
    empa_id: str | None
    body: bytes
    is_argo: bool = False
    """Whether it came from AMS, whose ids SSM's log names."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The broker refuses something, and with it the connection: an ERROR frame of STOMP, a status 4xx of AMS."""

    text: str
    message_id: str
    """Of the message that it is about, if the broker says so."""
    error: Unavailable | None = None
    """Set when trying again is of no use: what to tell."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is no more. The last event."""

    cause: str
    error: Unavailable | None = None
    """What to tell, where the protocol knows more than that."""
    is_passing: bool = False
    """Whether the broker itself says that it is out of order for a while."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """The broker has accepted us. The first event, which `Connection` takes itself."""


Event = Greeting | Receipt | Delivery | Rejection | Lost


class Connection(Protocol):
    """An open connection. Every method may be called after it was lost: nothing happens then, `Lost` tells."""

    broker: Broker

    def send(self, destination: str, body: bytes, *, message_id: str) -> None:
        """Queue a message, which is both named and to be receipted by ``message_id``."""

    def subscribe(self, destination: str, *, prefetch: int) -> None:
        """Ask for messages, each to be acknowledged by itself, at most ``prefetch`` of them unacknowledged."""

    def ack(self, delivery: Delivery) -> None:
        """Tell the broker that it may forget a message."""

    def next_event(self, *, timeout: float) -> Event | None:
        """Return the next event; None when there was none for ``timeout`` seconds (0: do not wait)."""

    def close(self) -> None:
        """Disconnect, after what was acknowledged has been told to the broker, or after five seconds."""
