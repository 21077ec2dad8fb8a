"""``appliance service STEP UNIT``: the steps of the systemd units of the services.

    ExecStartPre    prepare   checks images and configuration, and chooses the configuration
    ExecStart       run       executes docker-compose, which becomes the unit's main process
    ExecStartPost   ready     returns when the service answers, or fails with the reason
    ExecReload      reload    checks, and replaces the containers only if there are no errors
    ExecStop        stop      stops the containers, while docker-compose still watches them
    ExecStopPost    clean     stops the containers that a failed start has left

docker-compose never gets a configuration that does not pass its check: the service starts with the
copy that passed last, or not at all (`appliance.admin.service.choose`). If the last service of a
unit cannot start, the unit ends with status 78, which systemd calls CONFIG and does not restart;
the resource's BDII is left running then. The errors are in the journal, in the unit's status line
and in `appliance status`.

docker-compose is called as for jobs (`appliance.admin.settings.compose_command`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from appliance.admin import settings
from appliance.admin.bdii import search
from appliance.admin.inventory import UNITS
from appliance.admin.runtime import compose, compose_output
from appliance.admin.runtime.engine import Engine
from appliance.admin.service import choose, kept, notify, secrets
from appliance.admin.service.choose import Choice, Decision, Start
from appliance.admin.settings import Host
from appliance.admin.state import mark
from appliance.admin.wait import wait
from appliance.admin.wait.polling import ServiceWatch
from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ConfigurationError, ExitStatus, Problem, Unavailable
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)

BDII = "bdii"
BACKEND = "cloudkeeper-os"
CONFIGURATION = 78
"""Exit status of a start that a restart would not help.

