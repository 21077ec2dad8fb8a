"""One lock for all verbs that change a host, and the mark of a restore that is not complete.

Jobs do not start meanwhile: they say so and end with status 0.

What a unit or a timer calls does not hold this lock, because whoever holds it may start that unit,
and because a job that starts in the same minute would be left out. It has a lock of its own
(`small`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from appliance.admin.state import mark
from appliance.core.run import lock
from appliance.core.run.errors import Busy
from appliance.core.run.layout import Layout

LOCK = "/run/fedcloud/install.lock"
"""The installer's: its name stays, because earlier releases hold it, too."""
_RESTORE = "/var/lib/fedcloud/restore.json"
_PATIENCE = timedelta(seconds=30)
"""How long to wait for a run that was killed or is about to end."""
_INCOMPLETE = "a restore is not complete: run the same appliance restore again"
_LATER = "run this again afterwards"


@contextlib.contextmanager
def alone(
    layout: Layout, *, finishes_restore: bool = False, accepts_state: bool = False
) -> Iterator[None]:
    """Hold the lock for the block.

    Raises:
        Busy: Another verb changes the host, or a restore is not complete, and this is not to finish
            it.
        ConfigurationError: The state is not the one of this host, and this is not to accept it.

    """
    with lock.hold(layout.path(LOCK), wait=_PATIENCE):
        if not finishes_restore and restore_mark(layout).exists():
            raise Busy("", _INCOMPLETE, _LATER)
        if not (finishes_restore or accepts_state):
            mark.require(layout)
        yield


@contextlib.contextmanager
def small(name: str, layout: Layout) -> Iterator[None]:
    """Hold the lock of one verb for the block, beside or without the one of all.

    Raises:
        Busy: Another run of the verb holds it.

    """
    with lock.hold(layout.path(lock_of(name)), wait=_PATIENCE):
        yield


def lock_of(name: str) -> str:
    """Return the lock of one verb, as `small` holds it."""
    return f"/run/fedcloud/{name}.lock"


def restore_mark(layout: Layout) -> Path:
    """Return the file that says that a restore is not complete."""
    return layout.path(_RESTORE)


def reason(layout: Layout) -> str:
    """Return why nothing may start or change now; empty if it may."""
    if restore_mark(layout).exists():
        return _INCOMPLETE
    held = lock.holder(layout.path(LOCK))
    return f"the appliance is being changed: {held}" if held else ""


def refuse(layout: Layout) -> None:
    """Check that nothing changes the host.

    Raises:
        Busy: Another verb does, or a restore is not complete.
        ConfigurationError: The state is not the one of this host.

    """
    mark.require(layout)
    if words := reason(layout):
        raise Busy("", words, _LATER)


def await_end(layout: Layout, *, limit: timedelta) -> None:
    """Wait until no other verb changes the host.

    Raises:
        Busy: One still does after ``limit``.

    """
    if lock.holder(layout.path(LOCK)):
        with lock.hold(layout.path(LOCK), wait=limit):
            pass
