"""Keystone and a Glance that keeps images in memory, for faults that a real Glance has rarely.

It answers as Glance 33 does, as far as `cloudkeeper-os` asks: list by owner, ``os_hidden`` or tag,
create, upload, read, JSON patch on the first level, delete, and members. A fault looks at each
request and may answer in Glance's stead; `stale` makes changes visible late, as a cloud of several
nodes does.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.simulators import openstack
from tests.simulators.openstack import Answer

_BEGIN = datetime(2026, 11, 30, tzinfo=UTC)
_IMAGE = re.compile(r"/image/v2/images/([^/]+)(/file)?")
_MEMBERS = re.compile(r"/image/v2/images/([^/]+)/members(?:/([^/]+))?")
Fault = Callable[[str, str], Answer | None]
"""Gets method and path below ``/image``; may answer in Glance's stead."""


@dataclass(slots=True)
class MemoryGlance:
    """The images by id, the uploaded bytes, and the requests in their order."""

    cloud: openstack.Cloud
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    members: dict[str, dict[str, str]] = field(default_factory=dict)
    """The members of each image, with their status."""
    requests: list[str] = field(default_factory=list)
    fault: Fault = lambda *_: None
    reads: int | None = None
    """Bytes of an upload after which its fault strikes, and the connection ends; None: all."""
    stale: dict[str, int] = field(default_factory=dict)
    """How many more reads of an image see it as it was before its last change, by method."""
    _before: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def shown(self, *, hidden: bool = False) -> list[str]:
        """Return the names of the active images that a listing of users shows."""
        return sorted(
            image["name"]
            for image in self.images.values()
            if image["status"] == "active" and image["os_hidden"] is hidden
        )

    def found_by(self, project: str, name: str = "") -> list[str]:
        """Return the ids of the images that a listing shows to users of a project."""
        shown = [one for one in self.images.values() if self._is_listed(one, project)]
        return sorted(
            one["id"] for one in shown if not one["os_hidden"] and name in ("", one["name"])
        )

    def _is_listed(self, image: dict[str, Any], project: str) -> bool:
        word = self.members.get(image["id"], {}).get(project)
        is_accepted = image["visibility"] == "shared" and word == "accepted"
        return image["owner"] == project or image["visibility"] == "public" or is_accepted

    def answer(self, method: str, target: str, body: bytes, token: str) -> Answer:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        with self._lock:
            self.requests.append(f"{method} {path.removeprefix('/image')}")
            project = self.cloud.scope_of(token)
            if project is None:
                return Answer(401, {})
            if found := self.fault(method, path.removeprefix("/image")):
                return found
            if path == "/image/v2/images":
                return (
                    self._create(body, project) if method == "POST" else self._list(query, project)
                )
            if (named := _MEMBERS.fullmatch(path)) and named[1] in self.images:
                return self._member(method, named[1], named[2] or "", body, project)
            named = _IMAGE.fullmatch(path)
            if not named or not self._is_readable(named[1], project):
                return Answer(404, "404 Not Found: No image found")
            if method != "GET" and self.images[named[1]]["owner"] != project:
                return Answer(403, "403 Forbidden: You are not permitted to change this image")
            return self._one(method, named[1], body, is_file=bool(named[2]))

    def _list(self, query: dict[str, list[str]], project: str) -> Answer:
        def is_wanted(image: dict[str, Any]) -> bool:
            hidden = query.get("os_hidden", ["false"]) == ["true"]
            tag = query.get("tag", [""])[0]
            owner = query.get("owner", [image["owner"]])[0]
            is_found = self._is_listed(image, project)
            return (
                image["os_hidden"] is hidden
                and image["owner"] == owner
                and is_found
                and (not tag or tag in image["tags"])
            )

        return Answer(body={"images": [one for one in self.images.values() if is_wanted(one)]})

    def _is_readable(self, image_id: str, project: str) -> bool:
        image = self.images.get(image_id)
        if image is None:
            return False
        is_member = image["visibility"] == "shared" and project in self.members.get(image_id, {})
        return image["owner"] == project or image["visibility"] == "public" or is_member

    def _member(self, method: str, image_id: str, member: str, body: bytes, project: str) -> Answer:
        """Answer a request about members: the owner adds and removes them, each answers itself."""
        image, members = self.images[image_id], self.members.setdefault(image_id, {})
        is_owner = image["owner"] == project
        if not is_owner and project not in members:
            return Answer(404, "404 Not Found: No image found")
        if image["visibility"] != "shared":
            return Answer(403, "403 Forbidden: Only shared images have members.")
        if method == "GET":
            shown = members if is_owner else {project: members[project]}
            listed = [{"member_id": name, "status": word} for name, word in shown.items()]
            return Answer(body={"members": listed})
        if (method == "PUT") is not (member == project) or (method != "PUT" and not is_owner):
            return Answer(403, "403 Forbidden: You are not permitted to modify this member")
        if method == "PUT":
            members[member] = json.loads(body)["status"]
            return Answer(body={})
        if method == "POST":
            wanted = json.loads(body)["member"]
            if wanted in members:
                return Answer(409, "409 Conflict: Member is duplicate")
            members[wanted] = "pending"
            return Answer(body={})
        return Answer(204) if members.pop(member, None) else Answer(404, "404 Not Found")

    def _create(self, body: bytes, project: str) -> Answer:
        wanted = json.loads(body)
        image = {
            "owner": project,
            "status": "queued",
            "os_hidden": False,
            "tags": [],
            "created_at": (_BEGIN + timedelta(seconds=len(self.images))).strftime("%FT%TZ"),
            **wanted,
        }
        if image["id"] in self.images:
            return Answer(409, {})
        self._before[image["id"]] = None
        self.images[image["id"]] = image
        return Answer(201, image)

    def _one(self, method: str, image_id: str, body: bytes, *, is_file: bool) -> Answer:
        if (left := self.stale.get(method, 0)) > 0:
            self.stale[method] = left - 1
            before = self._before.get(image_id)
            return Answer(body=before) if before and method == "GET" else Answer(404, {})
        image = self.images[image_id]
        if method == "GET" and is_file:
            return Answer(body=self.files.get(image_id, b""))
        if method == "GET":
            return Answer(body=image)
        if method == "DELETE":
            del self.images[image_id]
            self.members.pop(image_id, None)
            self.files.pop(image_id, None)
            return Answer(204)
        self._before[image_id] = copy.deepcopy(image)
        if is_file:
            self.files[image_id] = body
            digest = hashlib.sha512(body).hexdigest()
            stored = {"os_hash_algo": "sha512", "os_hash_value": digest, "size": len(body)}
            image |= {"status": "active", **stored}
            return Answer(204)
        for operation in json.loads(body):
            name = operation["path"][1:].replace("~1", "/").replace("~0", "~")
            if operation["op"] == "remove":
                del image[name]
            else:
                image[name] = operation["value"]
        return Answer(body=image)


