"""``bdii-update``: publish the output of information providers over LDAP."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import logging
import resource
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import clock, hosts, ldif
from appliance.core.run import cli
from appliance.core.run.cli import Program
from appliance.core.run.errors import ConfigurationError, ExitStatus, UsageError
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout
from appliance.core.run.record import recorded
from bdii import settings as configuration
from bdii.settings import BdiiSettings

if TYPE_CHECKING:
    from bdii.tree import Tree

logger = logging.getLogger(__name__)

# Faulty entries of a source that a single run names; the service names the first few.
_MOST_LINES = 10_000
# Open files of the engine: those of some thousand sources. The usual limit is 1024.
_MOST_FILES = 16_384

# The value of --diff without a URL: the difference from the tree published last.
_PUBLISHED = ""


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
        help="listen here, whatever SLAPD_HOST and BDII_PORT say",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "-d",
        "--daemon",
        "--serve",
        dest="serve",
        action="store_true",
        help="run slapd and update it, in the foreground, until stopped "
        "(default: ask the sources once and print the tree as LDIF)",
    )
    mode.add_argument(
        "--diff",
        nargs="?",
        const=_PUBLISHED,
        metavar="URL",
        help="print the changes of a cycle without making them; with the URL of another BDII, "
        "ldap://HOST:PORT, compare what this one would publish with what the other serves",
    )
    mode.add_argument(
        "--validate",
        action="store_true",
        help="ask the sources once and print what EGI's validator finds in the tree",
    )
    mode.add_argument(
        "--stop-slapd",
        action="store_true",
        help="end the slapd that a killed service has left, which serves the tree published last",
    )
    parser.add_argument("--json", action="store_true", help="with --diff URL: print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Serve, or ask the sources once and print the tree or the differences."""
    layout = cli.layout(arguments)
    if arguments.json and not arguments.diff:
        raise UsageError("--json", "belongs to --diff URL", "add --diff ldap://HOST:PORT")
    with contextlib.ExitStack() as stack:
        if arguments.serve and not arguments.check_config:
            program = f"bdii-{configuration.level_of(arguments.config)}"
            stack.enter_context(recorded(program, layout.runs, is_service=True))
        settings = _read(arguments.config, layout, arguments.listen)
    if arguments.check_config:
        # The service skips wrong lines of site-urls.conf; a check reports them.
        if settings.site is not None and settings.site.problems:
            raise ConfigurationError(settings.site.problems)
        print(f"{arguments.config}: configuration is good: the BDII of a {settings.level}")
        return ExitStatus.DONE
    _log(arguments, settings)
    _allow_open_files()
    if arguments.serve:
        return _serve(arguments, layout, settings)
    if arguments.stop_slapd:
        return _stop_slapd(settings)
    if arguments.validate:
        return _validate(settings)
    if arguments.diff not in (None, _PUBLISHED):
        return _compare(settings, arguments.diff, as_json=arguments.json)
    status = _show(settings, with_differences=arguments.diff is not None)
    if arguments.compat_exit_codes and arguments.diff is None:
        # the upstream program ends with 0 whatever its sources do
        return ExitStatus.DONE
    return status


