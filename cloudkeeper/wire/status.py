"""How a call of 1.x reports its result: in the trailing metadata, while gRPC itself reports OK.

The key ``status`` holds a word of `CallStatus`; the key ``message`` explains all but SUCCESS.
A call without ``status`` has failed. For the calls that stream, both follow the last item.

The key ``features`` is an addition of ours, which cloudkeeper 1.7.1 ignores: a backend sends it
with the result of PreAction, as words separated by commas. cloudkeeper-os 0.9.x loses the image
when an Update comes without one, so a frontend sends such an Update only to a backend that
announces `METADATA_UPDATE`.

The key ``verdict`` is ours, too: with the value ``final`` the cloud would refuse the same image
again, so the frontend does not send it a second time; with the value ``file`` a stream has failed
that may succeed as a file, which can be sent again. ``digests`` are those of the data that a call
has stored, for the frontend to compare.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType

METADATA_UPDATE = "metadata-update"
"""Feature: an Update without image changes the metadata and keeps the data."""
VO_CHECK = "vo-check"
"""Feature: ``Appliances`` fails when the VO in the call's metadata (`VO`) has no project."""
PROPERTIES = "properties"
"""Feature: the additions of `cloudkeeper.wire.own_properties` become properties of the image."""
PROVENANCE = "provenance"
"""Feature: what the data of an image were made from becomes properties of the image, too."""
HIDING = "hide"
"""Feature: an Update with `HIDE` in its metadata hides the image from users and keeps it."""
IMAGE_STREAM = "image-stream"
"""Feature: the backend reads images from sockets in the image directory (`wire.image_socket`)."""
OWN_DIGEST = "own-digest"
"""Feature: the backend computes the digest of a converted file, whose call has `CONVERTED`.

The file has just been made on this host, so a digest of the frontend would prove nothing more, and
computing it reads the whole disk once more: as raw, with all its holes.
"""
PARALLEL = "parallel"
"""Feature: calls for several images may run at the same time; 0.9.x was never asked to do that."""
SHARE = "share"
"""Feature; and key of the metadata of AddAppliance and UpdateAppliance, ours: formats, by commas.

The backend shares the image of another VO of the source, if it has the same layer in one of these
formats. The call has no data; it reports the digest of the layer, or none if there is no such
image, which the frontend then sends as usual.
"""
VO = "vo"
"""Key of the metadata of Appliances, ours: the VO of the list; empty for a list that has ended.

With it a VO without a project costs one line of the log, not the download of its images. A backend
adds attributes of ours for the frontend that sends it, which 1.7.1 would take for changes.
"""
HIDE = "hide"
"""Key of the metadata of UpdateAppliance, ours: hide the image instead of updating it."""
ROOM = "room"
"""Feature; and key of the metadata of UpdateAppliance, ours: the bytes of an image.

The call has no data and changes nothing; it fails if the VO's project has no room for the image, so
that a file is not downloaded in vain.
"""
CONVERTED = "converted"
"""Key of the metadata of AddAppliance and UpdateAppliance, ours: the file has no checksum.

Only a file that the frontend has made by a conversion may have none.
"""
ALLOW_REMOVE = "allow-remove"
"""Key of the metadata of PreAction, ours: the number of a list's images that the run may remove.

The frontend sends it when an administrator has confirmed the number.
"""
PARTIAL = "partial"
"""Key of the metadata of PreAction, ours: the run is about a part of the images.

What is left of images outside that part stays as it is, for a run without a filter.
"""
TAKE_OVER = "take-over"
"""Feature; and key of the metadata of Appliances and UpdateAppliance, ours: a word of `Takeover`.

Appliances then yields the images that the change would concern, with what hinders it, and
UpdateAppliance without image changes one. A backend without the feature would read these calls
otherwise.
"""
UNKNOWN = "unknown"
"""Feature; and key of the metadata of Appliances and RemoveAppliance, ours: incomplete records.

Appliances then yields records that a killed cloudkeeper-os 0.9 may have left, each with its id in
Glance as identifier, and RemoveAppliance deletes one. The frontend sends the latter only when an
administrator asks for it: such a record may be a user's.
"""

