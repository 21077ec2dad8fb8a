"""`ssmctl`: look into a spool and its dead letters, and verify messages as a receiver would."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from appliance.core import clock, files
from appliance.core.run import cli, log, place
from appliance.core.run.errors import ExitStatus, LocalFailure, UsageError
from appliance.core.spool import Spool
from ssm import destinations
from ssm.cmds import sent, startup
from ssm.sending.dead_letters import DeadLetter, DeadLetters
from ssm.sending.directory_spool import DirectorySpool
from ssm.settings import SenderSettings, dead_letters_of

_CERTIFICATES = "/etc/grid-security/certificates"
_MAX_BYTES = 64 * 1024 * 1024
_CLOUD = b"APEL-cloud-message:"


def _add_spool_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_config_argument(parser)
    parser.add_argument(
        "--path", type=Path, metavar="DIR", help="spool directory (default: the configurations')"
    )


def _open_spools(arguments: argparse.Namespace) -> list[Spool]:
    """Return the spools that ``--path`` or the configurations name; they need not exist."""
    if arguments.path is not None:
        return [Spool(arguments.path)]
    found = destinations.load(cli.layout(arguments), only=arguments.config)
    return [_spool(one.usable()) for one in found]


def _spool(settings: SenderSettings) -> Spool:
    return Spool(settings.path) if settings.is_dirq else DirectorySpool(settings.path)


def _list_spools(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each element: name, age, size in bytes, and whether it is locked."""
    spools = _open_spools(arguments)
    if not any(spool.path.is_dir() for spool in spools):
        remedy = "see [messaging] path, or give --path"
        raise LocalFailure(spools[0].path, "the spool does not exist", remedy)
    return max(_list_spool(spool) for spool in spools)


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
    return max(_list_dead_letters_of(spool) for spool in _open_spools(arguments))


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


def _add_requeue_arguments(parser: argparse.ArgumentParser) -> None:
    _add_spool_arguments(parser)
    parser.add_argument("id", metavar="ID", help="id of the message, as the verb failed prints it")
    parser.add_argument(
        "--force", action="store_true", help="put back a message of cloud records, too"
    )


def _requeue(arguments: argparse.Namespace) -> ExitStatus:
    """Move a dead letter back to the spool, and print its new name."""
    spool, dead_letters, letter = _find_dead_letter(arguments)
    if not arguments.force and _is_of_cloud_records(letter.body):
        # The repository keeps the last record of a server and month, whatever its figures.
        again = place.command("caso", "caso-extract", "--extract-from", "TIME")
        raise UsageError(
            arguments.id,
            "holds cloud records, which would replace newer ones that were sent meanwhile",
            f"extract that period again with {again}, or, if nothing was sent meanwhile,"
            " repeat the command with --force",
        )
    _require_owner(spool.path, arguments.id)
    print(f"{arguments.id} is {dead_letters.requeue(letter, spool)} in {spool.path} now")
    return ExitStatus.DONE


def _find_dead_letter(arguments: argparse.Namespace) -> tuple[Spool, DeadLetters, DeadLetter]:
    for spool in _open_spools(arguments):
        dead_letters = DeadLetters(dead_letters_of(spool.path))
        for letter in dead_letters.letters():
            if letter.message_id == arguments.id:
                return spool, dead_letters, letter
    remedy = f"list them with {place.command('ssmsend', 'ssmctl', 'failed')}"
    raise UsageError(arguments.id, "is not a dead letter", remedy)


def _is_of_cloud_records(body: Path) -> bool:
    with files.open_regular(body) as file:
        return file.read(len(_CLOUD)).startswith(_CLOUD)


def _require_owner(spool: Path, message_id: str) -> None:
    """Raise `LocalFailure` when root would make directories that the sender cannot write to."""
    owner = spool.parent.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        command = f"setpriv --reuid={owner} --clear-groups ssmctl requeue {message_id}"
        cause = f"belongs to user {owner}, this program runs as root"
        raise LocalFailure(spool, cause, f"run it as that user: {command}")


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
            "spool", "List the messages that wait to be sent.", _add_spool_arguments, _list_spools
        ),
        cli.Program(
            "failed",
            "List the messages that cannot be sent, with the reason.",
            _add_spool_arguments,
            _list_dead_letters,
        ),
        cli.Program(
            "requeue",
            "Put a message that could not be sent back into the spool.",
            _add_requeue_arguments,
            _requeue,
        ),
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
