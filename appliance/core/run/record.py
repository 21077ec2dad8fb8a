"""Records of runs, for `appliance status`, for Prometheus and for the next administrator.

Each program has two files in the layout's directory of runs: ``PROGRAM.json``, the record of its
last run, and ``PROGRAM.prom``, the same figures for node_exporter's textfile collector. A run that
has done its work has not failed because these cannot be written; that is a warning. A run that
fails writes them too, so that they never show the good run before it. On a full disk, the old
files are overwritten in place, which needs no space.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import json
import logging
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from appliance.core import clock, files, json_file
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError, Busy, ExitStatus, LocalFailure
from appliance.core.version import __version__

logger = logging.getLogger(__name__)

CREDENTIAL_END = "credential_end_timestamp_seconds"
"""The figure of a record: when the application credential of the run ends."""
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MAX_SIZE = 2**22
_MOST_FAILURES, _LONGEST_FAILURE = 1000, 2000
"""Lines of a record and characters of a line, so that a record stays below `_MAX_SIZE`."""


@dataclass(slots=True)
class RunRecord:
    """One run of one program.

    ``counts`` holds figures by names in snake_case; those of durations end in ``_seconds``.
    """

    program: str
    started: datetime = field(default_factory=clock.now)
    ended: datetime | None = None
    status: ExitStatus | None = None
    counts: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Figures that are divided: by label, such as ``vo``, by its value, and by name."""
    failures: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    """The lines behind a figure, by its name."""
    last_success: datetime | None = None
    is_kept: bool = field(default=True, repr=False)
    """Whether the files are written at the end; those of a dry run are not."""
    _begin: float = field(default_factory=time.monotonic, repr=False)
    """Monotonic, because the clock of ``started`` may be set during the run."""

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a figure."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def note(self, name: str, line: str) -> None:
        """Add 1 to a figure, with the line that says what was counted."""
        self.add(name)
        self.notes.setdefault(name, []).append(log.redact(line))

    def fail(self, line: str) -> None:
        """Note work that was left undone, as one line for the administrator."""
        self.failures.append(log.redact(line))

    def write(self, directory: Path | None, status: ExitStatus | None = None) -> None:
        """Write both files, unless the record is not kept or has no directory.

        Without any status, the run is done, or partly if failures were noted. ``last_success`` is
        this run's end if it left nothing undone, else the one in the earlier record.
        """
        if directory is None or not self.is_kept:
            return
        by_failures = ExitStatus.PARTLY if self.failures else ExitStatus.DONE
        self.status = next(one for one in (status, self.status, by_failures) if one is not None)
        self.ended = clock.now()
        is_done = self.status is ExitStatus.DONE
        self.last_success = self.ended if is_done else last_success(self.program, directory)
        try:
            files.make_directory(directory, mode=0o755)
        except OSError as error:
            logger.warning("%s: the run record was not written: %s", error.filename, error.strerror)
            return
        _keep(directory / f"{self.program}.json", self._as_json)
        seconds = time.monotonic() - self._begin
        _keep(directory / f"{self.program}.prom", lambda: _metrics(self, seconds=seconds))

    def _as_json(self) -> bytes:
        entry = asdict(self) | {"version": __version__, "status": self.status}
        del entry["_begin"], entry["is_kept"]
        entry["failures"] = _bounded(self.failures)
        entry["notes"] = {name: _bounded(lines) for name, lines in self.notes.items()}
        entry["counts"] = _finite(self.counts)
        entry["parts"] = {
            label: {value: _finite(figures) for value, figures in parts.items()}
            for label, parts in self.parts.items()
        }
        text = json.dumps(entry, indent=1, default=_iso, ensure_ascii=False)
        return text.encode(errors="backslashreplace") + b"\n"


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _bounded(lines: Sequence[str]) -> list[str]:
    kept = [line[:_LONGEST_FAILURE] for line in lines[:_MOST_FAILURES]]
    more = len(lines) - _MOST_FAILURES
    return [*kept, f"{more} more; see the log"] if more > 0 else kept


