"""The state of a BDII on disk, from which the next start continues.

    STATE/published.ldif      the tree published last, loaded before slapd listens
    STATE/sources/NAME.ldif   the last good data of each source, without marks
    STATE/memory.json         when each was collected, which VOs it lacks, what the guards remember

Each file is replaced as a whole. memory.json is written after the data that it describes: after a
kill between two writes a source seems older than it is, never younger.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from appliance.core import files, ldif
from appliance.core.ldif import MalformedRecord
from bdii import tree as trees
from bdii.messages import printable
from bdii.plan import NOTHING_VANISHED, Vanished
from bdii.sources.last_good import LastGood
from bdii.tree import Dn, Tree

logger = logging.getLogger(__name__)


_LARGEST_MEMORY = 2**28
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
        # Files of sources that must not be removed as unknown: their data are only unreadable.
        self._unreadable: set[Path] = set()

    def published(self) -> Tree:
        """Return the tree that was published last."""
        return self._read(self.directory / "published.ldif")

    def write_published(self, tree: Tree) -> None:
        """Store a tree as the one published."""
        self._write(self.directory / "published.ldif", tree)

    def load(self) -> tuple[Mapping[str, LastGood], Vanished]:
        """Return the last good data of all sources, and the guards' memory."""
        memory = self._memory()
        if memory is None:
            return self._of_files(), NOTHING_VANISHED
        try:
            sources = {
                name: _from_json(entry, self._read(self._source(name)))
                for name, entry in memory.get("sources", {}).items()
            }
            sources = {
                name: last
                for name, last in sources.items()
                if self._source(name) not in self._unreadable
            }
            since = {
                Dn(dn): datetime.fromisoformat(time)
                for dn, time in memory.get("vanished", {}).items()
            }
            held = memory.get("held_since")
            return sources, Vanished(since, datetime.fromisoformat(held) if held else None)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s: has unexpected content: %r; %s", self._memory_file, error, _INSTEAD)
            return self._of_files(), NOTHING_VANISHED

    def save(self, sources: Mapping[str, LastGood], vanished: Vanished) -> None:
        """Store the last good data of all sources and the guards' memory; remove other sources."""
        files.make_directory(self.directory / "sources")
        failures: list[OSError] = []
        for name, last in sources.items():
            try:
                self._write(self._source(name), last.tree)
            except OSError as error:  # the other sources and memory.json are written all the same
                failures.append(error)
        memory = {
            "sources": {name: _as_json(last) for name, last in sources.items()},
            "vanished": {dn: time.isoformat() for dn, time in vanished.since.items()},
            "held_since": vanished.held_since.isoformat() if vanished.held_since else None,
        }
        files.write_atomic(self._memory_file, json.dumps(memory, indent=1).encode())
        wanted = {self._source(name) for name in sources}
        for path in set((self.directory / "sources").glob("*.ldif")) - wanted - self._unreadable:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failures.append(error)
            self._written.pop(path, None)
        if failures:
            raise failures[0]

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
            found = json.loads(files.read_regular(self._memory_file, limit=_LARGEST_MEMORY))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("%s: cannot be read: %s; %s", self._memory_file, error, _INSTEAD)
            return None
        return found if isinstance(found, dict) else None

    def _read(self, path: Path) -> dict[Dn, ldif.Entry]:
        try:
            with files.open_regular(path) as file:
                tree, problems = trees.of(_entries(path, file))
        except FileNotFoundError:
            return {}
        except OSError as error:
            words = "the last good data of this source are not used"
            logger.warning("%s", files.describe_skipped(path, error, consequence=words))
            if path.is_file():
                self._unreadable.add(path)
            return {}
        for problem in problems:
            logger.warning("%s: %s", path, printable(problem))
        self._written[path] = tree
        return tree

    def _write(self, path: Path, tree: Tree) -> None:
        """Write a tree, unless this process has written it there or read it from there."""
        before = self._written.get(path)
        # unchanged entries are the same objects: comparing identities is exact enough, and fast
        if (
            before is not None
            and len(before) == len(tree)
            and all(before.get(dn) is tree[dn] for dn in tree)
        ):
            return
        blocks = (f"{ldif.format_entry(tree[dn])}\n".encode() for dn in trees.sorted_by_depth(tree))
        files.write_atomic(path, blocks)
        self._written[path] = tree
        self._unreadable.discard(path)


def _from_json(entry: Mapping[str, Any], tree: Tree) -> LastGood:
    failed = {vo: datetime.fromisoformat(time) for vo, time in entry["failed"].items()}
    collected = datetime.fromisoformat(entry["collected"])
    return LastGood(tree, collected, failed, is_silent=entry["silent"])


def _as_json(last: LastGood) -> dict[str, object]:
    return {
        "collected": last.collected.isoformat(),
        "failed": {vo: time.isoformat() for vo, time in last.failed.items()},
        "silent": last.is_silent,
    }


def _entries(path: Path, lines: Iterable[bytes]) -> Iterator[ldif.Entry]:
    for record in ldif.read(lines):
        if isinstance(record, ldif.Entry):
            yield record
        elif isinstance(record, MalformedRecord):
            logger.warning("%s:%d: left out: %s", path, record.line, printable(record.cause))
