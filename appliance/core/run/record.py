"""What a run did, for `appliance status`, for Prometheus and for the next administrator.

Two files for each program in the layout's directory of runs: ``PROGRAM.json``, the record of the last run, and
``PROGRAM.prom``, the same figures for node_exporter's textfile collector. They are by-products: a run whose work is
done has not failed because they could not be written, so that is a warning.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from appliance.core import clock, files
from appliance.core.run import log
from appliance.core.run.errors import ExitStatus
from appliance.core.version import __version__

logger = logging.getLogger(__name__)


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
        except ValueError as error:  # prometheus_client does not take a name
            logger.warning("run record not written: %s: %s", directory / f"{self.program}.prom", error)

    def _as_json(self) -> bytes:
        entry = asdict(self) | {"version": __version__, "status": self.status}
        del entry["_begin"]
        entry["counts"] = {name: value if math.isfinite(value) else None for name, value in self.counts.items()}
        text = json.dumps(entry, indent=1, default=_iso, ensure_ascii=False)
        return text.encode(errors="backslashreplace") + b"\n"


def read(program: str, directory: Path) -> Mapping[str, object] | None:
    """Return the last run's record; None when there is none, or none that can be read."""
    try:
        entry = json.loads((directory / f"{program}.json").read_bytes())
    except (OSError, ValueError):
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
    from prometheus_client import CollectorRegistry, Gauge, generate_latest  # noqa: PLC0415  start-up is a cost

    registry = CollectorRegistry()

    def gauge(name: str, words: str, value: float) -> None:
        Gauge(f"fedcloud_{name}", words, ["program"], registry=registry).labels(record.program).set(value)

    assert record.ended is not None  # noqa: S101  close() sets it
    gauge("run_end_timestamp_seconds", "End of the last run", record.ended.timestamp())
    gauge("run_duration_seconds", "Duration of the last run", seconds)
    gauge("run_exit_status", "Exit status of the last run", float(record.status or 0))
    gauge("run_failures", "Things that the last run left undone", len(record.failures))
    if record.last_success:
        gauge(
            "run_last_success_timestamp_seconds",
            "End of the last complete run",
            record.last_success.timestamp(),
        )
    for name, value in sorted(record.counts.items()):
        gauge(f"run_{name}", f"{name.replace('_', ' ')} of the last run", value)
    files.write_atomic(path, generate_latest(registry))
    path.chmod(0o644)  # whatever the umask: node_exporter has an account of its own, and nothing here is confidential


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
