"""The client of the backend: its calls have deadlines, and each of them fails as `BackendFailure`.

ApplianceError
└── Unavailable
    └── BackendFailure           the call failed
        ├── FinalRefusal         the cloud would refuse the same image again
        ├── FileWanted           a stream failed that may succeed as a file
        └── BackendUnreachable   no backend answers, so the next call would fail, too
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.empty_pb2 import Empty

from appliance.core import hosts
from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.trust.errors import Malformed
from cloudkeeper.frontend.stream import digest_differs, shown
from cloudkeeper.model import Appliance, ImageData, ListId, TransferMode
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs
from cloudkeeper.wire.messages import from_message, to_message
from cloudkeeper.wire.status import (
    ALLOW_REMOVE,
    CONVERTED,
    HIDE,
    HIDING,
    IMAGE_STREAM,
    METADATA_UPDATE,
    OWN_DIGEST,
    PARALLEL,
    PROPERTIES,
    TAKE_OVER,
    VO,
    VO_CHECK,
    CallStatus,
    Takeover,
    digests_of,
    features_of,
    from_metadata,
    is_final,
    wants_file,
)

logger = logging.getLogger(__name__)
# It logs a traceback for an answer that is no message, of which the call fails anyway.
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)

_CHECK = (
    "check that cloudkeeper-os is running and that backend: endpoint: is its address (on the same "
    "host unix:///run/cloudkeeper/backend.sock, unless its release is 0.9)"
)
_LOGS = "see the log of cloudkeeper-os"
# Deadlines; the last one, for uploads, is that of the newest cloudkeeper.
_SHORT, _LISTING, _DATA = timedelta(minutes=5), timedelta(minutes=10), timedelta(hours=3)
# Bytes a second: the slowest rate of a download, which a streamed image waits for.
_SLOWEST = 256 * 1024
# Hexadecimal digits.
_SHA512 = 128
# Bytes of an answer with many items, which are kept in memory. An item of any size takes some; gRPC
# itself limits one to 4 MiB.
_MOST, _ITEM = 64 * 2**20, 2**10
# Characters of the name of an appliance in a message.
_SHOWN = 80
_CONNECT = timedelta(seconds=10)
# Time for an unreachable backend to return: its unit restarts it after some seconds.
_RESTART = timedelta(seconds=60)
# The backend is on this network; a proxy in the environment is meant for the images.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 2000))
_UNREACHABLE = grpc.StatusCode.UNAVAILABLE


class BackendFailure(Unavailable):
    """The backend refused a call, failed in it or did not answer."""


class FinalRefusal(BackendFailure):
    """The cloud refused an image, and would refuse it again until the image or the site changes."""


class FileWanted(BackendFailure):
    """An image failed as a stream; as a file, which is sent again if need be, it may succeed."""


class BackendUnreachable(BackendFailure):
    """No backend answers at its address."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """Files for mutual TLS, PEM: own certificate and key, and the authority of the backend's."""

    certificate: Path
    key: Path
    backend_certificate: Path


