"""A session of requests that reads the environment once for each host.

requests looks for proxies and for a bundle of authorities in the environment at every request,
which takes about half a millisecond of CPU. The environment of a process does not change.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests


class ProxiedSession(requests.Session):
    """Keeps what the environment says about each host; otherwise as requests makes it."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[object, ...], Any] = {}

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Return proxies, authorities and certificate for a request."""
        if proxies:  # those of one request alone, which nothing here sets
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        place = urlsplit(url)
        # The session's own settings count, too, and its owner may change them.
        own = (self.verify, self.cert, self.stream)
        key = (place.scheme, place.netloc, stream, verify, cert, *own)
        if key not in self._kept:
            self._kept[key] = super().merge_environment_settings(url, proxies, stream, verify, cert)
        found = self._kept[key]
        return found | {"proxies": dict(found["proxies"])}
