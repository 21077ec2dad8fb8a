"""EGI's information service: the listings that it makes of sites' JSON, with faults on demand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests import egi_information
from tests.egi_information import ReadSite
from tests.simulators.answering import answering, over_tls
from tests.testbed.pki import Credential


@dataclass
class InformationService:
    """The documents that it has fetched, by name of the object; ``answers`` replace its own."""

    documents: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def serve(self, own: Credential | None = None) -> Iterator[InformationService]:
        """Serve; with a certificate of its own, over TLS."""
        handler = type("Handler", (_Handler,), {"service": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"{over_tls(server, own)}://127.0.0.1:{server.server_port}"
        with answering(server):
            yield self

    def sites(self) -> dict[str, ReadSite]:
        """Return the sites by name; a second one of an id, or of a name, gets NAME-ID."""
        found: dict[str, ReadSite] = {}
        for text in self.documents.values():
            site = egi_information.read(text)
            name = site.name if site.name not in found else f"{site.name}-{site.gocdb_id}"
            found[name] = site
        return found

    def answer(self, path: str) -> Any:
        """Return what is listed at a path; None if there is nothing."""
        if path == "/sites/":
            return [
                {"id": site.gocdb_id, "name": name, "url": site.url, "state": "", "hostname": "h"}
                for name, site in self.sites().items()
            ]
        if path.removeprefix("/objects/") in self.documents:
            return json.loads(self.documents[path.removeprefix("/objects/")])
        _, _, name, what = [*path.split("/"), "", "", ""][:4]
        site = self.sites().get(unquote(name))
        if site is None:
            return None
        if what == "projects":
            return [{"id": share.project_id, "name": share.vo} for share in site.shares]
        return [
            {
                "egi_id": image.identifier,
                "id": image.id,
                "mpuri": image.marketplace,
                "name": image.name,
                "version": image.version,
                "vo": share.vo,
                "endpoint": site.url,
            }
            for share in site.shares
            for image in share.images
        ]


class _Handler(BaseHTTPRequestHandler):
    service: InformationService

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.service.paths.append(path)
        found = self.service.answers.get(path)
        if found is None:
            listed = self.service.answer(path)
            found = (404 if listed is None else 200, json.dumps(listed).encode(), {})
        status, body, headers = found
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)
