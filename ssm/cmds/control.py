"""`ssmctl`: look into a spool, and verify a message as a receiver would."""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.core import clock
from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus, LocalFailure
from appliance.core.spool import Spool
from ssm.sending.directory_spool import DirectorySpool
from ssm.settings import load_sender

_CONFIG = "/etc/apel/sender.cfg"
_CERTIFICATES = "/etc/grid-security/certificates"
_MAX_BYTES = 64 * 1024 * 1024


def _add_spool_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration file of the sender (default: {_CONFIG})",
    )
    parser.add_argument(
        "--path", type=Path, metavar="DIR", help="spool directory (default: the configuration's)"
    )


def _list_spool(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each element: name, age, size in bytes, and whether it is locked."""
    layout = cli.layout(arguments)
    path, is_dirq = arguments.path, True
    if path is None:
        settings = load_sender(arguments.config or layout.path(_CONFIG), layout=layout)
        path, is_dirq = settings.path, settings.is_dirq
    if not path.is_dir():
        raise LocalFailure(path, "the spool does not exist", "see [messaging] path, or give --path")
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
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="file with a signed message, as it is sent"
    )
    parser.add_argument(
        "--capath",
        type=Path,
        metavar="DIR",
        help=f"directory of trust anchors (default: {_CERTIFICATES})",
    )
    parser.add_argument(
        "--crls",
        choices=["warn", "require", "off"],
        default="warn",
        help="missing revocation lists: accept with a warning, refuse, or ignore all lists"
        " (default: %(default)s)",
    )


def _verify(arguments: argparse.Namespace) -> ExitStatus:
    """Verify one message; print its signer, size and first line."""
    from appliance.core.trust import smime  # noqa: PLC0415  start-up is a cost
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415

    capath = arguments.capath or cli.layout(arguments).grid_certificates
    trust = CADirectory(capath, crls=CRLPolicy(arguments.crls))
    message = arguments.file.read_bytes()
    verified = smime.verify(message, trust=trust, at=clock.now(), max_bytes=_MAX_BYTES)
    for warning in verified.warnings:
        print(f"warning: {warning}")
    first = verified.body.split(b"\n", 1)[0].decode("utf-8", "backslashreplace")[:120]
    print(f"signed by {log.one_line(verified.signer)}")
    print(f"{len(verified.body)} bytes: {log.one_line(first)}")
    return ExitStatus.DONE


PROGRAM = cli.Program(
    "ssmctl",
    "Look into spools, and verify messages.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program(
            "spool", "List the messages that wait to be sent.", _add_spool_arguments, _list_spool
        ),
        cli.Program(
            "verify",
            "Verify a signed message as a receiver would.",
            _add_verify_arguments,
            _verify,
        ),
    ),
)


def main() -> int:
    """Run the program and return its exit status."""
    return cli.main(PROGRAM)
