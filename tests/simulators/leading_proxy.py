"""An HTTP proxy that leads names to services on loopback: CONNECT NAME:443."""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
from collections.abc import Iterator, Mapping

from tests.simulators.answering import answering

_PATIENCE = 10.0
"""Seconds."""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    ports: Mapping[str, int]
    asked: list[str]


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        place = self.rfile.readline().decode().split(" ")[1]
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(place)
        port = self.server.ports.get(place.partition(":")[0])
        if port is None:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", port), _PATIENCE) as service:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.suppress(OSError):
                _pass_on(self.connection, service)


def _pass_on(client: socket.socket, service: socket.socket) -> None:
    with selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ, service)
        ready.register(service, selectors.EVENT_READ, client)
        while found := ready.select(_PATIENCE):
            for key, _ in found:
                source = key.fileobj
                assert isinstance(source, socket.socket)
                data = source.recv(2**16)
                if not data:
                    return
                key.data.sendall(data)


@contextlib.contextmanager
def serving(ports: Mapping[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Lead each name to its port; yield the proxy's URL, and the places that were asked for."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.ports, server.asked = ports, []
    with answering(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", server.asked
