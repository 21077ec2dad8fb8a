"""From a URL of a list to an image file that the backend may have: verified first, visible afterwards.

A download goes to a file whose name ends in ``.part`` and gets its name only when size and checksum
are the list's and its headers are harmless; so does a conversion. All names begin with `PREFIX`,
which is how the next run finds what a killed one left behind. Files live as long as the backend
needs them, and no longer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from appliance.core import files, hosts
from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.trust.errors import Tampered
from cloudkeeper.frontend import formats
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.frontend.download import BLOCK, Downloader, Timeouts
from cloudkeeper.frontend.formats import Unusable
from cloudkeeper.model import Format, ImageData, ImageSource, Offer

logger = logging.getLogger(__name__)

PREFIX = "cloudkeeper-"
_PART = ".part"
_RESERVE = 64 * 2**20
"""Bytes of the file system that are left to others."""
_SLOWEST = 256 * 1024
"""Bytes a second that a download must at least do."""
_USUAL = 32 * 2**30
"""Bytes that an image may have when nobody has told how many: they decide how long its download may take."""
_FREE_SPACE = "free space there; the next run tries again"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file with the size and SHA-512 that were asked for."""

    path: Path
    sha512: str
    size: int


@dataclass(frozen=True, slots=True)
class Workshop:
    """A directory for image files, and what fetches and converts them.

    ``accepted`` are the formats that the cloud takes, the preferred one first. One workshop at a
    time may use a directory; the backend reads in it.
    """

    directory: Path
    accepted: tuple[Format, ...]
    client: Downloader
    qemu: QemuImg

    def sweep(self) -> list[LocalFailure]:
        """Remove what an earlier run left behind; return a line for each name that stays."""
        files.make_directory(self.directory)
        stuck: list[LocalFailure] = []
        for name in sorted(name for name in os.listdir(self.directory) if name.startswith(PREFIX)):
            path = self.directory / name
            try:
                if path.is_dir() and not path.is_symlink():  # we make none
                    raise files.NotAFile(errno.EISDIR, "Is a directory", str(path))
                path.unlink(missing_ok=True)
            except OSError as error:
                stuck.append(files.describe_skipped(path, error))
            else:
                logger.info("%s: left behind by an earlier run, removed", files.shown(path))
        return stuck

    @contextlib.contextmanager
    def prepare(self, offer: Offer) -> Iterator[ImageData]:
        """Fetch the data of an offer into a file that is there during the block.

        :raises Unavailable: it cannot be fetched
        :raises Tampered: size or checksum are not those of the list
        :raises Unusable: the file is of no known format, or harmful, or cannot be converted
        :raises LocalFailure: the disk is full or not writable
        """
        made: list[Path] = []
        try:
            try:
                data = self._prepare(offer, made)
            except OSError as error:
                raise LocalFailure.from_os(error) from error
            yield data
        finally:
            for path in made:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _prepare(self, offer: Offer, made: list[Path]) -> ImageData:
        stem = self.directory / _file_name(offer)
        part = stem.with_name(f"{stem.name}.download{_PART}")
        made.append(part)
        original = self._download(offer.source, part)
        found = formats.detect(part, declared=offer.appliance.attributes.get("hv:format", ""))
        disk = formats.inspect(part, found)
        self.qemu.virtual_size(disk)
        into = found if found in self.accepted else self._target(part)
        final = stem.with_name(f"{stem.name}.{into}")
        made.append(final)
        if into is found:
            _publish(part, final)
            return ImageData(
                str(final), found, original.sha512, original.size, uri=offer.source.uri
            )
        converted = stem.with_name(f"{stem.name}.{into}{_PART}")
        made.append(converted)
        logger.info("%s: converting from %s to %s", offer.appliance.identifier, found, into)
        self._check_room(self.qemu.needed_bytes(disk))
        self.qemu.convert(disk, into, converted)
        part.unlink()
        _publish(converted, final)
        size, sha512 = _hash(final)
        return ImageData(str(final), into, sha512, size, uri=offer.source.uri)

    def _target(self, path: Path) -> Format:
        for wanted in self.accepted:
            if wanted is not Format.OVA:
                return wanted
        raise Unusable(
            path.name, "cannot be converted to OVA, the only format that is accepted here"
        )

    def _download(self, source: ImageSource, part: Path) -> Downloaded:
        name, size = _shown(source.uri), source.size or 0
        timeouts = Timeouts(total=timedelta(minutes=10, seconds=(size or _USUAL) // _SLOWEST))
        self._check_room(size)
        with self.client.stream(source.uri, name=name, timeouts=timeouts) as (length, blocks):
            if source.size and length and length != source.size:
                raise Tampered(name, f"the server has {length} bytes, the list says {source.size}")
            self._check_room(length or 0)
            received, sha512 = _write(blocks, part, limit=size or length or self._room())
        if size and received != size:
            raise Tampered(name, f"{received} bytes came, the list says {size}")
        if sha512 != source.sha512:
            raise Tampered(
                name, f"its SHA-512 is {sha512[:16]}…, the list says {source.sha512[:16]}…"
            )
        return Downloaded(part, sha512, received)

    def _room(self) -> int:
        return shutil.disk_usage(self.directory).free - _RESERVE

    def _check_room(self, needed: int) -> None:
        room = self._room()
        if needed > room:
            cause = f"{needed >> 20} MiB are needed, {max(room, 0) >> 20} MiB are free"
            raise LocalFailure(self.directory, cause, _FREE_SPACE)


def _write(blocks: Iterable[bytes], part: Path, *, limit: int) -> tuple[int, str]:
    """Write and hash; returns bytes and SHA-512. More than ``limit`` bytes are not taken."""
    digest, received = hashlib.sha512(), 0
    # whatever stands there was not made by this run: a link may lead anywhere
    with part.open("xb") as file:
        for block in blocks:
            received += len(block)
            if received > limit:
                raise Unavailable(part.name, f"more than {limit} bytes came")
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return received, digest.hexdigest()


def _hash(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.sha512()
        while block := file.read(BLOCK):
            digest.update(block)
        return file.tell(), digest.hexdigest()


def _publish(part: Path, final: Path) -> None:
    """Give a finished file its name; the backend, another user of the same group, may read it."""
    with part.open("rb") as file:
        os.fchmod(file.fileno(), 0o640)
        os.fsync(file.fileno())
    os.replace(part, final)
    files.sync_directory(final.parent)


def _shown(uri: str) -> str:
    """Return a URL without what may be a secret in it: user name, password and query."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, hosts.of_url(uri), parts.path, "", ""))


def _file_name(offer: Offer) -> str:
    key = f"{offer.appliance.list_id}/{offer.appliance.identifier}".encode()
    return f"{PREFIX}{offer.appliance.identifier[:64]}-{hashlib.sha256(key).hexdigest()[:16]}"
