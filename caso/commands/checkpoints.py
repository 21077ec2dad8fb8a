"""`caso checkpoints`: show how far accounting has come, and what waits."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import datetime

from appliance.core import clock, lastrun
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from caso.checkpoint import Checkpoints
from caso.cmds import startup
from caso.settings import CasoConfiguration


def _show(arguments: argparse.Namespace) -> ExitStatus:
    """Print each checkpoint with its time and age, and each unfinished batch.

    A broken file or an unfinished batch makes the exit status 1.
    """
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    at = clock.now().replace(microsecond=0)
    status = ExitStatus.DONE
    for line in _of_ledger(configuration, at):
        print(line)
    for line, is_good in (*_of_files(configuration, at), *_waiting(configuration)):
        print(line)
        status = status if is_good else ExitStatus.PARTLY
    return status


def _of_ledger(configuration: CasoConfiguration, at: datetime) -> Iterator[str]:
    """Yield a line for each kind and destination of a project."""
    from caso.ledger.ledger import Ledger  # noqa: PLC0415  loads SQLite

    with Ledger(configuration.ledger, read_only=True) as ledger:
        for stream, reached in ledger.windows.all().items():
            if reached.checkpoint is not None:
                place = f"{stream.origin.project}{' in ' * bool(stream.origin.region)}"
                lead = f"project {place}{stream.origin.region}, {stream.kind} to"
                yield f"{lead} {stream.destination}: {_accounted(reached.checkpoint, at)}"


def _of_files(configuration: CasoConfiguration, at: datetime) -> Iterator[tuple[str, bool]]:
    """Yield a line for each checkpoint file of cASO, and whether the file is good."""
    for path in sorted(configuration.spool.glob("lastrun*")):
        try:
            moment = lastrun.read(path)
        except ValueError:
            yield f"{path.name}: has no time", False
            continue
        except OSError as error:
            yield f"{path.name}: cannot be read: {(error.strerror or str(error)).lower()}", False
            continue
        if moment is not None:
            yield f"{path.name}: {_accounted(moment, at)}", True


def _waiting(configuration: CasoConfiguration) -> Iterator[tuple[str, bool]]:
    checkpoints = Checkpoints(configuration.spool)
    for messenger in [one.open(checkpoints) for one in configuration.messengers]:
        for line in messenger.unusable():
            yield str(line), False
        for project in messenger.pending():
            yield f"{project}: a batch waits; the next caso-extract moves it to the spool", False


def _accounted(moment: datetime, at: datetime) -> str:
    end = moment.isoformat(sep=" ", timespec="seconds")
    return f"accounted up to {end}, {at - moment.replace(microsecond=0)} ago"


VERB = cli.Program(
    "checkpoints",
    "Show up to when each project has been accounted.",
    startup.add_arguments,
    _show,
)
