"""``appliance service STEP UNIT``: what the systemd units of the services call, one step a line.

    ExecStartPre    prepare   removes what has ended, checks images and files
    ExecStart       run       becomes docker-compose, whose process is then the unit's main process
    ExecStartPost   ready     returns when the service answers, or fails with the reason
    ExecStop        stop      stops the containers, while docker-compose still watches them
    ExecStopPost    clean     stops what a failed start has left

Docker-compose is called as jobs call it (`appliance.admin.settings.compose_command`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

from appliance.admin import settings
from appliance.admin.bdii import verb as bdii
from appliance.admin.engine import Engine
from appliance.admin.images import needed
from appliance.admin.jobs import UNITS
from appliance.admin.mounts import choice
from appliance.admin.settings import Host
from appliance.admin.wait import verb as wait
from appliance.admin.watch import Watch
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, LocalFailure, Unavailable

logger = logging.getLogger(__name__)

BDII = "bdii"
BACKEND = "cloudkeeper-os"
_ANSWER = 120
"""Seconds that a service gets until it answers, without TimeoutStartSec of the units (300)."""
_GRACE = {BDII: ("-t", "8")}
"""What `stop` of docker-compose is told of the time that containers get; else it is the compose file's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument that all steps share."""
    parser.add_argument("unit", choices=UNITS, metavar="UNIT", help=", ".join(UNITS))


def _load(arguments: argparse.Namespace) -> Host:
    host = settings.load(cli.layout(arguments))
    for warning in host.warnings:
        logger.warning("%s", warning)
    settings.require_files(host)
    return host


def _prepare(arguments: argparse.Namespace) -> ExitStatus:
    """Remove containers that have ended, and refuse what docker-compose would get wrong.

    Without ``-s``, `rm` leaves alone what the engine has started again after docker-compose ended;
    `up` attaches to it. An image that is not here docker-compose would fetch from Docker's registry.
    """
    host, services = _load(arguments), UNITS[arguments.unit]
    if BACKEND in services:
        choice.check(choice.variables(cli.layout(arguments)), cli.layout(arguments))
    if arguments.check_config:
        return ExitStatus.DONE
    with Engine(host.socket) as engine:
        _compose(host, "rm", "-v", "-f", *services)
        if BACKEND in services:  # releases of 2017 had `docker run --name` start it
            engine.remove_ended(BACKEND)
        needed.require(engine, host, services)
    return ExitStatus.DONE


def _run(arguments: argparse.Namespace) -> NoReturn:
    """Become `docker-compose up`: systemd watches this process, and sends it signals."""
    host = _load(arguments)
    command = settings.compose_command(host, "up", "--no-build", "--no-color", *UNITS[arguments.unit])
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and children inherit that
    try:
        os.execve(command[0], command, _environment(host))  # noqa: S606  no shell is wanted
    except OSError as error:
        raise LocalFailure.from_os(error, subject=command[0]) from error


def _add_ready_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument("--timeout", type=int, metavar="SECONDS", default=_ANSWER, help=f"default: {_ANSWER}")
    parser.add_argument("--pid", type=int, metavar="PID", help="give up when this process has ended")


def _ready(arguments: argparse.Namespace) -> ExitStatus:
    """Wait until the service answers; raises `Unavailable` with the reason when it will not."""
    host, service = _load(arguments), UNITS[arguments.unit][-1]
    watch = Watch(host.socket, service, arguments.pid)
    if arguments.unit == BDII:
        bdii.wait_for("localhost", bdii.PORT, watch=watch, timeout=arguments.timeout)
    else:
        wait.wait_for(service, watch=watch, timeout=arguments.timeout)
    return ExitStatus.DONE


def _stop(arguments: argparse.Namespace) -> ExitStatus:
    """Stop the containers, unless docker-compose has ended by itself.

    It does so when all that it watches has died, and the engine has started that again by then:
    the next start attaches to it.
    """
    if not os.environ.get("MAINPID"):
        return ExitStatus.DONE
    return _stopped(arguments)


def _clean(arguments: argparse.Namespace) -> ExitStatus:
    """Stop what a failed start has left of several services; a later stop would not reach it."""
    ended = os.environ.get("EXIT_CODE", ""), os.environ.get("EXIT_STATUS", "")
    if len(UNITS[arguments.unit]) > 1 and ended == ("exited", "1"):
        return _stopped(arguments)
    return ExitStatus.DONE


def _stopped(arguments: argparse.Namespace) -> ExitStatus:
    grace = _GRACE.get(arguments.unit, ())
    status = _compose(_load(arguments), "stop", *grace, *reversed(UNITS[arguments.unit]))
    return ExitStatus.DONE if status == 0 else ExitStatus.NOTHING


def _compose(host: Host, *words: str) -> int:
    """Run docker-compose and return its exit status."""
    command = settings.compose_command(host, *words)
    try:
        done = subprocess.run(command, env=_environment(host), stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        remedy = "install it, or name it as engine: compose in /etc/fedcloud/appliance.yaml"
        raise Unavailable(command[0], (error.strerror or str(error)).lower(), remedy) from error
    return done.returncode


def _environment(host: Host) -> dict[str, str]:
    """Return docker-compose's environment; the units keep root's home directory out of reach."""
    environment = dict(settings.compose_environment(host))
    return environment | {"HOME": os.environ.get("HOME") or environment["HOME"]}


def _step(
    name: str,
    words: str,
    run: Callable[[argparse.Namespace], int],
    arguments: Callable[[argparse.ArgumentParser], None] = add_arguments,
) -> cli.Program:
    return cli.Program(name, words, arguments, run)


VERB = cli.Program(
    "service",
    "Does the steps of the services' systemd units.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        _step("prepare", "Checks what a start needs, before it.", _prepare),
        _step("run", "Becomes docker-compose up of a unit's services.", _run),
        _step("ready", "Waits until a unit's service answers.", _ready, _add_ready_arguments),
        _step("stop", "Stops a unit's containers.", _stop),
        _step("clean", "Stops what a failed start has left.", _clean),
    ),
)
