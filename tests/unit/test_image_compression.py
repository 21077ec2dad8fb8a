"""Compressed images: what the tools write is read, and bombs, damage and garbage are refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import random
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard

from appliance.core.run.errors import LocalFailure
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend.compression import Bounds, decompress, sniff

ROOMY = Bounds(2**40)
KINDS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
TOOLS = [
    ("gzip", ["gzip", "-1"]),
    ("gzip", ["gzip", "-9"]),
    ("bzip2", ["bzip2", "-9"]),
    ("xz", ["xz", "-0"]),
    ("xz", ["xz", "-9"]),
    ("xz", ["xz", "-T2", "--block-size=65536"]),
    ("zstd", ["zstd", "-1"]),
    ("zstd", ["zstd", "-19", "--long=27", "--no-check"]),
]
MIB = 2**20


def content(size: int) -> bytes:
    """Return bytes of which some can be compressed."""
    made = random.Random(5)
    return made.randbytes(size // 3) + bytes(size // 3) + b"text of a disk.." * (size // 48)


def read(data: bytes, *, block: int = MIB, kind: str = "", bounds: Bounds = ROOMY) -> bytes:
    pieces = iter([data[at : at + block] for at in range(0, len(data), block)])
    found, blocks = sniff(pieces)
    return b"".join(decompress(blocks, kind or found, name="x.img", bounds=bounds))


@pytest.mark.programs("xz", "zstd", "bzip2")
@pytest.mark.parametrize(("kind", "command"), TOOLS, ids="".join)
def test_what_the_tools_write_is_read(kind: str, command: list[str]) -> None:
    wanted = content(3 * MIB // 2)  # more than one block of bzip2, and of `read`
    data = subprocess.run([*command, "-c"], input=wanted, capture_output=True, check=True).stdout
    assert sniff(iter([data]))[0] == kind
    assert hashlib.sha256(read(data, block=MIB // 4)).digest() == hashlib.sha256(wanted).digest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_of_any_size(kind: str, block: int) -> None:
    wanted = content(30_000)
    assert read(KINDS[kind](wanted), block=block) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_several_members_and_zeros_behind_them(kind: str) -> None:
    parts = [content(30_000), b"", content(90_000)]
    data = b"".join(KINDS[kind](part) for part in parts) + bytes(512)
    assert read(data) == b"".join(parts)


def test_frames_that_are_skipped() -> None:
    skipped = b"\x53\x2a\x4d\x18" + (100_000).to_bytes(4, "little") + bytes(100_000)
    assert read(skipped + KINDS["zstd"](b"disk") + skipped) == b"disk"


@pytest.mark.parametrize("kind", KINDS)
def test_many_small_members_take_no_time(kind: str) -> None:
    """A buffer that is copied for each of them would take minutes."""
    assert read(KINDS[kind](b"x") * 5000) == b"x" * 5000


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_data(kind: str) -> None:
    data = KINDS[kind](content(100_000))
    for end in (len(data) - 1, len(data) // 2, 40, 11):
        with pytest.raises(Unusable, match=f"x.img: its {kind} data end early"):
            read(data[:end], kind=kind)
    with pytest.raises(Unusable, match=f"x.img: its {kind} data end early"):
        read(data + data[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_data_behind_the_end(kind: str) -> None:
    data = KINDS[kind](content(100_000))
    with pytest.raises(Unusable, match=f"x.img: has other data behind its {kind} data"):
        read(data + b"garbage")
    with pytest.raises(Unusable, match=f"x.img: has other data behind its {kind} data"):
        read(data + bytes(9) + b"garbage")
    other = KINDS["gzip" if kind != "gzip" else "xz"](b"x")
    with pytest.raises(Unusable, match=f"x.img: has other data behind its {kind} data"):
        read(data + other)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data(kind: str) -> None:
    data = bytearray(KINDS[kind](content(100_000)))
    data[len(data) // 2] ^= 1
    with pytest.raises(Unusable, match=f"x.img: its {kind} data are damaged"):
        read(bytes(data))


@pytest.mark.parametrize("data", [b"", b"QFI\xfb and a disk", b"\x1f"])
def test_data_of_another_kind(data: bytes) -> None:
    """A registry states the kind of a layer."""
    with pytest.raises(Unusable, match=r"x\.img: is not gzip data"):
        read(data, kind="gzip")


@pytest.mark.parametrize(
    "start",
    [b"\x1f\x8b\x07\0", b"\x1f\x8b\x08\xff", b"BZh0 and a disk", b"BZh9 and a disk", b"\xfd7zXY\0"],
)
def test_disks_that_look_like_compressed_data(start: bytes) -> None:
    kind, blocks = sniff(iter([start[:2], start[2:], bytes(600)]))
    assert (kind, b"".join(blocks)) == ("", start + bytes(600))


def bomb(kind: str, size: int) -> bytes:
    """Return zeros, compressed; of zstd in the shortest form, blocks of 4 bytes for 128 KiB."""
    if kind != "zstd":
        part = KINDS[kind](bytes(16 * MIB))
        return part * (size // (16 * MIB))
    run = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\0\x38" + run * (size // 2**17) + b"\1\0\0"


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_by_its_ratio(kind: str) -> None:
    bounds = Bounds(2**40, small=8 * MIB)
    with pytest.raises(Unusable, match=r"x\.img: expands to more than 1000 times its size"):
        read(bomb(kind, 32 * MIB), bounds=bounds)


@pytest.mark.parametrize("kind", KINDS)
def test_content_beyond_the_free_space(kind: str) -> None:
    """Zeros need none: they become holes of a file."""
    words = r"x\.img: its content needs more than the 1 MiB that are free; free some space"
    with pytest.raises(LocalFailure, match=words):
        read(KINDS[kind](content(2 * MIB)), bounds=Bounds(MIB))
    assert read(KINDS[kind](bytes(4 * MIB)), bounds=Bounds(MIB)) == bytes(4 * MIB)


def test_the_limits_are_those_of_a_disk() -> None:
    """No image of use is smaller than a thousandth of its disk; none is larger than 2 TiB."""
    ROOMY.check(2**30, 0, 1, "x")
    ROOMY.check(2**40, 0, 2**40 // 1000 + 1, "x")
    with pytest.raises(Unusable, match="1000 times"):
        ROOMY.check(2**30 + 1, 0, 1, "x")
    with pytest.raises(Unusable, match="the limit is"):
        Bounds(2**50).check(2**41 + 1, 0, 2**41, "x")


CONSUMER = """
import resource, sys
from cloudkeeper.frontend.compression import Bounds, decompress
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data, size, largest = sys.stdin.buffer.read(), 0, 0
blocks = (data[at : at + 2**20] for at in range(0, len(data), 2**20))
for piece in decompress(blocks, sys.argv[1], name="x", bounds=Bounds(2**40, ratio=10**9)):
    size += len(piece)
    largest = max(largest, len(piece))
