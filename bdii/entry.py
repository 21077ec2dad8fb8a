"""Entries that are read from disk when they are needed.

A tree of a hundred thousand entries has a hundred megabytes of text, of which a cycle needs the few
entries that have changed. In memory there is for each entry its place in a file, a digest of its
content, and what the rules of `bdii.sources.last_good` ask of every entry (`Traits`).

Two entries with the same digest have the same attributes with the same values, in any order. The
creation time is not part of it: it is a trait.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from appliance.core import ldif
from appliance.core.ldif import Block, Entry

CREATION_TIME = "GLUE2EntityCreationTime"
OTHER_INFO = "GLUE2EntityOtherInfo"
STALE = "Stale=TRUE"
# The two attributes that name the VOs of an entry, with the prefix of such a value.
VO_MARKS = {OTHER_INFO: "VO=", "GLUE2PolicyRule": "VO:"}
# Classes of GLUE 2.0 that do not derive from Entity, so that they have none of its attributes.
_NOT_ENTITIES = frozenset({"glue2group", "glue2extension"})
_CREATION_TIME = CREATION_TIME.lower()
_OTHER_INFO = OTHER_INFO.lower()
_VO_MARKS = [(name.lower(), mark) for name, mark in VO_MARKS.items()]
# Lines are not folded: an entry is then read by splitting it.
_WIDTH = 1 << 30
_DIGEST_SIZE = 16
_FLUSH_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Traits:
    """What is asked of every entry; most entries of a source have one of few.

    Attributes:
        created: values of the creation time.
        vos: VOs that the entry names.
        is_entity: whether its class derives from GLUE 2.0's Entity.
        is_stale: whether a lower BDII has marked it as stale.

    """

    created: tuple[str, ...]
    vos: frozenset[str]
    is_entity: bool
    is_stale: bool


class LazyEntry(Entry):
    """An entry whose attributes are made again for each reader."""

    __slots__ = ()

    # the frozen dataclass that this derives from guards attributes that are not used here
    __setattr__ = object.__setattr__
    __hash__ = None  # type: ignore[assignment]

    def load(self) -> Entry:
        """Return the whole entry."""
        raise NotImplementedError

    @property
    def content_digest(self) -> bytes:
        """The digest of all but the creation time."""
        raise NotImplementedError

    @property
    def traits(self) -> Traits:
        """The traits of the entry."""
        raise NotImplementedError

    @property
    def dn(self) -> str:
        """The name, as its source spells it."""
        return self.load().dn

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """The values of the attributes."""
        return self.load().attributes

    @property
    def line(self) -> int:
        """Unknown."""
        return 0

    def __eq__(self, other: object) -> bool:
        """Compare with any entry, as entries are compared."""
        if not isinstance(other, Entry):
            return NotImplemented
        return self is other or (self.dn, self.attributes) == (other.dn, other.attributes)


class StoredEntry(LazyEntry):
    """An entry in a file. ``raw`` is the digest of the bytes in which its source gave it."""

    __slots__ = ("_digest", "_traits", "place", "raw")

    def __init__(self, place: Place, *, digest: bytes, traits: Traits, raw: bytes) -> None:
        self.place = place
        self.raw = raw
        self._digest = digest
        self._traits = traits

    @property
    def content_digest(self) -> bytes:
        """The digest of all but the creation time."""
        return self._digest

    @property
    def traits(self) -> Traits:
        """The traits of the entry."""
        return self._traits

    @property
    def block(self) -> bytes:
        """The bytes in the file, with the line end of the last line."""
        file, offset, length = self.place
        return file.read(offset, length)

    def load(self) -> Entry:
        """Return the whole entry, read from the file."""
        file, offset, length = self.place
        return file.entry(offset, length)


# File, offset and length. It is replaced as a whole: another thread may be reading it.
Place = tuple["EntryFile", int, int]


class EntryFile:
    """A file with entries; it stays readable after it has been replaced or removed."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = os.dup(file.fileno())
        self._end = 0
        self._pending: list[bytes] = []
        self._pending_size = 0
        # the latest entry: name and attributes are often asked for one after the other
        self._latest: tuple[int, Entry] | None = None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `os` may have gone already when the program ends
        close(self._descriptor)

    def append(self, block: bytes) -> int:
        """Write a block at the end, and return its offset; for a file without a name only."""
        offset = self._end
        self._pending.append(block)
        self._end += len(block)
        self._pending_size += len(block)
        if self._pending_size >= _FLUSH_SIZE:
            self.flush()
        return offset

    def flush(self) -> None:
        """Write what is pending; raises `OSError`."""
        data = b"".join(self._pending)
        start = self._end - self._pending_size
        while data:
            written = os.pwrite(self._descriptor, data, start)
            data, start = data[written:], start + written
        self._pending, self._pending_size = [], 0

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file."""
        if self._pending:
            self.flush()
        return os.pread(self._descriptor, length, offset)

    def entry(self, offset: int, length: int) -> Entry:
        """Return the entry at a place."""
        latest = self._latest
        if latest is not None and latest[0] == offset:
            return latest[1]
        records = Block(offset, 0, self.read(offset, length)).read()
        (found,) = (record for record in records if isinstance(record, Entry))
        entry = without_repeated(found)
        self._latest = offset, entry
        return entry


def formatted(entry: Entry) -> bytes:
    """Return the bytes with which an entry is stored, without the empty line that follows."""
    if isinstance(entry, StoredEntry):
        return entry.block
    return ldif.format_entry(entry, width=_WIDTH).encode("ascii")


def block_digest(block: bytes) -> bytes:
    """Return the digest of the bytes in which a source gave an entry."""
    return hashlib.blake2b(block, digest_size=_DIGEST_SIZE).digest()


def content_digest(entry: Entry) -> bytes:
    """Return the digest of all attributes but the creation time."""
    if isinstance(entry, LazyEntry):
        return entry.content_digest
    found = [
        (folded, tuple(sorted(set(values))) if len(values) > 1 else values)
        for name, values in entry.attributes.items()
        if (folded := name.lower()) != _CREATION_TIME
    ]
    found.sort()
    # repr() separates values whatever characters they have
    return block_digest(repr(found).encode("utf-8", "surrogateescape"))


def traits(entry: Entry) -> Traits:
    """Return the traits of an entry."""
    if isinstance(entry, LazyEntry):
        return entry.traits
    found = {name.lower(): values for name, values in entry.attributes.items()}
    info = found.get(_OTHER_INFO, ())
    vos = (
        value.removeprefix(mark)
        for name, mark in _VO_MARKS
        for value in found.get(name, ())
        if value.startswith(mark)
    )
    is_entity = _is_entity(found.get("objectclass", ()))
    return Traits(found.get(_CREATION_TIME, ()), frozenset(vos), is_entity, STALE in info)


@functools.lru_cache(maxsize=1000)
def _is_entity(classes: tuple[str, ...]) -> bool:
    """Check whether a class derives from GLUE 2.0's Entity and has its attributes."""
    names = {name.lower() for name in classes}
    return any(name.startswith("glue2") and name not in _NOT_ENTITIES for name in names)


