"""Conversion of appliances to protobuf messages in the numbering of 1.x, and back.

A message without image has no data; one with an empty image has data without a location. The two
stay different in `Appliance`. proto3 does not send zeros, so an ``expiration_date`` of 0 means that
the appliance does not expire. Amounts of memory are in bytes once a message is read.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from appliance.core.trust.errors import Malformed
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Format,
    ImageData,
    ListId,
    TransferMode,
    ram_in_bytes,
)
from cloudkeeper.wire import communicator_1x_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# By name: if the protocol lacks a format or mode, importing this module fails.
_FORMATS = {pb.Image.Format.Value(each.name): each for each in Format if each.is_accepted}
_MODES = {pb.Image.Mode.Value(each.name): each for each in TransferMode}


def to_message(appliance: Appliance) -> pb.Appliance:
    """Return the message for an appliance.

    Raises:
        ValueError: a number does not fit into int64, or ``cores`` not into int32.

    """
    return pb.Appliance(
        identifier=appliance.identifier,
        title=appliance.title,
        description=appliance.description,
        mpuri=appliance.mpuri,
        group=appliance.group,
        ram=appliance.ram,
        core=appliance.cores,
        version=appliance.version,
        architecture=appliance.architecture,
        operating_system=appliance.operating_system,
        vo=appliance.vo,
        expiration_date=int(appliance.expires.timestamp()) if appliance.expires else 0,
        image_list_identifier=appliance.list_id,
        image=_to_image(appliance.data) if appliance.data else None,
        attributes=dict(appliance.attributes),
    )


def from_message(message: pb.Appliance) -> Appliance:
    """Return the appliance that a peer sent; its texts are unchecked.

    Raises:
        Malformed: the date is outside the years 1 to 9999, or format or mode is unknown.

    """
    return Appliance(
        identifier=ApplianceId(message.identifier),
        list_id=ListId(message.image_list_identifier),
        vo=message.vo,
        title=message.title,
        description=message.description,
        mpuri=message.mpuri,
        group=message.group,
        ram=ram_in_bytes(message.ram),
        cores=message.core,
        version=message.version,
        architecture=message.architecture,
        operating_system=message.operating_system,
        expires=_from_seconds(message) if message.expiration_date else None,
        attributes=MappingProxyType(dict(message.attributes)),
        data=_from_image(message) if message.HasField("image") else None,
    )


def _to_image(data: ImageData) -> pb.Image:
    return pb.Image(
        mode=data.mode.name,
        location=data.location,
        format=data.format.name,
        uri=data.uri,
        checksum=data.checksum,
        size=data.size,
        username=data.username,
        password=data.password,
    )


def _from_image(message: pb.Appliance) -> ImageData:
    image = message.image
    if image.format not in _FORMATS or image.mode not in _MODES:
        raise Malformed(
            f"appliance {message.identifier}",
            f"its image has an unknown format ({image.format}) or mode ({image.mode})",
            "use a frontend and a backend with the same protocol version",
        )
    return ImageData(
        location=image.location,
        format=_FORMATS[image.format],
        checksum=image.checksum,
        size=image.size,
        uri=image.uri,
        mode=_MODES[image.mode],
        username=image.username,
        password=image.password,
    )


def _from_seconds(message: pb.Appliance) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=message.expiration_date)
    except OverflowError:
        raise Malformed(
            f"appliance {message.identifier}",
            f"its expiration date {message.expiration_date} is outside the years 1 to 9999",
        ) from None
