"""Names of hosts and URLs of services as administrators write them: whether there can be such a one.

Libraries tell of a name that there cannot be in their own ways, when they connect: Python's
resolver with a `UnicodeError`.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LONGEST = 253
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.IGNORECASE)
"""Labels as the DNS has them, and underscores: networks of containers know names with them."""


def is_host(text: str) -> bool:
    """Say whether a text can be a host's name, in any script, or an address; one of IPv6 without brackets."""
    if ":" in text:
        return _is_address(text)
    try:
        return (
            len(text) <= _LONGEST
            and _NAME.fullmatch(text.encode("idna").decode("ascii")) is not None
        )
    except UnicodeError:  # an empty label, a long one, characters that names have not
        return False


def _is_address(text: str) -> bool:
    import ipaddress  # noqa: PLC0415  start-up is a cost

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def url_fault(url: str) -> str:
    """Return why this is not the URL of a service, empty when it is one; never any of it, which may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "is not a URL"
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not url.isprintable()
        or " " in url
    ):
        return "is not a URL"
    if "@" in parts.netloc:
        return "holds an account, and programs would show it; account and password have options of their own"
    if not is_host(parts.hostname):
        return "is not a URL: there can be no host of this name"
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    if not is_port:
        return "is not a URL: ports are numbers from 1 to 65535, and an IPv6 address stands in brackets"
    return (
        "goes on behind its path; leave out all from ? or # on"
        if parts.query or parts.fragment
        else ""
    )
