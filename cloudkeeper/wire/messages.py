"""Appliances as protobuf messages in the numbering of 1.x, and back.

A message that leaves out its image means "no data", one with an empty image means data that are
nowhere: `Appliance` keeps them apart. ``expiration_date`` 0 cannot be told from none. Amounts of
memory are in bytes once they are read.
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
_FORMATS = {
    Format.RAW: pb.Image.RAW,
    Format.OVA: pb.Image.OVA,
    Format.QCOW2: pb.Image.QCOW2,
    Format.VMDK: pb.Image.VMDK,
}
_MODES = {TransferMode.LOCAL: pb.Image.LOCAL, TransferMode.REMOTE: pb.Image.REMOTE}
_FORMATS_BY_NUMBER = {number: found for found, number in _FORMATS.items()}
_MODES_BY_NUMBER = {number: mode for mode, number in _MODES.items()}


def to_message(appliance: Appliance) -> pb.Appliance:
    """Return the message for an appliance; figures must fit into int64 and ``cores`` into int32."""
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
        expiration_date=int((appliance.expires - _EPOCH).total_seconds())
        if appliance.expires
        else 0,
        image_list_identifier=appliance.list_id,
        image=_to_image(appliance.data) if appliance.data else None,
        attributes=dict(appliance.attributes),
    )


def from_message(message: pb.Appliance) -> Appliance:
    """Return the appliance that a peer sent. Its texts are as the peer wrote them: nothing in them is judged here.

    :raises Malformed: a date beyond the calendar, an image of an unknown format or mode
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
        mode=_MODES[data.mode],
        location=data.location,
        format=_FORMATS[data.format],
        uri=data.uri,
        checksum=data.checksum,
        size=data.size,
        username=data.username,
        password=data.password,
    )


def _from_image(message: pb.Appliance) -> ImageData:
    image = message.image
    if image.format not in _FORMATS_BY_NUMBER or image.mode not in _MODES_BY_NUMBER:
        cause = f"its image has the unknown format {image.format} or mode {image.mode}"
        raise Malformed(
            f"appliance {message.identifier}",
            cause,
            "use frontend and backend of one protocol version",
        )
    return ImageData(
        location=image.location,
        format=_FORMATS_BY_NUMBER[image.format],
        checksum=image.checksum,
        size=image.size,
        uri=image.uri,
        mode=_MODES_BY_NUMBER[image.mode],
        username=image.username,
        password=image.password,
    )


def _from_seconds(message: pb.Appliance) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=message.expiration_date)
    except OverflowError:
        cause = f"its expiration date {message.expiration_date} lies beyond the calendar"
        raise Malformed(f"appliance {message.identifier}", cause) from None
