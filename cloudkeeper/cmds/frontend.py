"""``cloudkeeper``: keeps the images in the cloud equal to those that registries and lists offer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from cloudkeeper.cmds import direct
from cloudkeeper.frontend import settings
from cloudkeeper.frontend.commands import (
    gc,
    import_images,
    list_offers,
    plan,
    release,
    status,
    sync,
    trust,
    verify,
    version,
)

_PEER_PARTLY = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.main(PROGRAM, argv)


def _offer_direct_mode(parser: argparse.ArgumentParser) -> None:
    """Hand the backend to the frontend, which does not import it."""
    parser.set_defaults(**{settings.DIRECT: direct.prepare})


def _add_help_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("of", nargs="?", metavar="VERB", help="verb to explain (default: all)")


def _print_help(arguments: argparse.Namespace) -> ExitStatus:
    """Print what ``--help`` prints; cloudkeeper 1.7.1 has this verb."""
    known = {verb.name for verb in PROGRAM.verbs}
    if arguments.of and arguments.of not in known:
        raise UsageError("help", f"there is no verb {arguments.of!r}", "see cloudkeeper help")
    parser = cli.parser(PROGRAM)
    if arguments.of:
        parser.parse_args([arguments.of, "--help"])
    parser.print_help()
    return ExitStatus.DONE


def _peer_status(status: ExitStatus) -> int:
    """Return the exit status of 1.7.1: 12 if some images failed, 1 if nothing could be done."""
    return {ExitStatus.DONE: 0, ExitStatus.PARTLY: _PEER_PARTLY}.get(status, 1)


PROGRAM = cli.Program(
    "cloudkeeper",
    "Keep the images in the cloud equal to those of registries and signed image lists.",
    _offer_direct_mode,
    cli.dispatch,
    compatible_status=_peer_status,
    verbs=(
        sync.VERB,
        plan.VERB,
        verify.VERB,
        trust.VERB,
        list_offers.VERB,
        status.VERB,
        gc.VERB,
        import_images.VERB,
        release.VERB,
        version.VERB,
        cli.Program(
            "help", "Print this help, or that of a verb.", _add_help_arguments, _print_help
        ),
    ),
    default_verb=sync.VERB.name,
)