class BackendClient:
    """A connection to the backend at ``endpoint``, which is ``unix:///PATH`` or ``HOST:PORT``.

    Without ``encryption``, it has no TLS.
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
        self._lock = threading.Lock()
        self._calls: list[Any] = []
        self._stub: Any = stubs.CommunicatorStub(self._channel)  # type: ignore[no-untyped-call]
        self.can_update_metadata = True
        """Whether an update without image keeps the data; known after `begin`."""
        self.can_work_in_parallel = False
        """Whether calls for several images may run at the same time; known after `begin`."""
        self.can_check_vo = True
        """Whether `appliances` fails for a VO that has no project; known after `begin`."""
        self.can_set_properties = True
        """Whether SBOMs and the site's own properties reach Glance; known after `begin`."""
        self.can_hide = True
        """Whether `hide` hides an image; known after `begin`."""
        self.can_take_over = False
        """Whether images can be taken over and given back; known after `list_ids`."""
        self.can_stream = False
        """Whether the backend reads images from sockets of this host; known after `begin`."""
        self.can_digest = False
        """Whether a converted file needs no checksum; known after `begin`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def begin(self, *, allowed: int = 0) -> None:
        """Begin a run, in which ``allowed`` images of a list may be removed; read the features."""
        metadata = [(ALLOW_REMOVE, str(allowed))] if allowed else []
        call = self._call("PreAction", Empty(), _SHORT, metadata=metadata)
        features = features_of(call.trailing_metadata())
        self.can_update_metadata = METADATA_UPDATE in features
        self.can_work_in_parallel = PARALLEL in features
        self.can_check_vo = VO_CHECK in features
        self.can_set_properties = PROPERTIES in features
        self.can_hide = HIDING in features
        is_local = self._endpoint.startswith("unix:")
        self.can_stream = IMAGE_STREAM in features and is_local
        self.can_digest = OWN_DIGEST in features and is_local
        if not self.can_stream:
            # Over TCP it may be on another host, which has our image directory and not our sockets.
            words = "is reached over TCP" if IMAGE_STREAM in features else "reads no streams"
            logger.info("%s %s: images are sent as files", self._name, words)

    def end(self) -> None:
        """End a run; the backend cleans up."""
        self._call("PostAction", Empty(), _LISTING)

    def list_ids(self) -> list[ListId]:
        """Return the identifiers of the lists that have images in the cloud."""
        found, call = self._streamed("ImageLists", Empty())
        self.can_take_over = TAKE_OVER in features_of(call.trailing_metadata())
        return [ListId(each.image_list_identifier) for each in found]

    def appliances(self, list_id: ListId, *, vo: str) -> list[Appliance]:
        """Return the appliances of one list in the cloud.

        ``vo`` is the VO of the list; empty for a list that has ended, so that its VO needs no
        project any longer.
        """
        request = pb.ImageListIdentifier(image_list_identifier=list_id)
        return self._appliances(request, metadata=[(VO, vo)])

    def to_hand_over(self, list_id: ListId, *, vo: str, wanted: Takeover) -> list[Appliance]:
        """Return the images of a list that a takeover, or its end, would concern.

        Raises:
            BackendFailure: the backend has no such call.

        """
        request = pb.ImageListIdentifier(image_list_identifier=list_id)
        metadata = [(VO, vo), (TAKE_OVER, wanted.value)]
        return self._appliances(request, metadata=metadata)

    def hand_over(self, appliance: Appliance, *, wanted: Takeover) -> None:
        """Take an image over from another manager of the cloud, or give it back."""
        metadata = [(TAKE_OVER, wanted.value)]
        # The backend reads the data of an image that it takes over.
        self._call("UpdateAppliance", to_message(appliance), _DATA, metadata=metadata)

    def add(self, appliance: Appliance) -> None:
        """Add an appliance, which must have ``data``."""
        self._send("AddAppliance", appliance)

    def update(self, appliance: Appliance) -> None:
        """Update the metadata of an appliance and, if it has ``data``, its data."""
        self._send("UpdateAppliance", appliance)

    def _send(self, method: str, appliance: Appliance) -> None:
        data, deadline, metadata = appliance.data, _DATA, []
        is_stream = data is not None and data.mode is TransferMode.REMOTE
        if data and is_stream:  # the call lasts as long as the download
            deadline += timedelta(seconds=data.size // _SLOWEST)
        if data and data.is_converted and self.can_digest:
            metadata = [(CONVERTED, "yes")]
        elif data and not data.checksum:
            appliance = replace(appliance, data=_digested(data))
        stream = data if is_stream else None
        self._call(method, to_message(appliance), deadline, metadata=metadata, stream=stream)

    def remove(self, appliance: Appliance) -> None:
        """Remove an appliance."""
        self._call("RemoveAppliance", to_message(appliance), _SHORT)

    def hide(self, appliance: Appliance) -> None:
        """Hide an appliance from users; the next `update` shows it again."""
        self._call("UpdateAppliance", to_message(appliance), _SHORT, metadata=[(HIDE, "yes")])

    def check(self) -> None:
        """Check that a backend answers, so that no image is downloaded in vain.

        Raises:
            BackendUnreachable: none does.

        """
        try:
            _connect(self._endpoint).close()
        except OSError as error:
            raise BackendUnreachable(
                self._name, f"cannot be reached: {error.strerror or error}", _CHECK
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

    def _call(
        self,
        method: str,
        request: object,
        deadline: timedelta,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        stream: ImageData | None = None,
    ) -> Any:
        # As a future, a call can be cancelled; it also has the trailing metadata.
        start: Callable[..., Any] = getattr(self._stub, method).future
        with self._translated(method):
            call = start(request, timeout=deadline.total_seconds(), metadata=metadata)
            with self._running(call):
                call.result()
            self._is_given_up = False
            found = digests_of(call.trailing_metadata())
            if stream:
                _check_digest(stream, found)
            self._check_result(method, call)
            if stream and not found:
                raise BackendFailure(self._name, f"{method}: it reports no digest of the image")
            return call

    def _appliances(
        self, request: object, *, metadata: Sequence[tuple[str, str]]
    ) -> list[Appliance]:
        found, _ = self._streamed("Appliances", request, metadata=metadata)
        try:
            return [from_message(message) for message in found]
        except Malformed as error:
            cause = f"Appliances: {error.subject[:_SHOWN]}: {error.cause}"
            raise BackendFailure(self._name, cause, error.remedy) from None

    def _streamed(
        self, method: str, request: object, *, metadata: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[Any], Any]:
        """Return the items of an answer, and the call, which has the trailing metadata."""
        start: Callable[..., Any] = getattr(self._stub, method)
        with self._translated(method):
            call = start(request, timeout=_LISTING.total_seconds(), metadata=metadata)
            with self._running(call):
                found = list(self._limited(method, call))
            self._check_result(method, call)
            return found, call

    def _limited(self, method: str, items: Iterable[Any]) -> Iterator[Any]:
        size = 0
        for item in items:
            size += item.ByteSize() + _ITEM
            if size > _MOST:
                cause = f"{method}: its answer is larger than {_MOST} bytes"
                raise BackendFailure(self._name, cause)
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
            raise BackendFailure(self._name, f"{method} was interrupted") from error
        except grpc.RpcError as error:
            call: Any = error  # the exception is a grpc.Call, too, which its type does not show
            code, details = call.code(), " ".join((call.details() or "").split())[:300]
            if code is _UNREACHABLE:
                raise BackendUnreachable(
                    self._name, f"cannot be reached: {details}", _CHECK
                ) from error
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                words = f"{method} did not finish in time"
                raise BackendFailure(self._name, words, _LOGS) from error
            words = f"{method} failed: {code.name}: {details}"
            raise BackendFailure(self._name, words, _LOGS) from error

    def _check_result(self, method: str, call: Any) -> None:
        metadata = call.trailing_metadata()
        status, message = from_metadata(metadata)
        if status != CallStatus.SUCCESS:
            kind = FinalRefusal if is_final(metadata) else BackendFailure
            if wants_file(metadata):
                kind = FileWanted
            raise kind(self._name, f"{method}: {message or 'no reason given'} ({status})")


def _digested(data: ImageData) -> ImageData:
    """Return a file with its checksum.

    Raises:
        LocalFailure: it cannot be read.

    """
    try:
        with Path(data.location).open("rb") as file:
            return replace(data, checksum=hashlib.file_digest(file, "sha512").hexdigest())
    except OSError as error:
        raise LocalFailure.from_os(error, subject=data.location) from error


def _check_digest(stream: ImageData, found: Mapping[str, str]) -> None:
    """Compare the digest that the backend has computed, and reports, with the source's.

    Raises:
        Tampered: they differ.

    """
    name = "sha512" if len(stream.checksum) == _SHA512 else "sha256"
    if found.get(name, stream.checksum) != stream.checksum:
        wanted = f"{name}:{stream.checksum}"
        raise digest_differs(shown(stream.uri), f"{name}:{found[name]}", wanted)


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
