"""The IP record: how many public addresses of one version a user has in a month, v0.2.

**Wire form.** An ``APEL Public IP message``, JSON, as cASO 5 writes it, with what its definition
requires and cASO leaves out: LocalUser and GlobalUserName. ``uuid`` is the same for the same user,
project, version and month, where cASO's is random.

**Owner.** An address belongs to the user of the server that it is attached to. One that is attached
to nothing, or to a thing of no user, belongs to the project: both names are then the project's id.
A user whose name is unknown has the id instead. The names are never a constant, because the
repository keeps one record for each site, service, GlobalUserName, version and month.

**Month rule.** A count is of one moment, and the last one of a month stays. Each month that the
window touches has a record, measured at its end or the window's, of the addresses that existed
then.

**Faults.** The JSON Schema that APEL has proposed (pull request 226) requires all fields but the
service, a version of 4 or 6, and a whole number of addresses.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from caso.kinds import limits, usage_json
from caso.kinds.cloud import CLOUD_TYPE
from caso.kinds.kind import Checked, RecordKind
from caso.kinds.months import ExtractionWindow, cuts, first_moment

_UUIDS = uuid.UUID("a7f2b6c1-0d53-4f0e-9a55-3b1f6d2c8e47")
"""The namespace of the ids of records: a random one, for this purpose alone."""


@dataclass(frozen=True, slots=True)
class IPRecord:
    """The addresses of one version that a user has at a moment."""

    site: str
    service: str
    vo: str
    project_id: str
    user_id: str
    """The project's id if no user owns the addresses."""
    version: int
    count: int
    measured: datetime
    user_name: str | None = None
    cloud_type: str = CLOUD_TYPE

    @property
    def key(self) -> str:
        """Return what is counted: project, user and version."""
        return f"{self.project_id}/{self.user_id}/IPv{self.version}"

    @property
    def amount(self) -> int:
        """Return the number of addresses."""
        return self.count

    @property
    def progress(self) -> int:
        """Return the time of the count: fewer addresses than before are no step back."""
        return int(self.measured.timestamp())

    @property
    def uuid(self) -> uuid.UUID:
        """Return the id of the record."""
        month = f"{first_moment(self.measured):%Y%m}"
        return uuid.uuid5(_UUIDS, f"{self.site}/{self.service}/{self.key}/{month}")


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """A public address of a project."""

    version: int
    created: datetime
    user_id: str | None
    """The user of the server that it is attached to; None if there is none."""


def counts(
    addresses: Iterable[PublicAddress], window: ExtractionWindow
) -> Iterator[tuple[datetime, str | None, int, int]]:
    """Yield moment, user, version and number of the addresses, oldest month first."""
    read = list(addresses)
    for cut in cuts(window.start, None, window):
        existing = Counter((one.user_id, one.version) for one in read if one.created <= cut.until)
        for (user, version), number in sorted(existing.items(), key=lambda item: str(item[0])):
            yield cut.until, user, version, number


def fields(record: IPRecord) -> Mapping[str, object]:
    """Return the fields of a record by their names on the wire."""
    return {
        "SiteName": record.site,
        "CloudType": record.cloud_type,
        "CloudComputeService": record.service,
        "uuid": str(record.uuid),
        "LocalUser": record.user_id,
        "GlobalUserName": record.user_name or record.user_id,
        "LocalGroup": record.project_id,
        "FQAN": record.vo,
        "IPVersion": record.version,
        "IPCount": record.count,
        "MeasurementTime": int(record.measured.timestamp()),
    }


def check(record: IPRecord, now: datetime) -> Checked[IPRecord]:
    """Return the record without an unusable user name, and its faults."""
    name = record.user_name or ""
    wrong = limits.required("GlobalUserName", name) if name else ""
    kept, dropped = limits.leave_out(record, {"user_name": wrong})
    return Checked(kept, dropped, limits.found(_faults(kept, now)))


def _faults(record: IPRecord, now: datetime) -> Iterator[str]:
    yield limits.required("SiteName", record.site)
    yield limits.text("CloudComputeService", record.service)
    yield limits.required("CloudType", record.cloud_type)
    yield limits.required("LocalUser", record.user_id)
    yield limits.required("LocalGroup", record.project_id)
    yield limits.required("FQAN", record.vo)
    yield "" if record.version in (4, 6) else f"IPVersion is {record.version}"
    yield limits.number("IPCount", record.count, below=limits.INT)
    yield limits.moment("MeasurementTime", record.measured, now=now)


def describe(number: int) -> str:
    """Return a sum of addresses for people."""
    return f"{number} addresses"


KIND = RecordKind(
    name="ip",
    title="public IP v0.2",
    things="users with addresses",
    record=IPRecord,
    describe=describe,
    check=check,
    fields=fields,
    render=partial(usage_json.render, fields=fields),
    compose=partial(usage_json.compose, title="APEL Public IP message", version="0.2"),
    user=lambda record: record.user_id or None,
    is_count=True,
)
