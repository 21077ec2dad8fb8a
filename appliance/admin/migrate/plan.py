"""The plan of a migration: what is written, what makes way, and what a person must do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.admin import account
from appliance.admin.install import ownership
from appliance.admin.migrate import (
    crontabs,
    difference,
    leftovers,
    oslo_lines,
    release,
    state,
)
from appliance.admin.migrate.leftovers import Containers
from appliance.admin.migrate.registry import FORMS
from appliance.admin.migrate.state import Checkpoint, WaitingMessages
from appliance.admin.migrate.workspace import Workspace
from appliance.core import files
from appliance.core.config import document, ini, shell, yaml_file
from appliance.core.config.document import Dialect
from appliance.core.run.errors import ConfigurationError, Problem

_PUBLIC = ("/etc/sitebdii/", "/etc/cron.d/", "/etc/fedcloud/appliance.yaml")
_TABLES = ("/etc/cron.d/", "/var/spool/cron/")
_LIMIT = 2**20  # bytes of a configuration


@dataclass(frozen=True, slots=True)
class Write:
    """A file that gets another text; ``before`` is None for a new file."""

    name: str
    before: bytes | None
    after: bytes
    mode: int
    group: int


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """All of a migration, in the order in which it is applied."""

    release: str
    """The earlier release; empty for plain upstream files."""
    writes: tuple[Write, ...] = ()
    drops: tuple[tuple[str, str], ...] = ()
    """Files that make way, each with the reason."""
    checkpoints: tuple[Checkpoint, ...] = ()
    messages: tuple[WaitingMessages, ...] = ()
    strangers: int = 0
    """Files in spools and directories of images that do not belong to the account."""
    containers: Containers = field(default_factory=Containers)
    is_interrupted: bool = False
    """Whether a killed run has left messages on their way."""
    elsewhere: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Problem, ...] = ()
    questions: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is to be changed."""
        changes = (self.writes, self.drops, self.checkpoints, self.messages, self.containers.gone)
        return not (any(changes) or self.strangers or self.is_interrupted)


def make(work: Workspace) -> MigrationPlan:
    """Read the earlier set-up, and return the plan."""
    found_release = release.name(work)
    release.notes(work)
    for convert in FORMS:
        convert(work)
    _refuse_wrong_texts(work)
    entries = crontabs.plan(work)
    crontabs.replace_atrope(work)
    leftovers.units(work)
    leftovers.starters_left(work, entries)
    _note_pins(work)
    if found_release == release.LAST and not any(one.job == "cloud-info" for one in entries):
        words = "nothing scheduled cloud-info before; if the site is to publish by itself"
        work.notes.append(f"{words}: appliance schedule cron --with cloud-info")
    checkpoints = state.checkpoints(work)
    messages = state.messages(work)
    writes = sorted(_writes(work), key=_order)
    drops = [(name, why) for name, why in work.dropped.items() if _is_here(work, name)]
    leftovers.management(work, [*(write.name for write in writes), *(name for name, _ in drops)])
    return MigrationPlan(
        release=found_release,
        writes=tuple(writes),
        drops=tuple(drops),
        checkpoints=tuple(checkpoints),
        messages=tuple(messages),
        strangers=sum(ownership.count(place) for place in ownership.places(work.layout.root)),
        containers=leftovers.containers(work),
        is_interrupted=bool(state.interrupted(work.layout)),
        elsewhere=() if work.is_in_place else tuple(crontabs.elsewhere(work)),
        notes=tuple(dict.fromkeys(work.notes)),
        findings=tuple(dict.fromkeys(work.findings)),
        questions=tuple(dict.fromkeys(work.questions)),
    )


_DIALECTS: tuple[tuple[str, Dialect], ...] = (
    (r"/etc/(caso|cloudkeeper-os|cloudkeeper)/.*\.conf", oslo_lines.parse),
    (r"/etc/apel/sender\.cfg", ini.parse),
    (r"/etc/(cloud-info-provider/openstack\.rc|fedcloud/appliance\.env)", shell.parse),
    (r"/etc/.*\.ya?ml", yaml_file.parse),
)


