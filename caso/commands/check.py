"""`caso check`: try everything that accounting needs, and change nothing."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from appliance.core.run import cli, output
from appliance.core.run.errors import ExitStatus
from caso.cmds import startup

if TYPE_CHECKING:
    from caso.live_check import Result

_MARKS = {"good": "good    ", "warning": "warning ", "fault": "FAULT   "}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each check; the exit status is 3 if not even the login works."""
    configuration = startup.configure(arguments, keeps_log=False)
    if arguments.check_config:
        return startup.report_check(configuration)
    from caso import live_check  # noqa: PLC0415  loads the OpenStack clients

    results = []
    for result in live_check.results(configuration):
        results.append(result)
        if not arguments.json:
            output.line(f"{_MARKS[result.state]}{result.subject}: {result.text}")
    counted = Counter(result.state for result in results)
    if arguments.json:
        output.document([_as_json(result) for result in results])
    else:
        faults, warnings = counted["fault"], counted["warning"]
        output.line(
            f"{counted['good']} good, {output.count(warnings, 'warning')},"
            f" {output.count(faults, 'fault')}"
        )
    if any(result.is_final for result in results):
        return ExitStatus.NOTHING
    return ExitStatus.PARTLY if counted["fault"] else ExitStatus.DONE


def _as_json(result: Result) -> dict[str, str]:
    return {
        "check": result.name,
        "state": result.state,
        "subject": result.subject,
        "text": result.text,
    }


VERB = cli.Program(
    "check",
    "Try login, rights, VOs, clocks and spool, and change nothing.",
    _add_arguments,
    _run,
)
