"""What a run did, for `appliance status`, for Prometheus and for the next administrator.

Two files for each program in the layout's directory of runs: ``PROGRAM.json``, the record of the last run, and
``PROGRAM.prom``, the same figures for node_exporter's textfile collector. They are by-products: a run whose work is
done has not failed because they could not be written, so that is a warning.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from appliance.core import clock, files
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError, Busy, ExitStatus, LocalFailure
from appliance.core.version import __version__

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MAX_SIZE = 2**22


@dataclass(slots=True)
class RunRecord:
    """One run of one program. ``counts`` are figures by snake_case name; durations end in ``_seconds``."""

    program: str
    started: datetime = field(default_factory=clock.now)
    ended: datetime | None = None
    status: ExitStatus | None = None
    counts: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    last_success: datetime | None = None
    _begin: float = field(default_factory=time.monotonic, repr=False)
    """The clock of ``started`` may be set meanwhile; this one measures."""

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a figure."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def fail(self, line: str) -> None:
        """Note something that was left undone, as the line that the administrator reads."""
        self.failures.append(log.redact(line))

    def close(self, status: ExitStatus, directory: Path) -> None:
        """Write both files. ``last_success`` is this run's end when it left nothing undone, else the earlier one."""
        self.ended, self.status = clock.now(), status
        self.last_success = self.ended if status is ExitStatus.DONE else last_success(self.program, directory)
        try:
            files.make_directory(directory, mode=0o755)
            files.write_atomic(directory / f"{self.program}.json", self._as_json())
            _write_metrics(self, directory / f"{self.program}.prom", seconds=time.monotonic() - self._begin)
        except OSError as error:
            logger.warning("run record not written: %s: %s", error.filename, error.strerror)
        except ValueError as error:  # a name that Prometheus would not take
            logger.warning("run record not written: %s: %s", directory / f"{self.program}.prom", error)

    def _as_json(self) -> bytes:
        entry = asdict(self) | {"version": __version__, "status": self.status}
        del entry["_begin"]
        entry["counts"] = {name: value if math.isfinite(value) else None for name, value in self.counts.items()}
        text = json.dumps(entry, indent=1, default=_iso, ensure_ascii=False)
        return text.encode(errors="backslashreplace") + b"\n"


@contextlib.contextmanager
def recorded(program: str, directory: Path | None) -> Iterator[RunRecord]:
    """Give the record of a run that the block is, and write it with the ``status`` that the block sets.

    Whatever ends the block is noted, an `OSError` as the `LocalFailure` that it becomes; without a status it is a bug.
    Nothing is written without a ``directory``, nor when another run holds the lock (`Busy`): the record in place is
    that run's, or becomes it.
    """
    record = RunRecord(program)
    record.status = ExitStatus.BUG
    try:
        yield record
    except Busy:
        directory = None
        raise
    except (ApplianceError, OSError) as error:
        known = error if isinstance(error, ApplianceError) else LocalFailure.from_os(error)
        record.fail(str(known))
        record.status = known.status
        raise known from error
    except KeyboardInterrupt:
        record.fail("interrupted")
        record.status = ExitStatus.NOTHING
        raise
    finally:
        if directory is not None:
            record.close(record.status, directory)


def read(program: str, directory: Path) -> Mapping[str, object] | None:
    """Return the last run's record; None when there is none, or none that can be read.

    Root reads what containers have written: links are not followed, and a pipe or a flood is no record.
    """
    try:
        descriptor = os.open(directory / f"{program}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            data = file.read(_MAX_SIZE + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        entry = json.loads(data) if len(data) <= _MAX_SIZE else None
    except (OSError, ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def last_success(program: str, directory: Path) -> datetime | None:
    """Return the end of the last run that left nothing undone."""
    text = (read(program, directory) or {}).get("last_success")
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _write_metrics(record: RunRecord, path: Path, *, seconds: float) -> None:
    assert record.ended is not None  # noqa: S101  close() sets it
    gauges = {
        "end_timestamp_seconds": ("End of the last run", record.ended.timestamp()),
        "duration_seconds": ("Duration of the last run", seconds),
        "exit_status": ("Exit status of the last run", float(record.status or 0)),
        "failures": ("Things that the last run left undone", float(len(record.failures))),
    }
    if record.last_success:
        gauges["last_success_timestamp_seconds"] = ("End of the last complete run", record.last_success.timestamp())
    for name, value in sorted(record.counts.items()):
        if name in gauges or not _NAME.fullmatch(name):
            raise ValueError(f"no name for a figure: {name!r}")
        gauges[name] = (f"{name.replace('_', ' ')} of the last run", float(value))
    lines = [_gauge(f"fedcloud_run_{name}", *gauge, program=record.program) for name, gauge in gauges.items()]
    files.write_atomic(path, "".join(lines).encode())
    path.chmod(0o644)  # whatever the umask: node_exporter has an account of its own, and nothing here is confidential


def _gauge(name: str, words: str, value: float, *, program: str) -> str:
    """Return one gauge in Prometheus's text format (its client takes longer to import than most runs to do)."""
    number = repr(value) if math.isfinite(value) else {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    return f'# HELP {name} {words}\n# TYPE {name} gauge\n{name}{{program="{program}"}} {number}\n'


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