def _refuse_wrong_texts(work: Workspace) -> None:
    """Leave a file as it is if its new text could not be parsed, and the old one can be."""
    for name, text in [*work.planned.items()]:
        dialect = next((one for form, one in _DIALECTS if re.fullmatch(form, name)), None)
        if dialect is None or name.endswith("image-lists.conf"):
            continue
        source = work.path(name) if work.has(name) else work.layout.path(name)
        try:
            before = document.read_text(source) if source.is_file() else ""
        except ConfigurationError:  # it is a finding already, and has no text to change
            del work.planned[name]
            continue
        if text == before or _faults(dialect, source, before):
            continue
        if faults := _faults(dialect, source, text):
            words = f"is left as it is: its new text would be wrong: {faults[0].text}"
            work.findings.append(Problem(source, 0, faults[0].option, words))
            work.planned[name] = before


def _faults(dialect: Dialect, path: Path, text: str) -> tuple[Problem, ...]:
    try:
        dialect(path, text)
    except ConfigurationError as error:
        return error.problems
    return ()


def _order(write: Write) -> int:
    """Return the order of writes: a table of cron before the lines that it replaces."""
    return next((at for at, place in enumerate(_TABLES, 1) if write.name.startswith(place)), 0)


def _is_here(work: Workspace, name: str) -> bool:
    return work.layout.path(name).is_file()


def _writes(work: Workspace) -> Iterator[Write]:
    for name, text in work.planned.items():
        path = work.layout.path(name)
        after = text.encode(errors="surrogateescape")
        try:
            before = files.read_regular(path, limit=_LIMIT, follow=True)
        except FileNotFoundError:
            before = None
        except OSError as error:
            words = f"cannot be replaced: {error.strerror}"
            work.findings.append(Problem(path, 0, "", words))
            continue
        if before != after:
            is_public = name.startswith(_PUBLIC)
            yield Write(
                name, before, after, 0o644 if is_public else 0o640, 0 if is_public else account.ID
            )


def _note_pins(work: Workspace) -> None:
    """Report the images that an earlier release had pinned; the bundle has its own."""
    found = work.parse(release.DEFAULTS, shell.parse)
    work.planned.pop(release.DEFAULTS, None)
    for name, entry in found.sections.get(shell.SECTION, {}).items() if found else ():
        if re.fullmatch(r"[A-Z_]+_IMAGE", name):
            work.note(release.DEFAULTS, entry.line, f"{entry.text} was in use, and is not kept")


def lines(plan: MigrationPlan) -> Iterator[str]:
    """Yield the plan as text."""
    yield f"found: {f'the appliance {plan.release}' if plan.release else 'upstream files'}"
    for write in plan.writes:
        before = (write.before or b"").decode(errors="replace")
        yield from difference.shown(write.name, before, write.after.decode(errors="replace"))
        if write.before is None:
            yield f"+ {write.name}: a new file, mode {write.mode:04o}"
    yield from (f"- {name}: makes way: {why}" for name, why in plan.drops)
    yield from (f"+ {one.name}: the checkpoint comes along" for one in plan.checkpoints)
    for group in plan.messages:
        yield f"+ {group.target}: {len(group.names)} messages come along"
    if plan.is_interrupted:
        yield "+ messages of an interrupted run go on their way"
    if plan.strangers:
        yield f"~ {plan.strangers} files and directories are given to the account {account.NAME}"
    yield from (f"- container {one}: makes way" for one in plan.containers.gone)
    yield from (f"i {line}" for line in plan.notes)
    yield from (f"i {line}; stop it there before anything starts here" for line in plan.elsewhere)
    for one in plan.containers.others:
        words = "not recognised by its name; if nobody needs it"
        yield f"! container {one}: {words}: docker rm {one.name}"
    yield from (f"! {problem}" for problem in plan.findings)
    yield from (f"? {line}" for line in plan.questions)
