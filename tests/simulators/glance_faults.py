"""A Glance that misbehaves: a proxy that passes requests without a planned fault to the real one.

It speaks HTTP in clear to the client and TLS to Glance. Faults are planned by method and path; each
strikes a given number of times, in order.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.simulators.answering import answering

_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}
_BLOCK = 64 * 1024


@dataclass
class Fault:
    """The fault of up to ``times`` requests whose ``METHOD path`` matches."""

    pattern: str
    times: int = 1
    status: int = 0
    """Status of the answer, which does not come from Glance."""
    cut_after: int | None = None
    """Close both connections after so many bytes of the request's body."""
    hold_after: int | None = None
    """Wait for ``release`` after so many bytes of the body, having set ``reached``."""
    lose_answer: bool = False
    """Let Glance answer, and close the connection to the client instead of passing the answer."""
    alter: Callable[[bytes], bytes] | None = None
    """Change the body of Glance's answer."""
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


class GlanceFaults:
    def __init__(self, target: tuple[str, int], ca_file: Path) -> None:
        self.target = target
        self.context = ssl.create_default_context(cafile=str(ca_file))
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def plan(self, pattern: str, **what: Any) -> Fault:
        fault = Fault(pattern, **what)
        self.faults.append(fault)
        return fault

    def strike(self, line: str) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.times and re.match(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None

    def clear(self) -> None:
        for fault in self.faults:
            fault.release.set()
        self.faults.clear()
        self.requests.clear()

    @contextmanager
    def serving(self) -> Iterator[GlanceFaults]:
        with answering(self._server):
            try:
                yield self
            finally:
                self.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        proxy: GlanceFaults = self.server.proxy  # type: ignore[attr-defined]
        fault = proxy.strike(f"{self.command} {self.path}") or Fault("")
        if fault.status:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(
                fault.status, [], f"<html><body>planned {fault.status}</body></html>".encode()
            )
            return
        upstream = http.client.HTTPSConnection(*proxy.target, context=proxy.context, timeout=60)
        try:
            self._forward(upstream, fault)
        except (ConnectionError, ssl.SSLError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

    def _forward(self, upstream: http.client.HTTPSConnection, fault: Fault) -> None:
        length = int(self.headers.get("Content-Length", 0))
        upstream.putrequest(self.command, self.path)
        for name, value in self.headers.items():
            if name.lower() not in _HOP:
                upstream.putheader(name, value)
        upstream.putheader("Content-Length", str(length))
        upstream.endheaders()
        sent = 0
        while sent < length:
            if fault.cut_after is not None and sent >= fault.cut_after:
                raise ConnectionResetError
            if fault.hold_after is not None and sent >= fault.hold_after:
                fault.reached.set()
                fault.release.wait()
            block = self.rfile.read(min(_BLOCK, length - sent))
            if not block:
                raise ConnectionResetError
            upstream.send(block)
            sent += len(block)
        answer = upstream.getresponse()
        body = answer.read()
        if fault.lose_answer:
            raise ConnectionResetError
        self._answer(answer.status, answer.getheaders(), fault.alter(body) if fault.alter else body)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP | {"date", "server"}:
                self.send_header(name, value)
        if status != http.client.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815  http.server's names
