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
from appliance.core.ldif import MalformedRecord
from bdii import tree as trees
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
        # Files of sources that must not be removed as unknown: their data are only unreadable.
        self._unreadable: set[Path] = set()

    def published(self) -> Tree:
        """Return the tree that was published last."""
        return self._read(self.directory / "published.ldif")

    def write_published(self, tree: Tree) -> None:
        """Store a tree as the one published."""
        self._write(self.directory / "published.ldif", tree)

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
        """Store the last good data of all sources; remove other sources."""
        files.make_directory(self.directory / "sources")
        failures: list[OSError] = []
        for name, last in sources.items():
            try:
                self._write(self._source(name), last.tree)
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


def _entries(path: Path, lines: Iterable[bytes]) -> Iterator[ldif.Entry]:
    for record in ldif.read(lines):
        if isinstance(record, ldif.Entry):
            yield record
        elif isinstance(record, MalformedRecord):
            logger.warning("%s:%d: left out: %s", path, record.line, printable(record.cause))
