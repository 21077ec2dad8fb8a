"""Applying a plan: each file is kept before it changes, and each step can be the last of a run.

The order lets a killed run be finished by the next: the jobs of the appliance are active before the
lines of an earlier release go, and what serves stays until all else is done. What is kept is in
``/var/lib/fedcloud/migrate/TIME``, with a script that brings it back.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from pathlib import Path

from appliance.admin import account, settings
from appliance.admin.install import ownership
from appliance.admin.migrate import state
from appliance.admin.migrate.plan import MigrationPlan, Write
from appliance.admin.migrate.workspace import Workspace
from appliance.admin.runtime.engine import Engine
from appliance.core import clock, files
from appliance.core.run.layout import Layout

_STATE = "/var/lib/fedcloud"
KEPT = f"{_STATE}/migrate"
_GRACE = timedelta(seconds=20)
_SPOOLS = ("/var/spool/apel", "/var/spool/apel/outgoing", state.CHECKPOINTS)


@dataclass(slots=True)
class Keeper:
    """Keeps what changes, and writes the script that brings it back."""

    layout: Layout
    directory: Path
    commands: list[str] = field(default_factory=list)

    @property
    def undo(self) -> Path:
        """Return the script."""
        return self.directory / "undo"

    def keep(self, name: str) -> None:
        """Keep a file, with owner and mode, or that there was none, durably before it changes."""
        path, copy = self.layout.path(name), self.directory / "files" / name.lstrip("/")
        if path.exists():
            files.make_directory(copy.parent, mode=0o700)
            status = path.stat()
            data = path.read_bytes()
            owner = (status.st_uid, status.st_gid)
            files.write_atomic(copy, data, mode=status.st_mode & 0o7777, owner=owner)
            self.commands.insert(0, f"cp -p {_word(copy)} {_word(path)}")
        else:
            self.commands.insert(0, f"rm -f {_word(path)}")
        files.make_directory(self.directory, mode=0o700)
        text = "\n".join(["#!/bin/sh", "set -e", *self.commands, ""])
        files.write_atomic(self.undo, text.encode(), mode=0o700)


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def run(plan: MigrationPlan, work: Workspace) -> Iterator[str]:
    """Apply a plan; yield a line for each change that has been made."""
    layout = work.layout
    files.make_directory(layout.path(_STATE), mode=0o755)
    keeper = Keeper(layout, new_directory(layout))
    for write in plan.writes:
        keeper.keep(write.name)
        write_file(write, layout)
        yield f"{layout.path(write.name)}: written"
    yield from _state(plan, work, keeper)
    for name, _ in plan.drops:
        keeper.keep(name)
        layout.path(name).unlink()
        files.sync_directory(layout.path(name).parent)
        yield f"{layout.path(name)}: moved to {keeper.directory}"
    yield from _containers(plan, layout)
    if keeper.commands:
        yield f"undo: {keeper.undo}"


def new_directory(layout: Layout) -> Path:
    """Return a directory for this run; one of a run before keeps its script."""
    stamp = clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    places = (layout.path(f"{KEPT}/{name}") for name in names)
    return next(place for place in places if not place.exists())


def write_file(write: Write, layout: Layout) -> None:
    """Write a file; one that exists keeps its owner and mode, and a link to it stays."""
    path = layout.path(write.name)
    mode, owner = write.mode, (0, write.group)
    if path.exists():
        status = path.stat()
        mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
        path = path.resolve()  # a link to it stays
    files.make_directory(path.parent, mode=0o755)
    files.write_atomic(path, write.after, mode=mode, owner=owner)


def _state(plan: MigrationPlan, work: Workspace, keeper: Keeper) -> Iterator[str]:
    layout = work.layout
    if plan.checkpoints or plan.messages or plan.is_interrupted:
        _make_spools(layout)
    for place in ownership.places(layout.root):
        changed, doubtful = ownership.give(place)
        if changed:
            yield f"{place}: {changed} owners changed"
        for path in doubtful:
            yield f"{path}: has several hard links; its owner was not changed"
    for checkpoint in plan.checkpoints:
        keeper.keep(checkpoint.name)
        state.write_checkpoint(checkpoint, layout)
        yield f"{layout.path(checkpoint.name)}: written"
    if plan.is_interrupted:
        state.resume(layout)
    for group in state.messages(work) if plan.is_interrupted else plan.messages:
        state.move(group, layout)
        yield f"{group.target}: {len(group.names)} messages"


def _make_spools(layout: Layout) -> None:
    for name in _SPOOLS:
        path = layout.path(name)
        if not path.is_dir():
            files.make_directory(layout.path("/var/spool"), mode=0o755)
            files.make_directory(path)
            os.chown(path, account.ID, account.ID)


def _containers(plan: MigrationPlan, layout: Layout) -> Iterator[str]:
    socket = settings.load(layout).engine_socket
    if not plan.containers.gone or socket is None:
        return
    with Engine(socket) as engine:
        for container in plan.containers.gone:
            engine.remove_other(container, grace=_GRACE)
            yield f"container {container}: stopped and removed"