@contextlib.contextmanager
def recorded(
    program: str, directory: Path | None, *, is_service: bool = False
) -> Iterator[RunRecord]:
    """Open the record of a run, and write it when the block ends, however it ends.

    The block may set ``status``; without one, a run that noted failures has done its work partly.
    An exception sets the status and is noted. SIGTERM, unless the program handles it, ends the
    process after the record is written. Nothing is written without a ``directory``, nor if another
    run holds the lock (`Busy`): the record in place is that run's, or becomes it.

    With ``is_service`` the block is the life of a service, which writes a record of its own for
    each cycle or call: the record of its life is written only if an exception ends it.

    Raises:
        LocalFailure: the block raised an `OSError`.

    """
    record = RunRecord(program)
    watch = contextlib.nullcontext() if is_service else _recorded_at_termination(record, directory)
    with watch:
        try:
            yield record
        except Busy:  # the record in place belongs to the run that holds the lock
            raise
        except (Exception, KeyboardInterrupt) as error:
            known = LocalFailure.from_os(error) if isinstance(error, OSError) else error
            words = f"bug in this program: {type(error).__name__}: {error}"
            if isinstance(known, ApplianceError | KeyboardInterrupt):
                words = str(known) or "interrupted"
            record.fail(" ".join(words.split()))
            record.write(directory, status_of(known))
            if isinstance(error, OSError):
                raise known from error
            raise
        if not is_service:
            record.write(directory)


def status_of(error: BaseException) -> ExitStatus:
    """Return the exit status of a run that an exception ends."""
    if isinstance(error, ApplianceError):
        return error.status
    return ExitStatus.NOTHING if isinstance(error, OSError | KeyboardInterrupt) else ExitStatus.BUG


