"""The location of an image that a frontend streams to the backend of its own host.

It is ``http+unix://SOCKET/``, with the path of the unix socket percent-encoded in place of a host.
The image's mode is REMOTE, as for an image of cloudkeeper 1.7.1 at a URL; user name and password
are good for one request.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SCHEME = "http+unix"


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
