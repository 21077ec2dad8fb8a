"""State that comes along from another root: checkpoints of accounting, and messages not yet sent.

On the host of the earlier set-up itself, both are at their places already, and `caso-extract` reads
the checkpoints of all releases. Then only owners change, which `appliance.admin.install.ownership`
does.

A message must be sent once, and after no newer one of the same server. So messages keep their
names, which are their order, and each is recorded by its name when it has been moved into the spool
of this host. They are left where this host has accounted already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.admin import account
from appliance.admin.migrate import oslo_lines
from appliance.admin.migrate.forms import caso
from appliance.admin.migrate.workspace import Workspace
from appliance.core import files, lastrun
from appliance.core.run.errors import ApplianceError, Problem
from appliance.core.run.layout import Layout
from appliance.core.spool import ElementName, Spool

CHECKPOINTS = "/var/spool/caso"
_OUTGOING = "/var/spool/apel/outgoing"
_LEDGER = "/var/lib/fedcloud/caso/ledger.sqlite"
JOURNAL = "/var/lib/fedcloud/migrate/messages.json"
_STAGING = ".migrate-"
_COMPLETE = "complete"
_ELEMENT = re.compile(r"[0-9a-f]{8}/[0-9a-f]{14}")
_LARGEST = 64 * 2**20  # bytes of a message, of which SSM allows 16 MiB


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint to write on this host: its name, and the text of the earlier set-up."""

    name: str
    text: bytes


@dataclass(frozen=True, slots=True)
class WaitingMessages:
    """The messages of a spool that are to come along."""

    source: Path
    target: Path
    names: tuple[ElementName, ...]


def checkpoints(work: Workspace) -> list[Checkpoint]:
    """Return the checkpoints to write; a broken one is a finding, and none moves back."""
    folder = work.path(_spool_directory(work))
    found = []
    for path in sorted(folder.glob("lastrun*")) if folder.is_dir() else ():
        try:
            moment = lastrun.read(path)
            here = None if work.is_in_place else _moment(work.layout.path(CHECKPOINTS) / path.name)
        except (ValueError, OSError):
            words = "does not hold the time of the last run; its project needs one by hand"
            command = "appliance run caso -- --extract-from TIME"
            work.findings.append(Problem(path, 0, "", f"{words}: {command}"))
            continue
        if moment is not None and not work.is_in_place and (here is None or here < moment):
            data = files.read_regular(path, limit=4096, follow=True)
            found.append(Checkpoint(f"{CHECKPOINTS}/{path.name}", data))
    return found


def _moment(path: Path) -> datetime | None:
    try:
        return lastrun.read(path)
    except ValueError:  # broken here: the earlier one is better
        return None


def _spool_directory(work: Workspace) -> str:
    found = work.parse(caso.NAME, oslo_lines.parse) if caso.NAME in work.planned else None
    entry = found.get("DEFAULT", "spooldir") if found else None
    return entry.text if entry and entry.text.startswith("/") else CHECKPOINTS


def messages(work: Workspace) -> list[WaitingMessages]:
    """Return the messages to move into spools of this host."""
    if work.is_in_place:
        return []
    found = [one for one in _waiting(work) if one.names]
    if found and work.layout.path(_LEDGER).exists():
        count = sum(len(one.names) for one in found)
        words = f"{count} messages stay: this host has accounted, and they may be older than what"
        remedy = "it has sent; send them on the earlier host"
        work.findings.append(Problem(work.path(_OUTGOING), 0, "", f"{words} {remedy}"))
        return []
    return found


def _waiting(work: Workspace) -> Iterator[WaitingMessages]:
    folder = work.path(_OUTGOING)
    known = _recorded(work.layout)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or path.name.startswith(".") or path.name == "failed":
            continue
        spool = Spool(path)
        try:
            names = [*spool.names()]
        except ApplianceError as error:
            work.findings.append(Problem(path, 0, "", error.cause))
            continue
        work.findings += [
            Problem(one, 0, "", failure.cause) for one, failure in spool.skipped.items()
        ]
        target = work.layout.path(f"{_OUTGOING}/{path.name}")
        left = tuple(name for name in names if f"{path.name}/{name}" not in known)
        yield WaitingMessages(path, target, left)


def _recorded(layout: Layout) -> set[str]:
    try:
        return {*json.loads(layout.path(JOURNAL).read_text())}
    except FileNotFoundError:
        return set()


def move(found: WaitingMessages, layout: Layout) -> None:
    """Move the messages into the spool of this host; a killed run is continued by `resume`.

    They are copied beside the spool first. Only when all are there do they move, each in one step,
    so that a message is either beside the spool, or in it or sent.
    """
    staging = found.target.parent / f"{_STAGING}{found.target.name}"
    read = {name: files.read_regular(found.source / name, limit=_LARGEST) for name in found.names}
    with account.as_account():
        files.make_directory(staging)
        for name, data in read.items():
            files.write_atomic(staging / name.replace("/", "-"), data)
        files.write_atomic(staging / _COMPLETE, json.dumps(found.names).encode())
    _finish(staging, layout)


def interrupted(layout: Layout) -> list[Path]:
    """Return the directories in which killed runs have left messages beside a spool."""
    folder = layout.path(_OUTGOING)
    return [path for path in sorted(folder.glob(f"{_STAGING}*")) if path.is_dir()]


def resume(layout: Layout) -> None:
    """Move what a killed run has copied completely; remove what it has not."""
    for staging in interrupted(layout):
        _finish(staging, layout)


def _finish(staging: Path, layout: Layout) -> None:
    target = staging.parent / staging.name.removeprefix(_STAGING)
    complete = staging / _COMPLETE
    names: list[str] = []
    with account.as_account():
        if complete.exists():
            names = [*filter(_ELEMENT.fullmatch, json.loads(complete.read_text()))]
        for name in names:
            _put(staging / name.replace("/", "-"), target / name)
    _record(layout, {f"{target.name}/{name}" for name in names})
    with account.as_account():
        # The list goes first: what is left without it was never to move.
        complete.unlink(missing_ok=True)
        files.sync_directory(staging)
        for path in staging.iterdir():
            path.unlink()
        staging.rmdir()


def _put(source: Path, target: Path) -> None:
    if not source.exists():
        return  # an earlier run has moved it
    files.make_directory(target.parent)
    files.move_new(source, target)
    files.sync_directory(target.parent)
    files.sync_directory(source.parent)


def _record(layout: Layout, names: set[str]) -> None:
    path = layout.path(JOURNAL)
    known = _recorded(layout)
    if names - known:
        files.make_directory(path.parent, mode=0o700)
        files.write_atomic(path, json.dumps(sorted(known | names)).encode(), mode=0o600)


def write_checkpoint(found: Checkpoint, layout: Layout) -> None:
    """Write a checkpoint for the account."""
    owner = (account.ID, account.ID)
    files.write_atomic(layout.path(found.name), found.text, mode=0o644, owner=owner)
