"""A ledger that is lost or too old: what was delivered is read again from what is left of it.

    left of a delivery                           read here
    messages that wait in a spool                their records, with the VO unknown
    SSM's journal of sent messages               of each record of a month, the last one that was
                                                 sent (`docs/formats/sent-journal.md`)
    the cloud                                    by the next run, for the months of its window
    nothing, for months before the journal       the `lastrun` file says that they were delivered;
                                                 `caso gaps` lists them as unknown

An amount of the ledger is raised by this, and never lowered. So it is harmless to read the same
again, as after a kill. Where a person has lowered an amount, the greater one stays in the journal
until a sender has sent the lower one. It is not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from appliance.core import files, sqlite, usage_messages
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.spool import ElementName, Spool
from appliance.core.usage_messages import SentRecord
from caso.kinds.registry import KINDS
from caso.ledger.deliveries import Intent
from caso.ledger.ledger import Ledger
from caso.ledger.model import (
    LedgerRow,
    Month,
    Origin,
    Stream,
    moment_of,
    month_named,
    month_of,
    month_text,
)

_APPLICATION, _VERSION = 0x65676973, 1
"""SQLite's ``application_id`` and the newest known ``user_version`` of SSM's journal."""
_PAGE = 1000
_LAST = 20
"""Messages at the end of a spool that are read to find out how far it goes."""
_CLOCKS = timedelta(days=1)
"""More than this host's clock can have been behind those of the cloud when a message was made."""
_LONGEST_MESSAGE = 2**26
_WAIT_SECONDS = 30
_LATER = """
SELECT key FROM record WHERE kind = ? AND month >= ? AND measured > ? AND destination IN (
    SELECT number FROM destination WHERE spool IN (SELECT value FROM json_each(?)))
ORDER BY measured DESC LIMIT ?
"""
_RECORDS = """
SELECT record.destination, kind, key, month, amount, measured, uuid, project, cpu, sha256
FROM record JOIN message ON message.number = record.message
WHERE (record.destination, kind, month, key) > (?, ?, ?, ?) AND record.destination IN (
    SELECT number FROM destination WHERE spool IN (SELECT value FROM json_each(?)))
ORDER BY record.destination, kind, month, key LIMIT ?
"""


_Thing = tuple[str, str, Month]
"""Kind, key and month of a record."""


class _Known(NamedTuple):
    """A record that was delivered, and the digest of its message."""

    record: SentRecord
    sha256: bytes


@dataclass(slots=True)
class Rebuilt:
    """The result of reading earlier deliveries."""

    waiting: int = 0
    """Records of messages that wait, of which the ledger knew less."""
    sent: int = 0
    """Records of the journal, of which the ledger knew less."""
    failures: list[ApplianceError] = field(default_factory=list)
    """What could not be read."""


def rebuild(
    ledger: Ledger,
    destination: str,
    spools: Mapping[str, Path],
    *,
    journal: Path,
    origin: Callable[[str], Origin],
) -> Rebuilt:
    """Read what was delivered to a destination; ``origin`` returns that of a project's id."""
    result = Rebuilt()

    def learn(found: Iterable[_Known]) -> int:
        try:
            return _learn(ledger, destination, found, origin)
        except LocalFailure as error:
            if error.subject == str(ledger.file.path):
                raise
            result.failures.append(error)
            return 0

    # The journal first: of a record that both have, the one that waits is the later one.
    result.sent = learn(_of_journal(journal, spools.values()))
    result.waiting = learn(_of_spools(spools.values(), result.failures))
    return result


def goes_further(
    ledger: Ledger,
    destination: str,
    spools: Mapping[str, Path],
    *,
    journal: Path,
    after: datetime,
) -> bool:
    """Check whether records that wait or were sent go beyond ``after``, the ledger's end.

    Only those of things count that this ledger has delivered: another one may use the same spool.
    Of a spool its end is read, and of the journal the months since ``after``. A
    journal that cannot be read shows nothing here; `rebuild` reports it.
    """
    end = int(after.timestamp())
    keys = {
        one.record.key: None
        for path in dict.fromkeys(spools.values())
        for one in _of_messages(path, Spool(path).latest(_LAST, since=after - _CLOCKS), [])
        if one.record.measured > end
    }
    month, paths = month_text(month_of(after)), _json(spools.values())
    with contextlib.suppress(LocalFailure), _opened(journal) as connection:
        if connection is not None:
            for kind in spools:
                rows = connection.execute(_LATER, (kind, month, end, paths, _PAGE))
                keys |= {key: None for (key,) in rows}
    # What was read again has no VO.
    return any(
        one.stream.destination == destination and one.row.vo
        for key in keys
        for one in ledger.deliveries.of(key)
    )


