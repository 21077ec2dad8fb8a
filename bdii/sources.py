"""Where the tree comes from: files and programs that give LDIF, all asked at once, each within its limits.

A program runs in a process group of its own, which is ended when its time or its size is over, and
it is told to end by the kernel when this program dies. Its output goes to a file without a name, so
that a gigabyte costs no memory.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO

from appliance.core import files, ldif
from appliance.core.ldif import Comment, Entry, Malformed
from bdii import tree
from bdii.tree import Dn

logger = logging.getLogger(__name__)

AT_ONCE = 10
_GRACE = timedelta(seconds=2)
_POLL_SECONDS = 0.02
_PARTLY = 1
_FAILED = "failed:"
_BLOCK = 4096
_TOLD = 5  # lines of a source's troubles that are passed on

Translate = Callable[[Iterable[Entry]], Iterable[Entry]]


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a program with its arguments, that gives LDIF. ``name`` is unique among the sources."""

    name: str
    command: Sequence[str | Path]
    """One path for a file that is read, else what to run."""
    is_program: bool
    timeout: timedelta
    limit: int
    """The longest output that is taken, in octets."""
    translate: Translate = iter
    meanings: Mapping[int, str] = field(default_factory=dict)
    """What to do about an exit status, for programs that do not say it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source said. ``tree`` is None when it is of no use; ``problems`` are lines for the administrator."""

    source: str
    tree: dict[Dn, Entry] | None
    failed: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Directory:
    """What a directory of sources has; ``skipped`` are answers of no use for what is no source."""

    sources: tuple[Source, ...] = ()
    skipped: tuple[Answer, ...] = ()


def ldif_files(directory: Path, *, timeout: timedelta, limit: int) -> Directory:
    """Return the ``*.ldif`` files of a directory, without hidden and backup files.

    Raises:
        OSError: the directory cannot be read.

    """

    def is_wanted(name: str) -> bool:
        return _is_wanted(name) and name.endswith(".ldif")

    listing = files.listed(directory, is_wanted, follow=True)
    return _directory("ldif", listing, is_program=False, timeout=timeout, limit=limit)


def programs(directory: Path, *, timeout: timedelta, limit: int) -> Directory:
    """Return the programs of a directory, without hidden and backup files.

    Raises:
        OSError: the directory cannot be read.

    """
    # Running one tells what it lacks.
    listing = files.listed(directory, _is_wanted, follow=True, access=os.F_OK)
    return _directory("provider", listing, is_program=True, timeout=timeout, limit=limit)


def _is_wanted(name: str) -> bool:
    return name[0] not in "#." and name[-1] != "~"


def _directory(
    kind: str,
    listing: files.Listing,
    *,
    is_program: bool,
    timeout: timedelta,
    limit: int,
) -> Directory:
    found = [
        Source(f"{kind}/{path.name}", [path], is_program=is_program, timeout=timeout, limit=limit)
        for path in listing.paths
    ]
    skipped = [
        Answer(f"{kind}/{path.name}", None, problems=(tree.printable(str(line)),))
        for path, line in listing.skipped.items()
    ]
    return Directory(tuple(found), tuple(skipped))


def ask(
    sources: Sequence[Source],
    *,
    before: Mapping[str, Answer],
    scratch: Path | None,
    stop: threading.Event,
) -> list[Answer]:
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
    source: Source, before: Answer | None, scratch: Path | None, stop: threading.Event
) -> Answer:
    try:
        if not source.is_program:
            with files.open_regular(Path(source.command[0]), follow=True) as file:
                return _understood(source, file, before)
        with (
            tempfile.TemporaryFile(dir=scratch) as output,
            tempfile.TemporaryFile(dir=scratch) as errors,
        ):
            status = _run(source, output, errors, stop)
            output.seek(0)
            told = _last_lines(errors)
            answer = _understood(source, output, before, status=status, words=_cause(told))
    except _LimitReached as error:
        return _useless(source, str(error))
    except OSError as error:
        return _useless(source, f"{error.strerror}: {error.filename or source.command[0]}")
    except Exception as error:  # what one source says must not cost the others
        logger.exception("%s: bug in this program", source.name)
        return _useless(source, f"bug in this program: {type(error).__name__}: {error}")
    if answer.problems and told:
        logger.warning("%s says: %s", source.name, " | ".join(told))
    return answer


