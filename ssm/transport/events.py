"""What a connection to a message broker has to tell, whatever protocol it speaks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker has taken over the message that was sent with this id."""

    id: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the queue. ``ack`` is what `Connection.ack` wants; ``empa_id`` is None when it has no such id."""

    ack: str
    message_id: str
    empa_id: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """An ERROR frame; the broker closes the connection after it."""

    text: str
    message_id: str
    """Of the message that it is about, if the broker says so."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is no more. The last event."""

    cause: str


@dataclass(frozen=True, slots=True)
class Greeting:
    """The broker has accepted us. The first event, which `Connection` takes itself."""


Event = Greeting | Receipt | Delivery | Refusal | Lost
