"""One record for each job: that of `appliance run JOB` and that of its program are of one run.

`appliance run` writes ``job-JOB``, however the run ends; the program writes its own record, with
the figures, if it gets that far.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath

from appliance.admin.inventory import JOBS
from appliance.core import clock

Tree = Mapping[str, object]
"""A run record, as its file has it."""
_NEVER = datetime.min.replace(tzinfo=UTC)


def one_a_job(records: Mapping[str, Tree]) -> dict[str, Tree]:
    """Return the records by program; those of a job are merged into that of its program."""
    found = dict(records)
    for job in JOBS.values():
        program, wrapper = PurePath(job.command[0]).name, f"job-{job.name}"
        if program not in found or wrapper not in found:
            continue
        # A later one is of a run without the job. It must not hide root's: containers write it.
        if _moment(found[program], "ended") <= _moment(found[wrapper], "ended"):
            found[program] = _merged(found[program], found.pop(wrapper))
    return found


def _merged(program: Tree, job: Tree) -> Tree:
    if _moment(program, "ended") < _moment(job, "started"):
        return {**job, "counts": {}}  # this run ended before its program had a record
    lines = program.get("failures")
    is_explained = bool(lines) and program.get("status") == job.get("status")
    failures = lines if is_explained else [*_lines(program), *_lines(job)]
    # The job's own word counts: a program that was stopped may have written that all is done.
    return {**program, "failures": failures} | {
        name: job.get(name) for name in ("status", "ended", "last_success")
    }


def _lines(record: Tree) -> list[object]:
    lines = record.get("failures")
    return lines if isinstance(lines, list) else []


def _moment(record: Tree, name: str) -> datetime:
    try:
        return clock.parse(str(record.get(name) or ""))
    except ValueError:
        return _NEVER
