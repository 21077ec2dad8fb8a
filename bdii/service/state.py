"""The state of a BDII on disk, from which the next start continues.

    STATE/published.ldif      the tree published last, loaded before slapd listens
    STATE/sources/NAME.ldif   the last good data of each source, without marks
    STATE/memory.json         when each was collected, and what its latest answers lacked

Each file is replaced as a whole. memory.json is written after the data that it describes: after a
kill between two writes a source seems older than it is, never younger.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from appliance.core import clock, files, json_file, ldif
from appliance.core.ldif import Block, Entry, LdifError, MalformedRecord
from bdii import tree as trees
from bdii.entry import (
    EntryFile,
    EntryStore,
    Place,
    StoredEntry,
    block_digest,
    content_digest,
    formatted,
)
from bdii.messages import printable
from bdii.sources.last_good import Absence, LastGood, StaleAge
from bdii.tree import Dn, Tree

logger = logging.getLogger(__name__)


_LARGEST_MEMORY = 2**28
# Seconds of a wait in the file; a hundred years.
_LONGEST = 3_200_000_000
_INSTEAD = "using the modification times of the files in sources/ as the age of the data"


class StateDirectory:
    """The files below one directory.

    A file that cannot be read is logged and counts as missing; writing raises `OSError`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._memory_file = directory / "memory.json"
        # The tree that each file holds, as far as this process has written or read it.
        self._written: dict[Path, Tree] = {}
        # The files of these trees, open.
        self._files: dict[Path, EntryFile] = {}
        # Stored entries by the digest of their bytes, while all files are read: a file that has an
        # entry of another file needs no second copy of it.
        self._by_digest: dict[bytes, tuple[Dn, StoredEntry]] = {}
        # Files of sources that must not be removed as unknown: their data are only unreadable.
        self._unreadable: set[Path] = set()

    @property
    def published_file(self) -> Path:
        """The file with the tree that was published last."""
        return self.directory / "published.ldif"

    def published(self) -> Tree:
        """Return the tree that was published last; call `load` first."""
        tree = self._read(self.published_file)
        self._by_digest = {}
        return tree

    def write_published(self, tree: Tree) -> None:
        """Store a tree as the one published."""
        path = self.published_file
        if self._written.get(path) is not tree:
            places = self._write(path, tree)
            # entries that no source has any more would keep the file of that source on the disk
            of_sources = {file for other, file in self._files.items() if other != path}
            for dn, place in places.items():
                entry = tree[dn]
                if isinstance(entry, StoredEntry) and entry.place[0] not in of_sources:
                    entry.place = place

    def load(self) -> Mapping[str, LastGood]:
        """Return the last good data of all sources."""
        memory = self._memory()
        if memory is None:
            return self._of_files()
        try:
            sources = {
                name: _from_json(entry, self._read(self._source(name)))
                for name, entry in memory.get("sources", {}).items()
            }
            if memory.get("vanished"):
                sources |= self._of_releases_before(memory["vanished"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s: has unexpected content: %r; %s", self._memory_file, error, _INSTEAD)
            return self._of_files()
        return {
            name: last
            for name, last in sources.items()
            if self._source(name) not in self._unreadable
        }

    def save(self, sources: Mapping[str, LastGood]) -> None:
        """Store the last good data of all sources; remove other sources.

        In the trees, entries that were only in memory are replaced by the stored ones.
        """
        files.make_directory(self.directory / "sources")
        failures: list[OSError] = []
        for name, last in sources.items():
            try:
                self._write_source(name, last.tree)
            except OSError as error:  # the other sources and memory.json are written all the same
                failures.append(error)
        memory = {"sources": {name: _as_json(last) for name, last in sources.items()}}
        json_file.write(self._memory_file, memory)
        wanted = {self._source(name) for name in sources}
        for path in set((self.directory / "sources").glob("*.ldif")) - wanted - self._unreadable:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failures.append(error)
            self._written.pop(path, None)
            self._files.pop(path, None)
        if failures:
            raise failures[0]

    def _of_releases_before(self, vanished: Iterable[str]) -> dict[str, LastGood]:
        """Return as a source the entries whose deletion an earlier release held back.

        That release kept them in the published tree only. No source of this name is configured, so
        they go as entries of a removed source do.
        """
        published = self.published()
        held = {Dn(dn): published[Dn(dn)] for dn in vanished if dn in published}
        return {"held": LastGood(held, clock.now())} if held else {}

    def _source(self, name: str) -> Path:
        return self.directory / "sources" / f"{quote(os.fsencode(name), safe='')}.ldif"

    def _of_files(self) -> dict[str, LastGood]:
        """Return the last good data without memory.json: each as old as its file."""
        try:
            listing = files.listed(
                self.directory / "sources",
                lambda name: name.endswith(".ldif") and not name.startswith("."),
            )
        except FileNotFoundError:
            return {}
        for path, line in listing.skipped.items():
            logger.warning("%s", line)
            if path.is_file():
                self._unreadable.add(path)
        return {
            os.fsdecode(unquote_to_bytes(os.fsencode(path.stem))): LastGood(
                self._read(path), datetime.fromtimestamp(path.stat().st_mtime, UTC)
            )
            for path in listing.paths
        }

    def _memory(self) -> dict[str, Any] | None:
        """Return the content of memory.json; None if there is none or it cannot be read."""
        try:
            found = json_file.read(self._memory_file, limit=_LARGEST_MEMORY)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s: cannot be read: %s; %s", self._memory_file, error, _INSTEAD)
            return None
        return found if isinstance(found, dict) else None

    def _read(self, path: Path) -> dict[Dn, Entry]:
        tree: dict[Dn, Entry] = {}
        try:
            with files.open_regular(path) as file:
                store = EntryStore(EntryFile(file))
                for block in ldif.blocks(file):
                    for dn, entry in self._stored(path, store, block):
                        tree.setdefault(dn, entry)
        except FileNotFoundError:
            return {}
        except OSError as error:
            words = "the last good data of this source are not used"
            logger.warning("%s", files.describe_skipped(path, error, consequence=words))
            if path.is_file():
                self._unreadable.add(path)
            return {}
        self._written[path], self._files[path] = tree, store.file
        return tree

    def _stored(self, path: Path, store: EntryStore, block: Block) -> Iterator[tuple[Dn, Entry]]:
        """Yield the entry of a block of a file: that of another file if its bytes are the same."""
        raw = block_digest(block.data)
        if (known := self._by_digest.get(raw)) is not None:
            yield known
            return
        for record in block.read():
            if isinstance(record, MalformedRecord):
                cause = printable(record.cause)
                logger.warning("%s:%d: left out: %s", path, record.line, cause)
            elif isinstance(record, Entry):
                try:
                    dn, entry = trees.checked(record)
                except LdifError as error:
                    logger.warning("%s:%d: left out: %s", path, record.line, printable(str(error)))
                    continue
                place = store.file, block.offset, len(block.data)
                stored = store.at(place, entry, digest=content_digest(entry), raw=raw)
                self._by_digest[raw] = dn, stored
                yield dn, stored

    def _write(self, path: Path, tree: Tree) -> dict[Dn, Place]:
        """Write a tree, and return the places of its entries.

        Nothing is written, and no place returned, if the file holds this tree already.
        """
        before = self._written.get(path)
        # unchanged entries are the same objects: comparing identities is exact enough, and fast
        if before is tree or (
            before is not None
            and len(before) == len(tree)
            and all(before.get(dn) is entry for dn, entry in tree.items())
        ):
            return {}
        extents: dict[Dn, tuple[int, int]] = {}

        def blocks() -> Iterator[bytes]:
            offset = 0
            for dn in sorted(tree, key=trees.depth):  # as slapadd wants them: parents first
                block = formatted(tree[dn])
                extents[dn] = offset, len(block)
                offset += len(block) + 1
                yield block
                yield b"\n"

        files.write_atomic(path, blocks())
        with files.open_regular(path) as file:
            written = EntryFile(file)
        self._written[path], self._files[path] = tree, written
        self._unreadable.discard(path)
        return {dn: (written, *extent) for dn, extent in extents.items()}

    def _write_source(self, name: str, tree: dict[Dn, Entry]) -> None:
        """Write the tree of a source, and let its entries be those of the new file."""
        places = self._write(self._source(name), tree)
        store: EntryStore | None = None
        for dn, place in places.items():
            entry = tree[dn]
            if isinstance(entry, StoredEntry):
                entry.place = place
                continue
            store = store or EntryStore(place[0])
            digest, raw = content_digest(entry), block_digest(formatted(entry))
            tree[dn] = store.at(place, entry, digest=digest, raw=raw)


def _from_json(entry: Mapping[str, Any], tree: dict[Dn, Entry]) -> LastGood:
    waited = entry.get("waited", {})
    silence = _seconds(entry.get("silence", 0)) if entry["silent"] else None
    failed = {
        vo: StaleAge(datetime.fromisoformat(time), _seconds(waited.get(vo, 0)))
        for vo, time in entry["failed"].items()
    }
    absent = {Dn(dn): seen for group in entry.get("absent", []) for dn, seen in _group(group)}
    return LastGood(
        tree,
        datetime.fromisoformat(entry["collected"]),
        failed,
        {dn: seen for dn, seen in absent.items() if dn in tree},
        silence,
        is_terminated=bool(entry.get("terminated")),
    )


def _group(group: Mapping[str, Any]) -> Iterator[tuple[str, Absence]]:
    """Yield the absent entries of a group, all of which have the same history."""
    doubtful = group["doubtful"]
    seen = Absence(
        datetime.fromisoformat(group["collected"]),
        int(group["answers"]),
        _seconds(group["waited"]),
        None if doubtful is None else _seconds(doubtful),
    )
    return ((dn, seen) for dn in group["entries"])


def _seconds(number: float) -> timedelta:
    """Return a wait of the file; a negative one, or one that is no number, raises `ValueError`."""
    if not 0 <= number < _LONGEST:
        raise ValueError(number)
    return timedelta(seconds=number)


def _as_json(last: LastGood) -> dict[str, object]:
    groups: dict[Absence, list[Dn]] = {}
    for dn, seen in last.absent.items():
        groups.setdefault(seen, []).append(dn)
    silence = last.silence or timedelta()
    return {
        "collected": last.collected.isoformat(),
        # these two in the form of earlier releases, which read them after a rollback
        "failed": {vo: age.collected.isoformat() for vo, age in last.failed.items()},
        "silent": last.silence is not None,
        "silence": silence.total_seconds(),
        "waited": {vo: age.waited.total_seconds() for vo, age in last.failed.items()},
        "terminated": last.is_terminated,
        "absent": [
            {
                "collected": seen.collected.isoformat(),
                "answers": seen.answers,
                "waited": seen.waited.total_seconds(),
                "doubtful": None if seen.doubtful is None else seen.doubtful.total_seconds(),
                "entries": names,
            }
            for seen, names in groups.items()
        ],
    }
