"""Where the tree comes from: files and programs that give LDIF, all asked at once, each within its limits.

A program runs in a process group of its own, which is ended when its time or its size is over, and
it is told to end by the kernel when this program dies. Its output goes to a file without a name, so
that a gigabyte costs no memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from appliance.core import files, ldif
from appliance.core.ldif import Comment, Entry, Malformed
from bdii import tree
from bdii.messages import few, printable
from bdii.sources import programs
from bdii.sources.source import LdifSource
from bdii.tree import Dn

logger = logging.getLogger(__name__)

AT_ONCE = 10
_PARTLY = 1
_FAILED = "failed:"


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """What a source said. ``tree`` is None when it is of no use; ``problems`` are lines for the administrator."""

    source: str
    tree: dict[Dn, Entry] | None
    failed: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    digest: bytes = b""


def ask(
    sources: Sequence[LdifSource],
    *,
    before: Mapping[str, SourceAnswer],
    scratch: Path | None,
    stop: threading.Event,
) -> list[SourceAnswer]:
    """Return the answers of all sources, in their order; one that fails harms no other.

    ``before`` are the answers of the last time: an output that has not changed by an octet is not
    parsed again. ``scratch`` is a directory for outputs, by default the system's. Setting ``stop``
    ends the programs; the answers are of no use then.
    """
    if not sources:
        return []
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(
            pool.map(lambda source: _ask(source, before.get(source.name), scratch, stop), sources)
        )


def _ask(
    source: LdifSource, before: SourceAnswer | None, scratch: Path | None, stop: threading.Event
) -> SourceAnswer:
    try:
        if not source.is_program:
            with files.open_regular(Path(source.command[0]), follow=True) as file:
                return _understood(source, file, before)
        with (
            tempfile.TemporaryFile(dir=scratch) as output,
            tempfile.TemporaryFile(dir=scratch) as errors,
        ):
            status = programs.run(source, output, errors, stop)
            output.seek(0)
            told = programs.last_lines(errors)
            answer = _understood(source, output, before, status=status, words=programs.cause(told))
    except programs.LimitReached as error:
        return _useless(source, str(error))
    except OSError as error:
        return _useless(source, f"{error.strerror}: {error.filename or source.command[0]}")
    except Exception as error:  # what one source says must not cost the others
        logger.exception("%s: bug in this program", source.name)
        return _useless(source, f"bug in this program: {type(error).__name__}: {error}")
    if answer.problems and told:
        logger.warning("%s says: %s", source.name, " | ".join(told))
    return answer


def _useless(source: LdifSource, *causes: str) -> SourceAnswer:
    return SourceAnswer(
        source.name,
        None,
        problems=tuple(printable(f"{source.name}: {cause}") for cause in causes),
    )


# ------------------------------------------------------------------------------------------------------
# understanding


@dataclass(slots=True)
class _RecordSorter:
    """Sorts the records of an answer: entries are passed on, failed VOs and malformed records are noted."""

    failed: set[str] = field(default_factory=set)
    malformed: list[str] = field(default_factory=list)

    def entries(self, file: Iterable[bytes]) -> Iterator[Entry]:
        for record in ldif.read(file):
            match record:
                case Entry():
                    yield record
                case Comment(text) if text.startswith(_FAILED):
                    self.failed.add(text.removeprefix(_FAILED).strip())
                case Malformed(line, cause):
                    self.malformed.append(f"line {line}: {cause}")


def _understood(
    source: LdifSource,
    file: IO[bytes],
    before: SourceAnswer | None,
    *,
    status: int = 0,
    words: Sequence[str] = (),
) -> SourceAnswer:
    """Return the answer that an output and an exit status make (docs/adr/0010); ``words`` explain a failure."""
    if os.fstat(file.fileno()).st_size > source.limit:
        return _useless(source, f"has more than {source.limit // 1_000_000} MB (BDII_SOURCE_LIMIT)")
    digest = hashlib.sha256(b"%d " % status)
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    if before is not None and before.digest == digest.digest():
        return before
    file.seek(0)
    reader = _RecordSorter()
    entries, left_out = tree.of(source.translate(reader.entries(file)))
    told = few(reader.malformed + left_out)
    meaning = [source.meanings[status]] if status in source.meanings else []
    if status and not (status == _PARTLY and reader.failed):
        return _useless(
            source, ": ".join([f"failed with {_status(status)}", *words, *meaning]), *told
        )
    if not entries:
        return _useless(source, "gave no entry", *told)
    told += [f"VO {vo} could not be read" for vo in sorted(reader.failed)]
    problems = tuple(printable(f"{source.name}: {line}") for line in told)
    return SourceAnswer(source.name, entries, frozenset(reader.failed), problems, digest.digest())


def _status(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
