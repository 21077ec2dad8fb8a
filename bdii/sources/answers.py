"""Sources asked all at once, each within its limits, and their output read as answers."""

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
from appliance.core.ldif import Comment, Entry, MalformedRecord
from bdii import tree
from bdii.messages import few, printable
from bdii.sources import programs
from bdii.sources.model import LdifSource, SourceAnswer

logger = logging.getLogger(__name__)

AT_ONCE = 10
# Exit status of a provider that could not read some VOs, and the comment that names one
# (docs/adr/0010).
_PARTLY = 1
_FAILED = "failed:"


def ask(
    sources: Sequence[LdifSource],
    *,
    before: Mapping[str, SourceAnswer],
    scratch: Path | None,
    stop: threading.Event,
) -> list[SourceAnswer]:
    """Return the answers of all sources, in their order; a failing source affects no other.

    Args:
        sources: the sources to ask.
        before: the previous answers; identical output is not parsed again.
        scratch: directory for outputs, by default the system's.
        stop: ends the programs when it is set; the answers are unusable then.

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
                return _read(source, file, before)
        with (
            tempfile.TemporaryFile(dir=scratch) as output,
            tempfile.TemporaryFile(dir=scratch) as errors,
        ):
            status = programs.run(source, output, errors, stop)
            output.seek(0)
            printed = programs.last_lines(errors)
            # ldapsearch prints "Matched DN" after the line that names the cause
            words = [line for line in printed if not line.startswith("Matched DN:")][-1:]
            answer = _read(source, output, before, status=status, words=words)
    except programs.ProgramFailure as error:
        return _unusable(source, str(error))
    except OSError as error:
        return _unusable(source, f"{error.strerror}: {error.filename or source.command[0]}")
    except Exception as error:  # a bug met by one source's output must not stop the others
        logger.exception("%s: bug in this program", source.name)
        return _unusable(source, f"bug in this program: {type(error).__name__}: {error}")
    if answer.problems and printed:
        logger.warning("%s says: %s", source.name, " | ".join(printed))
    return answer


def _unusable(source: LdifSource, *causes: str) -> SourceAnswer:
    problems = tuple(printable(f"{source.name}: {cause}") for cause in causes)
    return SourceAnswer(source.name, None, problems=problems)


@dataclass(slots=True)
class _RecordSorter:
    """Yields the entries of an output; collects the failed VOs and the malformed records.

    ``is_cut`` says whether the latest record is one that a cut output would end with.
    """

    failed: set[str] = field(default_factory=set)
    malformed: list[str] = field(default_factory=list)
    is_complete: bool = True
    is_cut: bool = False

    def entries(self, file: Iterable[bytes]) -> Iterator[Entry]:
        for record in ldif.read(file):
            match record:
                case Entry():
                    self._note(is_whole=bool(record.get("objectClass")))
                    yield record
                case Comment(text) if text.startswith(_FAILED):
                    self.failed |= {text.removeprefix(_FAILED).strip()} - {""}
                case MalformedRecord(line, cause):
                    self._note(is_whole=False)
                    self.malformed.append(f"line {line}: {cause}")

    def _note(self, *, is_whole: bool) -> None:
        self.is_cut = not is_whole
        self.is_complete &= is_whole


def _read(
    source: LdifSource,
    file: IO[bytes],
    before: SourceAnswer | None,
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
    if before is not None and before.digest == digest.digest():
        return before
    file.seek(0)
    sorter = _RecordSorter()
    entries, left_out = tree.of(source.translate(sorter.entries(file)))
    lines = few(sorter.malformed + left_out)
    meaning = [source.meanings[status]] if status in source.meanings else []
    if status and not (status == _PARTLY and sorter.failed):
        how = f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
        causes = [f"failed with {how}", *words, *meaning]
        return _unusable(source, ": ".join(causes), *lines)
    if sorter.is_cut:
        words = "its last record is incomplete, so the output is cut off or still being written"
        return _unusable(source, f"{words}; correct or remove that record", *lines)
    if not entries:
        return _unusable(source, "gave no entry", *lines)
    lines += [f"VO {vo} could not be read" for vo in sorted(sorter.failed)]
    problems = tuple(printable(f"{source.name}: {line}") for line in lines)
    return SourceAnswer(
        source.name,
        entries,
        frozenset(sorter.failed),
        problems,
        digest.digest(),
        is_complete=sorter.is_complete,
        is_terminated=_is_terminated(file),
    )


def _is_terminated(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
