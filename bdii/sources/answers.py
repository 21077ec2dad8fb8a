"""Sources asked all at once, each within its limits, and their output read as answers."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, TypeGuard

from appliance.core import clock, files, ldif
from appliance.core.ldif import Comment, Entry, LdifError, MalformedRecord
from bdii import tree
from bdii.entry import (
    CREATION_TIME,
    EntryFile,
    EntryStore,
    StoredEntry,
    block_digest,
    content_digest,
)
from bdii.messages import few, printable
from bdii.sources import programs
from bdii.sources.last_good import dated
from bdii.sources.model import LdifSource, SourceAnswer
from bdii.tree import NO_TREE, Dn, Tree

logger = logging.getLogger(__name__)

AT_ONCE = 10
# Exit status of a provider that could not read some VOs, and the comment that names one
# (docs/adr/0010).
_PARTLY = 1
_FAILED = "failed:"
_FAILED_BYTES = _FAILED.encode()
# For a source to say its version. If it does not, it is asked for all of its data.
_VERSION_PATIENCE = timedelta(seconds=5)
_LONGEST_VERSION = 10_000
# A source is asked for all of its data at least this often, whatever its version.
_LONGEST_TRUST = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of a source: its latest usable answer, and its last good entries."""

    answer: SourceAnswer | None = None
    tree: Tree = field(default_factory=dict)


def ask(
    sources: Sequence[LdifSource],
    *,
    earlier: Mapping[str, Earlier],
    scratch: Path | None,
    stop: threading.Event,
) -> list[SourceAnswer]:
    """Return the answers of all sources, in their order; a failing source affects no other.

    Args:
        sources: the sources to ask.
        earlier: what is known of them; what has not changed is not parsed again.
        scratch: directory for outputs, by default the system's.
        stop: ends the programs when it is set; the answers are unusable then.

    """
    if not sources:
        return []
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(
            pool.map(
                lambda source: _ask(source, earlier.get(source.name, Earlier()), scratch, stop),
                sources,
            )
        )


def _ask(
    source: LdifSource, earlier: Earlier, scratch: Path | None, stop: threading.Event
) -> SourceAnswer:
    try:
        if not source.is_program:
            with files.open_regular(Path(source.command[0]), follow=True) as file:
                return _read(source, file, earlier, scratch)
        # before the data: a change while they are read has another version afterwards
        version = _version(source, scratch, stop)
        if _is_known(earlier.answer, version):
            return earlier.answer
        with (
            tempfile.TemporaryFile(dir=scratch) as output,
            tempfile.TemporaryFile(dir=scratch) as errors,
        ):
            status = programs.run(source, output, errors, stop)
            output.seek(0)
            printed = programs.last_lines(errors)
            # ldapsearch prints "Matched DN" after the line that names the cause
            words = [line for line in printed if not line.startswith("Matched DN:")][-1:]
            answer = _read(source, output, earlier, scratch, status=status, words=words)
            answer = replace(answer, version=version, read_at=time.monotonic())
    except programs.ProgramFailure as error:
        return _unusable(source, str(error))
    except OSError as error:
        return _unusable(source, f"{error.strerror}: {error.filename or source.command[0]}")
    except Exception as error:  # a bug met by one source's output must not stop the others
        logger.exception("%s: bug in this program", source.name)
        return _unusable(source, f"bug in this program: {type(error).__name__}: {error}")
    if not answer.problems:
        return answer
    known = "\n".join(answer.problems)
    rest = [line for line in printed if line not in known]
    also = printable(f"{source.name}: it also printed: {' | '.join(rest)}")
    return replace(answer, remarks=(also,) if rest else ())


def _version(source: LdifSource, scratch: Path | None, stop: threading.Event) -> str:
    """Return the version of a source's data; empty if it does not say one."""
    if not source.version:
        return ""
    asked = replace(
        source, command=source.version, timeout=_VERSION_PATIENCE, limit=_LONGEST_VERSION
    )
    with (
        contextlib.suppress(programs.ProgramFailure),
        tempfile.TemporaryFile(dir=scratch) as output,
        tempfile.TemporaryFile(dir=scratch) as errors,
    ):
        if programs.run(asked, output, errors, stop) == 0:
            output.seek(0)
            printed = output.read(_LONGEST_VERSION + 1)
            if len(printed) <= _LONGEST_VERSION:
                return str(printed, "ascii", "replace").strip()
    return ""


def _is_known(before: SourceAnswer | None, version: str) -> TypeGuard[SourceAnswer]:
    """Check whether the answer before has the same data as the source now."""
    return (
        before is not None
        and version != ""
        and before.version == version
        and time.monotonic() - before.read_at < _LONGEST_TRUST.total_seconds()
    )


def _unusable(source: LdifSource, *causes: str) -> SourceAnswer:
    problems = tuple(printable(f"{source.name}: {cause}") for cause in causes)
    return SourceAnswer(source.name, None, problems=problems)


