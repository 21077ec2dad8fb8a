"""The start of each accounting program: flags, configuration and log."""

from __future__ import annotations

import argparse
import logging
from datetime import datetime

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from caso import settings
from caso.ignored import IGNORED_FLAGS, IGNORED_SWITCHES
from caso.settings import CasoConfiguration

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of cASO, each with dashes and with underscores."""
    made = parser.add_argument_group("flags of cASO")

    def add(name: str, words: str, **more: object) -> None:
        made.add_argument(*cli.flags(name), help=words, **more)  # type: ignore[arg-type]

    add(
        "config-file",
        "configuration file; of several, later ones win (default: /etc/caso/caso.conf)",
        action="append",
        metavar="PATH",
    )
    add(
        "config-dir",
        "directory of *.conf files, read after --config-file",
        action="append",
        metavar="DIR",
    )
    add("projects", "names or ids of the projects to account, separated by commas", metavar="LIST")
    add(
        "extractor",
        "services to account, separated by commas: nova, cinder, neutron",
        metavar="LIST",
    )
    add("caso-tag", "tag of the projects to account (default: caso)", metavar="TAG")
    add(
        "vo-property",
        "names of the project properties that hold the VO, separated by commas",
        metavar="LIST",
    )
    add(
        "mapping-file",
        "JSON file that maps VOs to projects (default: /etc/caso/voms.json)",
        metavar="PATH",
    )
    add(
        "extract-from",
        "start of the window to account (default: the end of the last run)",
        metavar="TIME",
    )
    add("extract-to", "end of the window to account (default: now)", metavar="TIME")
    add("dry-run", "print the changes, make none", action="store_true", default=None)
    made.add_argument(
        *cli.flags("nodry-run"), dest="dry_run", action="store_false", help="undo --dry-run"
    )
    # --debug itself is common to all programs of the appliance.
    made.add_argument("-d", dest="debug", action="store_true", help="the same as --debug")
    made.add_argument("--nodebug", action="store_true", help="turn off debug in the configuration")
    add("log-file", "log file (default: standard error)", metavar="PATH")
    add("log-dir", "directory of --log-file", metavar="DIR")
    _add_ignored(parser)


def add_since(parser: argparse.ArgumentParser) -> None:
    """Add the flag for projects without a checkpoint."""
    words = (
        "in projects without a checkpoint, account only servers that existed on this date or later,"
        " each from its creation (default: all servers, as cASO does)"
    )
    parser.add_argument("--since", type=_date, metavar="DATE", help=words)


def _date(text: str) -> datetime:
    try:
        return clock.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date; write it like 2026-11-01"
        ) from error


def _add_ignored(parser: argparse.ArgumentParser) -> None:
    """Add the flags that cASO has from oslo.log and oslo.config, without a line in the help."""
    for name in IGNORED_FLAGS:
        parser.add_argument(*cli.flags(name), help=argparse.SUPPRESS)
    for name in (*IGNORED_SWITCHES, "use-json"):  # the last one has an effect: see `configure`
        parser.add_argument(*cli.flags(name), action="store_true", help=argparse.SUPPRESS)
        parser.add_argument(*cli.flags(f"no{name}"), action="store_true", help=argparse.SUPPRESS)


def configure(arguments: argparse.Namespace, *, keeps_log: bool = True) -> CasoConfiguration:
    """Read the configuration, set up the log as it says, and log its warnings.

    Without ``keeps_log`` the log goes to standard error: a verb that only looks leaves the site's
    log file as it is.
    """
    configuration = settings.load(arguments, cli.layout(arguments))
    is_debug = configuration.is_debug and not arguments.nodebug
    cli.configure_log(
        arguments,
        level=logging.DEBUG if is_debug else logging.INFO,
        file=configuration.log_file if keeps_log else None,
        as_json=arguments.use_json,
        system=configuration.system_logs if keeps_log else None,
        warnings=configuration.warnings,
        logger=logger,
    )
    return configuration


def report_check(configuration: CasoConfiguration) -> ExitStatus:
    """Print the report of ``--check-config`` on a configuration without faults."""
    access = configuration.access
    rows = {
        "files": ", ".join(map(str, configuration.paths)),
        "site": f"{configuration.names.site}, service {configuration.names.service}",
        "projects": ", ".join(configuration.projects) or "none",
        "tag": configuration.tag or "none",
        "VO from": f"{', '.join(configuration.vo_properties) or 'the usual properties'},"
        f" then {configuration.mapping.path} ({len(configuration.mapping.entries)} projects)",
        "keystone": f"{access.auth_url} as {access.account} ({access.auth_type})"
        + (f", region {' and '.join(regions)}" if (regions := configuration.regions)[0] else ""),
        "records": "; ".join(messenger.describe() for messenger in configuration.messengers),
        "state": str(configuration.spool),
    }
    print("configuration is good")
    for name, value in rows.items():
        print(f"  {name:9} {value}")
    return ExitStatus.DONE


def compatible_status(status: ExitStatus) -> int:
    """Return the exit status of cASO: 0 even when projects failed, 1 for any other failure."""
    return 0 if status in (ExitStatus.DONE, ExitStatus.PARTLY) else 1
