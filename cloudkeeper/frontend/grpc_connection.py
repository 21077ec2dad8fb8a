"""A connection to a backend over gRPC, whose calls have deadlines and can be cancelled."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental
from google.protobuf.message import Message

from appliance.core import hosts
from appliance.core.run.errors import LocalFailure
from cloudkeeper.frontend.backend_client import (
    BackendAnswer,
    BackendClient,
    BackendFailure,
    BackendUnreachable,
)
from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs

# It logs a traceback for an answer that is no message, of which the call fails anyway.
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)

_CHECK = (
    "check that cloudkeeper-os is running and that backend: endpoint: is its address (on the same "
    "host unix:///run/cloudkeeper/backend.sock, unless its release is 0.9)"
)
_LOGS = "see the log of cloudkeeper-os"
# Bytes of an answer with many items, which are kept in memory. An item of any size takes some; gRPC
# itself limits one to 4 MiB.
_MOST, _ITEM = 64 * 2**20, 2**10
_CONNECT = timedelta(seconds=10)
# Time for an unreachable backend to return: its unit restarts it after some seconds.
_RESTART = timedelta(seconds=60)
# The backend is on this network; a proxy in the environment is meant for the images. A listing is
# read by the thread that asks for it: handing 1 000 messages over costs a tenth of a second of CPU.
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_reconnect_backoff_ms", 2000),
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
)
_UNREACHABLE = grpc.StatusCode.UNAVAILABLE
_STREAMS = frozenset({"ImageLists", "Appliances"})


@dataclass(frozen=True, slots=True)
class Encryption:
    """Files for mutual TLS, PEM: own certificate and key, and the authority of the backend's."""

    certificate: Path
    key: Path
    backend_certificate: Path


class GrpcConnection:
    """A connection to the backend at ``endpoint``, which is ``unix:///PATH`` or ``HOST:PORT``.

    Without ``encryption``, it has no TLS.
    """

    def __init__(self, endpoint: str, *, encryption: Encryption | None = None) -> None:
        self.name = f"backend {endpoint}"
        # Over TCP it may be on another host, which has our image directory and not our sockets.
        self.reaches_sockets = endpoint.startswith("unix:")
        self._endpoint = endpoint
        credentials = _credentials(encryption) if encryption else None
        if credentials:
            self._channel = grpc.secure_channel(endpoint, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(endpoint, options=_OPTIONS)
        self._is_given_up = False
        self._lock = threading.Lock()
        self._calls: list[Any] = []
        self._stub: Any = stubs.CommunicatorStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def check(self) -> None:
        """Check that a backend answers; see `BackendConnection`."""
        try:
            _connect(self._endpoint).close()
        except OSError as error:
            raise BackendUnreachable(
                self.name, f"cannot be reached: {error.strerror or error}", _CHECK
            ) from None

    def wait(self) -> bool:
        """Wait for an unreachable backend as long as a restart takes; return whether it answers.

        If it did not, later calls do not wait again until it has answered: every image of the run
        would wait for a minute.
        """
        if self._is_given_up:
            return False
        try:
            grpc.channel_ready_future(self._channel).result(timeout=_RESTART.total_seconds())
        except grpc.FutureTimeoutError:
            self._is_given_up = True
            return False
        return True

    def cancel(self) -> None:
        """Cancel the calls of other threads; they fail as `BackendFailure`."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def call(
        self,
        method: str,
        request: Message,
        *,
        deadline: timedelta,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> BackendAnswer:
        """Make a call, and wait for its whole answer; see `BackendConnection`."""
        with self._translated(method):
            if method in _STREAMS:
                return self._streamed(method, request, deadline, metadata)
            # As a future, a call can be cancelled; it also has the trailing metadata.
            start: Callable[..., Any] = getattr(self._stub, method).future
            call = start(request, timeout=deadline.total_seconds(), metadata=metadata)
            with self._running(call):
                message = call.result()
            self._is_given_up = False
            return BackendAnswer([message], call.trailing_metadata())

    def _streamed(
        self,
        method: str,
        request: Message,
        deadline: timedelta,
        metadata: Sequence[tuple[str, str]],
    ) -> BackendAnswer:
        start: Callable[..., Any] = getattr(self._stub, method)
        call = start(request, timeout=deadline.total_seconds(), metadata=metadata)
        with self._running(call):
            found = list(self._limited(method, call))
        return BackendAnswer(found, call.trailing_metadata())

    def _limited(self, method: str, items: Iterable[Any]) -> Iterator[Any]:
        size = 0
        for item in items:
            size += item.ByteSize() + _ITEM
            if size > _MOST:
                cause = f"{method}: its answer is larger than {_MOST} bytes"
                raise BackendFailure(self.name, cause)
            yield item

    @contextlib.contextmanager
    def _running(self, call: Any) -> Iterator[None]:
        """Keep a call where `cancel` finds it; an interrupt of the block cancels it."""
        with self._lock:
            self._calls.append(call)
        try:
            yield
        except BaseException:
            call.cancel()
            raise
        finally:
            with self._lock:
                self._calls.remove(call)

    @contextlib.contextmanager
    def _translated(self, method: str) -> Iterator[None]:
        try:
            yield
        except grpc.FutureCancelledError as error:
            raise BackendFailure(self.name, f"{method} was interrupted") from error
        except grpc.RpcError as error:
            call: Any = error  # the exception is a grpc.Call, too, which its type does not show
            code, details = call.code(), " ".join((call.details() or "").split())[:300]
            if code is _UNREACHABLE:
                raise BackendUnreachable(
                    self.name, f"cannot be reached: {details}", _CHECK
                ) from error
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                words = f"{method} did not finish in time"
                raise BackendFailure(self.name, words, _LOGS) from error
            words = f"{method} failed: {code.name}: {details}"
            raise BackendFailure(self.name, words, _LOGS) from error


def client(endpoint: str, *, encryption: Encryption | None = None) -> BackendClient:
    """Return a client over a new connection."""
    return BackendClient(GrpcConnection(endpoint, encryption=encryption))


def _connect(endpoint: str) -> socket.socket:
    """Connect as gRPC would; its own connections are made in the background, without an error."""
    scheme, _, path = endpoint.partition(":")
    if scheme == "unix" and path.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_CONNECT.total_seconds())
        try:
            connection.connect(path.removeprefix("//"))
        except OSError:
            connection.close()
            raise
        return connection
    address = hosts.split_port(endpoint)
    return socket.create_connection(address, timeout=_CONNECT.total_seconds())


def _credentials(encryption: Encryption) -> grpc.ChannelCredentials:
    def read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise LocalFailure.from_os(error, subject=path) from error

    return grpc.ssl_channel_credentials(
        read(encryption.backend_certificate), read(encryption.key), read(encryption.certificate)
    )
