"""Keystone with Swift, a web server with PUT, and S3 in one server, with faults on demand.

Paths: ``/identity/v3`` (tokens; the catalog names ``/swift/v1``, without an account, as RadosGW
does), ``/swift/v1/CONTAINER/NAME``, ``/web/NAME``, ``/s3/BUCKET/NAME``. All three kinds share the
objects, by container. A fault replaces or spoils the answer to requests of a method.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.simulators.answering import answering

PASSWORD = "geheim-42"
REGION = "north-1"


def md5(content: bytes) -> str:
    """Return the digest that all stores use as the tag of an object."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass
class StoreFault:
    """What happens to requests of a method in place of the usual.

    ``kept`` is the number of bytes of a PUT that are stored, though the answer is 201; -1 all.
    ``meanwhile`` is what another program stores just before the request.
    """

    method: str
    path: str = ""
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    kept: int | None = None
    meanwhile: bytes | None = None
    etag: str = ""
    delay: float = 0.0
    times: int = 1_000_000


@dataclass
class Store:
    """The objects by container and name, and what was asked."""

    objects: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: list[StoreFault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    page: int = 1000
    tokens: int = 0
    dead_tokens: set[str] = field(default_factory=set)
    url: str = ""
    web_tag: str | None = None
    """The entity tag of each object of the web server; None: its digest."""
    is_encrypted: bool = False
    """Whether tags in S3 are no digests of what was uploaded, as with keys of a service."""

    @contextlib.contextmanager
    def serve(self) -> Iterator[Store]:
        handler = type("Handler", (_Handler,), {"store": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        with answering(server):
            yield self

    def asked(self, method: str) -> list[str]:
        return [path for known, path in self.requests if known == method]

    def fault(self, method: str, path: str) -> StoreFault | None:
        for fault in self.faults:
            if fault.method == method and fault.path in path and fault.times > 0:
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        self.store.requests.append((self.command, self.path))
        self.store.headers.append({name.lower(): text for name, text in self.headers.items()})
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.store.fault(self.command, path)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.status:
                self._send(fault.status, fault.body, fault.headers)
                return
        if path.startswith("/identity/"):
            self._identity(body)
        elif path.startswith("/swift/v1/"):
            token = self.headers.get("X-Auth-Token", "")
            if not token.startswith("token-") or token in self.store.dead_tokens:
                self._send(401, b"")
                return
            self._objects(path.removeprefix("/swift/v1/"), body, fault, self._swift_listing)
        elif path.startswith("/s3/"):
            if "AWS4-HMAC-SHA256" not in self.headers.get("Authorization", ""):
                self._send(403, b"<Error><Code>AccessDenied</Code></Error>")
                return
            self._objects(path.removeprefix("/s3/"), body, fault, self._s3_listing)
        else:
            self._objects(path.removeprefix("/"), body, fault, None)

    def _identity(self, body: bytes) -> None:
        if self.command == "GET":
            self._send(200, json.dumps({"token": {}}).encode())
            return
        auth = json.loads(body)["auth"]
        if auth["identity"]["password"]["user"]["password"] != PASSWORD:
            self._send(401, b'{"error": {"message": "no"}}')
            return
        self.store.tokens += 1
        endpoint = {"interface": "public", "region": "One", "region_id": "One", "id": "o"}
        token: dict[str, Any] = {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "ci", "domain": {"id": "default", "name": "Default"}},
            "project": {
                "id": "p",
                "name": "catch-all",
                "domain": {"id": "default", "name": "Default"},
            },
            "catalog": [
                {
                    "type": "object-store",
                    "id": "o",
                    "name": "swift",
                    "endpoints": [{**endpoint, "url": f"{self.store.url}/swift/v1"}],
                }
            ],
        }
        headers = {"X-Subject-Token": f"token-{self.store.tokens}"}
        self._send(201, json.dumps({"token": token}).encode(), headers)

    def _objects(self, place: str, body: bytes, fault: StoreFault | None, listing: Any) -> None:
        container, _, name = unquote(place).partition("/")
        found = self.store.objects.get(container)
        if self.command == "PUT" and not name:
            self.store.objects.setdefault(container, {})
            self._send(201, b"")
        elif found is None:
            self._send(404, b"")
        elif not name and listing is not None:
            listing(found)
        elif self.command == "PUT" and listing is None and self._is_changed(found, name, fault):
            self._send(412, b"")
        elif self.command == "PUT":
            digest = self._s3_tag(body) if self.path.startswith("/s3/") else md5(body)
            kept = body if fault is None or fault.kept is None else body[: fault.kept]
            if fault is None or fault.kept != 0:
                found[name] = kept
            etag = (fault.etag if fault else "") or digest
            self._send(201, b"", {"ETag": f'"{etag}"'})
        elif name not in found:
            self._send(404, b"")
        elif self.command == "DELETE":
            del found[name]
            self._send(204, b"")
        else:
            self._read(found[name], is_web=listing is None)

    def _is_changed(self, found: dict[str, bytes], name: str, fault: StoreFault | None) -> bool:
        """Check the conditions of a PUT, as RFC 9110 has them."""
        if fault is not None and fault.meanwhile is not None:
            found[name] = fault.meanwhile
        wanted, unwanted = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if unwanted == "*" and name in found:
            return True
        return wanted is not None and wanted != (name in found and self._tag(found[name]))

    def _s3_tag(self, content: bytes) -> str:
        return md5(b"key" + content) if self.store.is_encrypted else md5(content)

    def _tag(self, content: bytes) -> str:
        return f'"{md5(content)}"' if self.store.web_tag is None else self.store.web_tag

    def _read(self, content: bytes, *, is_web: bool) -> None:
        wanted = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[2]
        if wanted and not content:
            self._send(416, b"")
            return
        part = content[: int(wanted) + 1] if wanted else content
        headers = {"ETag": self._tag(content)} if is_web and self._tag(content) else {}
        self._send(206 if wanted else 200, part, headers)

    def _swift_listing(self, found: dict[str, bytes]) -> None:
        query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        names = [name for name in sorted(found) if name > query.get("marker", "")]
        items = [
            {"name": name, "hash": md5(found[name]), "bytes": len(found[name])}
            for name in names[: min(self.store.page, int(query.get("limit", 10_000)))]
        ]
        self._send(200, json.dumps(items).encode())

    def _s3_listing(self, found: dict[str, bytes]) -> None:
        query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        names = [name for name in sorted(found) if name > query.get("continuation-token", "")]
        page = names[: self.store.page]
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key>"
            f"<ETag>&quot;{self._s3_tag(found[name])}&quot;</ETag></Contents>"
            for name in page
        )
        more = (
            f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
            if len(names) > len(page)
            else ""
        )
        self._send(200, f"<ListBucketResult>{contents}{more}</ListBucketResult>".encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        with contextlib.suppress(OSError):  # a client that waits no longer
            self.end_headers()
            self.wfile.write(body if status != 204 else b"")
