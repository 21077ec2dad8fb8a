"""Lines of cron that earlier releases wrote, which the appliance's own tables replace.

Releases of 2019 to 2022 had their jobs in root's table, each below a mark of Ansible. A line is
theirs if its command is exactly the release's, below its mark or at the release's times. Those of
2016 and 2017 had tables in ``/etc/cron.d``; in 2016 without a user, so that they never ran.
All other lines stay, and `appliance.admin.schedule.starters` finds those that start a job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.inventory import JOBS, Job
from appliance.admin.migrate import lines
from appliance.admin.migrate.workspace import Workspace
from appliance.admin.schedule import state, tables
from appliance.core import files

ROOTS_TABLES = ("/var/spool/cron/crontabs/root", "/var/spool/cron/root")
ATROPE = "/etc/cron.d/atrope"
_LIMIT = 2**18  # bytes of a table
_LINE = re.compile(
    r"(?P<times>(?:\S+[ \t]+){5})/usr/local/bin/(?P<script>[a-z-]+\.sh)"
    r" >> /var/log/(?P<log>[a-z-]+)\.log 2>&1\s*"
)
_MARK = re.compile(r"#Ansible: (?P<name>[a-z]+)\s*")
_LEAVE = "if a role of this site does, take them out of it, or the lines come back"
_WITHOUT_USER = re.compile(r"(?m)^((?:[\d*/,-]+[ \t]+){5})(?=/usr/local/bin/[a-z-]+\.sh )")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a release wrote about a job: its script, its log, its mark and its usual times."""

    job: str
    log: str
    mark: str
    times: tuple[str, ...]


_KINDS = {
    "caso-extract.sh": _Kind("caso", "caso", "caso", ("14 */4 * * *", "14 * * * *")),
    "ssm-send.sh": _Kind("ssmsend", "ssm", "ssm", ("30 */6 * * *",)),
    "cloudkeeper.sh": _Kind("cloudkeeper", "cloudkeeper", "cloudkeeper", ("26 */4 * * *",)),
    "cloud-info.sh": _Kind("cloud-info", "cloud-info", "cloudinfo", ("*/5 * * * *",)),
}


@dataclass(frozen=True, slots=True)
class OldEntry:
    """A line of an earlier release, with the number of its mark; 0 without one."""

    path: Path
    line: int
    mark: int
    job: str
    times: str


def entries(path: Path) -> Iterator[OldEntry]:
    """Yield the lines of a user's table that an earlier release wrote."""
    texts = _read(path).split("\n")
    for number, text in enumerate(texts, start=1):
        match = _LINE.fullmatch(text)
        kind = _KINDS.get(match["script"]) if match else None
        if match is None or kind is None or match["log"] != kind.log:
            continue
        above = _MARK.fullmatch(texts[number - 2]) if number > 1 else None
        times = " ".join(match["times"].split())
        if above and above["name"] == kind.mark:
            yield OldEntry(path, number, number - 1, kind.job, times)
        elif times in kind.times:
            yield OldEntry(path, number, 0, kind.job, times)


def plan(work: Workspace) -> list[OldEntry]:
    """Plan that the lines of this host make way for active tables; return the lines."""
    found: list[OldEntry] = []
    for name in ROOTS_TABLES:
        path = work.layout.path(name)
        own = [*entries(path)]
        if not own:
            continue
        found += own
        numbers = {number for entry in own for number in (entry.line, entry.mark) if number}
        _activate(work, own)
        # After the tables: until then both start the job, which one lock keeps apart.
        work.planned[name] = lines.without(_read(path), numbers)
        if any(entry.mark for entry in own):
            words = "Ansible wrote lines for"
            jobs = ", ".join(entry.job for entry in own if entry.mark)
            work.note(name, own[0].mark, f"{words} {jobs}: {_LEAVE}")
    _old_tables(work)
    _tidy(work)
    return found


