"""``appliance upgrade``: to a newer bundle in one command, or back to the version before.

The bundle is verified, and the space it needs is there, before anything changes. ``--check`` stops
there and prints what the upgrade would change. ``--rollback`` undoes the last upgrade, and takes
nothing back that was delivered.
"""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus

_KEY = "/etc/fedcloud/signing-key.pem"
_SETTLE = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--from",
        dest="source",
        metavar="BUNDLE",
        help="newer bundle: a tar, a directory, or oci://HOST/NAME@sha256:DIGEST in a registry",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="verify the bundle and print what its install would change; exit status 1 if it is"
        " newer than what is installed, 0 if it is installed",
    )
    parser.add_argument(
        "--rollback",
        action="store_true",
        help="go back to the version before the last upgrade; with --check, only say whether",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="KEY.pem",
        help=f"public key that verifies the bundle (default: {_KEY}, which installations write)",
    )
    parser.add_argument(
        "--unsigned",
        action="store_true",
        help="accept a bundle without a signature; only for one that you built",
    )
    parser.add_argument(
        "--no-packages",
        action="store_true",
        help="install no packages of the system, as the flag of install of this name",
    )
    parser.add_argument(
        "--settle",
        type=_seconds,
        default=timedelta(seconds=_SETTLE),
        metavar="SECONDS",
        help="seconds between two looks at the health of the new version; two good ones are needed,"
        f" of six (default: {_SETTLE})",
    )


def _seconds(text: str) -> timedelta:
    if not text.isdecimal() or int(text) > 3600:  # noqa: PLR2004  an hour
        raise argparse.ArgumentTypeError(f"{text!r}: write seconds, at most 3600")
    return timedelta(seconds=int(text))


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Upgrade, go back, or say what would happen."""
    from appliance.admin.upgrade import directions  # noqa: PLC0415  start-up is a cost

    return directions.run(arguments)


VERB = cli.Program(
    "upgrade",
    "Upgrade to a newer bundle, or go back to the version before.",
    add_arguments,
    run,
)
