"""The backend as the frontend sees it: calls with deadlines, whose every failure is a `BackendFailure`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.empty_pb2 import Empty

from appliance.core import hosts
from appliance.core.run.errors import LocalFailure, Unavailable
from cloudkeeper.model import Appliance, ListId
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs
from cloudkeeper.wire.messages import from_message, to_message
from cloudkeeper.wire.status import (
    ALLOW_REMOVE,
    METADATA_UPDATE,
    VO,
    VO_CHECK,
    CallStatus,
    features_of,
    from_metadata,
)

_CHECK = (
    "check that cloudkeeper-os runs, and that backend: endpoint: is where it listens (on the same host "
    "unix:///run/cloudkeeper/backend.sock, unless it is of release 0.9)"
)
_SHORT, _LISTING, _DATA = timedelta(minutes=5), timedelta(minutes=10), timedelta(hours=3)
"""Deadlines; the last one, for calls that upload, is that of cloudkeeper's youngest backends."""
_CONNECT = timedelta(seconds=10)
_RESTART = timedelta(seconds=60)
"""What a backend that went away gets to come back: its unit starts it again after some seconds."""
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 2000))
"""The backend is a neighbour; a proxy that the environment names is for the images."""
_GONE = frozenset({grpc.StatusCode.UNAVAILABLE})


class BackendFailure(Unavailable):
    """The backend refused, failed or did not answer."""


class BackendGone(BackendFailure):
    """Nobody answers at the backend's address."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """Mutual TLS: own certificate and key, and the certificate that the backend must prove. All PEM files."""

    certificate: Path
    key: Path
    backend_certificate: Path


class BackendClient:
    """A connection to the backend at ``endpoint``: ``unix:///PATH`` or ``HOST:PORT``.

    Without ``encryption`` it is in clear.
    """

    def __init__(self, endpoint: str, *, encryption: Encryption | None = None) -> None:
        self._endpoint = endpoint
        self._name = f"backend {endpoint}"
        credentials = _credentials(encryption) if encryption else None
        if credentials:
            self._channel = grpc.secure_channel(endpoint, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(endpoint, options=_OPTIONS)
        self._is_given_up = False
        self._stub: Any = stubs.CommunicatorStub(self._channel)  # type: ignore[no-untyped-call]
        self.can_update_metadata = True
        """Whether an update without image leaves the data alone; known after `begin`."""
        self.can_check_vo = True
        """Whether `appliances` fails for a VO that has no project; known after `begin`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def begin(self, *, allowed: int = 0) -> None:
        """Tell the backend that a run begins, in which ``allowed`` images of a list may go; learn what it can do."""
        metadata = [(ALLOW_REMOVE, str(allowed))] if allowed else []
        call = self._call("PreAction", Empty(), _SHORT, metadata=metadata)
        features = features_of(call.trailing_metadata())
        self.can_update_metadata, self.can_check_vo = (
            METADATA_UPDATE in features,
            VO_CHECK in features,
        )

    def end(self) -> None:
        """Tell the backend that a run is over: it tidies up."""
        self._call("PostAction", Empty(), _LISTING)

    def list_ids(self) -> list[ListId]:
        """Return the identifiers of the lists of which the cloud holds images."""
        return [
            ListId(found.image_list_identifier) for found in self._stream("ImageLists", Empty())
        ]

    def appliances(self, list_id: ListId, *, vo: str) -> list[Appliance]:
        """Return what the cloud holds of one list, which is for ``vo``."""
        request = pb.ImageListIdentifier(image_list_identifier=list_id)
        found = self._stream("Appliances", request, metadata=[(VO, vo)])
        return [from_message(message) for message in found]

    def add(self, appliance: Appliance) -> None:
        """Have an appliance added, whose data are where its ``data`` say."""
        self._call("AddAppliance", to_message(appliance), _DATA)

    def update(self, appliance: Appliance) -> None:
        """Have an appliance updated: data and metadata, or the latter only if it comes without ``data``."""
        self._call("UpdateAppliance", to_message(appliance), _DATA)

    def remove(self, appliance: Appliance) -> None:
        """Have an appliance removed."""
        self._call("RemoveAppliance", to_message(appliance), _SHORT)

    def check(self) -> None:
        """See that somebody answers, so that no image is downloaded for nobody.

        :raises BackendGone: nobody does
        """
        try:
            _connect(self._endpoint).close()
        except OSError as error:
            raise BackendGone(
                self._name, f"cannot be reached: {error.strerror or error}", _CHECK
            ) from None

    def wait(self) -> bool:
        """Wait for a backend that went away, as long as a restart takes; return whether it answers.

        One that did not come back is not waited for again until it has answered.
        """
        if self._is_given_up:
            return False
        try:
            grpc.channel_ready_future(self._channel).result(timeout=_RESTART.total_seconds())
        except grpc.FutureTimeoutError:
            self._is_given_up = True
            return False
        return True

    def _call(
        self,
        method: str,
        request: object,
        deadline: timedelta,
        *,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Any:
        start: Callable[..., Any] = getattr(self._stub, method).with_call
        with self._translated(method):
            _, call = start(request, timeout=deadline.total_seconds(), metadata=metadata)
            self._is_given_up = False
            self._check_result(method, call)
            return call

    def _stream(
        self, method: str, request: object, *, metadata: Sequence[tuple[str, str]] = ()
    ) -> list[Any]:
        start: Callable[..., Any] = getattr(self._stub, method)
        with self._translated(method):
            call = start(request, timeout=_LISTING.total_seconds(), metadata=metadata)
            found = list(call)
            self._check_result(method, call)
            return found

    @contextlib.contextmanager
    def _translated(self, method: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            told: Any = error  # what is raised is a grpc.Call too, which its type does not say
            code, details = told.code(), " ".join((told.details() or "").split())[:300]
            if code in _GONE:
                raise BackendGone(self._name, f"cannot be reached: {details}", _CHECK) from error
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise BackendFailure(self._name, f"{method} did not end in time") from error
            raise BackendFailure(self._name, f"{method} failed: {code.name}: {details}") from error

    def _check_result(self, method: str, call: Any) -> None:
        status, message = from_metadata(call.trailing_metadata())
        if status != CallStatus.SUCCESS:
            raise BackendFailure(self._name, f"{method}: {message or 'no reason given'} ({status})")


def _connect(endpoint: str) -> socket.socket:
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
