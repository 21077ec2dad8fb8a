"""The transfer of an image: from a URL of a source to a stream or a file that the backend reads.

    first MiB ─┬ accepted as it is ─ NAME.sock (`cloudkeeper.frontend.stream`)
               └ NAME.download.part ─ size, digest ─ headers ─┬──────────── rename to NAME.FORMAT
                                                              └ convert to NAME.FORMAT.part ─┘

A stream costs no disk, and each byte passes once. It needs a backend on this host that reads
streams; an image in a format that the cloud accepts, not compressed; its size; and a digest that
the backend verifies. All other images become files, and so do those whose first bytes are refused:
only a verified digest lets a refusal be remembered.

The backend, perhaps another account of the same group, sees the directory. A file therefore ends in
``.part`` until it is complete: size and digest are those of the source, its headers name no other
file, and it has a format that the cloud accepts. The rename is atomic and comes last.

A file lives only as long as the backend needs it. All names begin with `PREFIX`, by which the next
run finds and removes the files of a killed one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.trust.errors import Tampered
from cloudkeeper import formats
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend.answers import BLOCK
from cloudkeeper.frontend.compression import Bounds, decompress, sniff
from cloudkeeper.frontend.conversion import QemuImg, choose_target
from cloudkeeper.frontend.download import Timeouts
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.shared_files import SharedFiles
from cloudkeeper.frontend.sources import ImageOpener
from cloudkeeper.frontend.stream import OfferedStream, Received, digest_differs, shown
from cloudkeeper.model import Format, ImageData, ImageSource, Offer

logger = logging.getLogger(__name__)

PREFIX = "cloudkeeper-"
_PART = ".part"
# Bytes of the file system to keep free for other programs.
_RESERVE = 64 * 2**20
# The time of a download of any size, and bytes a second: its slowest rate.
_PATIENCE = timedelta(minutes=10)
_SLOWEST = 256 * 1024
# Bytes; limits the time of a download whose list gives no size.
_USUAL = 32 * 2**30
# Algorithms that the backend verifies, and formats that need no look at the end of the file: of a
# VMDK, qemu-img uses a second header there.
_VERIFIED = frozenset({"sha512", "sha256"})
# Attributes of lists and of registries that say which format an image has.
_DECLARED = ("hv:format", "org.openstack.glance.disk_format")
_STREAMED = formats.STREAMED - {Format.VMDK}
_ZEROS = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Workshop:
    """A directory for image files, with the programs that fetch and convert them.

    ``accepted`` are the formats that the cloud accepts, the preferred one first. Only one workshop
    at a time may use a directory; the backend reads it.
    """

    directory: Path
    accepted: tuple[Format, ...]
    qemu: QemuImg
    refused: RefusedImages
    shared: SharedFiles = field(default_factory=SharedFiles)
    """Files of images that the run needs more than once; they are not streamed."""

    def sweep(self) -> list[LocalFailure]:
        """Remove the files of a killed run; return a failure for each that cannot be removed."""
        files.make_directory(self.directory)
        stuck: list[LocalFailure] = []
        for name in sorted(name for name in os.listdir(self.directory) if name.startswith(PREFIX)):
            path = self.directory / name
            try:
                if path.is_dir() and not path.is_symlink():  # not made by us
                    raise files.NotAFile(errno.EISDIR, "Is a directory", str(path))
                path.unlink(missing_ok=True)
            except OSError as error:
                stuck.append(files.describe_skipped(path, error))
            else:
                logger.info("%s: left by an earlier run; removed", files.shown(path))
        return stuck

    @contextlib.contextmanager
    def prepare(
        self, offer: Offer, source: ImageOpener, *, may_stream: bool = False
    ) -> Iterator[ImageData]:
        """Fetch the data of an offer of a source into a file that exists during the block.

        With ``may_stream``, data that need no file are a stream instead; its download happens
        during the block, which then also fails for the reasons of a download. A file that several
        changes need is made by the first of them.

        Raises:
            Unavailable: the data cannot be fetched.
            Tampered: size or checksum are not those of the list.
            Unusable: the file has no known format, is harmful, or cannot be converted.
            NeedsFile: the stream was refused in its middle, before its digest was verified.
            LocalFailure: the disk is full or not writable.

        """
        if not self.shared.is_wanted(offer):
            data = self._prepared(offer, source, may_stream=may_stream)
        elif may_stream and not self._has_room(offer.source.size or 0):
            data = self._prepared(offer, source, may_stream=True)
        else:
            data = self.shared.file(offer, lambda: self._prepared(offer, source))
        with data as found:
            yield found

    @contextlib.contextmanager
    def _prepared(
        self, offer: Offer, source: ImageOpener, *, may_stream: bool = False
    ) -> Iterator[ImageData]:
        self.refused.check(offer)
        made: list[Path] = []
        with contextlib.ExitStack() as stack:
            stack.callback(_remove, made)
            try:
                connection = stack.enter_context(contextlib.ExitStack())
                if not may_stream:
                    self._check_room(offer.source.size or 0)  # before the server is asked
                start = formats.START if may_stream else 0
                received = connection.enter_context(_receiving(offer.source, source, start))
                stream = self._stream(offer, received) if may_stream else None
                data = _entered(stack, stream) if stream else None
                if data is None:
                    data = self._file(offer, received, made, connection)
            except OSError as error:
                raise LocalFailure.from_os(error) from error
            yield data

    def disk_bytes(self, offer: Offer, *, may_stream: bool) -> int:
        """Return the bytes of a file that an image will become; 0 if it is probably a stream."""
        size = offer.source.size or 0
        declared = {offer.appliance.attributes.get(name, "").lower() for name in _DECLARED}
        is_alone = not self.shared.is_wanted(offer)
        is_stream = may_stream and size and is_alone and not offer.source.compression
        return 0 if is_stream and declared & _STREAMED & set(self.accepted) else size

    def _stream(
        self, offer: Offer, received: Received
    ) -> contextlib.AbstractContextManager[ImageData] | None:
        """Return the stream of an image; None if it must become a file."""
        algorithm, _, digits = offer.source.digest.partition(":")
        if offer.source.compression or not received.size or algorithm not in _VERIFIED:
            return None
        declared = offer.appliance.attributes.get("hv:format", "")
        try:
            found = formats.inspect_start(received.start, name=received.name, declared=declared)
            if found not in self.accepted or found not in _STREAMED:
                return None
            if found is Format.RAW:
                formats.check_virtual_size(received.name, received.size)
            stream = OfferedStream(received, found)
        except Unusable:
            return None
        path = self.directory / f"{_file_name(offer)}.sock"
        return stream.serving(path, checksum=digits.lower(), uri=offer.source.uri)

    def _file(
        self,
        offer: Offer,
        received: Received,
        made: list[Path],
        connection: contextlib.ExitStack,
    ) -> ImageData:
        stem = self.directory / _file_name(offer)
        part = stem.with_name(f"{stem.name}.download{_PART}")
        made.append(part)
        size, sha512 = self._download(offer, received, part)
        connection.close()
        with self.refused.noting(offer):
            declared = offer.appliance.attributes.get("hv:format", "")
            found = formats.detect(part, declared=declared)
            disk = formats.inspect(part, found)
            objection = formats.check_marks(part, found)
            into = choose_target(found, self.accepted, name=part.name, is_refused=bool(objection))
        self.qemu.virtual_size(disk)  # raises for a disk that qemu-img cannot open
        final = stem.with_name(f"{stem.name}.{into or found}")
        made.append(final)
        if into is None:
            _publish(part, final)
            return ImageData(str(final), found, sha512, size, uri=offer.source.uri)
        converted = stem.with_name(f"{stem.name}.{into}{_PART}")
        made.append(converted)
        reason = f", because Glance would refuse it as it is: {objection}" if objection else ""
        logger.info(
            "%s: converting from %s to %s%s", offer.appliance.identifier, found, into, reason
        )
        self._check_room(self.qemu.needed_bytes(disk))
        self.qemu.convert(disk, into, converted)
        part.unlink()
        _publish(converted, final)
        # Size and checksum are not those of the list; whoever reads the file computes the latter.
        size, uri = final.stat().st_size, offer.source.uri
        return ImageData(str(final), into, "", size, uri=uri, is_converted=True)

    def _download(self, offer: Offer, found: Received, part: Path) -> tuple[int, str]:
        """Download and verify; return size and SHA-512 of the content."""
        wanted, damage = offer.source, None
        name, size = found.name, wanted.size or 0
        self._check_room(found.size or 0)
        blocks = itertools.chain([found.start], found.rest) if found.start else found.rest
        limit = found.size or self.room()
        received = HashedBlocks(blocks, wanted.digest, name=name, limit=limit)
        try:
            written, sha512 = self._write(received, part, kind=wanted.compression, name=name)
        except Unusable as error:
            damage = error
            for _ in received:  # the digest says whether the source itself is damaged
                pass
        if size and received.size != size:
            raise Tampered(name, f"the server sent {received.size} bytes, the source says {size}")
        if received.digest != wanted.digest:
            raise digest_differs(name, received.digest, wanted.digest)
        if damage:
            with self.refused.noting(offer):
                raise damage
        return written, sha512

    def _write(
        self, received: HashedBlocks, part: Path, *, kind: str, name: str
    ) -> tuple[int, str]:
        """Write the content, decompressed; return its number of bytes and its SHA-512."""
        found, content = sniff(received)
        if kind or found:
            bounds = Bounds(self.room())
            return _write(decompress(content, kind or found, name=name, bounds=bounds), part)
        return _write(content, part, known=received)

    def room(self) -> int:
        """Return the bytes of free space that files may use."""
        return shutil.disk_usage(self.directory).free - _RESERVE

    def _has_room(self, needed: int) -> bool:
        try:
            return needed <= self.room()
        except OSError:  # whoever writes the file reports it
            return True

    def _check_room(self, needed: int) -> None:
        room = self.room()
        if needed > room:
            raise LocalFailure(
                self.directory,
                f"{needed >> 20} MiB are needed, {max(room, 0) >> 20} MiB are free",
                "free some space; the next run retries",
            )


@contextlib.contextmanager
def _receiving(wanted: ImageSource, source: ImageOpener, start_bytes: int) -> Iterator[Received]:
    """Open the data of an image, and read so many of their first bytes."""
    name, size = shown(wanted.uri), wanted.size
    timeouts = Timeouts(total=_PATIENCE + timedelta(seconds=(size or _USUAL) // _SLOWEST))
    with source.open(wanted, name=name, timeouts=timeouts) as (length, blocks):
        if size and length and length != size:
            raise Tampered(name, f"the server has {length} bytes, the source says {size}")
        start = bytearray()
        while len(start) < start_bytes and (block := next(blocks, b"")):
            start += block
        yield Received(name, size or length, bytes(start), blocks)


def _entered(
    stack: contextlib.ExitStack, stream: contextlib.AbstractContextManager[ImageData]
) -> ImageData | None:
    try:
        return stack.enter_context(stream)
    except OSError as error:
        words = "no socket can be made in the image directory (%s); images are sent as files"
        logger.info(words, error.strerror or error)
        return None


def _remove(made: Iterable[Path]) -> None:
    for path in made:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


class HashedBlocks:
    """Blocks of a download, with their digest (``ALGORITHM:HEX``) and size up to now.

    Iterating raises `Unavailable` after ``limit`` bytes.
    """

    def __init__(self, blocks: Iterable[bytes], wanted: str, *, name: str, limit: int) -> None:
        self.algorithm = wanted.partition(":")[0]
        self.size = 0
        self._blocks = blocks
        self._hash = hashlib.new(self.algorithm)
        self._name, self._limit = name, limit

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.size += len(block)
            if self.size > self._limit:
                raise Unavailable(self._name, f"the server sent more than {self._limit} bytes")
            self._hash.update(block)
            yield block

    @property
    def digest(self) -> str:
        """The digest of the blocks that have been read."""
        return f"{self.algorithm}:{self._hash.hexdigest()}"


def _write(
    content: Iterable[bytes], part: Path, *, known: HashedBlocks | None = None
) -> tuple[int, str]:
    """Write the content, without its zeros; return its number of bytes and its SHA-512.

    The SHA-512 is not computed twice: ``known`` blocks, not decompressed ones, may have it already.
    """
    is_known = known is not None and known.algorithm == "sha512"
    digest = hashlib.sha512()
    # "x": a name that exists was not made by this run, and a link could lead anywhere.
    with part.open("xb") as file:
        for block in content:
            if block == _ZEROS[: len(block)]:
                file.seek(len(block), os.SEEK_CUR)
            else:
                file.write(block)
            if not is_known:
                digest.update(block)
        written = file.tell()
        file.truncate(written)
        file.flush()
        os.fsync(file.fileno())
    if known is not None and is_known:
        return written, known.digest.partition(":")[2]
    return written, digest.hexdigest()


def _publish(part: Path, final: Path) -> None:
    """Give a finished file its name, and a mode that lets the backend's group read it."""
    with part.open("rb") as file:
        os.fchmod(file.fileno(), 0o640)
        os.fsync(file.fileno())
    os.replace(part, final)
    files.sync_directory(final.parent)


def _file_name(offer: Offer) -> str:
    """Return a name that is unique for list and identifier; `imagelist` has checked both.

    References of registries contain slashes and colons.
    """
    key = f"{offer.appliance.list_id}/{offer.appliance.identifier}".encode()
    # With 64 characters, the path of a socket would be longer than the 107 that Linux allows.
    stem = re.sub("[^A-Za-z0-9._-]", "_", offer.appliance.identifier)[:48]
    return f"{PREFIX}{stem}-{hashlib.sha256(key).hexdigest()[:16]}"