def _learn(
    ledger: Ledger, destination: str, found: Iterable[_Known], origin: Callable[[str], Origin]
) -> int:
    """Count records as delivered that go further than the ledger knows; return how many."""
    intents: dict[Stream, Intent] = {}
    lowered = _lowered(ledger, destination)
    count = 0
    pages = iter(found)
    try:
        while page := list(itertools.islice(pages, _PAGE)):
            for stream, one in _news(ledger, destination, page, origin, lowered):
                if stream not in intents:
                    name = f"rebuilt {stream.kind} {stream.origin.project}"
                    intents[stream] = ledger.deliveries.intent(name, stream)
                intents[stream].add(one.sha256, [_row(one.record)])
                count += 1
    finally:
        # What was read before a failure is true all the same.
        for intent in intents.values():
            intent.seal(None, checkpoint=None)
            ledger.deliveries.confirm(intent.name)
    return count


def _news(
    ledger: Ledger,
    destination: str,
    page: Sequence[_Known],
    origin: Callable[[str], Origin],
    lowered: Mapping[_Thing, int],
) -> Iterator[tuple[Stream, _Known]]:
    """Yield the records of a page that go further than what the ledger has of them."""
    by_stream: dict[Stream, list[_Known]] = {}
    for one in page:
        stream = Stream(origin(one.record.project), one.record.kind, destination)
        by_stream.setdefault(stream, []).append(one)
    for stream, found in by_stream.items():
        rows = [_row(one.record) for one in found]
        # A second less: what is equal is known, with its VO and user.
        asked = [(row.key, row.month, _progress(row) - 1, row.amount) for row in rows]
        # With the progress, because a page may have several records of a thing.
        known = {
            (one.key, one.month, one.progress) for one in ledger.deliveries.shrinking(stream, asked)
        }
        for row, wanted, one in zip(rows, asked, found, strict=True):
            is_lowered = row.amount <= lowered.get((stream.kind, row.key, row.month), -1)
            if wanted[:3] not in known and not is_lowered:
                yield stream, one


def _lowered(ledger: Ledger, destination: str) -> dict[_Thing, int]:
    """Return the amounts that a person has lowered, the greatest of each thing and month."""
    found: dict[_Thing, int] = {}
    for one in ledger.deliveries.decreases():
        if one.stream.destination == destination:
            thing = one.stream.kind, one.key, one.month
            found[thing] = max(one.before, found.get(thing, -1))
    return found


def _progress(row: LedgerRow) -> int:
    return row.amount if row.progress is None else row.progress


def _row(record: SentRecord) -> LedgerRow:
    return LedgerRow(
        record.key,
        month_named(record.month),
        record.amount,
        moment_of(record.measured),
        vo="",
        cpu=record.cpu,
        progress=record.measured if KINDS[record.kind].is_count else None,
    )


def _of_spools(spools: Iterable[Path], failures: list[ApplianceError]) -> Iterator[_Known]:
    """Yield the records of messages that wait, in the order in which they will be sent."""
    for path in dict.fromkeys(spools):
        spool = Spool(path)
        yield from _of_messages(path, spool.names(), failures)
        failures.extend(spool.skipped.values())


def _of_messages(
    spool: Path, names: Iterable[ElementName], failures: list[ApplianceError]
) -> Iterator[_Known]:
    for name in names:
        try:
            text = files.read_regular(spool / name, limit=_LONGEST_MESSAGE)
        except FileNotFoundError:  # a sender has taken it
            continue
        except OSError as error:
            failures.append(files.describe_skipped(spool / name, error))
            continue
        digest = hashlib.sha256(text).digest()
        for record in usage_messages.read(text).records:
            yield _Known(record, digest)


def _of_journal(path: Path, spools: Iterable[Path]) -> Iterator[_Known]:
    """Yield the records that were sent from some spools."""
    wanted = _json(spools)
    with _opened(path) as connection:
        last: tuple[object, ...] = (-1, "", "", "")
        while connection is not None:
            page = connection.execute(_RECORDS, (*last, wanted, _PAGE)).fetchall()
            if not page:
                return
            for _, *record, sha256 in page:
                yield _Known(SentRecord(*record), bytes.fromhex(sha256))
            destination, kind, key, month = page[-1][:4]
            last = (destination, kind, month, key)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the journal for reading; None if SSM runs elsewhere, keeps none, or has sent nothing.

    Raises:
        LocalFailure: also from the block: it cannot be read.

    """
    try:
        if sqlite.is_missing(path):
            yield None
            return
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS)) as connection:
            _require_journal(connection, path)
            yield connection
    except (sqlite3.Error, OSError, ValueError) as error:
        raise LocalFailure(
            path,
            f"the journal of sent messages cannot be read ({error})",
            "run ssmsend once, which repairs it after a kill; until then the months that it has"
            " are unknown",
        ) from error


def _require_journal(connection: sqlite3.Connection, path: Path) -> None:
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if mark != _APPLICATION or version > _VERSION:
        raise ValueError(f"application_id {mark:#x}, version {version}, not those of {path.name}")


def _json(paths: Iterable[Path]) -> str:
    return json.dumps([str(path) for path in paths])
