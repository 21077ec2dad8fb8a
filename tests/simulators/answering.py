"""A server of `socketserver` in a thread, ended as soon as its block ends.

``serve_forever`` looks at intervals whether it shall end; over all servers of the quick tests, that
is a quarter of a minute of waiting.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator

from tests.testbed.pki import Credential


def over_tls(server: socketserver.TCPServer, own: Credential | None) -> str:
    """Make a server speak TLS with a certificate, if it has one; return the scheme of its URLs."""
    if own is None:
        return "http"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    # The handshake is made in the thread of the connection, when it reads first.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    return "https"


@contextlib.contextmanager
def answering(server: socketserver.TCPServer) -> Iterator[None]:
    """Answer requests during the block, and close the server after it."""
    ours, its = socket.socketpair()
    thread = threading.Thread(target=_answer, args=(server, its), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join()
        server.server_close()
        its.close()


def _answer(server: socketserver.TCPServer, end: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(end, selectors.EVENT_READ)
        while all(key.fileobj is not end for key, _ in selector.select()):
            server.handle_request()