_STATUS, _MESSAGE, _FEATURES = "status", "message", "features"
_VERDICT, _FINAL, _FILE, _DIGESTS = "verdict", "final", "file", "digests"
# Characters: gRPC refuses a call's metadata beyond 8 KiB altogether.
_MAX_MESSAGE = 2000
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Takeover(enum.StrEnum):
    """What becomes of an image that another manager of the cloud keeps, or kept."""

    IMPORT = "import"
    """It becomes one of this backend."""
    RELEASE = "release"
    """It becomes the other manager's again."""


class CallStatus(enum.StrEnum):
    """The words of 1.x for the result of a call."""

    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    APPLIANCE_NOT_FOUND = "ERROR_APPLIANCE_NOT_FOUND"
    APPLIANCE_TRANSFER = "ERROR_APPLIANCE_TRANSFER"
    AUTHENTICATION = "ERROR_AUTHENTICATION"
    USER_NOT_AUTHORIZED = "ERROR_USER_NOT_AUTHORIZED"
    RESOURCE_NOT_FOUND = "ERROR_RESOURCE_NOT_FOUND"
    RESOURCE_RETRIEVAL = "ERROR_RESOURCE_RETRIEVAL"
    RESOURCE_STATE = "ERROR_RESOURCE_STATE"


Metadata = tuple[tuple[str, str], ...]


def to_metadata(
    status: CallStatus,
    message: str = "",
    *,
    features: Iterable[str] = (),
    digests: Mapping[str, str] = _NOTHING,
    is_final: bool = False,
    wants_file: bool = False,
) -> Metadata:
    """Return the trailing metadata for a result; ``message`` becomes one line of printable ASCII.

    gRPC allows no other characters in the value of a text key.
    """
    pairs: list[tuple[str, str]] = [(_STATUS, str(status))]
    if message:
        line = " ".join(message.split()).encode("ascii", "backslashreplace").decode("ascii")
        pairs.append((_MESSAGE, "".join(filter(str.isprintable, line))[:_MAX_MESSAGE]))
    if words := ",".join(features):
        pairs.append((_FEATURES, words))
    if words := ",".join(f"{name}:{found}" for name, found in sorted(digests.items())):
        pairs.append((_DIGESTS, words))
    if is_final or wants_file:
        pairs.append((_VERDICT, _FINAL if is_final else _FILE))
    return tuple(pairs)


def from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, str]:
    """Return status and message of a peer.

    The status may be a word that `CallStatus` lacks; a peer that sends none has failed.
    """
    found = _texts(metadata)
    if _STATUS not in found:
        return CallStatus.ERROR, "the backend reported no result"
    return found[_STATUS], found.get(_MESSAGE, "")


def features_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> frozenset[str]:
    """Return the features that a backend announces with the result of PreAction.

    Backends of 0.9.x announce none.
    """
    return frozenset(filter(None, _texts(metadata).get(_FEATURES, "").split(",")))


def is_final(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Return whether the cloud would refuse the same image again."""
    return _texts(metadata).get(_VERDICT) == _FINAL


def wants_file(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Return whether an image that was streamed may succeed as a file."""
    return _texts(metadata).get(_VERDICT) == _FILE


def digests_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> Mapping[str, str]:
    """Return the digests of the data that a call has read, by algorithm; others send none."""
    words = filter(None, _texts(metadata).get(_DIGESTS, "").split(","))
    return {name: digits for name, _, digits in (word.partition(":") for word in words)}


def _texts(metadata: Iterable[tuple[str, str | bytes]] | None) -> Mapping[str, str]:
    """Return metadata by key in lower case, as gRPC compares keys; bytes become ASCII."""
    return {
        key.lower(): value if isinstance(value, str) else value.decode("ascii", "backslashreplace")
        for key, value in metadata or ()
    }
