"""Where image lists are: URLs of the configuration or of ``image-lists.conf``, whose user name may be a secret token.

AppDB's URLs read ``https://TOKEN:x-oauth-basic@HOST/store/vo/VO/image.list``. What is left of a URL
without its credentials and its query names the list in every message; the rest is hidden from all
output as soon as it is read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from appliance.core import hosts
from appliance.core.config.document import read_text
from appliance.core.run import log
from appliance.core.run.errors import Problem

_PLACEHOLDERS = frozenset({"APPDB_TOKEN", "TOKEN", "ACCESS_TOKEN"})
_NO_SECRETS = frozenset({"x-oauth-basic"})
_SHORTEST_SECRET = 4
"""Shorter words are no tokens, and masking them would make every message unreadable."""

OR_OFF = ", or switch the flow off in /etc/fedcloud/appliance.yaml: flows: {images: off}"


@dataclass(frozen=True, slots=True)
class Address:
    """One list to fetch. ``name`` is the URL as it may be shown; ``origin`` says where it was configured."""

    name: str
    url: str = field(repr=False)
    """Without user name and password."""
    origin: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """The URL as it may be written down; where its query, which may hide a token, matters, as a digest of it."""
        if self.url == self.name:
            return self.name
        return f"{self.name}?{hashlib.sha256(self.url.encode()).hexdigest()[:16]}"

    def __str__(self) -> str:
        return self.name


def read_file(path: Path) -> tuple[list[Address], list[Problem]]:
    """Read a file of one URL a line; lines that are blank or begin with ``#`` count for nothing, nor do blanks.

    Returns the good lines and what is wrong with others: one bad line stops none of its neighbours.

    :raises ConfigurationError: the file cannot be read
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    entries = [
        (line.strip(), number)
        for number, line in lines
        if line.strip() and not line.strip().startswith("#")
    ]
    addresses, problems = read(entries, path=path)
    if not entries:
        problems.append(Problem(path, 0, "", f"names no image list; write one URL a line{OR_OFF}"))
    return addresses, problems


def read(
    entries: Iterable[tuple[str, int]], *, path: Path, option: str = ""
) -> tuple[list[Address], list[Problem]]:
    """Read URLs with the lines of ``path`` that they stand in; one that stands there twice counts once, with a word."""
    addresses: dict[str, Address] = {}
    problems = []
    for text, line in entries:
        found = _read_one(text, origin=f"{path}:{line}" if line else str(path))
        if isinstance(found, Address) and found.url in addresses:
            found = f"this list stands already in {addresses[found.url].origin}; remove one"
        if isinstance(found, Address):
            addresses[found.url] = found
        else:
            problems.append(Problem(path, line, option, found))
    return list(addresses.values()), problems


def _read_one(text: str, *, origin: str) -> Address | str:
    """Return the address that ``text`` is, or what is wrong with it; never the text, which may hold a token."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is no URL; write https://HOST/PATH"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    _hide(parts, user, password)
    if " " in text or not text.isprintable():
        return "a URL has no blanks in it; write one URL a line"
    if parts.scheme not in {"http", "https"}:
        return "must begin with https://"
    if not host or not parts.path.strip("/"):
        return "names no host, or no list on it; write https://HOST/PATH"
    if user in _PLACEHOLDERS:
        return f"is still the placeholder {user!r}; write your access token of {host}"
    if user and parts.scheme == "http":
        return "would send the token unencrypted; write https://"
    place = hosts.join_port(host, port or None)
    url = urlunsplit((parts.scheme, place, parts.path, parts.query, ""))
    return Address(
        urlunsplit((parts.scheme, place, parts.path, "", "")), url, origin, user, password
    )


def _hide(parts: SplitResult, user: str, password: str) -> None:
    basic = (
        base64.b64encode(f"{user}:{password}".encode()).decode("ascii") if user or password else ""
    )
    for secret in (
        {parts.username, user, parts.password, password, basic, parts.query}
        - _PLACEHOLDERS
        - _NO_SECRETS
    ):
        if secret and len(secret) >= _SHORTEST_SECRET:
            log.hide(secret)
