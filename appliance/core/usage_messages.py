"""What a message reports: kind, id, month and amount of each of its records.

The journal of sent messages keeps it, and a lost ledger of caso is made again from it.

    kind          key of a record                           month                  amount
    cloud         VMUUID                                    see below              WallDuration
    storage       volume, or volume/segment of sr:recordId  of EndTime             End - StartTime
                  (volume/ if that is a volume's id alone)
    ip            LocalGroup/LocalUser/IPv4                 of MeasurementTime     IPCount
    accelerator   AssociatedRecord/Type/Model/Count         MeasurementYear, Month ActiveDuration

Of the records with one key and one month the repository keeps the last one that it receives; keys
are those of caso's ledger. APEL takes the month of a cloud record from EndTime if its status is
``completed``, else from RecordCreateTime, else from the sum of StartTime, SuspendDuration and
WallDuration.

Messages are read, not judged: a record or a message that cannot be read here is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from xml.parsers import expat

from appliance.core import cloud_message
from appliance.core.cloud_message import moment, month_of

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LONGEST = 255
"""Characters of an id at the repository."""
_STAR = "http://eu-emi.eu/namespaces/2011/02/storagerecord"
_LARGEST = 2**63 - 1
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError)
"""What a record of any content can raise: times and numbers out of range among them."""


class SentRecord(NamedTuple):
    """A record, as far as the journal keeps it: ids and figures, no names.

    The fields are in the order of the table's columns.
    """

    kind: str
    """``cloud``, ``storage``, ``ip`` or ``accelerator``."""
    key: str
    """The id that replaces an earlier record of the same month."""
    month: str
    """``YYYY-MM``."""
    amount: int
    """Seconds; of addresses, their number."""
    measured: int
    """The moment by which the repository chooses the month, in seconds since the epoch."""
    uuid: str = ""
    """The server or volume; empty for addresses."""
    project: str = ""
    cpu: int | None = None
    """CPU seconds of a server."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The records of a message that could be read, and the number of those that could not.

    A message of an unknown form counts as one record that cannot be read.
    """

    records: tuple[SentRecord, ...]
    unread: int


def read(text: bytes) -> Contents:
    """Return the contents of a message as it lies in the spool; any bytes are accepted."""
    try:
        if cloud_message.is_cloud(text):
            return _collect(cloud_message.split(text), _of_cloud)
        begin = text.lstrip()[:1]
        if begin == b"<":
            return _collect(_Star().read(text), _of_storage)
        if begin == b"{":
            return _of_json(json.loads(text))
    except (*_UNREADABLE, expat.ExpatError):
        pass
    return Contents((), 1)


def _collect(records: Iterator[Any] | list[Any], read_one: Callable[[Any], SentRecord]) -> Contents:
    found, unread = [], 0
    for record in records:
        try:
            one = read_one(record)
            _require_sane(one)
            found.append(one)
        except _UNREADABLE:
            unread += 1
    return Contents(tuple(found), unread)


def _require_sane(record: SentRecord) -> None:
    """Raise `ValueError` for an id or a figure that the repository would refuse."""
    for text in (record.key, record.project):
        if len(text) > _LONGEST or not text.isprintable():
            raise ValueError("not an id")
    figures = (record.amount, record.cpu or 0)
    if not record.key or not all(-_LARGEST <= figure <= _LARGEST for figure in figures):
        raise ValueError("not a record")


# -------------------------------------------------------------------------------------------- cloud


def _of_cloud(record: bytes) -> SentRecord:
    found = cloud_message.fields(record)
    uuid, wall = cloud_message.text_of(found, b"VMUUID"), int(found[b"WallDuration"])
    measured = cloud_message.measured(found)
    project = cloud_message.text_of(found, b"LocalGroupId")
    cpu = int(found[b"CpuDuration"]) if b"CpuDuration" in found else None
    return SentRecord("cloud", uuid, month_of(measured), wall, measured, uuid, project, cpu)


# ------------------------------------------------------------------------------------------ storage


class _Star:
    """A parser of StAR that keeps a few fields of each record."""

    _FIELDS = frozenset({f"{_STAR} {name}" for name in ("StartTime", "EndTime", "LocalGroup")})

    def __init__(self) -> None:
        self._records: list[dict[str, str]] = []
        self._name = ""
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def read(self, text: bytes) -> list[dict[str, str]]:
        """Return the records; raise `expat.ExpatError` or `ValueError` for another form."""
        self._parser.Parse(text, True)
        if not self._records:
            raise ValueError("no records")
        return self._records

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._name = name
        if name == f"{_STAR} StorageUsageRecord":
            self._records.append({})
        elif name == f"{_STAR} RecordIdentity" and self._records:
            self._records[-1]["recordId"] = attributes.get(f"{_STAR} recordId", "")

    def _text(self, text: str) -> None:
        if self._name in self._FIELDS and self._records:
            name = self._name.rpartition(" ")[2]
            self._records[-1][name] = self._records[-1].get(name, "") + text

    def _end(self, _name: str) -> None:
        self._name = ""

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type may define entities that expand without limit")


def _of_storage(record: Mapping[str, str]) -> SentRecord:
    begin, end = moment(record["StartTime"].strip()), moment(record["EndTime"].strip())
    key, month = record["recordId"], month_of(end)
    volume = ""
    if found := _UUID.match(key):
        volume, segment = found[0], key[found.end() :].removeprefix("-")
        # The volume's id alone is that of cASO's records. They replace only each other, so their
        # key has an empty segment, which no record of ours has.
        key = volume if segment == month.replace("-", "") else f"{volume}/{segment}"
    project = record.get("LocalGroup", "").strip()
    return SentRecord("storage", key, month, end - begin, end, volume, project)


# --------------------------------------------------------------------------------------------- JSON


def _of_json(message: Any) -> Contents:
    kinds = {"APEL Public IP message": _of_addresses, "APEL-accelerator-message": _of_accelerator}
    return _collect(list(message["UsageRecords"]), kinds[message["Type"]])


def _of_addresses(record: Mapping[str, Any]) -> SentRecord:
    project, user = _text(record["LocalGroup"]), _text(record.get("LocalUser") or "")
    key, measured = (
        f"{project}/{user}/IPv{int(record['IPVersion'])}",
        int(record["MeasurementTime"]),
    )
    count = int(record["IPCount"])
    return SentRecord("ip", key, month_of(measured), count, measured, project=project)


def _of_accelerator(record: Mapping[str, Any]) -> SentRecord:
    server = _text(record["AssociatedRecord"])
    words = (server, _text(record["Type"]), _text(record.get("Model") or ""))
    key = f"{'/'.join(words)}/{record['Count']:g}"
    begin = datetime(int(record["MeasurementYear"]), int(record["MeasurementMonth"]), 1, tzinfo=UTC)
    measured, duration = int(begin.timestamp()), record.get("ActiveDuration")
    amount = int(record["AvailableDuration"] if duration is None else duration)
    return SentRecord("accelerator", key, month_of(measured), amount, measured, server)


# -------------------------------------------------------------------------------------------- parts


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value
