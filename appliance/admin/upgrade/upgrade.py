"""``appliance upgrade --check --from BUNDLE``: whether an upgrade is possible, and what it changes.

The bundle is verified as its installer does it. Nothing is changed, stopped or started.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.upgrade import bundle, preview
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout

_KEY = "/etc/fedcloud/signing-key.pem"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="BUNDLE",
        help="newer bundle, a tar or a directory",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        required=True,
        help="verify the bundle and print what its install would change; exit status 1 if it is"
        " newer than what is installed, 0 if it is installed",
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


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print what an upgrade would change; `ExitStatus.PARTLY` if there is something."""
    layout = cli.layout(arguments)
    settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        cause = "only root can look at all that an upgrade changes"
        raise UsageError("appliance", cause, "sudo appliance upgrade --check --from BUNDLE")
    source: Path = arguments.source.absolute()
    if not source.exists():
        raise UsageError(source, "does not exist", "name a bundle, a tar or a directory")
    changing.refuse(layout)
    with tempfile.TemporaryDirectory(prefix="fedcloud-upgrade.") as into:
        verified = bundle.verified(source, _key(arguments, layout), Path(into))
        found = preview.make(source, verified, layout)
    if not found.is_installed:
        preview.check_space(found)
    for line in preview.lines(found):
        print(line)
    if found.is_installed:
        return ExitStatus.DONE
    print("Nothing has been changed. Next: the install of the bundle")
    return ExitStatus.PARTLY


def _key(arguments: argparse.Namespace, layout: Layout) -> Path | None:
    """Return the key that verifies the bundle; None if it need not be signed."""
    if arguments.unsigned:
        return None
    key: Path = arguments.key or layout.path(_KEY)
    if not key.is_file():
        cause = "does not exist: no signed bundle was installed here"
        raise UsageError(key, cause, "name the publisher's key with --key")
    return key


VERB = cli.Program(
    "upgrade",
    "Verify a newer bundle, and print what its installation would change.",
    add_arguments,
    run,
)
