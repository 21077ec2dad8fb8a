"""What ``cloudkeeper import`` and ``cloudkeeper release`` have in common."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys

from appliance.core.run import lock, log
from appliance.core.run.errors import ExitStatus, UsageError
from cloudkeeper.frontend.commands import startup
from cloudkeeper.wire.status import Takeover


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the images, the confirmation, and the flags of the configuration."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="HOST/PROJECT of a registry, or one image of it: PROJECT/REPOSITORY:TAG",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the images, change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask for a confirmation")
    parser.add_argument("--json", action="store_true", help="print the images as JSON")
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace, wanted: Takeover, *, condition: str) -> ExitStatus:
    """Hand images over, after ``condition`` was printed and confirmed.

    Raises:
        UsageError: nobody confirms it.

    """
    configured = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configured)
    # Imported here: gRPC takes long to import, and --help does not need it.
    from cloudkeeper.frontend import takeover  # noqa: PLC0415
    from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the backend's run as well
    with assembly.backend(configured) as backend:
        found = takeover.plan(configured.registries, arguments.names, backend, wanted=wanted)
        lines = [takeover.shown(image) for image in found.images]
        if not arguments.json:
            print("\n".join(map(log.one_line, lines)) or "no image")
        done = 0
        if found.images and not arguments.dry_run:
            _confirm(arguments, condition, number=len(found.images))
            with lock.hold(configured.lock_file):  # not while a person reads: syncs would fail
                done = takeover.carry_out(found, backend, wanted=wanted)
    if arguments.json:
        document = {"images": lines, "done": done, "failures": found.failures}
        print(log.redact(json.dumps(document, indent=1)))
    else:
        print(f"{len(lines)} images, {done} changed, {len(found.failures)} left as they are")
    return ExitStatus.PARTLY if found.failures else ExitStatus.DONE


def _confirm(arguments: argparse.Namespace, condition: str, *, number: int) -> None:
    print(condition, file=sys.stderr)
    if arguments.yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        words = "is not a terminal, so the lines above cannot be confirmed"
        raise UsageError("standard input", words, "add --yes")
    answer = ""
    with contextlib.suppress(EOFError):  # Ctrl-D
        answer = input(f"{number} images: type yes to go on: ")
    if answer.strip().lower() != "yes":
        raise UsageError("cloudkeeper", "nothing was changed, because the answer was not yes")
