"""The mark of a site's state: an id in the state directory, and the same one outside of it.

The state directory can be a volume that is not mounted, or be emptied. Without a mark that would
look like a new site: accounting would begin again, and images be uploaded again. The id outside is
with the programs of the host. It survives, so that jobs and services can refuse.

A host of a release without marks has none, and the next installation writes both. A state directory
with a mark, on a host without one, is that of a host whose system was made anew: it is taken over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.core import clock, files
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

STATE = "/var/lib/fedcloud"
OF_STATE = f"{STATE}/state-id"
OF_HOST = "/opt/fedcloud/state-id"
"""Its last line counts; those before are the marks that were given up, for people."""
_LINE = re.compile(r"(?P<id>[0-9a-f]{16}) (?P<since>[0-9T:+-]{10,32})")
_LONGEST = 2**16
_KEPT = 50
"""Lines that stay in the file of the host."""
_ACCEPT = "appliance state --accept"


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark, and the time since which it holds."""

    id: str
    since: str

    @classmethod
    def new(cls) -> Mark:
        """Return a mark that no other host has."""
        return cls(os.urandom(8).hex(), clock.now().isoformat(timespec="seconds"))

    def __str__(self) -> str:
        return f"{self.id} {self.since}"


def of_state(layout: Layout) -> Mark | None:
    """Return the mark in the state directory; None without one.

    Raises:
        ConfigurationError: The file holds no mark.

    """
    return _last(layout.path(OF_STATE))


def of_host(layout: Layout) -> Mark | None:
    """Return the mark outside the state directory; None without one.

    Raises:
        ConfigurationError: The file holds no mark.

    """
    return _last(layout.path(OF_HOST))


def _last(path: Path) -> Mark | None:
    try:
        text = files.read_regular(path, limit=_LONGEST).decode(errors="replace")
    except FileNotFoundError:
        return None
    lines = text.splitlines()
    if not lines or not (match := _LINE.fullmatch(lines[-1])):
        cause = (
            f"does not hold the mark of the state; if {STATE} is the one of this site: {_ACCEPT}"
        )
        raise ConfigurationError([Problem(path, 0, "", cause)])
    return Mark(match["id"], match["since"])


def is_lost(layout: Layout) -> bool:
    """Return whether this host has had a state, and its directory has no mark."""
    return of_host(layout) is not None and of_state(layout) is None


def require(layout: Layout, *, may_be_lost: bool = False) -> None:
    """Check that the state directory is the one of this host; with neither mark it is.

    Raises:
        ConfigurationError: It is empty where it was not, or that of another host.

    """
    host, state = of_host(layout), of_state(layout)
    if host is None or (state is None and may_be_lost):
        return
    if state is None:
        cause = (
            f"lacks the state that this host has had since {host.since}: mount its volume, or bring"
            f" a backup back (appliance restore FILE); to begin with an empty one: {_ACCEPT}"
        )
    elif state.id != host.id:
        cause = (
            f"is the state of another installation, {state.id}, and this host's is {host.id}:"
            f" mount the volume of this host, or take this one over: {_ACCEPT}"
        )
    else:
        return
    raise ConfigurationError([Problem(layout.path(STATE), 0, "", cause)])


def fault(layout: Layout) -> str:
    """Return why the state directory is not the one of this host; empty if it is."""
    try:
        require(layout)
    except ConfigurationError as error:
        return error.problems[0].text
    return ""


def establish(layout: Layout) -> bool:
    """Write the marks that an installation finds missing; return whether it wrote one.

    The caller has called `require`.
    """
    host, state = of_host(layout), of_state(layout)
    if state is None:
        state = host or Mark.new()
        _write_state(state, layout)
    elif host is not None:
        return False
    if host is None:
        _add_to_host(state, layout)
    return True


def restored(layout: Layout) -> None:
    """Mark the state that a restore has written as that of this host, if the host has a mark."""
    if host := of_host(layout):
        _write_state(host, layout)


def accept(layout: Layout) -> Mark:
    """Make the state directory, as it is, the one of this host; return its mark.

    A directory without a mark gets a new one, so that the volume that was lost is refused later.
    """
    state = _readable(of_state, layout)
    if state is None:
        state = Mark.new()
        # First: a run that is killed in between leaves a directory that is refused, not one lost.
        _write_state(state, layout)
    if _readable(of_host, layout) != state:
        _add_to_host(state, layout)
    return state


def _readable(read: Callable[[Layout], Mark | None], layout: Layout) -> Mark | None:
    try:
        return read(layout)
    except ConfigurationError:  # a damaged mark is replaced
        return None


def _write_state(mark: Mark, layout: Layout) -> None:
    path = layout.path(OF_STATE)
    files.make_directory(path.parent, mode=0o755)
    files.write_atomic(path, f"{mark}\n".encode(), mode=0o644)


def _add_to_host(mark: Mark, layout: Layout) -> None:
    path = layout.path(OF_HOST)
    files.make_directory(path.parent, mode=0o755)
    try:
        text = files.read_regular(path, limit=_LONGEST).decode(errors="replace")
    except FileNotFoundError:
        text = ""
    earlier = [line for line in text.splitlines() if _LINE.fullmatch(line)]
    lines = [*earlier[1 - _KEPT :], str(mark)]
    files.write_atomic(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o644)
