"""A deadline for a whole download, and one for each wait, where timeouts limit single reads only.

A server that sends a byte now and then never exceeds a timeout, be it in the TLS handshake, in the
header or in the body; a run would hang for ever, and hold its lock. Therefore the connection is
shut down at the deadline, which ends the read that waits for it. It is shut down for reading only:
``ssl.SSLSocket`` leaks a socket that is no longer connected when the handshake starts.

One thread watches all deadlines: a run asks some hundred small questions, and a thread for each
would cost more than its answer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_NEVER = float("inf")


class Deadline:
    """Connections that are shut down when ``total`` is over, or a single wait takes too long."""

    def __init__(self, total: timedelta) -> None:
        self.is_over = False
        """Whether the total time is over."""
        self.is_stalled = False
        """Whether the last wait took too long."""
        self._began = time.monotonic()
        self._ends = self._began + total.total_seconds()
        self._wait_ends = _NEVER
        self._sockets: list[socket.socket] = []
        _watcher.add(self)

    @property
    def remaining(self) -> float:
        """The seconds until the total time is over."""
        return max(self._ends - time.monotonic(), 0.0)

    @property
    def elapsed(self) -> float:
        """The seconds since the beginning."""
        return time.monotonic() - self._began

    @contextlib.contextmanager
    def registering(self) -> Iterator[None]:
        """Add the connections that this thread uses in the block, through pools of `POOLS`."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextlib.contextmanager
    def waiting(self, longest: timedelta) -> Iterator[None]:
        """Shut the connections down when the block takes longer; `is_stalled` then says so."""
        with _watcher.changed:
            self.is_stalled = False
            self._wait_ends = time.monotonic() + longest.total_seconds()
            _watcher.expect(self._wait_ends)
        try:
            yield
        finally:
            with _watcher.changed:
                self._wait_ends = _NEVER

    def add(self, connection: socket.socket) -> None:
        """Add a connection, by a descriptor of our own: TLS takes over the one that it is given.

        Raises:
            TimeoutError: the time is over.

        """
        with _watcher.changed:
            if self.is_over or self.is_stalled:
                raise TimeoutError("the time for the download is over")
            self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))

    def forget(self) -> None:
        """Close our descriptors of the connections, which others may use from now on."""
        with _watcher.changed:
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()

    def end(self) -> None:
        """End the download now, as if its time were over."""
        with _watcher.changed:
            self._ends = 0.0
            _watcher.expect(self._ends)

    def close(self) -> None:
        """Watch no longer."""
        self.forget()
        _watcher.remove(self)

    def look(self, now: float) -> float:
        """Shut the connections down if a time is over; return when to look again."""
        if now >= self._ends:
            self.is_over = True
            self._shut()
            return _NEVER
        if now >= self._wait_ends:
            self.is_stalled, self._wait_ends = True, _NEVER
            self._shut()
        return min(self._ends, self._wait_ends)

    def _shut(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # the peer has closed it
                connection.shutdown(socket.SHUT_RD)


class _Watcher:
    """The thread that looks at all deadlines when the next one ends; ``changed`` guards them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._deadlines: set[Deadline] = set()
        self._wakes = _NEVER
        self._is_running = False

    def add(self, deadline: Deadline) -> None:
        """Look at a deadline from now on."""
        with self.changed:
            self._deadlines.add(deadline)
            if not self._is_running:
                # A daemon thread: it must not keep the process alive after an interrupt.
                threading.Thread(target=self._watch, daemon=True).start()
                self._is_running = True
            self.expect(deadline.look(time.monotonic()))

    def remove(self, deadline: Deadline) -> None:
        """Look at a deadline no longer."""
        with self.changed:
            self._deadlines.discard(deadline)

    def all(self) -> list[Deadline]:
        """Return the deadlines of all threads."""
        with self.changed:
            return list(self._deadlines)

    def expect(self, moment: float) -> None:
        """Look at the deadlines at a moment, or earlier; the caller holds ``changed``."""
        if moment < self._wakes:
            self._wakes = moment
            self.changed.notify()

    def _watch(self) -> None:
        with self.changed:
            while True:
                now = time.monotonic()
                self._wakes = min((each.look(now) for each in self._deadlines), default=_NEVER)
                self.changed.wait(min(self._wakes - now, threading.TIMEOUT_MAX))


_watcher = _Watcher()


def end_all() -> None:
    """End the downloads of all threads: the process is about to stop."""
    for deadline in _watcher.all():
        deadline.end()


_current: ContextVar[Deadline | None] = ContextVar("_current", default=None)


@contextlib.contextmanager
def limit(total: timedelta) -> Iterator[Deadline]:
    """Yield a deadline, which ends with the block."""
    deadline = Deadline(total)
    try:
        yield deadline
    finally:
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
