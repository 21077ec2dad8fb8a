"""GOCDB's public interface: the list of services of one type, with faults on demand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape, quoteattr

from tests.simulators.answering import answering, over_tls
from tests.testbed.pki import Credential


@dataclass(frozen=True)
class Service:
    """A service; ``more`` are the URLs of its endpoints, ``dn`` the name of its certificate."""

    key: str
    site: str
    url: str
    more: tuple[str, ...] = ()
    kind: str = "org.openstack.nova"
    dn: str = ""


@dataclass
class Gocdb:
    """The registry; ``body`` replaces the list, ``delay`` holds it back."""

    services: list[Service] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    delay: float = 0.0
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def serve(self, own: Credential | None = None) -> Iterator[Gocdb]:
        """Serve; with a certificate of its own, over TLS."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"it": self}))
        scheme = over_tls(server, own)
        self.url = f"{scheme}://127.0.0.1:{server.server_port}/gocdbpi/public/"
        with answering(server):
            yield self

    def text(self, kind: str = "") -> str:
        """Return the list of one type, or of all, in GOCDB's form."""
        return "<?xml version='1.0' encoding='UTF-8'?>\n<results>{}</results>".format(
            "".join(_entry(one) for one in self.services if kind in ("", one.kind))
        )


def _entry(service: Service) -> str:
    endpoints = "".join(
        f"<ENDPOINT><ID>{number}</ID><URL>{escape(url)}</URL></ENDPOINT>"
        for number, url in enumerate(service.more)
    )
    return (
        f"<SERVICE_ENDPOINT PRIMARY_KEY={quoteattr(service.key)}>"
        f"<PRIMARY_KEY>{escape(service.key)}</PRIMARY_KEY><HOSTNAME>host</HOSTNAME>"
        f"<HOSTDN>{escape(service.dn)}</HOSTDN>"
        f"<SERVICE_TYPE>{service.kind}</SERVICE_TYPE><SITENAME>{escape(service.site)}"
        f"</SITENAME><URL>{escape(service.url)}</URL><ENDPOINTS>{endpoints}</ENDPOINTS>"
        "</SERVICE_ENDPOINT>"
    )


class _Handler(BaseHTTPRequestHandler):
    it: Gocdb

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.it.queries.append(query)
        time.sleep(self.it.delay)
        kind = query.get("service_type", [""])[0]
        body = self.it.text(kind).encode() if self.it.body is None else self.it.body
        self.send_response(self.it.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)
