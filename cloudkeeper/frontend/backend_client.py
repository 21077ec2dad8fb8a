"""The client of the backend: each of its calls fails as `BackendFailure`.

A `BackendConnection` carries the calls: over gRPC (`cloudkeeper.frontend.grpc_connection`), or, in
direct mode, to a backend in this process, which the entry point makes.

ApplianceError
└── Unavailable
    └── BackendFailure           the call failed
        ├── FinalRefusal         the cloud would refuse the same image again
        ├── FileWanted           a stream failed that may succeed as a file
        └── BackendUnreachable   no backend answers, so the next call would fail, too
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, Self

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.trust.errors import Malformed
from cloudkeeper.frontend.stream import digest_differs, shown
from cloudkeeper.model import Appliance, ImageData, ListId
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import image_socket
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
    PARTIAL,
    PROPERTIES,
    PROVENANCE,
    ROOM,
    SHARE,
    TAKE_OVER,
    UNKNOWN,
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

# Deadlines; the last one, for uploads, is that of the newest cloudkeeper.
_SHORT, _LISTING, _DATA = timedelta(minutes=5), timedelta(minutes=10), timedelta(hours=3)
# Bytes a second: the slowest rate of a download, which a streamed image waits for.
_SLOWEST = 256 * 1024
# Hexadecimal digits.
_SHA512 = 128
# Characters of the name of an appliance in a message.
_SHOWN = 80


class BackendFailure(Unavailable):
    """The backend refused a call, failed in it or did not answer."""


class FinalRefusal(BackendFailure):
    """The cloud refused an image, and would refuse it again until the image or the site changes."""


class FileWanted(BackendFailure):
    """An image failed as a stream; as a file, which is sent again if need be, it may succeed."""


class BackendUnreachable(BackendFailure):
    """No backend answers at its address."""


@dataclass(frozen=True, slots=True)
class BackendAnswer:
    """The messages of a call's answer, and its trailing metadata, which have the result."""

    messages: Sequence[Any]
    metadata: Iterable[tuple[str, str | bytes]]


