"""The gRPC server: it listens on a socket, a port or both until SIGTERM.

The first signal lets running calls finish; a second one ends them at once. gRPC's health service
answers SERVING until then, to the same callers as all other calls.
"""

# ruff: noqa: N802  the names of the protocol

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from appliance.core import hosts
from appliance.core.run.errors import LocalFailure
from cloudkeeper.backend import mutual_tls, unix_socket
from cloudkeeper.backend.calls import Servicer
from cloudkeeper.backend.endpoint import Listening
from cloudkeeper.backend.protocol import SERVICE, NumberedService, Numbering

logger = logging.getLogger(__name__)

# For 16 uploads, the most that a frontend of ours begins at the same time, and for the short calls
# beside them: an upload may take hours, and the container's health is asked by a call, too.
_THREADS = 16 + 8
# Calls, running ones included; gRPC refuses more, which bounds the memory.
_QUEUE = 64
# For the message of a call, which clients send with it.
_MESSAGE = timedelta(seconds=20)
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
DRAIN = timedelta(seconds=15)
"""Time for running calls to end; the next run repairs an upload that is cut off.

Less than ``stop_grace_period`` in docker-compose.yml, which ends with SIGKILL: the uploads that are
aborted then must remove their records from Glance.
"""
_REMEDY = "stop the program that has it, or set grpc_socket, or listen_address and grpc_port"


def serve(servicer: Servicer, listening: Listening, numbering: Numbering) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        LocalFailure: the socket or the port cannot be listened on.

    """
    with _signals_held(), ThreadPoolExecutor(_THREADS) as pool, contextlib.ExitStack() as stack:
        if listening.socket:
            stack.enter_context(unix_socket.held(listening.socket))
        server = _server(pool, listening)
        NumberedService(servicer, numbering).add_to(server)
        _add_health(server)
        _listen(server, listening)
        server.start()
        logger.info("listening on %s", listening)
        _notify("READY=1")
        signal.sigwait(_SIGNALS)
        _notify("STOPPING=1")
        logger.info("stopping: waiting up to %d s for running calls", DRAIN.total_seconds())
        ended = server.stop(DRAIN.total_seconds())
        while not ended.wait(0.1):  # nothing waits for an event and a signal at once
            if signal.sigtimedwait(_SIGNALS, 0):
                servicer.stopping.set()
                server.stop(0)
        servicer.stopping.set()  # gRPC does not stop the threads of calls that it has given up


class PromptCalls(grpc.ServerInterceptor):
    """End calls whose only message does not come soon: each of them holds a thread.

    The library waits for it without a limit before it calls a method. It is read here instead, as
    the first message of a stream, which looks the same on the wire.
    """

    def intercept_service(
        self,
        continuation: Callable[[Any], Any],
        handler_call_details: Any,
    ) -> Any:
        """Return the method of a call, which gets the message in time or not at all."""
        found = continuation(handler_call_details)
        if found is None or found.request_streaming:
            return found
        rest = (found.request_deserializer, found.response_serializer)
        if found.response_streaming:
            answers = functools.partial(_first_answers, found.unary_stream)
            return grpc.stream_stream_rpc_method_handler(answers, *rest)
        answer = functools.partial(_first_answer, found.unary_unary)
        return grpc.stream_unary_rpc_method_handler(answer, *rest)


def _first_answer(method: Callable[..., Any], messages: Iterator[Any], context: Any) -> Any:
    return method(_first(messages, context), context)


def _first_answers(
    method: Callable[..., Iterable[Any]], messages: Iterator[Any], context: Any
) -> Iterator[Any]:
    yield from method(_first(messages, context), context)


def _first(messages: Iterator[Any], context: Any) -> Any:
    timer = threading.Timer(_MESSAGE.total_seconds(), context.cancel)
    timer.daemon = True
    timer.start()
    try:
        return next(messages)
    except StopIteration:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
    finally:
        timer.cancel()


def _server(pool: ThreadPoolExecutor, listening: Listening) -> grpc.Server:
    tls = listening.port.tls if listening.port else None
    return grpc.server(
        pool,
        interceptors=[
            PromptCalls(),
            *([mutual_tls.OnlyFrontend(tls.frontend_name)] if tls else []),
        ],
        # With SO_REUSEPORT, a second server would get half of the calls instead of an error.
        options=[("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=_QUEUE,
    )


class ServerCondition(health.HealthServicer):
    """gRPC's health service without streams.

    An open one would hold up the end of the server like an upload; clients take UNIMPLEMENTED as
    the answer of a healthy server.
    """

    def Watch(self, request: object, context: grpc.ServicerContext, *_: object) -> NoReturn:
        """Refuse to stream."""
        del request
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check")


def _add_health(server: grpc.Server) -> None:
    """Add gRPC's health service, which knows the whole server and our service by name."""
    condition = ServerCondition()
    health_pb2_grpc.add_HealthServicer_to_server(condition, server)
    for name in (health.OVERALL_HEALTH, SERVICE):
        condition.set(name, health_pb2.HealthCheckResponse.SERVING)


def _listen(server: grpc.Server, listening: Listening) -> None:
    where: object = listening.socket
    try:
        if listening.socket:
            unix_socket.bind(listening.socket, server.add_insecure_port)
        if port := listening.port:
            where = port.endpoint
            hosts.check_free(port.address, port.number)  # gRPC would log a page
            if port.tls:
                server.add_secure_port(port.endpoint, mutual_tls.credentials(port.tls))
            else:
                server.add_insecure_port(port.endpoint)
    except (RuntimeError, OSError) as error:  # the former is gRPC's, and says nothing more
        words = f": {(error.strerror or '').lower()}" if isinstance(error, OSError) else ""
        raise LocalFailure(where, f"cannot be listened on{words}", _REMEDY) from error


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Block the signals in this thread and those that it starts, so that `serve` can wait for them.

    The kernel delivers a signal to any thread that has not blocked it. Python's handler then runs
    when the main thread wakes up, which it does not while it waits for that very signal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        while signal.sigtimedwait(_SIGNALS, 0):
            pass  # a pending signal would kill the process before its clean end
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _notify(state: str) -> None:
    """Send a state to systemd, if it started this process (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client,
        contextlib.suppress(OSError),
    ):
        # A leading @ stands for the NUL of an abstract socket.
        client.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
