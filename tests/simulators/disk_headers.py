"""Headers of disk formats as their specifications lay them out, for disks without any data.

Every field can be given another value, so that tests can go to each limit and beyond it.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from functools import cache

SECTOR = 512
MIB = 2**20
NOWHERE = 2**64 - 1
_PARAMETERS = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
_VIRTUAL_SIZE = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
_DISK_ID = "beca12ab-b2e6-4523-93ef-c309e000c746"
LOGICAL_SECTOR = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
_PHYSICAL_SECTOR = "cda348c7-445d-4471-9cc9-e9885251c556"
BAT = "2dc27766-f623-4200-9d64-115e9bfd4a08"
METADATA = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
# [MS-VHDX] 2.2: where the two headers and the first region table are; the table's bytes.
_HEADERS, _REGIONS, _TABLE = (0x10000, 0x20000), 0x30000, 0x10000
_REQUIRED_REGION, REQUIRED_ITEM = 1, 4
_METADATA_AT, _ITEMS = MIB, 0x10000
# Of a VMDK: where its data begin, if its header says 128 sectors.
_GRAINS = 128 * SECTOR


def complement(part: bytes | bytearray) -> bytes:
    """Return the checksum of a part of a VHD that has zeros in its place."""
    return struct.pack(">I", ~sum(part) & 0xFFFFFFFF)


def vhd_footer(*, size: int = 4 * MIB, kind: int = 3, position: int = SECTOR) -> bytes:
    """Return the footer of a VHD; ``kind`` is 2 for a fixed disk, 3 for a dynamic one."""
    made = struct.pack(
        ">8sIIQI4sI4sQQHBBI4x16s",
        *(b"conectix", 2, 0x10000, position, 0, b"win ", 0x10000, b"Wi2k"),
        *(size, size, 0, 0, 0, kind, bytes(range(1, 17))),
    ).ljust(SECTOR, b"\0")
    return made[:64] + complement(made) + made[68:]


def vhd(
    *,
    size: int = 4 * MIB,
    block: int = 2 * MIB,
    entries: int = 0,
    position: int = SECTOR,
    table: int = 0,
    kind: int = 3,
    cookie: bytes = b"cxsparse",
    changes: Mapping[int, bytes] = {},
    table_bytes: int = 0,
) -> bytes:
    """Return a dynamic VHD without data: footer, header, table of blocks, footer.

    ``changes`` are bytes of the header, by their offset in it.
    """
    entries = entries or -(-size // block)
    table = table or position + 1024
    header = bytearray(1024)
    header[:36] = struct.pack(">8sQQIII", cookie, NOWHERE, table, 0x10000, entries, block)
    for at, new in changes.items():
        header[at : at + len(new)] = new
    header[36:40] = complement(header)
    footer = vhd_footer(size=size, kind=kind, position=position)
    blocks = b"\xff" * (table_bytes or -(-entries * 4 // SECTOR) * SECTOR)
    return (footer.ljust(position, b"\0") + header).ljust(table, b"\0") + blocks + footer


def vdi(
    *,
    version: int = 0x10001,
    kind: int = 1,
    sector: int = SECTOR,
    size: int = 4 * MIB,
    block: int = MIB,
    extra: int = 0,
    blocks: int = 4,
    allocated: int = 0,
    link: bytes = bytes(16),
    parent: bytes = bytes(16),
) -> bytes:
    """Return a VDI without data: header and map of blocks; ``kind`` is 1 or, if static, 2."""
    made = struct.pack(
        "<64sIIIII256sIIIIIIIQIIII16s16s16s16s",
        *(b"<<< Oracle VM VirtualBox Disk Image >>>\n", 0xBEDA107F, version, 0x190, kind, 0),
        *(b"", SECTOR, 2 * SECTOR, 0, 0, 0, sector, 0, size, block, extra, blocks, allocated),
        *(b"i" * 16, b"s" * 16, link, parent),
    )
    return made.ljust(SECTOR, b"\0") + b"\xff" * SECTOR


def vmdk(
    descriptor: str = "",
    *,
    directory: int = 22,
    second: int = 21,
    capacity: int = 8192,
    sectors: int = 20,
) -> bytes:
    """Return a sparse VMDK without data: header, descriptor in ``sectors``, two directories."""
    text = descriptor or vmdk_descriptor()
    header = vmdk_header(capacity=capacity, sectors=sectors, second=second, directory=directory)
    return (header + text.encode()).ljust(_GRAINS, b"\0")


def vmdk_end(footer: bytes, *, marker: int = 3) -> bytes:
    """Return the end of a VMDK with a footer: its marker, the footer, the end of the stream."""
    return struct.pack("<QII", 1, 0, marker).ljust(SECTOR, b"\0") + footer + bytes(SECTOR)


def vmdk_header(
    *, capacity: int = 8192, sectors: int = 20, second: int = 21, directory: int = 22
) -> bytes:
    """Return the header of a sparse VMDK; amounts and places are in sectors."""
    return struct.pack(
        "<4sIIQQQQIQQQB4sH",
        *(b"KDMV", 1, 3, capacity, 128, 1, sectors, 512, second, directory, 128, 0),
        *(b"\n \r\n", 0),
    ).ljust(SECTOR, b"\0")


def vmdk_descriptor(*lines: str, extent: str = 'RW 8192 SPARSE "x.vmdk"') -> str:
    """Return the description of a sparse disk, with further lines."""
    usual = ("# Disk DescriptorFile", "version=1", "CID=12345678", "parentCID=ffffffff")
    return "\n".join([*usual, 'createType="monolithicSparse"', extent, *lines, ""])


def vhdx_header(
    *, number: int = 1, log: bytes = bytes(16), version: int = 1, signature: bytes = b"head"
) -> bytes:
    """Return one of the headers of a VHDX; the one with the higher ``number`` counts."""
    made = struct.pack(
        "<4sIQ16s16s16sHHIQ",
        *(signature, 0, number, b"f" * 16, b"d" * 16, log, 0, version, MIB, 3 * MIB),
    ).ljust(4096, b"\0")
    return _with_crc(made)


def vhdx_table(*entries: tuple[str, int, int], count: int = 0, signature: bytes = b"regi") -> bytes:
    """Return the region table of a VHDX; an entry is a UUID, a position and its flags."""
    made = struct.pack("<4sIII", signature, 0, count or len(entries), 0)
    for name, at, flags in entries:
        made += struct.pack("<16sQII", uuid.UUID(name).bytes_le, at, MIB, flags)
    return _with_crc(made.ljust(_TABLE, b"\0"))


REGIONS = ((BAT, 2 * MIB, _REQUIRED_REGION), (METADATA, _METADATA_AT, _REQUIRED_REGION))
ITEMS = (
    (_PARAMETERS, struct.pack("<II", MIB, 0), REQUIRED_ITEM),
    (_VIRTUAL_SIZE, struct.pack("<Q", 4 * MIB), 6),
    (_DISK_ID, b"d" * 16, 6),
    (LOGICAL_SECTOR, struct.pack("<I", 512), 6),
    (_PHYSICAL_SECTOR, struct.pack("<I", 4096), 6),
)
"""What the metadata of a disk hold: UUID, content, flags (1: user's, 2: disk's, 4: required)."""


def vhdx_items(
    *items: tuple[str, bytes, int], count: int = 0, signature: bytes = b"metadata"
) -> bytes:
    """Return the metadata of a VHDX."""
    made = struct.pack("<8sHH20x", signature, 0, count or len(items))
    contents = b""
    for name, content, flags in items:
        at = _ITEMS + len(contents)
        made += struct.pack("<16sIIII", uuid.UUID(name).bytes_le, at, len(content), flags, 0)
        contents += content
    return made.ljust(_ITEMS, b"\0") + contents


def vhdx(
    *,
    first: bytes = b"",
    second: bytes = b"",
    table: bytes = b"",
    metadata: bytes = b"",
    length: int = 4 * MIB,
) -> bytes:
    """Return a VHDX without data: headers, region table, metadata, table of blocks, log."""
    start = b"vhdxfile".ljust(_HEADERS[0], b"\0") + (first or vhdx_header(number=2))
    start = start.ljust(_HEADERS[1], b"\0") + (second or vhdx_header())
    start = start.ljust(_REGIONS, b"\0") + (table or vhdx_table(*REGIONS))
    made = start.ljust(_METADATA_AT, b"\0") + (metadata or vhdx_items(*ITEMS))
    return made.ljust(length, b"\0")


@cache
def _with_crc(made: bytes) -> bytes:
    """Return a part of a VHDX with its CRC-32C (Castagnoli) behind the signature."""
    crc = 0xFFFFFFFF
    table = _castagnoli()
    for byte in made:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return made[:4] + struct.pack("<I", crc ^ 0xFFFFFFFF) + made[8:]


@cache
def _castagnoli() -> list[int]:
    table = []
    for each in range(256):
        value = each
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table
