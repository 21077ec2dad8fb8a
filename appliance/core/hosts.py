"""Hosts, ports and URLs: the one place that reads, checks and writes them.

Libraries report impossible names in ways of their own when they connect: Python's resolver raises
`UnicodeError`. The checks here report them when the configuration is read.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

MAX_PORT = 65535
SCHEMES = ("http", "https")
"""The transports of files; over plain HTTP, a signature or a digest must protect each of them."""
_LONGEST = 253
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.IGNORECASE)
"""Labels as the DNS has them, and underscores: names in networks of containers contain them."""
_HOST_PORT = re.compile(
    r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\s:/@\[\]]+))(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE,
)


def is_host(text: str) -> bool:
    """Check whether a text can be a host name, in any script, or an address (IPv6: no brackets)."""
    if ":" in text:
        return _is_address(text)
    try:
        name = text.encode("idna").decode("ascii")
    except UnicodeError:  # an empty or long label, or characters that no name has
        return False
    return len(text) <= _LONGEST and _NAME.fullmatch(name) is not None


def _is_address(text: str) -> bool:
    import ipaddress  # noqa: PLC0415  start-up is a cost

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def split_port(text: str, *, default_port: int = 0) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 address stands in brackets, returned without.

    Without ``default_port``, the port must be given.

    Raises:
        ValueError: the text has another form.

    """
    found = _HOST_PORT.fullmatch(text)
    port = int(found["port"] or default_port) if found else 0
    if found is None or not 1 <= port <= MAX_PORT:
        raise ValueError(text)
    return found["address"] or found["name"], port


def join_port(host: str, port: int | None) -> str:
    """Return ``HOST:PORT`` as in URLs: an IPv6 address in brackets; no port if it is None."""
    written = f"[{host}]" if ":" in host else host
    return written if port is None else f"{written}:{port}"


def of_url(url: str) -> str:
    """Return host and port of a URL as they may be shown, without an account; else the text."""
    return urlsplit(url).netloc.rpartition("@")[2] or url


def name_of_url(url: str) -> str:
    """Return the host name of a URL in lower case, without its port; empty if it names none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # half a bracket
        return url


def url_fault(url: str) -> str:
    """Return why a text is not the URL of a service; empty if it is one.

    The cause quotes no part of the text, which may hold a password.
    """
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
        return (
            "holds an account, which programs would show; account and password have options of"
            " their own"
        )
    if not is_host(parts.hostname):
        return "is not a URL: no host can have this name"
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    if not is_port:
        return (
            "is not a URL: a port is a number from 1 to 65535,"
            " and an IPv6 address stands in brackets"
        )
    if parts.query or parts.fragment:
        return "continues after its path; leave out everything from ? or # on"
    return ""


def check_free(address: str, port: int) -> None:
    """Bind an address and port for a moment, to report a taken port before a library does.

    Raises:
        OSError: another program has the port, or the address is not one of this host.

    """
    import socket  # noqa: PLC0415  start-up is a cost

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # else it would also claim the port of IPv4
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((address, port))


def place_fault(text: str) -> str:
    """Return why a text is not HOST or HOST:PORT, empty if it is."""
    try:
        host, _ = split_port(text, default_port=443)
    except ValueError:
        return "is not HOST or HOST:PORT"
    return "" if is_host(host) else "is not a host name"
