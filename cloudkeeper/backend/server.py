"""The server: listens on a socket or a port, drains at the first SIGTERM, ends at once at the second."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc

from appliance.core import hosts
from appliance.core.run.errors import LocalFailure
from cloudkeeper.backend import mutual_tls, unix_socket
from cloudkeeper.backend.calls import Servicer
from cloudkeeper.backend.endpoint import Listening, Port
from cloudkeeper.wire import communicator_1x_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

_THREADS = 8
_QUEUE = 64
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_DRAIN = timedelta(seconds=60)
"""What calls get to end by themselves; an upload that is cut off then is repaired by the next run."""


def serve(servicer: Servicer, listening: Listening) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises LocalFailure: the socket or the address cannot be had
    """
    with _signals_held(), ThreadPoolExecutor(_THREADS) as pool, contextlib.ExitStack() as stack:
        if listening.socket:
            stack.enter_context(unix_socket.held(listening.socket))
        server = _server(pool, listening)
        pb_grpc.add_CommunicatorServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        _listen(server, listening)
        server.start()
        logger.info("listening on %s", listening)
        _notify("READY=1")
        signal.sigwait(_SIGNALS)
        _notify("STOPPING=1")
        logger.info(
            "stopping: waiting at most %d s for the calls that are under way",
            _DRAIN.total_seconds(),
        )
        ended = server.stop(_DRAIN.total_seconds())
        while not ended.wait(0.1):
            if signal.sigtimedwait(_SIGNALS, 0):
                servicer.stopping.set()
                server.stop(0)
        servicer.stopping.set()  # whatever still runs after the grace period


def _server(pool: ThreadPoolExecutor, listening: Listening) -> grpc.Server:
    tls = listening.port.tls if listening.port else None
    return grpc.server(
        pool,
        interceptors=[mutual_tls.OnlyFrontend(tls.frontend_name)] if tls else None,
        # Without SO_REUSEPORT a second server fails, instead of getting half of the calls.
        options=[("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=_QUEUE,
    )


def _listen(server: grpc.Server, listening: Listening) -> None:
    where: object = listening.socket
    try:
        if listening.socket:
            unix_socket.bind(listening.socket, server.add_insecure_port)
        if port := listening.port:
            where = port.endpoint
            _check_free(port)
            if port.tls:
                server.add_secure_port(port.endpoint, mutual_tls.credentials(port.tls))
            else:
                server.add_insecure_port(port.endpoint)
    except RuntimeError as error:
        raise LocalFailure(where, "cannot be listened on", _REMEDY) from error


_REMEDY = "stop the program that has it, or set grpc_socket, or listen_address and grpc_port"


def _check_free(port: Port) -> None:
    """Report a taken port in one line; gRPC would log a page."""
    try:
        hosts.check_free(port.address, port.number)
    except OSError as error:
        cause = f"cannot be listened on: {(error.strerror or str(error)).lower()}"
        raise LocalFailure(port.endpoint, cause, _REMEDY) from error


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep the signals from this thread and those that it starts, to be waited for.

    The kernel may hand a signal to any thread that takes it, and Python's handler then runs when
    the main thread wakes up, which, waiting for the very signal, it would not.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        while signal.sigtimedwait(_SIGNALS, 0):
            pass  # one more than were needed: the run ends in good order all the same
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _notify(state: str) -> None:
    """Tell systemd, if it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client,
        contextlib.suppress(OSError),
    ):
        client.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
