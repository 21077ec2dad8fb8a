"""How a result is told in 1.x: by trailing metadata of a call that gRPC itself ends with OK.

Key ``status`` is one of the words of `CallStatus`, key ``message`` says more when it is not SUCCESS. No
``status`` at all counts as a failure. For the calls that stream, both come after the last item.

``features`` is ours: words, separated by commas, that a backend sends with the result of PreAction;
peers ignore it. cloudkeeper-os 0.9.x loses the image when an Update comes without one, so a
frontend sends such an Update only to a backend that names `METADATA_UPDATE`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

METADATA_UPDATE = "metadata-update"
"""The backend changes metadata alone when an Update comes without image; the data stay."""
VO_CHECK = "vo-check"
"""The backend fails ``Appliances`` when there is no project for the VO that came along as `VO`."""
VO = "vo"
"""Key of metadata that a frontend sends with Appliances: the VO of the list. So a VO without a project costs one line
and no download."""
ALLOW_REMOVE = "allow-remove"
"""Key of metadata that a frontend sends with PreAction, ours too: how many images of a list it may remove in this run,
because the administrator said so."""

_STATUS, _MESSAGE, _FEATURES = "status", "message", "features"
_MAX_MESSAGE = 2000
"""gRPC refuses metadata of more than 8 KiB."""


class CallStatus(enum.StrEnum):
    """The words of 1.x for the outcome of a call."""

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


def to_metadata(status: CallStatus, message: str = "", *, features: Iterable[str] = ()) -> Metadata:
    """Return the trailing metadata that tell an outcome; ``message`` becomes one line of printable ASCII."""
    told: list[tuple[str, str]] = [(_STATUS, str(status))]
    if message:
        line = " ".join(message.split()).encode("ascii", "backslashreplace").decode("ascii")
        told.append((_MESSAGE, "".join(filter(str.isprintable, line))[:_MAX_MESSAGE]))
    if words := ",".join(features):
        told.append((_FEATURES, words))
    return tuple(told)


def from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, str]:
    """Return status and message of a peer. The status may be a word that `CallStatus` lacks; none at all is ERROR."""
    told = _texts(metadata)
    if _STATUS not in told:
        return CallStatus.ERROR, "the backend told no result"
    return told[_STATUS], told.get(_MESSAGE, "")


def features_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> frozenset[str]:
    """Return the features that a backend named with the result of PreAction; none for the 0.9.x backends."""
    return frozenset(filter(None, _texts(metadata).get(_FEATURES, "").split(",")))


def _texts(metadata: Iterable[tuple[str, str | bytes]] | None) -> Mapping[str, str]:
    pairs = ((key, value) for key, value in metadata or ())
    return {
        key.lower(): value if isinstance(value, str) else value.decode("ascii", "backslashreplace")
        for key, value in pairs
    }
