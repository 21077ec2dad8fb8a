"""A limit for all of a download, where timeouts limit single waits only.

A server that sends a byte now and then never lets a wait end, be it in the TLS handshake, in the
header or in the body; a run would hang for ever, and its lock with it. So when the time is over,
the connection is shut down under whoever reads from it, and the read ends. It is shut down for
reading alone: Python's TLS loses, unclosed, what it finds not connected when it begins.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Deadline:
    """Connections that are shut down when the time is over."""

    def __init__(self) -> None:
        self.is_over = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def add(self, connection: socket.socket) -> None:
        """Deadline a connection, by a descriptor of our own: TLS takes over the one that it is given.

        :raises TimeoutError: the time is over
        """
        with self._lock:
            if self.is_over:
                raise TimeoutError("the time for all of it is over")
            self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))

    def end(self) -> None:
        """Shut down all connections."""
        with self._lock:
            self.is_over = True
            for connection in self._sockets:
                _shut_down(connection)

    def close(self) -> None:
        """Forget the connections."""
        with self._lock:
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()


_watching: ContextVar[Deadline | None] = ContextVar("_watching", default=None)


@contextlib.contextmanager
def limit(time: timedelta) -> Iterator[Deadline]:
    """Shut down what is connected in the block through pools of `POOLS` when it lasts longer than ``time``."""
    watch = Deadline()
    timer = threading.Timer(min(time.total_seconds(), threading.TIMEOUT_MAX), watch.end)
    timer.daemon = True
    token = _watching.set(watch)
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()
        _watching.reset(token)
        watch.close()


def _watch(connection: socket.socket) -> None:
    if watch := _watching.get():
        watch.add(connection)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RD)


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        try:
            _watch(made)
        except TimeoutError:
            made.close()
            raise
        return made

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is not None:  # kept from an earlier request
            _watch(self.sock)
        super().request(*arguments, **options)


class _TLSConnection(HTTPSConnection, _Connection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOLS = {"http": _Pool, "https": _TLSPool}
"""Classes of connection pools by scheme, for ``pool_classes_by_scheme`` of urllib3's pool managers."""