class BackendConnection(Protocol):
    """A way to a backend; several threads may call at the same time."""

    name: str
    """The backend, for messages."""
    reaches_sockets: bool
    """Whether the backend is on this host, so that it can connect to sockets of the frontend."""

    def call(
        self,
        method: str,
        request: Message,
        *,
        deadline: timedelta,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> BackendAnswer:
        """Make a call of the protocol, and wait for its whole answer.

        Raises:
            BackendFailure: there is no answer; a result that reports a failure is an answer.

        """

    def check(self) -> None:
        """Check that a backend answers, so that no image is downloaded in vain.

        Raises:
            BackendUnreachable: none does.

        """

    def wait(self) -> bool:
        """Wait for an unreachable backend as long as a restart takes; return whether it answers."""

    def cancel(self) -> None:
        """Cancel the calls of other threads; they fail as `BackendFailure`."""

    def close(self) -> None:
        """End the connection."""


class BackendClient:
    """The calls of a run, over a connection that is closed at the end of the block."""

    def __init__(self, connection: BackendConnection) -> None:
        self._connection = connection
        self._name = connection.name
        self.check, self.wait, self.cancel = connection.check, connection.wait, connection.cancel
        self.can_update_metadata = True
        """Whether an update without image keeps the data; known after `begin`."""
        self.can_work_in_parallel = False
        """Whether calls for several images may run at the same time; known after `begin`."""
        self.can_check_vo = True
        """Whether `appliances` fails for a VO that has no project; known after `begin`."""
        self.can_set_properties = True
        """Whether SBOMs and the site's own properties reach Glance; known after `begin`."""
        self.can_note_provenance = False
        """Whether what data were made from reaches Glance; known after `begin`."""
        self.can_hide = True
        """Whether `hide` hides an image; known after `begin`."""
        self.can_take_over = False
        """Whether images can be taken over and given back; known after `list_ids`."""
        self.can_stream = False
        """Whether the backend reads images from sockets of this host; known after `begin`."""
        self.can_digest = False
        """Whether a converted file needs no checksum; known after `begin`."""
        self.can_share = False
        """Whether VOs may share an image of a registry; known after `begin`."""
        self.can_check_room = False
        """Whether `check_room` checks anything; known after `begin`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def begin(self, *, allowed: int = 0, is_partial: bool = False) -> None:
        """Begin a run, in which ``allowed`` images of a list may be removed; read the features.

        One that ``is_partial`` changes nothing but what it calls for.
        """
        metadata = [(ALLOW_REMOVE, str(allowed))] if allowed else []
        metadata += [(PARTIAL, "yes")] if is_partial else []
        call = self._call("PreAction", Empty(), metadata=metadata)
        features = features_of(call.metadata)
        self.can_update_metadata = METADATA_UPDATE in features
        self.can_work_in_parallel = PARALLEL in features
        self.can_check_vo = VO_CHECK in features
        self.can_set_properties = PROPERTIES in features
        self.can_note_provenance = PROVENANCE in features
        self.can_hide = HIDING in features
        is_local = self._connection.reaches_sockets
        self.can_stream = IMAGE_STREAM in features and is_local
        self.can_digest = OWN_DIGEST in features and is_local
        self.can_share = SHARE in features
        self.can_check_room = ROOM in features
        if not self.can_stream:
            # Over TCP it may be on another host, which has our image directory and not our sockets.
            words = "is reached over TCP" if IMAGE_STREAM in features else "reads no streams"
            logger.info("%s %s: images are sent as files", self._name, words)

    def end(self, *, within: timedelta = _LISTING) -> None:
        """End a run; the backend cleans up."""
        self._call("PostAction", Empty(), deadline=within)

    def list_ids(self) -> list[ListId]:
        """Return the identifiers of the lists that have images in the cloud."""
        answer = self._call("ImageLists", Empty(), deadline=_LISTING)
        self.can_take_over = TAKE_OVER in features_of(answer.metadata)
        return [ListId(each.image_list_identifier) for each in answer.messages]

    def appliances(self, list_id: ListId, *, vo: str) -> list[Appliance]:
        """Return the appliances of one list in the cloud.

        ``vo`` is the VO of the list; empty for a list that has ended, so that its VO needs no
        project any longer.
        """
        request = pb.ImageListIdentifier(image_list_identifier=list_id)
        return self._listed(request, [(VO, vo)])

    def to_hand_over(self, list_id: ListId, *, vo: str, wanted: Takeover) -> list[Appliance]:
        """Return the images of a list that a takeover, or its end, would concern.

        Raises:
            BackendFailure: the backend has no such call.

        """
        request = pb.ImageListIdentifier(image_list_identifier=list_id)
        return self._listed(request, [(VO, vo), (TAKE_OVER, wanted.value)])

    def _listed(
        self, request: pb.ImageListIdentifier, metadata: Sequence[tuple[str, str]]
    ) -> list[Appliance]:
        answer = self._call("Appliances", request, deadline=_LISTING, metadata=metadata)
        try:
            return [from_message(message) for message in answer.messages]
        except Malformed as error:
            cause = f"Appliances: {error.subject[:_SHOWN]}: {error.cause}"
            raise BackendFailure(self._name, cause, error.remedy) from None

    def unknown_records(self) -> list[Appliance]:
        """Return the incomplete records that a killed cloudkeeper-os 0.9 may have left.

        Raises:
            BackendFailure: the backend has no such call.

        """
        answer = self._call("ImageLists", Empty(), deadline=_LISTING)
        if UNKNOWN not in features_of(answer.metadata):
            words = "cannot list incomplete images that nobody has marked"
            raise BackendFailure(self._name, words, "use cloudkeeper-os of the same release")
        return self._listed(pb.ImageListIdentifier(), [(UNKNOWN, "yes")])

    def collect_unknown(self, record: Appliance) -> None:
        """Delete an incomplete record that `unknown_records` has returned."""
        self._call("RemoveAppliance", to_message(record), metadata=[(UNKNOWN, "yes")])

    def hand_over(self, appliance: Appliance, *, wanted: Takeover) -> None:
        """Take an image over from another manager of the cloud, or give it back."""
        metadata = [(TAKE_OVER, wanted.value)]
        # The backend reads the data of an image that it takes over.
        request = to_message(appliance)
        self._call("UpdateAppliance", request, deadline=_DATA, metadata=metadata)

    def add(self, appliance: Appliance) -> None:
        """Add an appliance, which must have ``data``."""
        self._send("AddAppliance", appliance)

    def update(self, appliance: Appliance) -> None:
        """Update the metadata of an appliance and, if it has ``data``, its data."""
        self._send("UpdateAppliance", appliance)

    def share(self, appliance: Appliance, *, formats: Iterable[str]) -> bool:
        """Let the VO of an appliance use the image of another VO; return whether there is one."""
        metadata = [(SHARE, ",".join(formats))]
        message = to_message(appliance)
        answer = self._call("UpdateAppliance", message, deadline=_DATA, metadata=metadata)
        return bool(digests_of(answer.metadata))

    def check_room(self, appliance: Appliance, *, size: int) -> None:
        """Check whether the project of an appliance's VO has room for an image of ``size`` bytes.

        Raises:
            BackendFailure: it has none.

        """
        if self.can_check_room:
            metadata = [(ROOM, str(size))]
            self._call("UpdateAppliance", to_message(appliance), metadata=metadata)

    def _send(self, method: str, appliance: Appliance) -> None:
        data, deadline, metadata = appliance.data, _DATA, []
        # In remote mode the data are a file, too, with a checksum that the backend compares.
        is_stream = data is not None and image_socket.socket_of(data.location) is not None
        if data and is_stream:  # the call lasts as long as the download
            deadline += timedelta(seconds=data.size // _SLOWEST)
        if data and data.is_converted and self.can_digest:
            metadata = [(CONVERTED, "yes")]
        elif data and not data.checksum:
            appliance = replace(appliance, data=digested(data))
        stream, request = data if is_stream else None, to_message(appliance)
        self._call(method, request, deadline=deadline, metadata=metadata, stream=stream)

    def remove(self, appliance: Appliance) -> None:
        """Remove an appliance."""
        self._call("RemoveAppliance", to_message(appliance))

    def hide(self, appliance: Appliance) -> None:
        """Hide an appliance from users; the next `update` shows it again."""
        self._call("UpdateAppliance", to_message(appliance), metadata=[(HIDE, "yes")])

    def _call(
        self,
        method: str,
        request: Message,
        *,
        deadline: timedelta = _SHORT,
        metadata: Sequence[tuple[str, str]] = (),
        stream: ImageData | None = None,
    ) -> BackendAnswer:
        """Make a call; raise the failure that its answer reports.

        The digest of a ``stream`` comes first: it is the reason of what the backend reports then.
        """
        answer = self._connection.call(method, request, deadline=deadline, metadata=metadata)
        found = digests_of(answer.metadata)
        if stream:
            _check_digest(stream, found)
        self._check_result(method, answer)
        if stream and not found:
            raise BackendFailure(self._name, f"{method}: it reports no digest of the image")
        return answer

    def _check_result(self, method: str, answer: BackendAnswer) -> None:
        status, message = from_metadata(answer.metadata)
        if status != CallStatus.SUCCESS:
            kind = FinalRefusal if is_final(answer.metadata) else BackendFailure
            if wants_file(answer.metadata):
                kind = FileWanted
            raise kind(self._name, f"{method}: {message or 'no reason given'} ({status})")


def digested(data: ImageData) -> ImageData:
    """Return a file with its checksum, which is computed once for all changes that send it.

    Raises:
        LocalFailure: it cannot be read.

    """
    known = data.computed
    with known.lock:
        if not known.checksum:
            try:
                with Path(data.location).open("rb") as file:
                    known.checksum = hashlib.file_digest(file, "sha512").hexdigest()
            except OSError as error:
                raise LocalFailure.from_os(error, subject=data.location) from error
    return replace(data, checksum=known.checksum)


def _check_digest(stream: ImageData, found: Mapping[str, str]) -> None:
    """Compare the digest that the backend has computed, and reports, with the source's.

    Raises:
        Tampered: they differ.

    """
    name = "sha512" if len(stream.checksum) == _SHA512 else "sha256"
    if found.get(name, stream.checksum) != stream.checksum:
        wanted = f"{name}:{stream.checksum}"
        raise digest_differs(shown(stream.uri), f"{name}:{found[name]}", wanted)
