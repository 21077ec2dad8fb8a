"""A proxy on a unix socket that closes its connections when a client sends certain bytes."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class CuttingProxy:
    """Passes everything to ``target`` until a client sends ``poison``; ``cuts`` counts."""

    target: str
    poison: bytes
    times: int = 10**9
    """How often it cuts; after that the poison passes."""
    cuts: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"unix://{self.target}-cut"

    def serve(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as ready:
            server.connect(self.target)
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
def before(endpoint: str, *, poison: bytes, times: int = 10**9) -> Iterator[CuttingProxy]:
    """Serve in front of a unix socket (``unix:///PATH``) until the end of the block."""
    proxy = CuttingProxy(endpoint.removeprefix("unix://"), poison, times)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{proxy.target}-cut")
        listener.listen()
        listener.settimeout(0.1)
        thread = threading.Thread(target=proxy.serve, args=(listener,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy._stop.set()
            thread.join()
