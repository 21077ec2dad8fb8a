"""A bucket of S3, in path style: each request is a plain one, signed as a whole (version 4).

Stores that only resemble Amazon's refuse newer forms: checksums in trailers, chunked signatures,
the bucket as a part of the host's name.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from appliance.core import clock
from appliance.core.run.errors import CHECK_LOGS, Unavailable
from appliance.core.web import WebAddress
from cloud_info_provider.publishing import web
from cloud_info_provider.publishing.store import MOST_OBJECTS

if TYPE_CHECKING:
    import requests

_NOT_FOUND = 404
_ITEM = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_NEXT = re.compile(r"<NextContinuationToken>([^<]*)</NextContinuationToken>")
_CUT = re.compile(r"<IsTruncated>\s*true\s*<")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,50})</Region>")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")


@dataclass(frozen=True, slots=True)
class S3Key:
    """An access key and its secret, for a region."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str


class S3Bucket:
    """A bucket, which must exist."""

    def __init__(self, server: WebAddress, *, bucket: str, key: S3Key) -> None:
        self._server = server
        self._bucket = bucket
        self._key = key
        self.place = f"S3 bucket {bucket} of {urlsplit(server.url).netloc}"

    def tags(self, name: str) -> Mapping[str, str]:
        """Return the ETag of each object."""
        del name
        found: dict[str, str] = {}
        query = {"list-type": "2"}
        while True:
            answer = self._request("GET", "", query=query)
            self._accept(answer, "list it")
            text = answer.content.decode(errors="replace")
            page = dict(_listed(item) for item in _ITEM.findall(text))
            more = _NEXT.search(text)
            if "ListBucketResult" not in text or (more and not page.keys() - found.keys()):
                words = f"answers {answer.status_code} to a listing, but with none"
                raise Unavailable(self.place, words, CHECK_LOGS)
            found |= page
            if more is None and _CUT.search(text):
                words = f"lists only {len(found)} of its objects, and not how to read the others"
                raise Unavailable(self.place, words, "use a store that answers list-type=2")
            if more is None:
                return found
            if len(found) > MOST_OBJECTS:
                words = f"its listing does not end after {len(found)} objects"
                raise Unavailable(self.place, words, CHECK_LOGS)
            query = {"list-type": "2", "continuation-token": html.unescape(more[1])}

    def read(self, name: str, *, most: int) -> bytes | None:
        """Return an object's first bytes."""
        answer = self._request("GET", name, more={"Range": f"bytes=0-{most - 1}"})
        if answer.status_code == _NOT_FOUND:
            return None
        if answer.status_code == 416:  # noqa: PLR2004  an empty object has no first byte
            return b""
        self._accept(answer, f"read {name}")
        return bytes(answer.content[:most])

    def write(self, name: str, content: bytes, *, digest: str) -> str:
        """Store an object; the tag of an encrypted one is not its digest."""
        answer = self._request("PUT", name, content=content)
        self._accept(answer, f"store {name}")
        return str(answer.headers.get("ETag", "")).strip('"') or digest

    def remove(self, name: str) -> None:
        """Remove an object."""
        answer = self._request("DELETE", name)
        if answer.status_code != _NOT_FOUND:
            self._accept(answer, f"remove {name}")

    def _request(
        self,
        method: str,
        name: str,
        *,
        query: Mapping[str, str] | None = None,
        content: bytes = b"",
        more: Mapping[str, str] | None = None,
    ) -> requests.Response:
        parts = urlsplit(self._server.url)
        path = f"{parts.path.rstrip('/')}/{_quoted(self._bucket)}"
        path += f"/{quote(name, safe='/-_.~')}" if name else ""
        asked = "&".join(f"{_quoted(k)}={_quoted(v)}" for k, v in sorted((query or {}).items()))
        headers = self._signed(method, path, asked, content) | dict(more or {})
        if method == "PUT":
            headers["Content-Type"] = "application/json"
        url = f"{parts.scheme}://{parts.netloc}{path}" + (f"?{asked}" if asked else "")
        body = content if method == "PUT" else None
        return web.send(self._server, method, url, headers=headers, content=body)

    def _signed(self, method: str, path: str, query: str, content: bytes) -> dict[str, str]:
        """Return the headers that sign a request (AWS Signature Version 4)."""
        now = clock.now()
        time, day = f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}"
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            "host": urlsplit(self._server.url).netloc,
            "x-amz-content-sha256": digest,
            "x-amz-date": time,
        }
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
        scope = f"{day}/{self._key.region}/s3/aws4_request"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashed}"
        key = f"AWS4{self._key.secret_key}".encode()
        for part in (day, self._key.region, "s3", "aws4_request", text):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = (
            f"AWS4-HMAC-SHA256 Credential={self._key.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={key.hex()}"
        )
        return headers | {"Authorization": signature}

    def _accept(self, answer: requests.Response, action: str) -> None:
        if answer.ok and answer.status_code < 300:  # noqa: PLR2004  HTTP's successes
            return
        text = answer.content[:4096].decode(errors="replace")
        named = _REGION.search(text)
        region = named[1] if named else answer.headers.get("x-amz-bucket-region", "")
        code = _CODE.search(text)
        subject = f"{self.place}: {code[1]}" if code else self.place
        if region and region != self._key.region:
            words = f"cannot {action}: the bucket is in region {region}, not {self._key.region}"
            raise Unavailable(subject, words, f"write region: {region} in publish.yaml")
        account = f"the access key {self._key.access_key}"
        web.accept(answer, subject, action, account=account)


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _listed(item: str) -> tuple[str, str]:
    """Return name and tag of one object of a listing."""
    found = {tag: html.unescape(text) for tag, text in re.findall(r"<(Key|ETag)>([^<]*)</", item)}
    return found.get("Key", ""), found.get("ETag", "").strip('"')
