"""A frontend of cloudkeeper 2.0, whose messages are written by hand from the numbers of its fields.

No generated code of ours is used. Results are gRPC's status codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

_PATH = "/cloudkeeper_grpc.Communicator/"
_VARINT, _BYTES = 0, 2
NUMBERS = {
    "identifier": 1, "title": 2, "description": 3, "mpuri": 4, "group": 5, "ram": 6, "core": 7,
    "version": 8, "architecture": 9, "operating_system": 10, "vo": 11, "expiration_date": 12,
    "image_list_identifier": 13, "base_mpuri": 14, "appid": 15, "digest": 16, "image": 17,
}  # fmt: skip
IMAGE = {
    "mode": 1, "location": 2, "format": 3, "uri": 4, "checksum": 5, "size": 6, "digest": 9,
}  # fmt: skip
FORMATS = {"RAW": 0, "OVA": 1, "QCOW2": 2, "VMDK": 3}


def encode(fields: dict[str, Any], numbers: dict[str, int]) -> bytes:
    """Write a message of proto3, which has no field for zeros and empty texts."""
    made = b""
    for name, value in fields.items():
        if not value:
            continue
        if isinstance(value, int):
            made += _varint(numbers[name] << 3 | _VARINT) + _varint(value)
        else:
            content = value if isinstance(value, bytes) else value.encode()
            made += _varint(numbers[name] << 3 | _BYTES) + _varint(len(content)) + content
    return made


def appliance(image: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """Write an appliance in the numbering of 2.0."""
    if image is not None:
        fields["image"] = encode(image, IMAGE)
    return encode(fields, NUMBERS)


def decode(content: bytes) -> dict[int, Any]:
    """Read a message of proto3: values by number."""
    found: dict[int, Any] = {}
    place = 0
    while place < len(content):
        key, place = _read_varint(content, place)
        value, place = _read_varint(content, place)
        if key & 7 == _BYTES:
            found[key >> 3] = content[place : place + value]
            place += value
        else:
            found[key >> 3] = value
    return found


@dataclass(frozen=True, slots=True)
class SecondFrontend:
    """The calls of a frontend of 2.0; each returns the code and the details of its status."""

    channel: grpc.Channel

    def call(self, method: str, request: bytes = b"") -> tuple[grpc.StatusCode, str]:
        plain: Any = bytes
        try:
            self.channel.unary_unary(_PATH + method, plain, plain)(request, timeout=60)
        except grpc.RpcError as error:
            failed: Any = error
            return failed.code(), failed.details()
        return grpc.StatusCode.OK, ""

    def begin(self) -> list[tuple[grpc.StatusCode, str]]:
        """Begin a run as 2.0.0 does."""
        return [self.call("PreAction"), self.call("RemoveExpiredAppliances")]

    def appliances(self, list_id: str) -> list[dict[int, Any]]:
        plain: Any = bytes
        request = encode({"image_list_identifier": list_id}, {"image_list_identifier": 1})
        stream: Iterator[bytes] = self.channel.unary_stream(_PATH + "Appliances", plain, plain)(
            request, timeout=60
        )
        return [decode(each) for each in stream]


def _varint(number: int) -> bytes:
    made = b""
    while number > 0x7F:
        made += bytes([number & 0x7F | 0x80])
        number >>= 7
    return made + bytes([number])


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[place]
        place += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return number, place
