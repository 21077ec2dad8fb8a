"""``ssmctl``: look into a spool, and at a message as a receiver would."""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.core import clock
from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus, LocalFailure
from appliance.core.spool import Spool
from ssm.directory import DirectorySpool
from ssm.settings import load_sender

_CONFIG = "/etc/apel/sender.cfg"
_CERTIFICATES = "/etc/grid-security/certificates"
_MAX_BYTES = 64 * 1024 * 1024


def _add_spool_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help=f"of the sender (default: {_CONFIG})"
    )
    parser.add_argument(
        "--path", type=Path, metavar="DIR", help="another spool than the configuration's"
    )


def _list_spool(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each element: name, age, size, and whether somebody has locked it."""
    layout = cli.layout(arguments)
    path, is_dirq = arguments.path, True
    if path is None:
        settings = load_sender(arguments.config or layout.path(_CONFIG), layout=layout)
        path, is_dirq = settings.path, settings.is_dirq
    if not path.is_dir():
        raise LocalFailure(path, "there is no spool", "see [messaging] path, or give --path")
    spool, at = Spool(path) if is_dirq else DirectorySpool(path), clock.now()
    names = list(spool.names())
    for name in names:
        state = "locked" if spool.is_locked(name) else "waits"
        age = str(at.replace(microsecond=0) - spool.made_at(name).replace(microsecond=0))
        print(f"{name}  {age:>10}  {spool.size(name):>10} bytes  {state}")
    print(f"{len(names)} messages in {path}")
    for failure in spool.skipped.values():
        print(failure)
    return ExitStatus.PARTLY if spool.skipped else ExitStatus.DONE


def _add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a signed message, as it travels")
    parser.add_argument(
        "--capath", type=Path, metavar="DIR", help=f"trust anchors (default: {_CERTIFICATES})"
    )
    parser.add_argument(
        "--crls", choices=["warn", "require", "off"], default="warn", help="default: %(default)s"
    )


def _verify(arguments: argparse.Namespace) -> ExitStatus:
    """Verify one message; print signer and size, or the reason against it."""
    from appliance.core.trust import smime  # noqa: PLC0415  start-up is a cost
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415

    capath = arguments.capath or cli.layout(arguments).grid_certificates
    trust = CADirectory(capath, crls=CRLPolicy(arguments.crls))
    message = arguments.file.read_bytes()
    proven = smime.verify(message, trust=trust, at=clock.now(), max_bytes=_MAX_BYTES)
    for warning in proven.warnings:
        print(f"warning: {warning}")
    first = proven.body.split(b"\n", 1)[0].decode("utf-8", "backslashreplace")[:120]
    print(
        f"signed by {log.one_line(proven.signer)}\n{len(proven.body)} bytes: {log.one_line(first)}"
    )
    return ExitStatus.DONE


PROGRAM = cli.Program(
    "ssmctl",
    "Looks into spools and at messages.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program(
            "spool", "Lists the messages that wait to be sent.", _add_spool_arguments, _list_spool
        ),
        cli.Program(
            "verify",
            "Verifies a signed message as a receiver would.",
            _add_verify_arguments,
            _verify,
        ),
    ),
)


def main() -> int:
    """Entry point of the console script."""
    return cli.main(PROGRAM)
