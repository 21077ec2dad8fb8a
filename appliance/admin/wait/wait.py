"""``appliance wait SERVICE``: wait until a service passes the health check in its container.

On a host without containers, wait until it accepts connections. The backend's unit there calls the
command, so that its start ends with the first answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from appliance.admin import settings
from appliance.admin.inventory import SERVICES
from appliance.admin.runtime import native
from appliance.admin.wait.polling import ServiceWatch, wait_until
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus

_PAUSE = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    words = f"service to wait for: {', '.join(SERVICES)}"
    parser.add_argument("service", choices=SERVICES, metavar="SERVICE", help=words)
    parser.add_argument(
        "--timeout",
        type=int,
        metavar="SECONDS",
        default=120,
        help="seconds to wait (default: 120)",
    )
    parser.add_argument(
        "--pid",
        type=int,
        metavar="PID",
        help="stop waiting if this process, which runs the service, has ended",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Wait; return the exit status."""
    service = arguments.service
    layout = cli.layout(arguments)
    host = settings.load(layout)
    watch = ServiceWatch(host.engine_socket, service, arguments.pid)
    if host.is_native:
        _wait_until(lambda: native.amiss(service, layout), service, watch, arguments.timeout)
    else:
        wait_for(service, watch=watch, timeout=arguments.timeout)
    return ExitStatus.DONE


def wait_for(service: str, *, watch: ServiceWatch, timeout: int) -> None:
    """Wait until a service passes its health check, at most ``timeout`` seconds.

    Raises:
        Unavailable: It does not pass in time, or cannot start.

    """
    _wait_until(
        lambda: "" if watch.passes_check() else "it does not pass its health check",
        service,
        watch,
        timeout,
    )


def _wait_until(amiss: Callable[[], str], service: str, watch: ServiceWatch, timeout: int) -> None:
    wait_until(amiss, subject=service, service=service, timeout=timeout, pause=_PAUSE, watch=watch)


VERB = cli.Program("wait", "Wait until a service answers.", add_arguments, run)