def without_repeated(entry: Entry) -> Entry:
    """Return the entry without repeated values and without empty ones, which slapd rejects.

    If it has none, it is the entry itself.
    """
    wrong = [
        name
        for name, values in entry.attributes.items()
        if not all(values) or (len(values) > 1 and len(set(values)) < len(values))
    ]
    if not wrong:
        return entry
    attributes = dict(entry.attributes)
    for name in wrong:
        attributes[name] = tuple(filter(None, dict.fromkeys(attributes[name])))
    kept = {name: values for name, values in attributes.items() if values}
    return Entry(entry.dn, kept, entry.line)


class EntryStore:
    """Makes stored entries of one file; equal traits are kept once."""

    def __init__(self, file: EntryFile) -> None:
        self.file = file
        self._traits: dict[Traits, Traits] = {}

    def add(self, entry: Entry, *, digest: bytes, raw: bytes, block: bytes = b"") -> StoredEntry:
        """Write an entry at the end of the file, and return it stored.

        ``block`` has its bytes if they are known.
        """
        block = block or formatted(entry)
        place = self.file, self.file.append(block), len(block)
        return self.at(place, entry, digest=digest, raw=raw)

    def at(self, place: Place, entry: Entry, *, digest: bytes, raw: bytes) -> StoredEntry:
        """Return an entry that is in the file already."""
        found = traits(entry)
        shared = self._traits.setdefault(found, found)
        return StoredEntry(place, digest=digest, traits=shared, raw=raw)
