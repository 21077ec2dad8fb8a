"""``appliance restart SERVICE``: check the configuration, then replace the running service.

If the check fails, the running service is not touched. `systemctl restart`, in contrast, stops it
first, and then starts it with the copy of the configuration that passed its check last.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence

from appliance.admin import changing, settings
from appliance.admin.inventory import SERVICES, UNITS
from appliance.admin.runtime import native
from appliance.admin.service import choose, steps
from appliance.core.run import cli
from appliance.core.run.errors import (
    ConfigurationError,
    ExitStatus,
    Problem,
    Unavailable,
    UsageError,
)
from appliance.core.run.layout import Layout

_SYSTEMCTL = "/usr/bin/systemctl"
_NAMES = tuple(dict.fromkeys([*UNITS, *SERVICES]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    words = f"service or unit to restart: {', '.join(_NAMES)}"
    parser.add_argument("name", choices=_NAMES, metavar="SERVICE", help=words)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Check and replace.

    Raises:
        Busy: Another verb changes the host.
        ConfigurationError: The configuration does not pass its check; nothing was touched.

    """
    name, layout = arguments.name, cli.layout(arguments)
    host = settings.load(layout)
    if not host.is_native:
        settings.require_files(host)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError(name, "only root can restart a service", f"sudo appliance restart {name}")
    if line := host.off(name):
        raise ConfigurationError([Problem(host.settings_file, 0, "flows", line)])
    services = UNITS.get(name, (name,))
    with changing.alone(layout):
        _replace(name, services, host, layout)
    where = layout.path("/etc")
    print(f"{', '.join(services)}: run with the configuration in {where}")
    return ExitStatus.DONE


def _replace(name: str, services: Sequence[str], host: settings.Host, layout: Layout) -> None:
    """Check the configuration of services, then replace them; the caller holds the lock."""
    if host.is_native:
        choose.require_good(services, host, layout)
        # A restart of bdii.service restarts cloudbdii.service with it (PartOf=).
        _systemctl("restart", native.UNITS[services[-1]])
        return
    unit = SERVICES.get(name, name)
    is_active = (
        subprocess.run(
            [_SYSTEMCTL, "is-active", "--quiet", f"{unit}.service"], check=False
        ).returncode
        == 0
    )
    if is_active and name not in UNITS:
        steps.replace(host, layout, unit, services)
    else:
        choose.require_good(services, host, layout)
        if not is_active:
            # The engine may run the containers while systemd waits to restart the unit, as after a
            # replacement. A start would attach to them, and leave them their old configuration.
            steps.halt(host, services)
        # Through systemctl, because only a process of the unit can set its status line.
        _systemctl("reload" if is_active else "restart", unit)


def _systemctl(verb: str, unit: str) -> None:
    done = subprocess.run(
        [_SYSTEMCTL, verb, f"{unit}.service"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable(
            unit,
            f"systemctl {verb} failed",
            f"see appliance logs {unit} and systemctl status {unit}",
        )


VERB = cli.Program(
    "restart", "Check the configuration of a service, then replace it.", add_arguments, run
)
