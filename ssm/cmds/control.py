"""`ssmctl`: look into a spool and its dead letters, and verify messages as a receiver would."""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.core import clock
from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus, LocalFailure
from appliance.core.spool import Spool
from ssm.cmds import requeue, sent, spools
from ssm.sending.dead_letters import DeadLetters
from ssm.settings import dead_letters_of

_CERTIFICATES = "/etc/grid-security/certificates"
_MAX_BYTES = 64 * 1024 * 1024


def _list_spools(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each element: name, age, size in bytes, and whether it is locked."""
    found = [one.spool for one in spools.opened(arguments)]
    if not any(spool.path.is_dir() for spool in found):
        remedy = "see [messaging] path, or give --path"
        raise LocalFailure(found[0].path, "the spool does not exist", remedy)
    return max(_list_spool(spool) for spool in found)


def _list_spool(spool: Spool) -> ExitStatus:
    at = clock.now()
    names = list(spool.names())
    for name in names:
        state = "locked" if spool.is_locked(name) else "waits"
        age = str(at.replace(microsecond=0) - spool.made_at(name).replace(microsecond=0))
        print(f"{name}  {age:>10}  {spool.size(name):>10} bytes  {state}")
    print(f"{len(names)} messages in {spool.path}")
    for failure in spool.skipped.values():
        print(failure)
    return ExitStatus.PARTLY if spool.skipped else ExitStatus.DONE


def _list_dead_letters(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each dead letter: id, time, size in bytes, attempts and reason."""
    return max(_list_dead_letters_of(one.spool) for one in spools.opened(arguments))


def _list_dead_letters_of(spool: Spool) -> ExitStatus:
    dead_letters = DeadLetters(dead_letters_of(spool.path))
    letters = dead_letters.letters()
    for letter in letters:
        size = letter.body.lstat().st_size
        facts = f"{letter.first_seen}  {size:>10} bytes  sent {letter.attempts} times"
        print(f"{letter.message_id}  {facts}  {letter.reason}")
    print(f"{len(letters)} dead letters in {dead_letters.path}")
    for failure in dead_letters.skipped.values():
        print(failure)
    return ExitStatus.PARTLY if dead_letters.skipped else ExitStatus.DONE


def _add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="file with a signed message, as a receiver gets it; messages in the spool are not"
        " signed yet",
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
        help="if a CRL is missing or stale: warn, or refuse (require); off: read no CRL"
        " (default: warn)",
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
    "Look into spools, list what was sent, put messages back, and verify them.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program(
            "spool", "List the messages that wait to be sent.", spools.add_arguments, _list_spools
        ),
        cli.Program(
            "failed",
            "List the messages that cannot be sent, with the reason.",
            spools.add_arguments,
            _list_dead_letters,
        ),
        requeue.VERB,
        sent.VERB,
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
