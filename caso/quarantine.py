"""The quarantine: records that the repository would refuse, as files, each with the reason.

    # refused: CpuCount is -2
    # {"kind": "cloud", "key": "27ac…", "month": "2026-11", "project": "…", "amount": 7200, …}
    the record as it would be sent, or the service's description of the thing

The second line is for programs: ``record`` in it is the record itself, for `RefusedRecord.restore`.
Files of earlier versions have no such line; those can be shown, and no more.

A record that a later run delivers, as far or further, is no longer held: `open_entries` asks what
was delivered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from appliance.core import causes, files
from appliance.core.run.errors import LocalFailure
from caso.kinds.kind import UsageRecord
from caso.kinds.registry import KINDS
from caso.kinds.stored import from_json, to_json

_LARGEST = 2**20
_SUFFIX = ".txt"


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that was set aside; what is not known of it is empty or None."""

    path: Path
    at: datetime
    """When it was set aside."""
    reason: str
    text: str
    kind: str = ""
    key: str = ""
    month: str = ""
    """As 2026-11."""
    project: str = ""
    """Its id."""
    region: str = ""
    amount: int | None = None
    """In the unit of the kind."""
    progress: int | None = None
    stored: Any = None

    @property
    def name(self) -> str:
        """Return the name by which a person refers to it."""
        return self.path.stem

    def restore(self) -> UsageRecord | None:
        """Return the record itself; None if the file does not have it.

        Raises:
            LocalFailure: the file is damaged.

        """
        if self.stored is None or self.kind not in KINDS:
            return None
        try:
            found: UsageRecord = from_json(KINDS[self.kind].record, self.stored)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            words = f"its record cannot be read: {causes.of_answer(error)}"
            raise LocalFailure(self.path, words, "extract its month again") from error
        return found


def set_aside(
    directory: Path,
    *,
    key: str,
    reason: str,
    text: str,
    kind: str = "",
    project: str = "",
    region: str = "",
    record: UsageRecord | None = None,
) -> Path:
    """Write a record with the reason and return the file. The next run replaces it."""
    # The key holds an id of the cloud, which must not lead out of the directory.
    path = directory / f"{re.sub(r'[^0-9A-Za-z._-]', '_', key)[:200]}{_SUFFIX}"
    about: dict[str, object] = {"kind": kind, "key": key, "project": project, "region": region}
    if record is not None:
        about |= {
            "key": record.key,
            "month": f"{record.measured:%Y-%m}",
            "amount": record.amount,
            "progress": record.progress,
            "record": to_json(record),
        }
    files.make_directory(directory)
    content = f"# refused: {_line(reason)}\n# {json.dumps(about)}\n{text}\n"
    files.write_atomic(path, content.encode(errors="backslashreplace"))
    return path


def _line(text: str) -> str:
    return " ".join(text.split())


def entries(directory: Path) -> Iterator[RefusedRecord]:
    """Yield what is in the quarantine, by name; files that are none of it are skipped."""
    try:
        listing = files.listed(directory, lambda name: name.endswith(_SUFFIX))
    except FileNotFoundError:
        return
    for path in listing.paths:
        try:
            at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            content = files.read_regular(path, limit=_LARGEST).decode(errors="replace")
        except OSError:
            continue
        yield _parsed(path, at, content)


def _parsed(path: Path, at: datetime, content: str) -> RefusedRecord:
    first, _, rest = content.partition("\n")
    second, _, text = rest.partition("\n")
    reason = first.removeprefix("# refused: ")
    try:
        about = json.loads(second.removeprefix("# ")) if second.startswith("# {") else None
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        return RefusedRecord(path, at, reason, rest)

    def word(name: str) -> str:
        return str(about.get(name) or "")

    def number(name: str) -> int | None:
        found = about.get(name)
        return found if isinstance(found, int) else None

    return RefusedRecord(
        path,
        at,
        reason,
        text,
        *(word("kind"), word("key"), word("month"), word("project"), word("region")),
        *(number("amount"), number("progress"), about.get("record")),
    )


class Delivered(NamedTuple):
    """What was delivered of a thing in a month."""

    month: str
    progress: int
    at: datetime


def open_entries(
    directory: Path, delivered: Callable[[str], Iterable[Delivered]]
) -> list[RefusedRecord]:
    """Return what is held, and remove what has been delivered since.

    ``delivered`` returns what was delivered of a thing. Files of earlier versions do not say what
    they are about; they stay, and are not in the result.
    """
    held = []
    for entry in entries(directory):
        # Half a surrogate pair, which JSON can hold, has never been delivered.
        known = delivered(entry.key) if _is_text(entry.key) else ()
        if any(_replaces(one, entry) for one in known):
            entry.path.unlink(missing_ok=True)
        elif entry.key:
            held.append(entry)
    return held


def _is_text(key: str) -> bool:
    return bool(key) and not any("\ud800" <= character <= "\udfff" for character in key)


def _replaces(one: Delivered, entry: RefusedRecord) -> bool:
    if entry.progress is None:  # the thing was not understood, and now it is
        return one.at > entry.at
    return one.month == entry.month and one.progress >= entry.progress


def summary(held: Iterable[RefusedRecord]) -> str:
    """Return what is held in words: numbers of records, and the sums of their amounts by kind."""
    by_kind: dict[str, list[RefusedRecord]] = {}
    for entry in held:
        by_kind.setdefault(entry.kind, []).append(entry)
    parts = []
    for kind, found in sorted(by_kind.items()):
        amounts = [entry.amount for entry in found if entry.amount is not None]
        words = KINDS[kind].describe(sum(amounts)) if amounts and kind in KINDS else "unknown use"
        parts.append(f"{len(found)} of {KINDS[kind].things if kind in KINDS else kind} ({words})")
    return ", ".join(parts)
