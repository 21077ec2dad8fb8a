"""A TLS server that says nothing, for what a client sends before and after it trusts the server."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_PATIENCE = 10.0
"""Seconds."""


@dataclass(slots=True)
class Peer:
    """The server; ``received`` gets the application data of each connection when it has ended."""

    port: int
    received: queue.SimpleQueue[bytes] = field(default_factory=queue.SimpleQueue)

    def next(self) -> bytes:
        """Return what the next connection brought, up to the first kilobytes of it."""
        return self.received.get(timeout=_PATIENCE)


@contextlib.contextmanager
def serving(
    chain: Path,
    key: Path,
    *,
    is_proxy: bool = False,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Iterator[Peer]:
    """Serve the certificates of ``chain``; as a proxy, answer CONNECT and be the host behind."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.maximum_version = newest

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                peer.received.put(_talk(client, context, is_proxy=is_proxy))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer(listener.getsockname()[1])
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _talk(client: socket.socket, context: ssl.SSLContext, *, is_proxy: bool) -> bytes:
    client.settimeout(_PATIENCE)
    with client, contextlib.suppress(OSError):
        if is_proxy:
            assert client.recv(65536).startswith(b"CONNECT ")
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with context.wrap_socket(client, server_side=True) as secured:
            return secured.recv(65536)
    return b""
