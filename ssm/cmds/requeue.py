"""``ssmctl requeue``: put a message that could not be sent back into its spool.

The repository keeps the last record that it receives of a thing and month, whatever its figures. So
a message is refused if the journal of sent messages has later deliveries of its records, or if
other messages with them wait in the spool, since it would be sent after these. One with cloud
records is refused in any case: what the journal does not have may have been sent.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.core import clock, cloud_message, files, usage_messages
from appliance.core.run import cli, place
from appliance.core.run.errors import ExitStatus, LocalFailure, UsageError
from appliance.core.spool import NAME, Spool
from appliance.core.usage_messages import Contents, SentRecord
from ssm.cmds import spools
from ssm.cmds.spools import OpenedSpool
from ssm.sending import sent_list
from ssm.sending.dead_letters import DeadLetter, DeadLetters
from ssm.settings import dead_letters_of


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    spools.add_arguments(parser)
    parser.add_argument("id", metavar="ID", help="id of the message, as the verb failed prints it")
    parser.add_argument(
        "--force",
        action="store_true",
        help="put back a message of cloud records, or one that replaces newer records, too",
    )


def _requeue(arguments: argparse.Namespace) -> ExitStatus:
    """Move a dead letter back to the spool, and print its new name."""
    found, dead_letters, letter = _find(arguments)
    if not arguments.force:
        _require_newest(found, letter)
    _require_owner(found.spool.path, arguments.id)
    name = dead_letters.requeue(letter, found.spool)
    print(f"{arguments.id} is {name} in {found.spool.path} now")
    return ExitStatus.DONE


def _find(arguments: argparse.Namespace) -> tuple[OpenedSpool, DeadLetters, DeadLetter]:
    for one in spools.opened(arguments):
        dead_letters = DeadLetters(dead_letters_of(one.spool.path))
        for letter in dead_letters.letters():
            if letter.message_id == arguments.id:
                return one, dead_letters, letter
    remedy = f"list them with {place.command('ssmsend', 'ssmctl', 'failed')}"
    raise UsageError(arguments.id, "is not a dead letter", remedy)


def _require_newest(found: OpenedSpool, letter: DeadLetter) -> None:
    """Raise `UsageError` when the message would replace records that were sent after it."""
    with files.open_regular(letter.body) as file:
        text = file.read()
    read = usage_messages.read(text)
    newer = _newer(found, letter, read)
    months = {record.month for record in read.records}
    month = months.pop() if len(months) == 1 else "MONTH"
    command = place.command("caso", "caso", "republish", "--month", month)
    if newer:
        first = newer[0]
        one = f"{first['key']} of {first['month']}, sent at {first['at']}"
        raise UsageError(
            letter.message_id,
            f"would replace {len(newer)} newer records, such as {one}",
            f"send the month again with {command}, or, to lower what was sent, repeat the"
            " command with --force",
        )
    if cloud_message.is_cloud(text):
        raise UsageError(
            letter.message_id,
            "holds cloud records, which would replace newer ones that were sent meanwhile",
            f"send the month again with {command}, or, if nothing was sent meanwhile,"
            " repeat the command with --force",
        )
    if waiting := _waiting(found.spool, read):
        name, record = waiting
        raise UsageError(
            letter.message_id,
            f"has records that wait in {found.spool.path} too, such as {record.key} of"
            f" {record.month} in {name}, and it would be sent after them",
            "let ssmsend send these first, then repeat the command",
        )


def _waiting(spool: Spool, read: Contents) -> tuple[str, SentRecord] | None:
    """Return a waiting message that has a record of ``read``, and that record; None if none has."""
    wanted = {(one.kind, one.key, one.month) for one in read.records}
    for name in spool.names():
        try:
            found = usage_messages.read(spool.peek(name)).records
        except OSError:  # sent meanwhile, or unreadable: then no run can send it either
            continue
        for one in found:
            if (one.kind, one.key, one.month) in wanted:
                return name, one
    return None


def _newer(found: OpenedSpool, letter: DeadLetter, read: Contents) -> list[Mapping[str, Any]]:
    """Return the records of the message of which the journal has later deliveries."""
    if found.journal is None or sent_list.is_missing(found.journal):
        return []
    element = NAME.match(letter.message_id)
    with sent_list.opened(found.journal) as connection:
        return list(
            sent_list.newer(
                connection,
                read.records,
                spool=found.spool.path,
                element=element[0] if element else "",
                since=_first_seen(letter),
            )
        )


def _first_seen(letter: DeadLetter) -> str:
    from ssm.sending.sent_journal import stamp  # noqa: PLC0415  start-up is a cost

    try:
        return stamp(clock.parse(letter.first_seen))
    except ValueError:  # a field that was edited
        return ""


def _require_owner(spool: Path, message_id: str) -> None:
    """Raise `LocalFailure` when root would make directories that the sender cannot write to."""
    owner = spool.parent.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        command = f"setpriv --reuid={owner} --clear-groups ssmctl requeue {message_id}"
        cause = f"belongs to user {owner}, this program runs as root"
        raise LocalFailure(spool, cause, f"run it as that user: {command}")


VERB = cli.Program(
    "requeue",
    "Put a message that could not be sent back into the spool.",
    _add_arguments,
    _requeue,
)