@dataclass(slots=True)
class _OutputReader:
    """Reads an output block by block; what has not changed is not parsed.

    Attributes:
        source: whose output it is.
        store: where new entries are stored.
        known: names of the entries of the answer before, by the digest of their blocks.
        before: the entries of the answer before.
        kept: the last good entries.
        now: creation time of new entries.
        tree: the entries of the output.
        lines: where each of them begins.
        failed: the VOs that the source could not read.
        malformed: a line for each record that cannot be read.
        left_out: a line for each entry that a tree cannot hold.
        is_complete: whether all records could be read.
        is_cut: whether the latest record is one that a cut output would end with.

    """

    source: LdifSource
    store: EntryStore
    known: Mapping[bytes, Dn]
    before: Tree
    kept: Tree
    now: datetime
    tree: dict[Dn, Entry] = field(default_factory=dict)
    lines: dict[Dn, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    malformed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    is_complete: bool = True
    is_cut: bool = False

    def read(self, file: BinaryIO) -> None:
        """Read a whole output."""
        for block in ldif.blocks(file):
            raw = block_digest(block.data)
            dn = self.known.get(raw)
            if dn is not None and _FAILED_BYTES not in block.data:
                self.is_cut = False
                if dn not in self.tree:
                    self._add(dn, self.before[dn], block.line)
                    continue
            for record in block.read():
                match record:
                    case Entry():
                        self._take(record, raw, block.data)
                    case Comment(text) if text.startswith(_FAILED):
                        self.failed |= {text.removeprefix(_FAILED).strip()} - {""}
                    case MalformedRecord(line, cause):
                        self._note(is_whole=False)
                        self.malformed.append(f"line {line}: {cause}")

    def _note(self, *, is_whole: bool) -> None:
        self.is_cut = not is_whole
        self.is_complete &= is_whole

    def _take(self, record: Entry, raw: bytes, data: bytes) -> None:
        self._note(is_whole=any(record.get("objectClass")))
        for entry in self.source.translate([record]):
            try:
                dn, accepted = tree.checked(entry)
            except LdifError as error:
                self.left_out.append(f"line {entry.line}: {error}, left out")
                continue
            if dn not in self.tree:
                self._add(
                    dn,
                    self._stored(dn, accepted, raw, data if accepted is record else b""),
                    entry.line,
                )
            elif not tree.is_same(self.tree[dn], accepted, ignoring=CREATION_TIME):
                self.left_out.append(tree.differing(entry, self.lines[dn]))

    def _add(self, dn: Dn, entry: Entry, line: int) -> None:
        self.tree[dn] = entry
        self.lines[dn] = line

    def _stored(self, dn: Dn, entry: Entry, raw: bytes, data: bytes) -> Entry:
        """Return the last good entry if it says the same, else this one, stored.

        ``data`` are its bytes, if it is as its source gave it.
        """
        digest = content_digest(entry)
        old = self.kept.get(dn)
        if isinstance(old, StoredEntry) and old.content_digest == digest:
            old.raw = raw
            return old
        new = dated(entry, self.now)
        is_usable = new is entry and data.startswith(b"dn:") and b"\n#" not in data
        block = data.removesuffix(b"\n") + b"\n" if is_usable and data else b""
        return self.store.add(new, digest=digest, raw=raw, block=block)


def _read(
    source: LdifSource,
    file: BinaryIO,
    earlier: Earlier,
    scratch: Path | None,
    *,
    status: int = 0,
    words: Sequence[str] = (),
) -> SourceAnswer:
    """Return the answer given by an output and an exit status, by the rules of docs/adr/0010.

    ``words`` explain a failure.
    """
    if os.fstat(file.fileno()).st_size > source.limit:
        cause = f"has more than {source.limit // 1_000_000} MB (BDII_SOURCE_LIMIT)"
        return _unusable(source, cause)
    # the same output with another exit status is another answer
    digest = hashlib.sha256(b"%d " % status)
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    before = earlier.answer
    if before is not None and before.digest == digest.digest():
        return replace(before, reading=0)
    file.seek(0)
    # of this thread: others read at the same time
    started = time.thread_time()
    reader = _read_entries(source, file, earlier, scratch)
    lines = few(reader.malformed + reader.left_out, source.most_lines)
    meaning = [source.meanings[status]] if status in source.meanings else []
    if status and not (status == _PARTLY and reader.failed):
        causes = [f"failed with {programs.how_ended(status)}", *words, *meaning]
        return _unusable(source, ": ".join(causes), *lines)
    if reader.is_cut:
        cause = "its last record is incomplete, so the output is cut off or still being written"
        return _unusable(source, f"{cause}; correct or remove that record", *lines)
    if not reader.tree:
        return _unusable(source, "gave no entry", *lines)
    lines += [f"VO {vo} could not be read" for vo in sorted(reader.failed)]
    problems = tuple(printable(f"{source.name}: {line}") for line in lines)
    return SourceAnswer(
        source.name,
        reader.tree,
        frozenset(reader.failed),
        problems,
        digest.digest(),
        is_complete=reader.is_complete,
        is_terminated=_is_terminated(file),
        reading=time.thread_time() - started,
    )


def _read_entries(
    source: LdifSource, file: BinaryIO, earlier: Earlier, scratch: Path | None
) -> _OutputReader:
    before = (earlier.answer.tree if earlier.answer is not None else None) or NO_TREE
    known = {entry.raw: dn for dn, entry in before.items() if isinstance(entry, StoredEntry)}
    with tempfile.TemporaryFile(dir=scratch) as room:
        store = EntryStore(EntryFile(room))
        reader = _OutputReader(source, store, known, before, earlier.tree, clock.now())
        reader.read(file)
        store.file.flush()
    return reader


def _is_terminated(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
