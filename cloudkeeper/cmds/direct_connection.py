"""The calls of direct mode: those of the backend's servicer, without gRPC between the two.

    frontend's thread ── call ──> thread of the call: Servicer ── answer ──> frontend's thread

Each call has a thread of its own. An interrupt of the frontend then ends an upload as over gRPC: at
its next block, so that the backend removes its incomplete image; the call that ends the run waits
for that. The threads are daemons, so a second interrupt ends the process at once.

Reads need no lock, so they work beside a sync. The first call that may change something takes the
lock of the backend's state directory, which a service of the same host would hold.
"""

# ruff: noqa: D102  the methods of a protocol, described there

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message

from appliance.core.run.errors import Busy, LocalFailure
from cloudkeeper.backend.calls import DIRECT_PEER, Servicer
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.settings import BackendSettings
from cloudkeeper.frontend.backend_client import BackendAnswer, BackendFailure
from cloudkeeper.frontend.waiting import result_of

_ENDING = "PostAction"
_READING = frozenset({"ImageLists", "Appliances"})
# For calls to end after an interrupt: to remove their incomplete images.
_END = timedelta(seconds=15)
_REMEDY = (
    "stop it (systemctl disable --now cloudkeeper-os), or in cloudkeeper.yml write backend: "
    "endpoint: unix:///run/cloudkeeper/backend.sock"
)


class CallContext:
    """The part of gRPC's context that the servicer uses."""

    def __init__(self, metadata: Sequence[tuple[str, str]], *, deadline: timedelta) -> None:
        self.trailing: Sequence[tuple[str, str]] = ()
        """The result of the call."""
        self.cancelled = threading.Event()
        self._metadata = metadata
        self._ends = time.monotonic() + deadline.total_seconds()

    def is_active(self) -> bool:
        """Return whether the frontend still waits for the call."""
        return not self.cancelled.is_set() and time.monotonic() < self._ends

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Return the metadata that the frontend has sent."""
        return self._metadata

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """Keep the result of the call."""
        self.trailing = metadata

    def peer(self) -> str:
        """Return who calls."""
        return DIRECT_PEER


class DirectConnection:
    """A connection to a servicer in this process; see `BackendConnection`."""

    name = "backend direct"
    reaches_sockets = True

    def __init__(self, servicer: Servicer, ownership: Ownership) -> None:
        self._servicer = servicer
        self._ownership = ownership
        self._held = contextlib.ExitStack()
        self._is_held = False
        self._lock = threading.Lock()
        self._running: dict[futures.Future[BackendAnswer], CallContext] = {}

    def call(
        self,
        method: str,
        request: Message,
        *,
        deadline: timedelta,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> BackendAnswer:
        if method == _ENDING:
            self._settle()
        if method not in _READING:
            self._hold()
        context = CallContext(metadata, deadline=deadline)
        answer = self._started(method, request, context)
        try:
            found = result_of(answer, within=deadline)
        except TimeoutError:
            raise BackendFailure(self.name, f"{method} did not finish in time") from None
        except KeyboardInterrupt:
            context.cancelled.set()
            raise
        if context.cancelled.is_set():
            raise BackendFailure(self.name, f"{method} was interrupted")
        return found

    def check(self) -> None:
        pass

    def wait(self) -> bool:
        return True

    def cancel(self) -> None:
        with self._lock:
            contexts = list(self._running.values())
        for context in contexts:
            context.cancelled.set()

    def close(self) -> None:
        """End all calls and write the record of a run that has not ended, within a limit."""
        self._servicer.stopping.set()
        self._settle()
        # A call that hangs holds the servicer's own lock.
        end = threading.Thread(target=self._servicer.close, daemon=True)
        end.start()
        end.join(_END.total_seconds())
        self._held.close()

    def _hold(self) -> None:
        """Take the lock of the state directory, unless this process has it."""
        with self._lock:
            if self._is_held:
                return
            try:
                self._held.enter_context(self._ownership.held())
            except Busy as error:
                words = (
                    f"another cloudkeeper-os, or cloudkeeper in direct mode, uses it: {error.cause}"
                )
                raise LocalFailure(error.subject, words, _REMEDY) from None
            self._is_held = True

    def _settle(self) -> None:
        """Wait for calls that the frontend has given up, within a limit."""
        with self._lock:
            running = list(self._running)
        futures.wait(running, _END.total_seconds())

    def _started(
        self, method: str, request: Message, context: CallContext
    ) -> futures.Future[BackendAnswer]:
        """Begin a call in a thread of its own."""
        answer: futures.Future[BackendAnswer] = futures.Future()
        arguments = (method, request, context, answer)
        thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
        with self._lock:
            self._running[answer] = context
        thread.start()
        return answer

    def _serve(
        self,
        method: str,
        request: Message,
        context: CallContext,
        answer: futures.Future[BackendAnswer],
    ) -> None:
        try:
            found: Any = getattr(self._servicer, method)(request, context)
            # The result of a stream is there when its last message is.
            messages = list(found) if method in _READING else [found]
            answer.set_result(BackendAnswer(messages, context.trailing))
        except Exception as error:  # noqa: BLE001  it is raised where the answer is read
            words = f"{method} failed: {type(error).__name__}: {error}"
            answer.set_exception(BackendFailure(self.name, words))
        finally:
            with self._lock:
                del self._running[answer]


def connect(settings: BackendSettings) -> DirectConnection:
    """Return a connection to a new servicer with these settings.

    Raises:
        LocalFailure: its state directory cannot be read.

    """
    ownership = Ownership(settings.state)
    return DirectConnection(Servicer(settings, ownership), ownership)