class _Handler(openstack._Handler):
    glance: MemoryGlance

    def _serve(self) -> None:
        if not self.path.startswith("/image/"):
            super()._serve()
            return
        length = int(self.headers.get("Content-Length") or 0)
        is_file, read = self.path.endswith("/file"), self.glance.reads
        is_early = is_file and read is not None and self.command == "PUT"
        body = self.rfile.read(min(length, read) if is_early and read is not None else length)
        if len(body) < length and not is_early:
            self.close_connection = True  # Glance keeps nothing of an upload that is cut off
            return
        token = self.headers.get("X-Auth-Token", "")
        answer = self.glance.answer(self.command, self.path, body, token)
        if is_early:
            self.close_connection = True
        if answer.status == 204:
            self.send_response(answer.status)
            self.end_headers()
        elif isinstance(answer.body, bytes):
            self._send_data(answer.body)
        elif isinstance(answer.body, str):
            self._send_page(answer.status, answer.body.encode())
        else:
            self._send(answer)

    def _send_data(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_page(self, status: int, page: bytes) -> None:
        """Answer with HTML, as WebOb and proxies render errors."""
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  http.server's names


@contextmanager
def serving(
    *projects: str, handler: type[openstack._Handler] | None = None
) -> Iterator[MemoryGlance]:
    """Serve a cloud of these projects on a free port of loopback."""
    cloud = openstack.Cloud(projects=projects)
    glance = MemoryGlance(cloud)
    made = type("Handler", (handler or _Handler,), {"cloud": cloud, "glance": glance})
    with ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        server.daemon_threads = True
        cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield glance
        finally:
            server.shutdown()
            thread.join()
