"""A folder of a web server that accepts PUT, and what it shares with a bucket of S3."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from appliance.core import web as core_web
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, Unavailable
from appliance.core.web import WebAddress
from cloud_info_provider.publishing.store import LARGEST

if TYPE_CHECKING:
    import requests

_NOT_FOUND, _CHANGED = 404, 412
_FULL = (413, 507)


def send(
    server: WebAddress, method: str, url: str, *, headers: Mapping[str, str], content: bytes | None
) -> requests.Response:
    """Send a request and return the answer, which may be as large as an object.

    Raises:
        Unavailable: there is no answer.

    """
    return core_web.send(server, method, url, headers=headers, content=content, largest=LARGEST)


def accept(answer: requests.Response, subject: str, action: str, *, account: str) -> None:
    """Raise an error unless the server did what was asked."""
    status = answer.status_code
    if 200 <= status < 300:  # noqa: PLR2004  HTTP's successes
        return
    words = f"cannot {action}: answers {status} {answer.reason or ''}".rstrip()
    if status in (401, 403):
        raise AccessDenied(subject, words, f"check {account} and what it may write")
    if status in _FULL:
        raise Unavailable(subject, words, "it is full: raise its quota, or free space")
    if 300 <= status < 400:  # noqa: PLR2004  HTTP's redirects
        raise Unavailable(subject, words, "write the URL that it leads to")
    raise Unavailable(subject, words, CHECK_LOGS)


class WebFolder:
    """A folder. It has no listing that all servers share: only the object's own name is checked.

    An object that changes between this check and the PUT is not overwritten, if the server knows
    conditions (RFC 9110, 13): the PUT is bound to the entity tag that was read.
    """

    def __init__(self, server: WebAddress, *, authorization: str, account: str) -> None:
        self._server = server
        self._headers = {"Authorization": authorization} if authorization else {}
        self._account = account
        self._conditions: dict[str, dict[str, str]] = {}
        """By name, the headers that bind a PUT to what was read."""
        self.place = server.url

    def tags(self, name: str) -> Mapping[str, str]:
        """Return the MD5 of this one object."""
        answer = self._get(name)
        if answer is None:
            self._conditions[name] = {"If-None-Match": "*"}
            return {}
        tag = str(answer.headers.get("ETag", ""))
        # a weak tag matches nothing
        self._conditions[name] = {"If-Match": tag} if tag.startswith('"') else {}
        return {name: hashlib.md5(answer.content, usedforsecurity=False).hexdigest()}

    def read(self, name: str, *, most: int) -> bytes | None:
        """Return an object's first bytes."""
        answer = self._get(name)
        return None if answer is None else bytes(answer.content[:most])

    def _get(self, name: str) -> requests.Response | None:
        answer = self._request("GET", name)
        if answer.status_code == _NOT_FOUND:
            return None
        accept(answer, self.place, f"read {name}", account=self._account)
        return answer

    def write(self, name: str, content: bytes, *, digest: str) -> str:
        """Store an object."""
        answer = self._request("PUT", name, content=content)
        if answer.status_code == _CHANGED:
            words = "another program changed it during this run, so nothing was uploaded"
            raise Unavailable(f"{self.place}: {name}", words, "the next run looks at it again")
        accept(answer, self.place, f"store {name}", account=self._account)
        return digest

    def remove(self, name: str) -> None:
        """Remove an object."""
        answer = self._request("DELETE", name)
        if answer.status_code != _NOT_FOUND:
            accept(answer, self.place, f"remove {name}", account=self._account)

    def _request(self, method: str, name: str, **options: Any) -> requests.Response:
        url = f"{self._server.url.rstrip('/')}/{quote(name)}"
        content = options.get("content")
        headers: dict[str, str] = {}
        if content is not None:
            headers = {"Content-Type": "application/json", **self._conditions.get(name, {})}
        elif method == "GET":
            # The object itself, not a cache's copy of it. Compressed answers have entity tags of
            # their own.
            headers = {"Cache-Control": "no-cache", "Accept-Encoding": "identity"}
        return send(self._server, method, url, headers=self._headers | headers, content=content)
