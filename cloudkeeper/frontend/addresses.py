"""The URLs of image lists, in the configuration or in ``image-lists.conf``.

The user name in a URL may be a secret token: AppDB's URLs have the form
``https://TOKEN:x-oauth-basic@HOST/store/vo/VO/image.list``. Messages name a list by its URL without
credentials and query. Those are hidden from all output as soon as they are read.
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
from appliance.core.hosts import SCHEMES
from appliance.core.run import log
from appliance.core.run.errors import Problem
from cloudkeeper.frontend.selection import ALL, Selection
from cloudkeeper.model import Endorser

# Hiding these would hide words that messages need.
_PLACEHOLDERS = frozenset({"APPDB_TOKEN", "TOKEN", "ACCESS_TOKEN"})
_NO_SECRETS = frozenset({"x-oauth-basic"})
# Characters; shorter words are not tokens, and hiding them would damage every message.
_SHORTEST_SECRET = 4

OR_OFF = ", or switch the flow off in /etc/fedcloud/appliance.yaml: flows: {images: off}"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of one list.

    ``name`` is the URL for messages, without secrets; ``origin`` is the place in the configuration.
    """

    name: str
    url: str = field(repr=False)
    """Without user name and password."""
    origin: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    endorser: Endorser | None = None
    """The only one who may sign the list; None: the one of the first list that came."""
    selection: Selection = ALL
    """The images to take."""
    properties: tuple[tuple[str, str], ...] = ()
    """Names and values of the site's own properties of its images in Glance."""

    @property
    def place(self) -> str:
        """The URL for files: it has no secrets, and is different for each list.

        A query may hold a token, and may select the list. A digest takes its place.
        """
        if self.url == self.name:
            return self.name
        return f"{self.name}?{hashlib.sha256(self.url.encode()).hexdigest()[:16]}"

    @property
    def file_and_line(self) -> tuple[Path, int]:
        """The place in the configuration; line 0 if that is not known."""
        path, _, line = self.origin.rpartition(":")
        return (Path(path), int(line)) if line.isdecimal() else (Path(self.origin), 0)

    def __str__(self) -> str:
        return self.name


def read_file(path: Path, *, may_be_empty: bool) -> tuple[list[Address], list[Problem]]:
    """Read a file of one URL a line; blank lines and those that begin with ``#`` are comments.

    Return the addresses and the problems: one invalid line does not affect the others. A file
    without any is a problem unless it ``may_be_empty``.

    Raises:
        ConfigurationError: the file cannot be read.

    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    entries = [
        (line.strip(), number)
        for number, line in lines
        if line.strip() and not line.strip().startswith("#")
    ]
    addresses, problems = read(entries, path=path)
    if not entries and not may_be_empty:
        problems.append(
            Problem(
                path,
                0,
                "",
                f"has no image list; write one URL a line, or a registry into sources.yaml{OR_OFF}",
            )
        )
    return addresses, problems


def read(
    entries: Iterable[tuple[str, int]], *, path: Path, option: str = ""
) -> tuple[list[Address], list[Problem]]:
    """Return the addresses of URLs, given with their line in ``path``, and the problems.

    A URL that occurs twice is used once and reported.
    """
    addresses: dict[str, Address] = {}
    problems = []
    for text, line in entries:
        found = _read_one(text, origin=f"{path}:{line}" if line else str(path))
        if isinstance(found, Address) and found.url in addresses:
            found = f"the same list is in {addresses[found.url].origin}; remove one of them"
        if isinstance(found, Address):
            addresses[found.url] = found
        else:
            problems.append(Problem(path, line, option, found))
    return list(addresses.values()), problems


def _read_one(text: str, *, origin: str) -> Address | str:
    """Return the address in a text, or its problem; never the text itself, which may be a token."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not a URL; write https://HOST/PATH"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    _hide(parts, user, password)
    if " " in text or not text.isprintable():
        return "has a space or an unprintable character; write one URL a line"
    if parts.scheme in {"oci", "harbor"}:
        return "is a registry; configure it in /etc/cloudkeeper/sources.yaml"
    if parts.scheme not in SCHEMES:
        return "does not begin with https://; write https://HOST/PATH"
    if not host or not parts.path.strip("/"):
        return "has no host or no path; write https://HOST/PATH"
    if user in _PLACEHOLDERS:
        return f"is still the placeholder {user!r}; write your access token of {host}"
    if user and parts.scheme == "http":
        return "would send the token unencrypted; write https://"
    place = hosts.join_port(host, port or None)
    # Without credentials, which are sent apart, and without fragment, which is never sent.
    url = urlunsplit((parts.scheme, place, parts.path, parts.query, ""))
    return Address(
        urlunsplit((parts.scheme, place, parts.path, "", "")), url, origin, user, password
    )


def _hide(parts: SplitResult, user: str, password: str) -> None:
    """Hide the secrets of a URL from all output, in every form that a library could show."""
    basic = (
        base64.b64encode(f"{user}:{password}".encode()).decode("ascii") if user or password else ""
    )
    words = {parts.username, user, parts.password, password, basic, parts.query}
    for secret in words - _PLACEHOLDERS - _NO_SECRETS:
        if secret and len(secret) >= _SHORTEST_SECRET:
            log.hide(secret)
