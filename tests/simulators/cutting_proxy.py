"""A TCP proxy that closes both connections when a client sends certain bytes: what a crash looks like from outside."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class CuttingProxy:
    """Passes everything to ``port`` of loopback until ``poison`` is among what a client sends; ``cuts`` counts."""

    port: int
    poison: bytes
    times: int = 10**9
    """How often it cuts; after that the poison passes."""
    cuts: int = 0
    own_port: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.own_port}"

    def serve(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as server, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            with contextlib.suppress(OSError):
                while not self._stop.is_set():
                    for key, _ in ready.select(0.1):
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        data = source.recv(2**16)
                        if not data:
                            return
                        if source is client and self.poison in data and self.cuts < self.times:
                            self.cuts += 1
                            return
                        key.data.sendall(data)


@contextlib.contextmanager
def before(port: int, *, poison: bytes, times: int = 10**9) -> Iterator[CuttingProxy]:
    """Serve in front of a port of loopback until the end of the block."""
    proxy = CuttingProxy(port, poison, times)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        proxy.own_port = listener.getsockname()[1]
        thread = threading.Thread(target=proxy.serve, args=(listener,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy._stop.set()
            thread.join()