def _tidy(work: Workspace) -> None:
    """Have an idle copy of an active table make way; a killed run may have left it."""
    for job in JOBS.values():
        active, idle = state.active_table(job, work.layout), state.idle_table(job, work.layout)
        if idle.is_file() and active.is_file():
            work.dropped[f"/etc/fedcloud/cron.d/{job.cron}"] = "is active now"


def elsewhere(work: Workspace) -> Iterator[str]:
    """Yield the lines on the earlier host that start jobs there."""
    for name in ROOTS_TABLES:
        for entry in entries(work.path(name)):
            yield f"{entry.path}:{entry.line}: starts {entry.job} on the earlier host"
    for job in JOBS.values():
        path = work.path(f"/etc/cron.d/{job.cron}")
        if path.is_file():
            yield f"{path}: starts {job.name} on the earlier host"


def _activate(work: Workspace, own: list[OldEntry]) -> None:
    for entry in own:
        job = JOBS[entry.job]
        active, idle = state.active_table(job, work.layout), state.idle_table(job, work.layout)
        if active.exists() or state.is_enabled(job, work.layout):
            continue
        if not idle.is_file():
            words = f"there is no {idle} to take its place; run the bundle's install"
            work.find(_name(entry.path, work), entry.line, words)
            continue
        text = idle.read_text()
        if job.is_scheduled:
            _note_times(work, entry, text)
        else:  # not every site needs it, so it keeps its own times
            text = re.sub(r"(?m)^\S+ \S+ \S+ \S+ \S+(?= root )", entry.times, text)
        work.planned[f"/etc/cron.d/{job.cron}"] = text
        work.dropped[f"/etc/fedcloud/cron.d/{job.cron}"] = "is active now"


def _note_times(work: Workspace, entry: OldEntry, text: str) -> None:
    match = re.search(r"(?m)^((?:\S+ ){5})root ", text)
    now = match[1].strip() if match else entry.times
    if now != entry.times:
        words = f"{entry.job} ran at {entry.times} and runs at {now} from now on"
        work.note(_name(entry.path, work), entry.line, words)


def _name(path: Path, work: Workspace) -> str:
    return f"/{path.relative_to(work.layout.root)}"


def _old_tables(work: Workspace) -> None:
    """Give the tables of 2016 a user, and have atrope's make way."""
    if not work.is_in_place:
        return
    for job in JOBS.values():
        _with_user(work, job)
    path = work.layout.path(ATROPE)
    if "/usr/local/bin/atrope-dispatch.sh" in _read(path):
        work.dropped[ATROPE] = "atrope is replaced by cloudkeeper"


def _with_user(work: Workspace, job: Job) -> None:
    path = state.active_table(job, work.layout)
    found = [*tables.lines(path)] if path.is_file() else []
    if any(line.user.startswith("/") for line in found):
        name = f"/etc/cron.d/{job.cron}"
        work.planned[name] = _WITHOUT_USER.sub(r"\1root ", _read(path))
        work.note(name, found[0].number, "a line without a user never ran; root runs it now")


def replace_atrope(work: Workspace) -> None:
    """Activate cloudkeeper's table in place of atrope's, if the images are to be kept up."""
    job = JOBS["cloudkeeper"]
    active, idle = state.active_table(job, work.layout), state.idle_table(job, work.layout)
    if ATROPE in work.dropped and not active.exists() and idle.is_file():
        work.planned[f"/etc/cron.d/{job.cron}"] = idle.read_text()
        work.dropped[f"/etc/fedcloud/cron.d/{job.cron}"] = "is active now"


def _read(path: Path) -> str:
    """Return the text of a table; empty without one, and for what no release has written."""
    try:
        data = files.read_regular(path, limit=_LIMIT)
    except PermissionError:
        raise
    except OSError:  # missing, too large for a table, a link or no file
        return ""
    return data.decode(errors="surrogateescape")