@contextlib.contextmanager
def _recorded_at_termination(record: RunRecord, directory: Path | None) -> Iterator[None]:
    """Write the record if SIGTERM ends the process in the block.

    The state of every program survives a kill at any moment, so nothing is unwound: a thread may
    be waiting for the cloud.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        try:
            name = signal.Signals(number).name
            logger.error("stopped by %s; the next run continues from here", name)
            record.fail(f"stopped by {name}")
            record.write(directory, ExitStatus.NOTHING)
            os.kill(os.getpid(), number)
        finally:
            os._exit(128 + number)  # the first process of a container survives its own signal

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read(program: str, directory: Path) -> Mapping[str, object] | None:
    """Return the record of the last run; None if there is none that can be read."""
    try:
        return load(directory / f"{program}.json")
    except (OSError, ValueError):
        return None


def load(path: Path) -> Mapping[str, object]:
    """Return the record in a file.

    Root reads files that containers have written, so links are not followed, and a pipe or a
    flood is not a record.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it does not hold a record.

    """
    entry = json_file.read(path, limit=_MAX_SIZE)
    if not isinstance(entry, dict):
        raise ValueError(path.name)  # noqa: TRY004  as for other content that is no record
    return entry


def load_all(
    directory: Path, *, newest: int | None = None
) -> tuple[dict[Path, Mapping[str, object]], list[str]]:
    """Return the records in a directory by file, and a line for each file that holds none.

    With ``newest``, only so many are read, those that were written last; a line counts the others.

    Raises:
        OSError: the directory cannot be read.

    """
    listing = files.listed(directory, lambda name: name.endswith(".json") and name[0] != ".")
    found: dict[Path, Mapping[str, object]] = {}
    unusable = [str(line) for line in listing.skipped.values()]
    paths = listing.paths
    if newest is not None and len(paths) > newest:
        paths = tuple(sorted(heapq.nlargest(newest, paths, key=_written)))
        older = len(listing.paths) - newest
        unusable.append(
            f"{files.shown(directory)}: the oldest {older} of {len(listing.paths)} records are not"
            " read; remove those of programs that no longer run"
        )
    for path in paths:
        try:
            found[path] = load(path)
        except OSError as error:
            unusable.append(str(files.describe_skipped(path, error)))
        except ValueError:
            word = files.shell_word(path)
            words = f"skipped: holds no run record; if nobody needs it: rm {word}"
            unusable.append(f"{files.shown(path)}: {words}")
    return found, unusable


def _written(path: Path) -> float:
    try:
        return path.stat(follow_symlinks=False).st_mtime
    except OSError:  # removed meanwhile
        return -math.inf


def last_success(program: str, directory: Path) -> datetime | None:
    """Return the end of the last run that did all its work."""
    text = (read(program, directory) or {}).get("last_success")
    try:
        return clock.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _keep(path: Path, content: Callable[[], bytes]) -> None:
    """Write one of the files, whether or not the other one was written."""
    try:
        data = content()
        try:
            files.write_atomic(path, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.exists():
                raise
            files.overwrite(path, data)
        if path.suffix == ".prom":
            # node_exporter has an account of its own, whatever our umask; nothing here is secret.
            path.chmod(0o644)
    except OSError as error:
        logger.warning("%s: the run record was not written: %s", error.filename, error.strerror)
    except ValueError as error:  # a name that Prometheus does not accept
        logger.warning("%s: the run record was not written: %s", path, error)


def _metrics(record: RunRecord, *, seconds: float) -> bytes:
    assert record.ended is not None  # noqa: S101  close() sets it
    gauges = {
        "end_timestamp_seconds": ("End of the last run", record.ended.timestamp()),
        "duration_seconds": ("Duration of the last run", seconds),
        "exit_status": ("Exit status of the last run", float(record.status or 0)),
        "failures": ("Things that the last run left undone", float(len(record.failures))),
    }
    if record.last_success:
        gauges["last_success_timestamp_seconds"] = (
            "End of the last complete run",
            record.last_success.timestamp(),
        )
    for name, value in sorted(record.counts.items()):
        # One bad name would make node_exporter drop the whole file.
        if name in gauges or not _NAME.fullmatch(name):
            raise ValueError(f"not the name of a figure: {name!r}")
        gauges[name] = (f"{name.replace('_', ' ')} of the last run", float(value))
    lines = [
        _gauge(f"fedcloud_run_{name}", *gauge, program=record.program)
        for name, gauge in gauges.items()
    ]
    return "".join([*lines, *_divided(record)]).encode()


def _divided(record: RunRecord) -> Iterator[str]:
    """Yield the metrics of figures with a label, those of each name together."""
    for label, parts in sorted(record.parts.items()):
        for figure in sorted({name for figures in parts.values() for name in figures}):
            name = f"{label}_{figure}"
            if name in record.counts or not _NAME.fullmatch(name):
                raise ValueError(f"not the name of a figure: {name!r}")
            words = f"{figure.replace('_', ' ')} of the last run by {label}"
            yield _head(f"fedcloud_run_{name}", words)
            for value, figures in sorted(parts.items()):
                labels = {"program": record.program, label: value}
                yield _sample(f"fedcloud_run_{name}", figures.get(figure, 0), labels)


def _gauge(name: str, words: str, value: float, *, program: str) -> str:
    """Return one gauge in Prometheus's text format.

    Importing Prometheus's client takes longer than most runs.
    """
    return _head(name, words) + _sample(name, value, {"program": program})


def _head(name: str, words: str) -> str:
    return f"# HELP {name} {words}\n# TYPE {name} gauge\n"


def _sample(name: str, value: float, labels: Mapping[str, str]) -> str:
    number = (
        repr(value)
        if math.isfinite(value)
        else {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    )
    shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{shown}}} {number}\n"


def _escaped(text: str) -> str:
    """Return the value of a label as the format writes it, also one that is not UTF-8."""
    for character, written in (("\\", r"\\"), ('"', r"\""), ("\n", r"\n")):
        text = text.replace(character, written)
    return text.encode(errors="backslashreplace").decode()


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
