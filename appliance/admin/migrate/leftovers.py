"""What still starts or serves beside the appliance: units, containers, configuration management.

A unit or a container of an earlier release is recognised by its name and by what it runs. All else
that starts a job is a finding, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.admin import settings
from appliance.admin.migrate.crontabs import OldEntry
from appliance.admin.migrate.workspace import Workspace
from appliance.admin.runtime.engine import Engine, OtherContainer
from appliance.admin.schedule import starters
from appliance.core.run.errors import Problem, Unavailable

_UNITS = {
    "bdii.service": re.compile(
        r"^ExecStart=/usr/local/bin/docker-compose -f /etc/sitebdii/docker-compose\.yml up\s*$",
        re.MULTILINE,
    ),
    "cloudkeeper-os.service": re.compile(
        r"^ExecStart=/usr/bin/docker run --name cloudkeeper-os .*", re.MULTILINE
    ),
}
"""Units of earlier releases, each with the line that only these have."""
_PROJECT = r"sitebdii[_-]"
_SERVICES = {
    rf"{_PROJECT}cloudbdii[_-]1": "cloudbdii",
    rf"{_PROJECT}sitebdii[_-]1": "sitebdii",
    "cloudkeeper-os": "cloudkeeper-os",
}
"""Names of containers of earlier releases, each with the last word of its image."""
_IMAGE = re.compile(r"(?:egifedcloud/(?:ops-)?|stfc/)([a-z-]+?)(?:-core)?(?::[\w.-]+)?")
_JOBS = ("caso", "ssm", "cloudkeeper", "cloud-info", "atrope")
_MARKS = re.compile(
    r"(?i)\b(ansible managed|managed by (?:ansible|puppet|chef|salt)|puppet managed)"
)


@dataclass(frozen=True, slots=True)
class Containers:
    """Containers of an earlier release: those that make way, and jobs that still run."""

    gone: tuple[OtherContainer, ...] = ()
    running: tuple[OtherContainer, ...] = ()
    others: tuple[OtherContainer, ...] = ()
    """Those of its images under other names, which stay."""


def units(work: Workspace) -> None:
    """Plan that units of an earlier release make way; installing writes the appliance's own."""
    for name, pattern in _UNITS.items():
        place = f"/etc/systemd/system/{name}"
        path = work.layout.path(place)
        text = path.read_text(errors="replace") if path.is_file() else ""
        if not pattern.search(text):
            continue
        work.dropped[place] = "is the unit of an earlier release"
        words = "the appliance has a unit of this name: run the bundle's install afterwards"
        work.findings.append(Problem(path, 0, "", words))


def starters_left(work: Workspace, entries: Iterable[OldEntry]) -> None:
    """Add a finding for each line that starts a job and is not one of these entries."""
    own = {(entry.path, entry.line) for entry in entries}
    for starter in starters.others(work.layout):
        name = f"/{starter.path.relative_to(work.layout.root)}"
        is_planned = name.startswith("/etc/cron.d/") and name in work.planned
        if (starter.path, starter.line) in own or name in work.dropped or is_planned:
            continue
        words = f"starts the job {starter.job} beside the appliance{starter.note}; remove this line"
        if starter.note.endswith("configuration management"):
            words = f"starts the job {starter.job}: it must leave the configuration management"
        work.findings.append(Problem(starter.path, starter.line, "", words))


def management(work: Workspace, changed: Sequence[str]) -> None:
    """Add a finding for each changed file that configuration management writes."""
    for path, number, text in starters.managed_lines(work.layout):
        named = [name for name in changed if re.search(rf"{re.escape(name)}(?![\w.-])", text)]
        for name in named if not text.lstrip().startswith("#") else ():
            words = f"writes {name}, which changes: take the new text over there, or take it out"
            work.findings.append(Problem(path, number, "", words))
    for name in changed:
        path = work.layout.path(name)
        head = _head(path) if path.is_file() else []
        for number, line in enumerate(head, start=1):
            if match := _MARKS.search(line):
                words = f"says {match[1]!r}: take the new text over there, or it comes back"
                work.findings.append(Problem(path, number, "", words))


def _head(path: Path) -> list[str]:
    return path.read_text(errors="replace").split("\n")[:20]


def containers(work: Workspace) -> Containers:
    """Return the containers of an earlier release on this host.

    Earlier releases ran on the engine of a whole host, so a site's root of its own has none there.
    """
    host = settings.load(work.layout)
    socket = host.engine_socket
    is_own = work.layout.root == Path("/") or host.socket != settings.DEFAULT_SOCKET
    if socket is None or not is_own:
        return Containers()
    try:
        with Engine(socket) as engine:
            found = engine.others()
    except Unavailable as error:
        work.notes.append(f"{error}; containers of an earlier release are not looked for")
        return Containers()
    kept: list[OtherContainer] = []
    gone: list[OtherContainer] = []
    for one in found:
        if kind := _kind(one.image):
            (gone if _is_service(one, kind) else kept).append(one)
    running = [one for one in kept if one.is_running and _kind(one.image) in _JOBS]
    return Containers(tuple(gone), tuple(running), tuple(one for one in kept if one not in running))


def _kind(image: str) -> str:
    """Return the last word of an image of earlier releases; empty for any other image."""
    match = _IMAGE.fullmatch(image)
    return match[1] if match else ""


def _is_service(one: OtherContainer, kind: str) -> bool:
    return any(re.fullmatch(name, one.name) and kind == last for name, last in _SERVICES.items())
