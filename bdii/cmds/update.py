"""``bdii-update``: publishes what information providers say, by LDAP."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import sys
import threading
from dataclasses import replace
from pathlib import Path

from appliance.core import ldif
from appliance.core.run import cli, log
from appliance.core.run.cli import Program
from appliance.core.run.errors import ConfigurationError, ExitStatus
from appliance.core.run.layout import Layout
from appliance.core.run.record import failure_recorded
from bdii import settings as configuration
from bdii.settings import BdiiSettings

logger = logging.getLogger(__name__)


def main() -> int:
    """Run ``bdii-update``."""
    return cli.main(PROGRAM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "-c", "--config", type=Path, required=True, metavar="FILE", help="configuration, bdii.conf"
    )
    parser.add_argument(
        "--listen",
        type=_endpoint,
        metavar="ADDRESS:PORT",
        help="address and port, in place of those of the configuration",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "-d", "--daemon", "--serve", dest="serve", action="store_true",
        help="run slapd and update it, in the foreground, until stopped",
    )  # fmt: skip
    mode.add_argument(
        "--diff", action="store_true", help="print what a cycle would change, change nothing"
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Serve, or ask the sources once and print the tree or the differences."""
    layout = cli.layout(arguments)
    with contextlib.ExitStack() as stack:
        if arguments.serve and not arguments.check_config:
            program = f"bdii-{configuration.level_of(arguments.config)}"
            stack.enter_context(failure_recorded(program, layout.runs))
        settings = _read(arguments.config, layout, arguments.listen)
    if arguments.check_config:
        if settings.site is not None and settings.site.problems:
            raise ConfigurationError(settings.site.problems)
        print(f"{arguments.config}: in order, for the BDII of a {settings.level}")
        return ExitStatus.DONE
    _log(arguments, settings)
    if arguments.serve:
        from bdii.service.daemon import BdiiService  # noqa: PLC0415  start-up is a cost

        return BdiiService(
            settings, lambda: _log(arguments, _read(arguments.config, layout, arguments.listen))
        ).run()
    return _show(settings, with_differences=arguments.diff)


def _log(arguments: argparse.Namespace, settings: BdiiSettings) -> BdiiSettings:
    """Log as the configuration says; a file is opened anew, since the old one may have been moved away."""
    level = cli.log_level(arguments, settings.log_level)
    has_file = arguments.serve and settings.log_file is not None
    file = settings.log_file if has_file else None
    log.configure(level=level, file=file, console=not has_file, as_json=arguments.log_json)
    return settings


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:  # noqa: PLR2004  TCP's
        raise ValueError(text)
    return int(text)


def _endpoint(text: str) -> tuple[str, int] | None:
    if not text:  # a setting that is not set
        return None
    address, _, port = text.rpartition(":")
    try:
        return str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))), _port(port)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no ADDRESS:PORT") from None


def _read(path: Path, layout: Layout, listen: tuple[str, int] | None) -> BdiiSettings:
    settings, warnings = configuration.read(path, layout=layout)
    if listen is not None:
        settings = replace(settings, addresses=(listen[0],), port=listen[1])
    for warning in warnings:
        logger.warning("%s", warning)
    return settings


def _show(settings: BdiiSettings, *, with_differences: bool) -> ExitStatus:
    from bdii import plan, tree  # noqa: PLC0415  start-up is a cost
    from bdii.service.collect import gather  # noqa: PLC0415
    from bdii.service.state import StateDirectory  # noqa: PLC0415

    store = StateDirectory(settings.state)
    last, _ = store.load()
    gathered = gather(settings, last, before={}, scratch=None, stop=threading.Event())
    for problem in gathered.problems:
        logger.warning("%s", problem)
    if with_differences:
        for line in plan.describe(plan.make(store.published(), gathered.wanted)):
            print(line)
    else:
        wanted = gathered.wanted
        sys.stdout.writelines(ldif.write(wanted[dn] for dn in tree.sorted_by_depth(wanted)))
    return ExitStatus.PARTLY if gathered.problems else ExitStatus.DONE


PROGRAM = Program(
    name="bdii-update",
    description="Publishes what information providers say, by LDAP: runs slapd and keeps it up to date.",
    add_arguments=add_arguments,
    run=run,
)
