"""A container of Swift, found in the catalog of the cloud that the account logs in to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from appliance.core import hosts
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud, Scope, understood
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, Unavailable
from cloud_info_provider.publishing.store import MOST_OBJECTS

if TYPE_CHECKING:
    import requests

_NOT_FOUND = 404
_REFUSED = (401, 403)
_FULL = (413, 507)
_PAGE = 1000


class SwiftContainer:
    """A container; it is made if it does not exist."""

    def __init__(self, access: Access, *, project_id: str, container: str) -> None:
        self._cloud = Cloud(access)
        self._project_id = project_id
        self._container = container
        self.place = f"Swift container {container} of {hosts.of_url(access.auth_url)}"

    @cached_property
    def _scope(self) -> Scope:
        if self._cloud.access.is_bound and not self._project_id:
            return self._cloud.unscoped  # the credential has its own project
        return self._cloud.project(self._project_id)

    def tags(self, name: str) -> Mapping[str, str]:
        """Return the MD5 of each object."""
        del name
        found: dict[str, str] = {}
        marker = ""
        while page := self._page(marker):
            found |= page
            if (last := list(page)[-1]) <= marker or len(found) > MOST_OBJECTS:
                words = f"its listing does not end after {len(found)} objects"
                raise Unavailable(self.place, words, CHECK_LOGS)
            marker = last  # a short page need not be the last one: stores have limits of their own
        return found

    def _page(self, marker: str) -> dict[str, str]:
        query = {"format": "json", "limit": str(_PAGE), "marker": marker}
        answer = self._request("GET", f"?{urlencode(query)}")
        if answer.status_code == _NOT_FOUND:
            self._accept(self._request("PUT"), "make the container")
            return {}
        self._accept(answer, "list it")
        if answer.status_code == 204:  # noqa: PLR2004  an empty container of old releases
            return {}
        try:
            items = json.loads(answer.content)
            if not isinstance(items, list):
                raise TypeError(type(items))
            return {str(item["name"]): str(item["hash"]) for item in items}
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            words = f"answers {answer.status_code} to a listing, but with none"
            raise Unavailable(self.place, words, CHECK_LOGS) from error

    def read(self, name: str, *, most: int) -> bytes | None:
        """Return an object's first bytes."""
        answer = self._request("GET", f"/{quote(name)}", headers={"Range": f"bytes=0-{most - 1}"})
        if answer.status_code == _NOT_FOUND:
            return None
        if answer.status_code == 416:  # noqa: PLR2004  an empty object has no first byte
            return b""
        self._accept(answer, f"read {name}")
        return bytes(answer.content[:most])

    def write(self, name: str, content: bytes, *, digest: str) -> str:
        """Store an object; Swift compares its digest, and so do we."""
        headers = {"Content-Type": "application/json", "ETag": digest}
        answer = self._request("PUT", f"/{quote(name)}", data=content, headers=headers)
        self._accept(answer, f"store {name}")
        tag = str(answer.headers.get("ETag", "")).strip('"')
        if tag != digest:
            words = f"not published: the store's ETag is {tag or 'missing'}, not {digest}"
            raise Unavailable(f"{self.place}: {name}", words, CHECK_LOGS)
        return digest

    def remove(self, name: str) -> None:
        """Remove an object."""
        answer = self._request("DELETE", f"/{quote(name)}")
        if answer.status_code != _NOT_FOUND:
            self._accept(answer, f"remove {name}")

    def _request(self, method: str, path: str = "", **options: Any) -> requests.Response:
        url = f"/{quote(self._container, safe='')}{path}"
        with understood(self.place, "Swift"):
            # redirect: a token is never carried to another host
            answer: requests.Response = self._scope.object_store.request(
                url, method, raise_exc=False, redirect=False, **options
            )
        return answer

    def _accept(self, answer: requests.Response, action: str) -> None:
        """Raise an error unless the store did what was asked."""
        status = answer.status_code
        if 200 <= status < 300:  # noqa: PLR2004  HTTP's successes
            return
        words = f"cannot {action}: answers {status} {answer.reason or ''}".rstrip()
        if status in _REFUSED:
            account = self._cloud.access.account
            remedy = f"give the account {account!r} a role that may write there, often member"
            raise AccessDenied(self.place, words, remedy)
        if status in _FULL:
            raise Unavailable(self.place, words, "it is full: raise its quota, or free space")
        raise Unavailable(self.place, words, CHECK_LOGS)
