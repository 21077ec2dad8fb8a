"""The accelerator record: the accelerators of one server in one month, v0.1.

**Wire form.** An ``APEL-accelerator-message``, JSON, as cASO 5 writes it. Count may have decimals,
which cASO cannot read: 0.5 is half of a shared GPU. Model is the vendor and the model.
ActiveDuration is AvailableDuration, because the cloud does not know what a server does with them.

**Month rule.** Durations are those of the month alone, not cumulative. A month is always whole:
from its beginning, or the server's, to the window's end or the month's.

**Segments.** A server whose flavor changed in the month has a record for each accelerator and
number; the times with the same ones are added up. The caller says from when on a server had which.

**Faults.** The fields that the definition requires, with the limits of the database that APEL has
proposed (pull request 245): 255 characters, Count below 10^7 with three decimals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from caso.kinds import limits, usage_json
from caso.kinds.cloud import CLOUD_TYPE
from caso.kinds.kind import Checked, RecordKind
from caso.kinds.months import SECOND, ExtractionWindow, cuts, next_month


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The accelerators of a flavor."""

    type: str
    """GPU, say."""
    model: str
    count: Decimal


@dataclass(frozen=True, slots=True)
class AcceleratorRecord:
    """The time for which a server had accelerators of one kind in a month."""

    vm_uuid: str
    site: str
    service: str
    vo: str
    accelerator: Accelerator
    month: datetime
    """The first moment of the month, in UTC."""
    active: timedelta
    user_id: str = ""
    """Of Keystone; a record does not have it."""
    user_name: str | None = None
    cloud_type: str = CLOUD_TYPE

    @property
    def key(self) -> str:
        """Return server and accelerator."""
        one = self.accelerator
        return f"{self.vm_uuid}/{one.type}/{one.model}/{one.count}"

    @property
    def measured(self) -> datetime:
        """Return the month."""
        return self.month

    @property
    def amount(self) -> int:
        """Return the seconds of the month in which the server had the accelerators."""
        return self.active // SECOND

    @property
    def progress(self) -> int:
        """Return the amount, which only grows."""
        return self.amount


@dataclass(frozen=True, slots=True)
class AcceleratorState:
    """The accelerators that a server had from a moment on, until its next state."""

    since: datetime
    accelerator: Accelerator | None


def durations(
    states: Sequence[AcceleratorState], died: datetime | None, window: ExtractionWindow
) -> Iterator[tuple[datetime, Accelerator, timedelta]]:
    """Yield month, accelerators and time of a server, oldest month first.

    ``states`` are in the order of time; the first one begins with the server.
    """
    born = states[0].since.replace(microsecond=0)
    for cut in cuts(born, died, window):
        following = next_month(cut.month)
        # The cut of a month is its last second; the server had the accelerators to its end.
        goes_on = not cut.has_ended and cut.until == following - SECOND
        until = following if goes_on else cut.until
        times: dict[Accelerator, timedelta] = {}
        for state, after in zip(states, [*states[1:], None], strict=True):
            start = max(cut.month, state.since.replace(microsecond=0))
            end = until if after is None else min(until, after.since.replace(microsecond=0))
            if state.accelerator is not None and start < end:
                one = state.accelerator
                times[one] = times.get(one, timedelta(0)) + (end - start)
        for accelerator, active in times.items():
            yield cut.month, accelerator, active


def fields(record: AcceleratorRecord) -> Mapping[str, object]:
    """Return the fields of a record that have a value, by their names on the wire."""
    one = record.accelerator
    values: dict[str, object] = {
        "SiteName": record.site,
        "CloudType": record.cloud_type,
        "CloudComputeService": record.service,
        "AssociatedRecord": record.vm_uuid,
        "GlobalUserName": record.user_name,
        "FQAN": record.vo,
        "Count": limits.count(one.count),
        "AvailableDuration": record.amount,
        "MeasurementMonth": record.month.month,
        "MeasurementYear": record.month.year,
        "AssociatedRecordType": "cloud",
        "Type": one.type,
        "Model": one.model or None,
        "ActiveDuration": record.amount,
    }
    return {name: value for name, value in values.items() if value is not None}


def check(record: AcceleratorRecord, now: datetime) -> Checked[AcceleratorRecord]:
    """Return the record without its unusable optional fields, and its faults."""
    wrong = limits.text("GlobalUserName", record.user_name or "")
    kept, dropped = limits.leave_out(record, {"user_name": wrong})
    if wrong := limits.text("Model", record.accelerator.model):
        kept = replace(kept, accelerator=replace(record.accelerator, model=""))
        dropped = (*dropped, wrong)
    return Checked(kept, dropped, limits.found(_faults(kept, now)))


def _faults(record: AcceleratorRecord, now: datetime) -> Iterator[str]:
    one = record.accelerator
    yield limits.required("AssociatedRecord", record.vm_uuid)
    yield limits.required("SiteName", record.site)
    yield limits.required("FQAN", record.vo)
    yield limits.required("Type", one.type)
    yield limits.text("CloudComputeService", record.service)
    yield limits.text("CloudType", record.cloud_type)
    yield limits.number("Count", one.count, below=limits.DECIMAL, least=limits.THOUSANDTH)
    yield limits.moment("MeasurementMonth", record.month, now=now)
    longest = (next_month(record.month) - record.month) // SECOND
    yield limits.number("AvailableDuration", record.amount, below=longest + 1)


def describe(seconds: int) -> str:
    """Return a sum of seconds for people."""
    return f"{seconds / 3600:.1f} h with accelerators in the month"


KIND = RecordKind(
    name="accelerator",
    title="accelerator v0.1",
    things="servers with accelerators",
    record=AcceleratorRecord,
    describe=describe,
    check=check,
    fields=fields,
    render=partial(usage_json.render, fields=fields),
    compose=partial(usage_json.compose, title="APEL-accelerator-message", version="0.1"),
)
