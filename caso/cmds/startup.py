"""The flags that all accounting programs share with cASO's."""

from __future__ import annotations

import argparse
import logging

from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus
from caso import settings
from caso.ignored import IGNORED_FLAGS, IGNORED_SWITCHES
from caso.settings import CasoConfiguration

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add cASO's flags, each with dashes and with underscores."""
    made = parser.add_argument_group("as cASO has them")

    def add(name: str, words: str, **more: object) -> None:
        made.add_argument(*cli.flags(name), help=words, **more)  # type: ignore[arg-type]

    add(
        "config-file",
        "configuration file; may be repeated, later ones win",
        action="append",
        metavar="PATH",
    )
    add(
        "config-dir",
        "directory of *.conf files, read after the files",
        action="append",
        metavar="DIR",
    )
    add("projects", "projects to account, by name or id, separated by commas", metavar="LIST")
    add("extractor", "what to account (nova)", metavar="LIST")
    add("caso-tag", "tag of projects to account", metavar="TAG")
    add("vo-property", "properties of projects that hold the VO", metavar="LIST")
    add("mapping-file", "file that maps VOs to projects", metavar="PATH")
    add(
        "extract-from",
        "account from this time on (default: from where the last run ended)",
        metavar="TIME",
    )
    add("extract-to", "account up to this time (default: now)", metavar="TIME")
    add("dry-run", "print what would be done, change nothing", action="store_true", default=None)
    made.add_argument(
        *cli.flags("nodry-run"), dest="dry_run", action="store_false", help="undo --dry-run"
    )
    made.add_argument("-d", dest="debug", action="store_true", help="as --debug")
    made.add_argument(
        "--nodebug", action="store_true", help="no debugging, whatever the configuration says"
    )
    add("log-file", "log to this file", metavar="PATH")
    add("log-dir", "directory of --log-file", metavar="DIR")
    _add_ignored(parser)


def _add_ignored(parser: argparse.ArgumentParser) -> None:
    """Add the flags that cASO has from oslo.log and oslo.config, without a line in the help."""
    for name in IGNORED_FLAGS:
        parser.add_argument(*cli.flags(name), help=argparse.SUPPRESS)
    for name in (*IGNORED_SWITCHES, "use-json"):  # the last one has an effect: see `configure`
        parser.add_argument(*cli.flags(name), action="store_true", help=argparse.SUPPRESS)
        parser.add_argument(*cli.flags(f"no{name}"), action="store_true", help=argparse.SUPPRESS)


def configure(arguments: argparse.Namespace) -> CasoConfiguration:
    """Read the configuration, set up logging as it says, and log its warnings."""
    configuration = settings.load(arguments, cli.layout(arguments))
    is_debug = arguments.debug or (configuration.is_debug and not arguments.nodebug)
    log.configure(
        level=logging.DEBUG if is_debug else logging.INFO,
        file=configuration.log_file,
        console=configuration.log_file is None,
        as_json=arguments.log_json or arguments.use_json,
    )
    for problem in configuration.warnings:
        logger.warning("%s", problem)
    return configuration


def report_check(configuration: CasoConfiguration) -> ExitStatus:
    """Print what ``--check-config`` finds in a configuration that can be read."""
    access = configuration.access
    rows = {
        "files": ", ".join(map(str, configuration.paths)),
        "site": f"{configuration.names.site}, service {configuration.names.service}",
        "projects": ", ".join(configuration.projects) or "none",
        "tag": configuration.tag or "none",
        "VO from": f"{', '.join(configuration.vo_properties) or 'the usual properties'},"
        f" then {configuration.mapping.path} ({len(configuration.mapping.entries)} projects)",
        "keystone": f"{access.auth_url} as {access.account} ({access.auth_type})"
        + (f", region {access.region}" if access.region else ""),
        "records": f"cloud v{configuration.version}, {configuration.max_size} a message, to {configuration.output}"
        if configuration.version
        else "thrown away (noop)",
        "state": str(configuration.spool),
    }
    print("configuration is good")
    for name, value in rows.items():
        print(f"  {name:9} {value}")
    return ExitStatus.DONE


def compatible_status(status: ExitStatus) -> int:
    """Return cASO's exit status: it calls a run done even when projects failed, and 1 whatever made it stop."""
    return 0 if status in (ExitStatus.DONE, ExitStatus.PARTLY) else 1
