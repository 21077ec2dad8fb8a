"""The state of the long-running services, for ``appliance status``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from appliance.admin import settings
from appliance.admin.inventory import SERVICES, UNITS
from appliance.admin.runtime import compose as composes
from appliance.admin.runtime import native
from appliance.admin.runtime.engine import Engine, ServiceState
from appliance.admin.service import choose
from appliance.core.run.errors import Unavailable
from appliance.core.run.layout import Layout

MISSING = "missing"
"""The state of a service that is enabled and has no container."""
OFF = "off"
"""The state of a service whose flow is off and that has no container."""


@dataclass(frozen=True, slots=True)
class Services:
    """The services as the engine reports them, or its ``failure``."""

    states: Sequence[ServiceState] = ()
    failure: str = ""
    off: Collection[str] = ()
    """Services whose flow is off."""

    compose: str = ""
    """Path and version of Compose; empty where nothing is installed."""
    compose_failure: str = ""
    faults: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By service, why it does not run with the site's configuration."""

    @property
    def are_well(self) -> bool:
        """Return whether there are no complaints."""
        return not complaints(self)

    def as_json(self) -> object:
        """Return the value for `appliance status --json`."""
        if self.failure:
            return {"failure": self.failure}
        return [
            asdict(state) | {"since": state.since.isoformat() if state.since else None}
            for state in self.states
        ]


def look(layout: Layout, host: settings.Host, *, asks_compose: bool = True) -> Services | None:
    """Return the services; None if none are installed.

    Without ``asks_compose``, Compose need only be there.
    """
    if not host.compose_file.exists() and not host.is_native:
        return None
    compose, compose_failure = "", ""
    if not host.is_native:
        compose, compose_failure = _compose(host.compose, asks=asks_compose)
    try:
        states = _states(host, layout)
    except Unavailable as error:
        return Services(
            failure=str(error),
            compose=compose,
            compose_failure=compose_failure,
            faults=_faults(host, layout),
        )
    off = [service for service in SERVICES if not host.is_wanted(service)]
    # A stopped container of a flow that is off is as it must be, so it is listed as off.
    shown = [state for state in states if state.service not in off or state.is_running]
    shown += _without_container(shown, off, layout)
    found = sorted(shown, key=lambda state: state.service)
    return Services(
        found,
        off=off,
        compose=compose,
        compose_failure=compose_failure,
        faults=_faults(host, layout),
    )


def _faults(host: settings.Host, layout: Layout) -> Mapping[str, Sequence[str]]:
    """Return the errors that the last start of each unit found, by service."""
    decisions = [choose.read(unit, layout) for unit in UNITS if host.is_wanted(unit)]
    return {
        service: lines
        for decision in decisions
        for service, one in decision.choices.items()
        if (lines := one.lines(service, decision.unit))
    }


def _states(host: settings.Host, layout: Layout) -> list[ServiceState]:
    if host.is_native:
        return native.services(layout)
    with Engine(host.socket) as engine:
        return engine.services()


def _compose(program: Path, *, asks: bool) -> tuple[str, str]:
    """Return path and version of Compose, and why it cannot be used, if so."""
    try:
        if not asks:
            composes.require(program)
            return str(program), ""
        return f"{program} {composes.version(program)}", ""
    except Unavailable as error:
        return str(program), str(error)


def _without_container(
    states: Sequence[ServiceState], off: Collection[str], layout: Layout
) -> Iterator[ServiceState]:
    """Yield the services without a container that are enabled or whose flow is off."""
    enabled = layout.path("/etc/systemd/system/multi-user.target.wants")
    for service in SERVICES.keys() - {state.service for state in states}:
        if service in off or (enabled / f"{SERVICES[service]}.service").is_symlink():
            word = OFF if service in off else MISSING
            yield ServiceState(
                service, word, health="", since=None, restarts=0, exit_status=None, said=""
            )


def rows(services: Services, *, at: datetime) -> list[tuple[str, ...]]:
    """Return the rows of the table, the heading first."""
    table: list[tuple[str, ...]] = [("SERVICE", "STATE", "HEALTH", "FOR", "RESTARTS")]
    for state in services.states:
        since = span(at - state.since) if state.since else "-"
        table.append((state.service, state.state, state.health or "-", since, str(state.restarts)))
    return table


def span(length: timedelta) -> str:
    """Return a length of time in days, hours or minutes, the largest that gives at least 2."""
    minutes = max(int(length.total_seconds() // 60), 0)
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{minutes} min"


def complaints(services: Services) -> list[str]:
    """Return a line for each service with a fault: its state, and the command with details."""
    about_compose = [services.compose_failure] if services.compose_failure else []
    about_compose += [line for lines in services.faults.values() for line in lines]
    if services.failure:
        return [services.failure, *about_compose]
    running = [
        state.service
        for state in services.states
        if state.service in services.off and state.is_running
    ]
    lines = [
        f"{name}: runs although its flow is off; systemctl stop {SERVICES[name]}"
        for name in running
    ]
    explained = {*services.off, *services.faults}
    amiss = [
        state for state in services.states if not state.is_well and state.service not in explained
    ]
    return about_compose + lines + [complaint(state) for state in amiss]


def complaint(state: ServiceState) -> str:
    """Return the line about a service that is not well: its state, and where to look."""
    if not state.is_running:  # the output of its last check is from the time when it ran
        status = (
            ""
            if state.exit_status is None or state.state != "exited"
            else f" with exit status {state.exit_status}"
        )
        words = f"{state.service}: {state.state}{status}"
    else:
        words = f"{state.service}: {state.state} {state.health}".rstrip() + (
            f": {state.said}" if state.said else ""
        )
    if state.state in (MISSING, "created", "exited"):
        return f"{words}; see systemctl status {SERVICES.get(state.service, state.service)}"
    return f"{words}; see appliance logs {state.service}"
