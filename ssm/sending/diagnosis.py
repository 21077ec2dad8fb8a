"""The end of a connection: which message it is about, if any, and the line for the administrator.

Brokers have no codes for this, only words. Known words settle the question at once; in all other
cases `ssm.sending.suspects` counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from appliance.core.run.errors import AccessDenied, Unavailable
from ssm.transport.events import Lost, Rejection

_TOO_LARGE = re.compile(
    r"too (large|big|long)|frame size|data length|message size|larger than", re.IGNORECASE
)
"""Words about one message. Limits and maxima are left out: brokers name them when they are full."""
_ABOUT_BROKER = re.compile(
    r"(store|memory|disk|temp\w*)[\w ]* (is )?(full|limit)|limit reached|maximum number"
    r"|not authori[sz]ed|access (is )?denied|not permitted|permission|credential",
    re.IGNORECASE,
)
"""Words of a broker that is full, or that refuses this host."""


def is_about_broker(end: Rejection | Lost) -> bool:
    """Check whether the words of a rejection are known to be about the broker, not a message."""
    return isinstance(end, Rejection) and _ABOUT_BROKER.search(end.text) is not None


def too_large(
    end: Rejection | Lost, in_flight: Sequence[str], on_wire: Mapping[str, str]
) -> str | None:
    """Return the message that the broker calls too large; None when it does not say so.

    ``on_wire`` has the names of messages by the ids under which they were sent.
    """
    if not isinstance(end, Rejection) or not _TOO_LARGE.search(end.text):
        return None
    named = on_wire.get(end.message_id, "")
    if named in in_flight:
        return named
    return in_flight[0] if len(in_flight) == 1 else None


def words(end: Rejection | Lost) -> str:
    """Return the broker's own words, or the cause of a lost connection."""
    return end.text if isinstance(end, Rejection) else end.cause


def describe(
    end: Rejection | Lost, *, broker: object, destination: str, in_flight: Sequence[str]
) -> Unavailable:
    """Return the failure of a run that ends with this connection."""
    if isinstance(end, Lost) and end.error is not None:
        return end.error
    alone = f"; {in_flight[0]} was sent alone" if len(in_flight) == 1 else ""
    remedy = "look into the broker's log"
    if alone:
        remedy += "; if it accepts others but never this one, the message will be set aside"
    if isinstance(end, Lost):
        return Unavailable(broker, f"connection broken: {end.cause}{alone}", remedy)
    if is_about_broker(end):
        remedy = "check that this host's certificate may write to this queue"
    cause = f"the broker refuses messages: {end.text}{alone}"
    return AccessDenied(f"{broker}, {destination}", cause, remedy)
