"""A deadline for a whole download, where timeouts limit single waits only.

A server that sends a byte now and then never exceeds a timeout, be it in the TLS handshake, in the
header or in the body; a run would hang for ever, and hold its lock. Therefore the connection is
shut down at the deadline, which ends the read that waits for it. It is shut down for reading only:
``ssl.SSLSocket`` leaks a socket that is no longer connected when the handshake starts.
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
    """Connections that are shut down when their time is over."""

    def __init__(self) -> None:
        self.is_over = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def add(self, connection: socket.socket) -> None:
        """Add a connection, by a descriptor of our own: TLS takes over the one that it is given.

        Raises:
            TimeoutError: the time is over.

        """
        with self._lock:
            if self.is_over:
                raise TimeoutError("the time for the download is over")
            self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))

    def end(self) -> None:
        """Shut down all connections, because the time is over."""
        with self._lock:
            self.is_over = True
            for connection in self._sockets:
                with contextlib.suppress(OSError):  # the peer has closed it
                    connection.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close our descriptors of the connections."""
        with self._lock:
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()


_current: ContextVar[Deadline | None] = ContextVar("_current", default=None)


@contextlib.contextmanager
def limit(time: timedelta) -> Iterator[Deadline]:
    """Shut down the connections of the block when it lasts longer than ``time``.

    Those are the connections through pools of `POOLS`, in this thread.
    """
    deadline = Deadline()
    timer = threading.Timer(min(time.total_seconds(), threading.TIMEOUT_MAX), deadline.end)
    timer.daemon = True
    token = _current.set(deadline)
    timer.start()
    try:
        yield deadline
    finally:
        timer.cancel()
        _current.reset(token)
        deadline.close()


def _register(connection: socket.socket) -> None:
    if deadline := _current.get():
        deadline.add(connection)


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        try:
            _register(made)
        except TimeoutError:
            made.close()
            raise
        return made

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is not None:  # a connection of an earlier request, kept in the pool
            _register(self.sock)
        super().request(*arguments, **options)


class _TLSConnection(HTTPSConnection, _Connection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOLS = {"http": _Pool, "https": _TLSPool}
"""Connection pools by scheme, for ``pool_classes_by_scheme`` of urllib3's pool managers."""
