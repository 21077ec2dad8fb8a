"""The location of an image that a frontend streams to the backend of its own host.

It is ``http+unix://SOCKET/``, with the path of the unix socket percent-encoded in place of a host.
The image's mode is REMOTE, as for an image of cloudkeeper 1.7.1 at a URL; user name and password
are good for one request.

A backend in the frontend's own process (direct mode) takes the image from it without a connection.
Location, user name and password are the same, and so are their checks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SCHEME = "http+unix"

Taker = Callable[[str, str], Iterator[bytes] | None]
"""Gets user name and password; returns the blocks of an image if they are right, once."""
_offered: dict[Path, Taker] = {}
"""The images that this process offers, by the path of the socket."""


def to_location(path: Path) -> str:
    """Return the location of the image that the socket at ``path`` offers."""
    return f"{SCHEME}://{quote(str(path), safe='')}/"


def socket_of(location: str) -> Path | None:
    """Return the path of the socket in a location; None for one that names no socket."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return None
    return Path(unquote(parts.netloc)) if parts.scheme == SCHEME and parts.netloc else None


@contextlib.contextmanager
def offered_here(path: Path, taker: Taker) -> Iterator[None]:
    """Offer an image to this process as well, during the block."""
    _offered[path] = taker
    try:
        yield
    finally:
        del _offered[path]


def taken_here(path: Path, username: str, password: str) -> Iterator[bytes] | None:
    """Return the blocks of an image that this process offers; None if it may not be taken."""
    taker = _offered.get(path)
    return taker(username, password) if taker else None