def attempts(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield the faults of what is published, and of the BDIIs below a site's."""
    settings, _ = configuration.read(arguments.config, layout=cli.layout(arguments))
    from bdii import live_check  # noqa: PLC0415  start-up is a cost

    yield from live_check.findings(settings)


def _allow_open_files() -> None:
    """Raise the soft limit of open files: each source has one for its entries, or two."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else min(_MOST_FILES, most)
    if usual not in (resource.RLIM_INFINITY, -1) and usual < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _stop_slapd(settings: BdiiSettings) -> ExitStatus:
    """End a slapd without a service; raises `Busy` while the service runs."""
    from appliance.core.run import lock  # noqa: PLC0415  start-up is a cost
    from bdii.slapd import process  # noqa: PLC0415

    with lock.hold(settings.state / "lock"):
        has_ended = process.end_leftover(settings)
    print("slapd has been ended" if has_ended else "no slapd of this BDII runs")
    return ExitStatus.DONE


def _serve(arguments: argparse.Namespace, layout: Layout, settings: BdiiSettings) -> int:
    from bdii.service.supervise import supervise  # noqa: PLC0415  start-up is a cost

    def engine(is_another: bool) -> int:
        # not before: the process that waits for the engine stays small
        from bdii.service.daemon import BdiiService  # noqa: PLC0415

        return BdiiService(
            settings,
            lambda: _log(arguments, _read(arguments.config, layout, arguments.listen)),
            # the configuration may have changed since the first one started
            must_read=is_another,
        ).run()

    return supervise(settings, engine, reopen_log=lambda: _log(arguments, settings))


def _log(arguments: argparse.Namespace, settings: BdiiSettings) -> BdiiSettings:
    """Configure logging by the settings, and return them.

    A log file is opened again each time: logrotate may have renamed the open one.
    """
    file = settings.log_file if arguments.serve else None
    cli.configure_log(arguments, level=settings.log_level, file=file)
    return settings


def _endpoint(text: str) -> tuple[str, int] | None:
    if not text:  # an unset variable of docker-compose.yml
        return None
    try:
        address, port = hosts.split_port(text)
        return str(ipaddress.ip_address(address)), port
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ADDRESS:PORT; put an IPv6 address in brackets"
        ) from None


def _read(path: Path, layout: Layout, listen: tuple[str, int] | None) -> BdiiSettings:
    settings, warnings = configuration.read(path, layout=layout)
    if listen is not None:
        settings = replace(settings, addresses=(listen[0],), port=listen[1])
    for warning in warnings:
        logger.warning("%s", warning)
    return settings


def _ask_once(settings: BdiiSettings) -> tuple[Tree, Tree, bool]:
    """Ask all sources; return the published and the wanted tree, and whether there are problems."""
    from bdii.service.collect import collect, modify  # noqa: PLC0415  start-up is a cost
    from bdii.service.plugin_memory import PluginMemory  # noqa: PLC0415
    from bdii.service.state import StateDirectory  # noqa: PLC0415
    from bdii.sources.last_good import merge  # noqa: PLC0415

    stop = threading.Event()
    state = StateDirectory(settings.state)
    last = state.load()
    published = state.published()
    collected = collect(
        settings,
        last,
        size=len(published),
        elapsed=timedelta(),
        before={},
        scratch=None,
        stop=stop,
        most_lines=_MOST_LINES,
    )
    merged, _, problems = merge(collected.last, settings.expiry)
    before = PluginMemory(settings.state).edits
    edited = modify(settings, merged, before=before, scratch=None, stop=stop)
    wanted = edited.wanted
    problems = [*collected.problems, *problems, *edited.problems]
    for problem in problems:
        logger.warning("%s", problem)
    return published, wanted, bool(problems)


def _validate(settings: BdiiSettings) -> ExitStatus:
    from bdii.validation import validate  # noqa: PLC0415  start-up is a cost

    _, wanted, has_problems = _ask_once(settings)
    validation = validate(wanted, schemas=settings.schemas, now=clock.now())
    for line in validation.lines:
        print(line)
    is_good = not (has_problems or validation.has_errors)
    return ExitStatus.DONE if is_good else ExitStatus.PARTLY


def _compare(settings: BdiiSettings, url: str, *, as_json: bool) -> ExitStatus:
    """Compare with another BDII: 0 if both have the same entries, 1 if they differ."""
    from bdii import comparison  # noqa: PLC0415  start-up is a cost

    other = comparison.OtherBdii.of_url(url)
    there = other.read()
    _, wanted, has_problems = _ask_once(settings)
    here = other.part_of(wanted)
    found = list(comparison.compare(here, there))
    if as_json:
        print(json.dumps(comparison.as_json(url, here, there, found), indent=1))
    else:
        for line in comparison.table(url, here, there, found):
            print(line)
    return ExitStatus.PARTLY if found or has_problems else ExitStatus.DONE


def _show(settings: BdiiSettings, *, with_differences: bool) -> ExitStatus:
    from bdii import plan, tree  # noqa: PLC0415  start-up is a cost

    published, wanted, has_problems = _ask_once(settings)
    if with_differences:
        for line in plan.describe(plan.make(published, wanted)):
            print(line)
    else:
        sys.stdout.writelines(ldif.write(wanted[dn] for dn in tree.sorted_by_depth(wanted)))
    return ExitStatus.PARTLY if has_problems else ExitStatus.DONE


PROGRAM = Program(
    name="bdii-update",
    description="Publish the output of information providers over LDAP: run slapd and keep its "
    "tree up to date.",
    add_arguments=add_arguments,
    run=run,
    attempts=attempts,
    attempted_row="C50",
)
