"""A query as strangers make it: anonymous, over TCP, for the one entry that is always there.

The watch on slapd makes it every few seconds, so it costs next to nothing: the request is a
constant, and only the kind of the answer is read.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Sequence
from datetime import timedelta

from appliance.core import hosts

# SearchRequest (RFC 4511, 4.5.1) number 1: o=glue, base object, (objectClass=*), no attributes.
_REQUEST = bytes.fromhex(
    "3030020101632b04066f3d676c75650a01000a0100020100020100010100"
    "870b6f626a656374436c617373"
    "30050403312e31"
)
# SearchResultDone, with any result: a server that refuses answers, too.
_DONE = re.compile(rb"\x65.\x0a\x01", re.DOTALL)
_LONGEST = 4096


def reachable(addresses: Sequence[str]) -> str:
    """Return the address at which this host's programs reach a server that listens on these."""
    try:
        is_any = ipaddress.ip_address(addresses[0]).is_unspecified
    except ValueError:  # a name
        return addresses[0]
    if not is_any:
        return addresses[0]
    return "::1" if ":" in addresses[0] else "127.0.0.1"


def url(addresses: Sequence[str], port: int) -> str:
    """Return the URL of a server that listens on these addresses, for programs of this host."""
    return f"ldap://{hosts.join_port(reachable(addresses), port)}"


def answer_time(addresses: Sequence[str], port: int, *, patience: timedelta) -> float | None:
    """Return the seconds that a query took; None if it was not answered within ``patience``."""
    started = time.monotonic()
    deadline = started + patience.total_seconds()
    found = b""
    try:
        place = (reachable(addresses), port)
        with socket.create_connection(place, timeout=patience.total_seconds()) as client:
            client.sendall(_REQUEST)
            while not _DONE.search(found):
                client.settimeout(max(0.001, deadline - time.monotonic()))
                block = client.recv(_LONGEST)
                if not block:
                    return None
                found = (found + block)[-_LONGEST:]
    except OSError:
        return None
    return time.monotonic() - started
