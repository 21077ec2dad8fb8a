"""The configuration that each service starts with: the site's, the copy that passed last, or none.

A decision is stored beside the copies, for the steps that follow, `appliance status` and
`appliance logs`:

    UNIT.json   the time, and by service the choice and the reasons against the site's configuration
    UNIT.yml    a compose file whose volumes replace the shipped ones, if a copy is used
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.admin.check import programs
from appliance.admin.images import needed
from appliance.admin.inventory import UNITS
from appliance.admin.mounts import site_files
from appliance.admin.runtime.engine import Engine
from appliance.admin.service import kept
from appliance.admin.settings import Host
from appliance.core import clock, files
from appliance.core.run.errors import ApplianceError, ConfigurationError, LocalFailure, Problem
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)


class Start(enum.StrEnum):
    """The configuration that a service starts with."""

    SITE = "the site's configuration"
    COPY = "the configuration that passed last"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice for a service; without ``reasons`` for the site's configuration."""

    start: Start
    reasons: tuple[str, ...] = ()
    passed: str = ""
    """The time at which the copy passed its check."""

    def lines(self, service: str, unit: str) -> list[str]:
        """Return a line for each reason: what runs, what is wrong, what to do."""
        if self.start is Start.SITE:
            return []
        state = f"runs with the configuration that passed on {self.passed}"
        state = state if self.start is Start.COPY else "does not run"
        remedy = f"then systemctl restart {unit}"
        return [f"{service}: {state}: {reason}; {remedy}" for reason in self.reasons]


@dataclass(frozen=True, slots=True)
class Decision:
    """The choices for the services of a unit."""

    unit: str
    at: str
    choices: Mapping[str, Choice]

    @property
    def started(self) -> list[str]:
        """Return the services that can start."""
        return [service for service, one in self.choices.items() if one.start is not Start.NOTHING]

    @property
    def lines(self) -> list[str]:
        """Return a line for each fault."""
        return [
            line for service, one in self.choices.items() for line in one.lines(service, self.unit)
        ]


def check(service: str, host: Host, layout: Layout) -> Sequence[str]:
    """Return the errors in the site's configuration of a service; log the warnings."""
    try:
        if service == "cloudkeeper-os":
            site_files.check(site_files.variables(layout), layout)
        answer = programs.patiently(service, service, host, layout)
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    except (ApplianceError, OSError) as error:
        return [str(error if isinstance(error, ApplianceError) else LocalFailure.from_os(error))]
    for finding in answer.findings:
        if not finding.is_error:
            logger.warning("%s: %s", service, finding)
    return [str(finding) for finding in answer.findings if finding.is_error]


def decide(unit: str, host: Host, layout: Layout, *, at: datetime) -> Decision:
    """Check the configuration of each service of a unit, and choose.

    A configuration that equals the copy that passed last, or the one that `appliance check` has
    passed, with the same image and settings, is not checked again.

    Raises:
        Unavailable: The engine does not answer, or lacks an image.

    """
    choices = {}
    with Engine(host.socket) as engine:
        for service in UNITS[unit]:
            image = next(iter(needed.require(engine, host, [service]).values()))
            snapshot = kept.take(service, host, layout, image=image)
            if snapshot and _is_known(snapshot, service, layout):
                choices[service] = Choice(Start.SITE)
                continue
            reasons = tuple(check(service, host, layout))
            copy = kept.current(service, layout)
            if not reasons:
                choices[service] = Choice(Start.SITE)
            elif copy:
                choices[service] = Choice(Start.COPY, reasons, kept.passed_at(copy))
            else:
                choices[service] = Choice(Start.NOTHING, reasons)
    return Decision(unit, at.isoformat(timespec="seconds"), choices)


def _is_known(snapshot: kept.Snapshot, service: str, layout: Layout) -> bool:
    return any(known(snapshot, service, layout) for known in (kept.is_kept, kept.is_checked))


def require_good(services: Sequence[str], host: Host, layout: Layout) -> None:
    """Check the configuration of services.

    Raises:
        ConfigurationError: There are errors; each is listed.
        Unavailable: The engine does not answer, or lacks an image.

    """
    if not host.is_native:
        with Engine(host.socket) as engine:
            needed.require(engine, host, services)
    reasons = [reason for service in services for reason in check(service, host, layout)]
    if reasons:
        state = "nothing was changed; the running services continue"
        raise ConfigurationError([Problem(Path(), 0, "", line) for line in (*reasons, state)])


def save(decision: Decision, layout: Layout) -> None:
    """Write a decision and its compose file for the steps that follow."""
    place = kept.directory(layout)
    files.make_directory(place, mode=0o700)
    copies = {
        service: {"volumes": kept.mounts(service, copy)}
        for service, one in decision.choices.items()
        if one.start is Start.COPY and (copy := kept.current(service, layout))
    }
    override = override_file(decision.unit, layout)
    if copies:
        # JSON is a subset of YAML.
        files.write_atomic(override, json.dumps({"services": copies}, indent=1).encode())
    else:
        override.unlink(missing_ok=True)
    tree = {
        "at": decision.at,
        "services": {
            service: {"start": one.start.name, "reasons": one.reasons, "passed": one.passed}
            for service, one in decision.choices.items()
        },
    }
    files.write_atomic(
        place / f"{decision.unit}.json", json.dumps(tree, indent=1, ensure_ascii=False).encode()
    )


def read(unit: str, layout: Layout) -> Decision:
    """Return the last decision; the site's configuration for all if none can be read."""
    default = Decision(unit, "", {service: Choice(Start.SITE) for service in UNITS[unit]})
    # The file is missing before the first start, and may be of another release.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        tree = json.loads((kept.directory(layout) / f"{unit}.json").read_bytes())
        services = tree["services"]
        choices = {service: _choice(services.get(service, {})) for service in UNITS[unit]}
        return Decision(unit, str(tree["at"]), choices)
    return default


def _choice(tree: Mapping[str, object]) -> Choice:
    reasons = tree.get("reasons")
    lines = tuple(str(line) for line in reasons) if isinstance(reasons, list) else ()
    start = Start[str(tree.get("start", Start.SITE.name))]
    return Choice(start, lines, str(tree.get("passed", "")))


def override_file(unit: str, layout: Layout) -> Path:
    """Return the path of the compose file that mounts copies; it exists if there are any."""
    return kept.directory(layout) / f"{unit}.yml"


def remember(unit: str, host: Host, layout: Layout, *, services: Sequence[str]) -> None:
    """Keep the configuration of services that have started with it; only warn on failure."""
    try:
        with Engine(host.socket) as engine:
            for service in services:
                image = next(iter(needed.require(engine, host, [service]).values()))
                if snapshot := kept.take(service, host, layout, image=image):
                    kept.keep(snapshot, service, layout, at=clock.now())
    except (ApplianceError, OSError) as error:
        logger.warning(
            "%s: no copy of its configuration was kept for a later start: %s", unit, error
        )