print(size, largest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "size"), [("gzip", 2**26), ("bzip2", 2**26), ("xz", 2**26), ("zstd", 2**28)]
)
def test_memory_does_not_grow_with_a_bomb(kind: str, size: int) -> None:
    """Measured in a process of its own, whose memory is that of the content otherwise."""
    found = subprocess.run(
        [sys.executable, "-c", CONSUMER, kind],
        input=bomb(kind, size),
        capture_output=True,
        check=True,
    )
    read_bytes, largest, kib = map(int, found.stdout.split())
    assert read_bytes == size
    assert largest <= MIB
    assert kib < 40 * 1024


@pytest.mark.parametrize("kind", [0, 2, 3])
def test_a_zstd_block_that_is_too_large_is_not_waited_for(kind: int) -> None:
    """RFC 8878: 128 KiB at most; 2 MiB fit into the field, and 3 is no kind."""
    head = (2**20 << 3 | kind << 1).to_bytes(3, "little")
    with pytest.raises(Unusable, match="its zstd data are damaged"):
        read(b"\x28\xb5\x2f\xfd\0\x38" + head)


def with_dictionary(kind: str) -> bytes:
    """Return data whose header asks for 4 GiB of memory."""
    if kind == "zstd":
        return b"\x28\xb5\x2f\xfd\0\xb0" + b"\1\0\0"
    data = bytearray(lzma.compress(b"disk"))
    data[16] = 40  # the size of the dictionary, in the block's header of 12 bytes
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["xz", "zstd"])
def test_a_dictionary_that_needs_too_much_memory(kind: str) -> None:
    with pytest.raises(Unusable, match=f"its {kind} data need more than 128 MiB of memory; ask"):
        read(with_dictionary(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_of_the_network_is_no_fault_of_the_data(kind: str) -> None:
    def broken() -> Iterator[bytes]:
        yield KINDS[kind](content(100_000))[:50_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        list(decompress(broken(), kind, name="x", bounds=ROOMY))
