"""The transfer of an image: from a URL of a source to a stream or a file that the backend reads.

    first MiB ─┬ accepted as it is ─ NAME.sock (`cloudkeeper.frontend.stream`)
               └ NAME.download.part ─ size, digest ─ headers ─┬──────────── rename to NAME.FORMAT
                                                              └ convert to NAME.FORMAT.part ─┘

A compressed file is decompressed to NAME.content.part, after its digest has been verified.

A stream costs no disk, and each byte passes once. It needs a backend on this host that reads
streams; an image in a format that the cloud accepts, not compressed; its size; and a digest that
the backend verifies. All other images become files, and so do those whose first bytes are refused:
only a verified digest lets a refusal be remembered.

The backend, perhaps another account of the same group, sees the directory. A file therefore ends in
``.part`` until it is complete: size and digest are those of the source, its headers name no other
file, and it has a format that the cloud accepts. The rename is atomic and comes last.

A file lives only as long as the backend needs it. All names begin with `PREFIX`, by which the next
run finds and removes the files of a killed one. Of a download that was cut, the part file stays for
the next run (`cloudkeeper.frontend.part_files`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from appliance.core import files
from appliance.core.download.answers import BLOCK
from appliance.core.download.downloader import Timeouts
from appliance.core.download.partial import PartialData
from appliance.core.download.resume import CannotResume
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Tampered
from cloudkeeper import formats
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend import part_files
from cloudkeeper.frontend.bandwidth import Bandwidth
from cloudkeeper.frontend.compression import Bounds, decompress, sniff
from cloudkeeper.frontend.conversion import QemuImg, choose_target
from cloudkeeper.frontend.disk_room import PREFIX, DiskRoom
from cloudkeeper.frontend.part_files import PartFile
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.shared_files import SharedFiles
from cloudkeeper.frontend.sources import ImageOpener
from cloudkeeper.frontend.stream import (
    NeedsFile,
    OfferedStream,
    Received,
    WrongFile,
    digest_differs,
    shown,
)
from cloudkeeper.model import Format, ImageData, ImageSource, Offer

logger = logging.getLogger(__name__)

_PART = ".part"
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
class _Opened:
    """An image whose first bytes have come, from a connection that closes with the stack."""

    received: Received
    connection: contextlib.ExitStack


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
    quota: int | None = None
    """Bytes that all files may take; None: all that are free."""
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    """The bytes a second that all downloads share."""
    disk: DiskRoom = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "disk", DiskRoom(self.directory, self.quota))

    def sweep(self) -> list[LocalFailure]:
        """Remove the files of a killed run, but for part files that this run may go on with.

        A failure is returned for each that cannot be removed.
        """
        files.make_directory(self.directory)
        stuck: list[LocalFailure] = []
        kept = part_files.waiting(self.directory)
        left = {name for name in os.listdir(self.directory) if name.startswith(PREFIX)} - kept
        for name in sorted(left):
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
        size, is_made = offer.source.size or 0, self.shared.is_made(offer)
        if not is_made and not self._has_room(size):
            self.shared.drop_idle()
        if not self.shared.is_wanted(offer):
            data = self._prepared(offer, source, may_stream=may_stream)
        elif may_stream and not is_made and not self._has_room(size):
            data = self._streamed_alone(offer, source)
        else:
            data = self.shared.file(offer, lambda: self._prepared(offer, source))
        with data as found:
            yield found

    @contextlib.contextmanager
    def _streamed_alone(self, offer: Offer, source: ImageOpener) -> Iterator[ImageData]:
        """Stream an image whose file others may be waiting for; the last of them removes that."""
        try:
            with self._prepared(offer, source, may_stream=True) as data:
                yield data
        except NeedsFile:  # it is sent again, as a file
            raise
        except BaseException:
            self.shared.forgo(offer)
            raise
        self.shared.forgo(offer)

    @contextlib.contextmanager
    def _prepared(
        self, offer: Offer, source: ImageOpener, *, may_stream: bool = False
    ) -> Iterator[ImageData]:
        self.refused.check(offer)
        version = PartialData(refused=self.refused.wrong_version(offer))
        with self.refused.noting_download(offer, version), contextlib.ExitStack() as stack:
            made: list[Path] = []
            stack.callback(_remove, made)
            try:
                opened = self._probed(offer, source, stack, version) if may_stream else None
                data = self._stream(offer, opened, stack) if opened else None
                if data is None:
                    data = self._file(offer, source, stack, made, opened, version)
            except OSError as error:
                raise LocalFailure.from_os(error) from error
            yield data

    def disk_bytes(self, offer: Offer, *, may_stream: bool) -> int:
        """Return the bytes of the files of an image; 0 if it is probably a stream."""
        size = offer.source.size or 0
        is_alone = not self.shared.is_wanted(offer)
        is_stream = may_stream and size and is_alone and not offer.source.compression
        if is_stream and _declared(offer) & _STREAMED & set(self.accepted):
            return 0
        return self._needed(offer, size)

    def stored_bytes(self, offer: Offer, *, may_stream: bool) -> int:
        """Return the bytes that an image will have in Glance; 0 if they are unknown.

        A conversion changes them. Of a stream the backend knows them before it takes any.
        """
        is_file = self.disk_bytes(offer, may_stream=may_stream) > 0
        declared = _declared(offer) & set(Format)
        is_plain = bool(declared) and declared <= set(self.accepted)
        return (offer.source.size or 0) if is_file and is_plain else 0

    def _needed(self, offer: Offer, size: int) -> int:
        """Return the bytes of an image's file, and of its conversion if there will be one.

        The result is as large as the source, as far as anybody knows before the download.
        """
        declared = _declared(offer) & set(Format)
        is_converted = bool(declared) and not declared & set(self.accepted)
        return 2 * size if is_converted or offer.source.compression else size

    def _probed(
        self, offer: Offer, source: ImageOpener, stack: contextlib.ExitStack, partial: PartialData
    ) -> _Opened | None:
        """Open an image and read its first bytes, unless a part of its file is there already."""
        if self._part(offer).found(offer.source).number:
            return None  # an earlier run has found that it needs a file
        connection = stack.enter_context(contextlib.ExitStack())
        wanted = replace(offer.source, partial=partial)
        receiving = self._receiving(wanted, source, start_bytes=formats.START)
        return _Opened(connection.enter_context(receiving), connection)

    def _stream(
        self, offer: Offer, opened: _Opened, stack: contextlib.ExitStack
    ) -> ImageData | None:
        """Return the stream of an image; None if it must become a file."""
        stream = self._offered(offer, opened.received)
        return _entered(stack, stream) if stream else None

    def _offered(
        self, offer: Offer, received: Received
    ) -> contextlib.AbstractContextManager[ImageData] | None:
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
        source: ImageOpener,
        stack: contextlib.ExitStack,
        made: list[Path],
        opened: _Opened | None,
        version: PartialData,
    ) -> ImageData:
        name = _file_name(offer)
        # Before the server is asked.
        needed = self._needed(offer, offer.source.size or 0)
        stack.enter_context(self.disk.holding(name, needed))
        if opened:
            fetched = self._download(offer, opened.received, self._part(offer), version)
            opened.connection.close()
        else:
            fetched = self._fetched(offer, source, version)
        part, size, sha512, unpacked = self._content(offer, fetched, made)
        with self.refused.noting(offer):
            declared = offer.appliance.attributes.get("hv:format", "")
            found = formats.detect(part, declared=declared)
            disk = formats.inspect(part, found)
            objection = formats.check_marks(part, found)
            into = choose_target(found, self.accepted, name=part.name, is_refused=bool(objection))
        self.qemu.virtual_size(disk)  # raises for a disk that qemu-img cannot open
        final = self.directory / f"{name}.{into or found}"
        made.append(final)
        if into is None:
            _publish(part, final)
            return ImageData(
                str(final),
                found,
                sha512,
                size,
                uri=offer.source.uri,
                received=fetched.size,
                conversion=unpacked,
            )
        converted = self.directory / f"{name}.{into}{_PART}"
        made.append(converted)
        reason = f", because Glance would refuse it as it is: {objection}" if objection else ""
        logger.info(
            "%s: converting from %s to %s%s", offer.appliance.identifier, found, into, reason
        )
        with self.disk.adding(name, self.qemu.needed_bytes(disk)):
            self.qemu.convert(disk, into, converted)
        part.unlink()
        _publish(converted, final)
        # Size and checksum are not those of the list; whoever reads the file computes the latter.
        return ImageData(
            str(final),
            into,
            "",
            final.stat().st_size,
            uri=offer.source.uri,
            is_converted=True,
            received=fetched.size,
            conversion=f"{unpacked}{'; ' if unpacked else ''}{self.qemu.name}: {found} to {into}",
        )

    def _content(
        self, offer: Offer, fetched: HashedFile, made: list[Path]
    ) -> tuple[Path, int, str, str]:
        """Return the content of a verified file: its file, size and SHA-512, and how it came about.

        The latter is empty if the file was not compressed.
        """
        part = self._part(offer)
        made.append(part.path)
        with part.path.open("rb") as file:
            found, blocks = sniff(_blocks_of(file))
            if not (kind := offer.source.compression or found):
                return part.path, fetched.size, fetched.sha512, ""
            content = part.stem.with_name(f"{part.stem.name}.content{_PART}")
            made.append(content)
            name, bounds = shown(offer.source.uri), Bounds(self.room())
            with self.refused.noting(offer):
                size, sha512 = _write(decompress(blocks, kind, name=name, bounds=bounds), content)
        part.drop()
        return content, size, sha512, f"decompressed from {kind}"

    def _fetched(self, offer: Offer, source: ImageOpener, version: PartialData) -> HashedFile:
        """Download an image as it is, continue the part of an earlier run, and verify it.

        ``version`` gets that of a file that is fetched from its first byte.
        """
        part = self._part(offer)
        partial = part.found(offer.source)
        if partial.number:
            name = offer.appliance.identifier
            logger.info("%s: an earlier run has received %d bytes", name, partial.number)
            try:
                with self._receiving(replace(offer.source, partial=partial), source) as received:
                    return self._download(offer, received, part, partial)
            except (CannotResume, Tampered) as error:
                logger.warning("%s: %s; the download starts again from the first byte", name, error)
        with self._receiving(replace(offer.source, partial=version), source) as received:
            return self._download(offer, received, part, version)

    def _download(
        self, offer: Offer, received: Received, part: PartFile, partial: PartialData
    ) -> HashedFile:
        wanted = offer.source
        blocks = itertools.chain([received.start], received.rest)
        with part.filling(partial):
            self.disk.check(part.stem.name, (received.size or 0) - partial.number)
            part.note(wanted, partial)
            limit = received.size or partial.number + self.room()
            with part.open(partial.number) as file:
                found = HashedFile(file, wanted.digest, name=received.name, limit=limit)
                found.has_size = bool(received.size)
                found.fill(blocks)
            found.verify(wanted)
        return found

    def _part(self, offer: Offer) -> PartFile:
        return PartFile(self.directory / _file_name(offer))

    def room(self) -> int:
        """Return the bytes that files may use, whichever transfers need them."""
        return self.disk.free()

    def _has_room(self, needed: int) -> bool:
        try:
            return needed <= self.room()
        except OSError:  # whoever writes the file reports it
            return True

    @contextlib.contextmanager
    def _receiving(
        self, wanted: ImageSource, source: ImageOpener, *, start_bytes: int = 0
    ) -> Iterator[Received]:
        """Open the data of an image, and read so many of their first bytes."""
        name, size = shown(wanted.uri), wanted.size
        timeouts = Timeouts(total=_PATIENCE + timedelta(seconds=(size or _USUAL) // _SLOWEST))
        with source.open(wanted, name=name, timeouts=timeouts) as (length, blocks):
            if size and length and length != size:
                raise Tampered(name, f"the server has {length} bytes, the source says {size}")
            limited, start = self.bandwidth.limited(blocks), bytearray()
            while len(start) < start_bytes and (block := next(limited, b"")):
                start += block
            yield Received(name, size or length, bytes(start), limited)


def _declared(offer: Offer) -> set[str]:
    """Return the formats that an image has by its list, or by its annotations."""
    return {offer.appliance.attributes.get(name, "").lower() for name in _DECLARED}


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


class HashedFile:
    """A file that a download fills, with the digest (``ALGORITHM:HEX``) of all its bytes.

    What the file has already is read first.
    """

    def __init__(self, file: BinaryIO, wanted: str, *, name: str, limit: int) -> None:
        self._algorithm = wanted.partition(":")[0]
        self._file, self._name, self._limit = file, name, limit
        self._hashes = {each: hashlib.new(each) for each in {self._algorithm, "sha512"}}
        self.size = 0
        self.has_size = False
        """Whether the limit is the size of the file, and not the room for it."""
        for block in _blocks_of(file):
            self._count(block)

    @property
    def digest(self) -> str:
        """The digest of the source's algorithm."""
        return f"{self._algorithm}:{self._hashes[self._algorithm].hexdigest()}"

    @property
    def sha512(self) -> str:
        """The SHA-512, which the backend compares."""
        return self._hashes["sha512"].hexdigest()

    def fill(self, blocks: Iterable[bytes]) -> None:
        """Write blocks, without their zeros.

        Raises:
            Unavailable: they are more than the limit; also as the blocks raise it.

        """
        for block in blocks:
            self._count(block)
            if self.size > self._limit:
                kind = WrongFile if self.has_size else Tampered
                raise kind(self._name, f"the server sent more than {self._limit} bytes")
            _put(self._file, block)
        _finish(self._file)

    def verify(self, wanted: ImageSource) -> None:
        """Compare size and digest with those of the source.

        Raises:
            Tampered: they differ.

        """
        if wanted.size and self.size != wanted.size:
            words = f"the server sent {self.size} bytes, the source says {wanted.size}"
            raise WrongFile(self._name, words)
        if self.digest != wanted.digest:
            raise digest_differs(self._name, self.digest, wanted.digest)

    def _count(self, block: bytes) -> None:
        self.size += len(block)
        for each in self._hashes.values():
            each.update(block)


def _write(content: Iterable[bytes], part: Path) -> tuple[int, str]:
    """Write the content of a new file, without its zeros; return its bytes and its SHA-512."""
    digest = hashlib.sha512()
    # "x": a name that exists was not made by this run, and a link could lead anywhere.
    with part.open("xb") as file:
        for block in content:
            _put(file, block)
            digest.update(block)
        return _finish(file), digest.hexdigest()


def _put(file: BinaryIO, block: bytes) -> None:
    if block == _ZEROS[: len(block)]:
        file.seek(len(block), os.SEEK_CUR)
    else:
        file.write(block)


def _finish(file: BinaryIO) -> int:
    """Write the zeros at the end and make the file durable; return its size."""
    written = file.tell()
    file.truncate(written)
    file.flush()
    os.fsync(file.fileno())
    return written


def _blocks_of(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


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
