"""Conversion of the messages of cloudkeeper 2.0 to those of 1.x, and back.

2.0 has no attributes. What it has instead travels inside as attributes of the 1.x message and is
stored with them: two digests, by which a frontend of 2.0 finds changes, under names that other
frontends ignore; and fields of the list under the names that lists give them.

A message shows its numbering: 2.0 always fills field 16, a digest, and 1.x has nothing beyond
field 15. So no message is ever read in the wrong numbering.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from appliance.core.trust.errors import Malformed
from cloudkeeper.wire import communicator_1x_pb2 as first
from cloudkeeper.wire import communicator_2x_pb2 as second

_DIGEST, _IMAGE_DIGEST = "digest", "image_digest"
_BASE_MPURI, _APPID = "ad:base_mpuri", "ad:appid"
_SYSTEM = ("sl:os", "sl:osname", "sl:osversion")
_SAME = (
    *("identifier", "title", "description", "mpuri", "group", "ram", "core", "version"),
    *("architecture", "operating_system", "vo", "expiration_date", "image_list_identifier"),
)
"""Fields of an appliance with the same number in both."""
_OF_IMAGE = ("mode", "location", "format", "uri", "checksum", "size", "username", "password")


def read_first(content: bytes) -> first.Appliance:
    """Return an appliance that is in the numbering of 1.x.

    Raises:
        Malformed: it is not, and probably in that of 2.0.

    """
    try:
        message = first.Appliance.FromString(content)
    except DecodeError:
        raise Malformed(
            "appliance", "the message is not in the format of cloudkeeper 1.x"
        ) from None
    unknown = UnknownFieldSet(message)
    if any(unknown[place].field_number in (16, 17) for place in range(len(unknown))):
        raise Malformed("appliance", "the message is in the format of cloudkeeper 2.0, not of 1.x")
    return message


def read_second(content: bytes, *, is_removal: bool = False) -> first.Appliance:
    """Return an appliance that is in the numbering of 2.0; a removal needs no digest.

    Raises:
        Malformed: it is not, and probably in that of 1.x.

    """
    try:
        message = second.Appliance.FromString(content)
    except DecodeError:
        raise Malformed(
            "appliance", "the message is not in the format of cloudkeeper 2.0"
        ) from None
    if not message.digest and not is_removal:
        raise Malformed(
            "appliance", "the message has no digest, so it is not in the format of cloudkeeper 2.0"
        )
    made = first.Appliance(**{name: getattr(message, name) for name in _SAME})
    attributes = {
        _DIGEST: message.digest,
        _BASE_MPURI: message.base_mpuri,
        _APPID: message.appid,
        **dict(zip(_SYSTEM, message.operating_system.split(" ", 2), strict=False)),
    }
    if message.HasField("image"):
        if message.image.format not in second.Image.Format.values():
            raise Malformed("appliance", f"its image has a format ({message.image.format}) unknown")
        attributes[_IMAGE_DIGEST] = message.image.digest
        image = {name: getattr(message.image, name) for name in _OF_IMAGE}
        made.image.CopyFrom(first.Image(**image))
    made.attributes.update({name: value for name, value in attributes.items() if value})
    return made


def inherit(attributes: Mapping[str, str], old: Mapping[str, str]) -> Mapping[str, str]:
    """Return new attributes of an image whose data stay, with the digest of the data from old ones.

    UpdateApplianceMetadata has no image, and so does not repeat it.
    """
    if _DIGEST not in attributes or _IMAGE_DIGEST in attributes or _IMAGE_DIGEST not in old:
        return attributes
    return MappingProxyType({**attributes, _IMAGE_DIGEST: old[_IMAGE_DIGEST]})


def write_second(message: first.Appliance) -> bytes:
    """Return an appliance of the cloud in the numbering of 2.0."""
    attributes = message.attributes
    made = second.Appliance(
        **{name: getattr(message, name) for name in _SAME},
        base_mpuri=attributes.get(_BASE_MPURI, ""),
        appid=attributes.get(_APPID, ""),
        digest=attributes.get(_DIGEST, ""),
        image=second.Image(digest=attributes.get(_IMAGE_DIGEST, "")),
    )
    return made.SerializeToString()
