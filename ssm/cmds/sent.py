"""``ssmctl sent``: list what the journal has of sent messages and of their records."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from appliance.core import clock
from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus, UsageError
from ssm import destinations
from ssm.cmds import startup
from ssm.sending import sent_journal, sent_list

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_config_argument(parser)
    parser.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="list only what was sent since this time, UTC: 2026-11-30 or 2026-11-30T12:00",
    )
    parser.add_argument(
        "--month",
        type=_month,
        metavar="YYYY-MM",
        help="list the records of a month, each as it was sent last",
    )
    parser.add_argument(
        "--uuid",
        metavar="ID",
        help="list the records of a server, a volume or another thing, by its id",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on each line")
    parser.add_argument(
        "--purge",
        action="store_true",
        help="remove what is older than [journal] months, and list nothing",
    )


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """List messages, or the records of a month, a server or a volume."""
    layout = cli.layout(arguments)
    found = destinations.load(layout, only=arguments.config)
    sections = [one.journal for one in (each.kept_here() for each in found) if one.journal.months]
    if not sections:
        raise UsageError("[journal] months", "is 0: no journal is kept", "write 24")
    if arguments.purge and (arguments.month or arguments.uuid or arguments.since):
        raise UsageError("--purge", "lists nothing", "give it alone")
    # Configurations that share a file remove each other's rows: the shortest time counts.
    for path in dict.fromkeys(section.path for section in sections):
        if arguments.purge:
            _purge(path, months=min(one.months for one in sections if one.path == path))
        else:
            _list(path, arguments)
    return ExitStatus.DONE


def _purge(path: Path, *, months: int) -> None:
    with sent_list.opened(path):  # reports a file that does not exist
        pass
    database = sent_journal.open_journal(path)
    try:
        number = sent_journal.forget(database, months=months, at=clock.now())
    finally:
        database.close()
    print(f"{number} messages removed from {path}; kept: {months} months")


def _list(path: Path, arguments: argparse.Namespace) -> None:
    with sent_list.opened(path) as connection:
        if arguments.month or arguments.uuid:
            rows = sent_list.records(
                connection,
                month=arguments.month or "",
                uuid=arguments.uuid or "",
                since=arguments.since,
            )
            noun, words = "records", _record_words
        else:
            rows = sent_list.messages(connection, since=arguments.since)
            noun, words = "messages", _message_words
        number = _print(rows, words, as_json=arguments.json)
    if not arguments.json:
        print(f"{number} {noun} in {path}")


def _print(
    rows: Iterable[Mapping[str, Any]], words: Callable[[Mapping[str, Any]], str], *, as_json: bool
) -> int:
    number = 0
    for row in rows:
        print(json.dumps(row, ensure_ascii=False) if as_json else log.one_line(words(row)))
        number += 1
    return number


def _message_words(row: Mapping[str, Any]) -> str:
    unread = f" and {row['unread']} unknown" if row["unread"] else ""
    argo_id = f", Argo ID {row['argo_id']}" if row["argo_id"] else ""
    what = f"{row['records']} records{unread}"
    return f"{row['at']}  {row['id']}  {what}  {row['destination']} at {row['broker']}{argo_id}"


def _record_words(row: Mapping[str, Any]) -> str:
    unit = "addresses" if row["kind"] == "ip" else "s"
    what = f"{row['month']}  {row['kind']}  {row['key']}  {row['amount']} {unit}"
    return f"{what}  {row['id']} of {row['at']} to {row['destination']}"


def _moment(text: str) -> datetime:
    try:
        return clock.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time, such as 2026-11-30T12:00"
        ) from None


def _month(text: str) -> str:
    if not _MONTH.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a month, such as 2026-11")
    return text


VERB = cli.Program(
    "sent", "List what was sent, from the journal of sent messages.", _add_arguments, _run
)