EX_CONFIG of sysexits.h; the units have it as RestartPreventExitStatus.
"""
_ANSWER = 120
"""Seconds to wait for an answer of a service; less than TimeoutStartSec of the units (300)."""
_ENDS, _PAUSE = 30.0, 0.1
"""Seconds to wait for the end of the main process if nothing can start, and between polls."""
_GRACE = {BDII: ("-t", "8")}
"""Flags of `docker-compose stop` with the grace period; by default that of the compose file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument that all steps share."""
    words = f"unit of the step: {', '.join(UNITS)}"
    parser.add_argument("unit", choices=UNITS, metavar="UNIT", help=words)


def _load(arguments: argparse.Namespace, *, is_to_stop: bool = False) -> Host:
    host = settings.load(cli.layout(arguments))
    if not is_to_stop:
        mark.require(cli.layout(arguments))
    for warning in host.warnings:
        logger.warning("%s", warning)
    settings.require_files(host)
    return host


def _prepare(arguments: argparse.Namespace) -> ExitStatus:
    """Remove containers that have ended, and choose the configuration of each service.

    Without ``-s``, `rm` does not touch containers that the engine has restarted after
    docker-compose ended; `up` attaches to them.
    """
    unit, layout = arguments.unit, cli.layout(arguments)
    try:
        host = _load(arguments)
    except ConfigurationError as error:
        cli.report("appliance", error)
        return ExitStatus.DONE  # the next step fails with CONFIGURATION, which prevents restarts
    if arguments.check_config:
        return ExitStatus.DONE
    notify.status("checks its configuration")
    # Before any container is touched: the old ones may serve until the new ones start.
    secrets.prepare(unit, layout, is_start=True)
    decision = choose.decide(unit, host, layout, at=clock.now())
    with Engine(host.socket) as engine:
        # Before the first start there is nothing to remove, and docker-compose takes a second.
        if any(state.service in UNITS[unit] for state in engine.services()):
            _compose(host, "rm", "-v", "-f", *UNITS[unit])
        if BACKEND in UNITS[unit]:  # releases of 2017 had `docker run --name` start it
            engine.remove_ended(BACKEND)
    if idle := [service for service in UNITS[unit] if service not in decision.started]:
        # After a boot the engine has restarted the containers, also those that must not run now.
        _compose(host, "rm", "-v", "-f", "-s", *idle)
    choose.save(decision, layout)
    for line in decision.lines:
        logger.error("%s", line)
    if decision.started and UNITS[unit][-1] not in decision.started:
        # The next step ends the unit; the other services run without it, detached.
        _compose(host, *_overrides(host, unit, layout), "up", "-d", "--no-build", *decision.started)
    return ExitStatus.DONE


def _run(arguments: argparse.Namespace) -> NoReturn:
    """Execute `docker-compose up`, so that systemd watches and signals that process."""
    layout = cli.layout(arguments)
    try:
        host = _load(arguments)
    except ConfigurationError as error:
        notify.status(str(error))
        cli.report("appliance", error)
        raise SystemExit(CONFIGURATION) from None
    decision = choose.read(arguments.unit, layout)
    notify.status(_state(decision))
    if UNITS[arguments.unit][-1] not in decision.started:
        raise SystemExit(CONFIGURATION)
    command = _up(host, layout, arguments.unit, *decision.started)
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores SIGPIPE, which an executed program inherits.
    ignored = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        environment = compose_output.environment(host)
        os.execve(command[0], command, environment)  # noqa: S606  no shell is wanted
    except OSError as error:
        signal.signal(signal.SIGPIPE, ignored)
        raise compose.not_started(host.compose, error) from error


def _up(host: Host, layout: Layout, unit: str, *words: str) -> list[str]:
    overrides = _overrides(host, unit, layout)
    return settings.compose_command(host, *overrides, "up", "--no-build", "--no-color", *words)


def _overrides(host: Host, unit: str, layout: Layout) -> list[str]:
    """Return the flags for logs, and those that mount copies in place of the configuration."""
    path = choose.override_file(unit, layout)
    copies = ["-f", str(path)] if path.exists() else []
    return [*settings.log_overrides(host), *copies, *secrets.flags(unit, layout)]


def _add_ready_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "--timeout",
        type=int,
        metavar="SECONDS",
        default=_ANSWER,
        help=f"seconds to wait (default: {_ANSWER})",
    )
    parser.add_argument(
        "--pid", type=int, metavar="PID", help="stop waiting if this process has ended"
    )


def _ready(arguments: argparse.Namespace) -> ExitStatus:
    """Wait until the service answers, and keep a copy of its configuration.

    Raises:
        ConfigurationError: The service could not start; each error is listed.
        Unavailable: The service does not answer.

    """
    host, unit, layout = _load(arguments), arguments.unit, cli.layout(arguments)
    decision = choose.read(unit, layout)
    if UNITS[unit][-1] not in decision.started:
        _outlast(arguments.pid)
        raise ConfigurationError([Problem(Path(), 0, "", line) for line in decision.lines])
    _wait(host, unit, timeout=arguments.timeout, pid=arguments.pid)
    _keep(host, layout, decision)
    return ExitStatus.DONE


def _outlast(pid: int | None) -> None:
    """Wait for the end of the main process.

    If this step failed first, systemd would kill that process and not see its exit status.
    """
    deadline = time.monotonic() + _ENDS
    while pid is not None and Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _wait(host: Host, unit: str, *, timeout: int, pid: int | None = None) -> None:
    service = UNITS[unit][-1]
    watch = ServiceWatch(host.socket, service, pid)
    if unit == BDII and host.listen is None:  # IPAddressAllow= of the unit forbids others
        search.wait_for("localhost", search.PORT, watch=watch, timeout=timeout)
    else:
        wait.wait_for(service, watch=watch, timeout=timeout)


def _keep(host: Host, layout: Layout, decision: Decision) -> None:
    """Keep a copy of the configuration of each service that runs with the files in ``/etc``."""
    own = [service for service, one in decision.choices.items() if one.start is Start.SITE]
    choose.remember(decision.unit, host, layout, services=own)


def _reload(arguments: argparse.Namespace) -> ExitStatus:
    """Check, then replace the containers.

    Raises:
        ConfigurationError: The configuration does not pass its check; nothing was touched.

    """
    host = _load(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    layout, unit = cli.layout(arguments), arguments.unit
    try:
        replace(host, layout, unit, UNITS[unit])
    except ConfigurationError as error:
        notify.status(f"a reload failed: {error.problems[0]}; {_state(choose.read(unit, layout))}")
        raise
    return ExitStatus.DONE


def _state(decision: Decision) -> str:
    """Return the status line of a running unit."""
    return (
        "; ".join(decision.lines) or "runs with the configuration in /etc, which passed its check"
    )


def replace(host: Host, layout: Layout, unit: str, services: Sequence[str]) -> None:
    """Replace the containers of running services, one after the other.

    If a new container does not start although its configuration passed, the copy that passed last
    is used instead.

    Raises:
        ConfigurationError: A configuration does not pass its check; nothing was touched.
        Unavailable: A new container did not start.

    """
    secrets.prepare(unit, layout, is_start=False)
    choose.require_good(services, host, layout)
    before = choose.read(unit, layout)
    site = {
        service: Choice(Start.SITE) if service in services else one
        for service, one in before.choices.items()
    }
    decision = Decision(unit, clock.now().isoformat(timespec="seconds"), site)
    choose.save(decision, layout)
    try:
        _recreate(host, layout, decision, services)
    except Unavailable as error:
        _give_back(host, layout, decision, services, reason=str(error))
        raise
    notify.status(_state(decision))
    _keep(host, layout, decision)


def _recreate(host: Host, layout: Layout, decision: Decision, services: Sequence[str]) -> None:
    # One after the other: the unit's docker-compose ends if it watches no container any more. The
    # site's BDII is the last, when the others answer: so it starts fast, and finds its source.
    for service in services:
        words = ("up", "-d", "--no-deps", "--no-build", "--force-recreate", service)
        if _compose(host, *_overrides(host, decision.unit, layout), *words):
            raise Unavailable(
                service, "its new container cannot be started", f"see appliance logs {service}"
            )
        if service != services[-1]:
            watch = ServiceWatch(host.socket, service, None)
            wait.wait_for(service, watch=watch, timeout=_ANSWER)
    _wait(host, decision.unit, timeout=_ANSWER)


def _give_back(
    host: Host, layout: Layout, decision: Decision, services: Sequence[str], *, reason: str
) -> None:
    """Replace services that did not start by their copies, if they have another one.

    A new version that does not start with the present configuration does not with a copy of it.
    """
    copies = {
        service: copy
        for service in services
        if (copy := kept.current(service, layout)) and not kept.is_same(service, copy, host, layout)
    }
    if not copies:
        return
    chosen = {
        service: Choice(Start.COPY, (reason,), kept.passed_at(copy))
        for service, copy in copies.items()
    }
    back = Decision(decision.unit, decision.at, {**decision.choices, **chosen})
    choose.save(back, layout)
    notify.status("; ".join(back.lines))
    _recreate(host, layout, back, list(copies))


def _stop(arguments: argparse.Namespace) -> ExitStatus:
    """Stop the containers, unless docker-compose has ended by itself.

    It ends when all containers that it watches have died. The engine has restarted them by then,
    and the next start attaches to them.
    """
    # systemd sets MAINPID for ExecStop only while the main process runs.
    if not os.environ.get("MAINPID"):
        return ExitStatus.DONE
    return _stopped(arguments)


def halt(host: Host, services: Sequence[str]) -> None:
    """Stop containers that no docker-compose watches.

    Raises:
        Unavailable: They cannot be stopped.

    """
    if _compose(host, "stop", *reversed(services), output=subprocess.DEVNULL):
        name = " and ".join(services)
        raise Unavailable(name, "cannot be stopped", "stop its container, which docker ps shows")


def _clean(arguments: argparse.Namespace) -> ExitStatus:
    """Stop the containers of a failed start: systemd does not call ExecStop after one."""
    ended = os.environ.get("EXIT_CODE", ""), os.environ.get("EXIT_STATUS", "")
    # docker-compose ends with 1 if a service does not start, and leaves the others running.
    if len(UNITS[arguments.unit]) > 1 and ended == ("exited", "1"):
        return _stopped(arguments)
    return ExitStatus.DONE


def _stopped(arguments: argparse.Namespace) -> ExitStatus:
    grace = _GRACE.get(arguments.unit, ())
    host = _load(arguments, is_to_stop=True)
    status = _compose(host, "stop", *grace, *reversed(UNITS[arguments.unit]))
    return ExitStatus.DONE if status == 0 else ExitStatus.NOTHING


def _compose(host: Host, *words: str, output: int | None = None) -> int:
    """Run docker-compose and return its exit status; by default it shares our output."""
    command = settings.compose_command(host, *words)
    try:
        done = subprocess.run(
            command,
            env=compose_output.environment(host),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    except OSError as error:
        raise compose.not_started(host.compose, error) from error
    return done.returncode


def _step(
    name: str,
    words: str,
    run: Callable[[argparse.Namespace], int],
    arguments: Callable[[argparse.ArgumentParser], None] = add_arguments,
) -> cli.Program:
    return cli.Program(name, words, arguments, run)


VERB = cli.Program(
    "service",
    "Run a step of a service's systemd unit, which calls it.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        _step("reload", "Check, then replace the containers of a unit.", _reload),
        _step("prepare", "Check images and configuration before a start.", _prepare),
        _step("run", "Run docker-compose up for a unit's services.", _run),
        _step("ready", "Wait until a unit's service answers.", _ready, _add_ready_arguments),
        _step("stop", "Stop a unit's containers.", _stop),
        _step("clean", "Stop the containers that a failed start has left.", _clean),
    ),
)