def _useless(source: Source, *causes: str) -> Answer:
    return Answer(
        source.name,
        None,
        problems=tuple(tree.printable(f"{source.name}: {cause}") for cause in causes),
    )


# ------------------------------------------------------------------------------------------------------------
# running


class _LimitReached(Exception):
    """A program was ended, or its output."""


def _run(source: Source, output: IO[bytes], errors: IO[bytes], stop: threading.Event) -> int:
    """Run a program to its end and return its exit status."""
    program = Path(source.command[0])
    if program.is_absolute() and not os.access(program, os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be run, chmod +x", str(program))
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *source.command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )
    deadline = time.monotonic() + source.timeout.total_seconds()
    try:
        while not _has_ended(process):
            time.sleep(_POLL_SECONDS)
            _check_limits(source, (output, errors), deadline, stop)
    finally:
        _end_group(process)
    _check_space(output)
    return process.returncode


def _check_space(output: IO[bytes]) -> None:
    """Take no output from a full disk: programs that do not look whether they can write are many."""
    size = os.fstat(output.fileno()).st_size
    try:
        os.posix_fallocate(output.fileno(), size, _BLOCK)
    except OSError as error:
        raise _LimitReached(
            f"its output does not fit into BDII_VAR_DIR: {error.strerror}"
        ) from error
    os.ftruncate(output.fileno(), size)


def _check_limits(
    source: Source, outputs: Sequence[IO[bytes]], deadline: float, stop: threading.Event
) -> None:
    if stop.is_set():
        raise _LimitReached("ended, because this program ends")
    if time.monotonic() > deadline:
        raise _LimitReached(f"did not end within {source.timeout.total_seconds():g} s")
    if max(os.fstat(output.fileno()).st_size for output in outputs) > source.limit:
        raise _LimitReached(f"printed more than {source.limit // 1_000_000} MB (BDII_SOURCE_LIMIT)")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a program has ended, without reaping it: until then its number is nobody else's."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what there is of a program and its children, then reap it."""
    deadline = time.monotonic() + _GRACE.total_seconds()
    if not _has_ended(process):
        os.killpg(process.pid, signal.SIGTERM)
        while not _has_ended(process) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_lines(errors: IO[bytes]) -> list[str]:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4000))
    lines = errors.read().decode("utf-8", "replace").splitlines()
    return [tree.printable(" ".join(line.split())[:200]) for line in lines if line.strip()][-_TOLD:]


def _cause(told: list[str]) -> list[str]:
    """Return the last line that tells a cause: ldapsearch goes on after it."""
    return [line for line in told if not line.startswith("Matched DN:")][-1:]


# ------------------------------------------------------------------------------------------------------
# understanding


@dataclass(slots=True)
class _Reader:
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
    source: Source,
    file: IO[bytes],
    before: Answer | None,
    *,
    status: int = 0,
    words: Sequence[str] = (),
) -> Answer:
    """Return the answer that an output and an exit status make (docs/adr/0010); ``words`` explain a failure."""
    if os.fstat(file.fileno()).st_size > source.limit:
        return _useless(source, f"has more than {source.limit // 1_000_000} MB (BDII_SOURCE_LIMIT)")
    digest = hashlib.sha256(b"%d " % status)
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    if before is not None and before.digest == digest.digest():
        return before
    file.seek(0)
    reader = _Reader()
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
    problems = tuple(tree.printable(f"{source.name}: {line}") for line in told)
    return Answer(source.name, entries, frozenset(reader.failed), problems, digest.digest())


def _status(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def few(lines: Sequence[str]) -> list[str]:
    """Return the first of many lines, and how many there are more."""
    return [
        *lines[:_TOLD],
        *([f"{len(lines) - _TOLD} more of this kind"] if len(lines) > _TOLD else []),
    ]
