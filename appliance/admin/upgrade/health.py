"""The health gate: what is amiss now and was not before."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

from appliance.admin import settings
from appliance.admin.inventory import SERVICES, UNITS
from appliance.admin.machine import Machine
from appliance.admin.runtime import native
from appliance.admin.runtime.engine import Engine
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout

_COMMAND = "/usr/local/bin/appliance"
_TIMEOUT = 300
"""Seconds for the check."""
_LOOKS = 6
"""At most so many looks; the services have that long to become healthy."""
_SAME = 3
"""So many looks with the same faults decide; they follow each other in a third of the pause."""


def faults(layout: Layout) -> dict[str, str]:
    """Return each fault of this host, with a line; no other host is contacted.

    A fault is the same later if it has the same id and place: its words may have a time or a count.
    """
    command = [sys.executable, "-P", "-m", "appliance.admin.command", "check", "--offline"]
    try:
        done = subprocess.run(
            [*command, "--json", "--root", str(layout.root)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        found = json.loads(done.stdout)["findings"]
    except subprocess.TimeoutExpired:
        return {"check": f"appliance check gave no answer within {_TIMEOUT} seconds"}
    except (ValueError, KeyError, TypeError):
        words = " ".join(done.stderr.decode(errors="replace").split())
        return {"check": f"appliance check failed: {words[-300:]}"}
    of_check = {
        " ".join(str(one[name]) for name in ("id", "path", "option", "program")): " ".join(
            f"{one['id']}: {one['path']}: {one['text']}".split()
        )
        for one in found
        if one["is_error"]
    }
    return of_check | _stopped(layout) | _unwell(layout)


def units(layout: Layout) -> Collection[str]:
    """Return the units of the services of this host."""
    return native.UNITS.values() if settings.is_native(layout) else UNITS.keys()


def _stopped(layout: Layout) -> dict[str, str]:
    """Return a line for each unit that is enabled and does not run."""
    machine = Machine()
    if layout.root != Path("/") or not machine.has_systemd:
        return {}
    return {
        unit: f"{unit} does not run; see systemctl status {unit}"
        for unit in units(layout)
        if machine.ask(["systemctl", "is-enabled", "--quiet", unit])[0] == 0
        and not machine.is_active(unit)
    }


def _unwell(layout: Layout) -> dict[str, str]:
    """Return a line for each container that is not healthy, though its unit is active."""
    machine = Machine()
    if layout.root != Path("/") or settings.is_native(layout):
        return {}
    try:
        with Engine(settings.load(layout).socket) as engine:
            states = [one for one in engine.services() if not one.is_well]
    except ApplianceError as error:
        return {"engine": str(error)}
    return {
        f"container of {one.service}": f"the container of {one.service} is"
        f" {' and '.join(filter(None, (one.state, one.health)))}; see appliance logs {one.service}"
        for one in states
        if machine.is_active(SERVICES[one.service])
    }


def new_faults(
    before: Collection[str], version: str, layout: Layout, *, pause: timedelta
) -> list[str]:
    """Return the faults that an upgrade brought; none after two good looks one after the other.

    A fault of the first looks may go: services need some time. One that comes and goes counts. The
    same faults in `_SAME` looks, while no unit is about to start, stay: clients get no answer while
    the gate waits.
    """
    good = same = 0
    is_starting, found = False, list[str]()
    for number in range(_LOOKS):
        if number:
            time.sleep((pause if good or is_starting else pause / _SAME).total_seconds())
        is_starting, earlier = _is_starting(layout), found
        found = [line for fault, line in faults(layout).items() if fault not in before]
        found += _wrong_command(version, layout)
        good = 0 if found else good + 1
        same = same + 1 if found == earlier else 1
        if good == 2:  # noqa: PLR2004  see above
            return []
        if found and same >= _SAME and not is_starting:
            return found
    return found or ["the faults come and go; see appliance check"]


def _is_starting(layout: Layout) -> bool:
    """Return whether systemd is about to start or to reload a service, which may take a while."""
    machine = Machine()
    if layout.root != Path("/") or not machine.has_systemd:
        return False
    return any(machine.state(unit) in ("activating", "reloading") for unit in units(layout))


def _wrong_command(version: str, layout: Layout) -> list[str]:
    """Return a line if the command of this host is not that of a version, or does not start."""
    if layout.root != Path("/"):
        return []
    _, words = Machine().ask([_COMMAND, "--version"])
    return [] if version in words.split() else [f"{_COMMAND} is not of version {version}"]
