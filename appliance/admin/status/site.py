"""The state of a site for ``appliance status``: one look at files, services and the schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from appliance.admin import settings
from appliance.admin.machine import Machine
from appliance.admin.schedule import state, upcoming
from appliance.admin.settings import Host
from appliance.admin.state import mark
from appliance.admin.status import (
    accounting_rows,
    age,
    destinations,
    host_rows,
    image_rows,
    information,
    information_rows,
    one_each,
    reach,
    services,
)
from appliance.admin.status.age import Age
from appliance.admin.status.destinations import DestinationState
from appliance.admin.status.evidence import SiteEvidence
from appliance.admin.status.information import PublishedFile
from appliance.admin.status.one_each import Tree
from appliance.admin.status.reach import Reach
from appliance.admin.status.records import Last, is_off, last_records, last_run
from appliance.admin.status.row import Row
from appliance.admin.status.services import Services
from appliance.core import clock
from appliance.core.run import log
from appliance.core.run.errors import ExitStatus, LocalFailure, Unavailable
from appliance.core.run.layout import Layout


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """What is known of a site."""

    layout: Layout
    host: Host
    now: datetime
    records: Mapping[str, Tree]
    """The records by program, as the files have them."""
    runs: Sequence[Last]
    services: Services | None
    schedule: Sequence[str] | None
    images: Age | None
    reached: Reach | None
    published: PublishedFile | None
    sent_to: Sequence[DestinationState]
    unusable: Sequence[str]
    complaints: Sequence[str]
    """Faults that are neither of a run nor of a service."""
    rows: Sequence[Row]

    @property
    def further(self) -> Sequence[str]:
        """Return the reasons of rows that no record, service or complaint has given already."""
        known = [line for last in self.runs for line in last.failures]
        known += [*self.complaints, *(services.complaints(self.services) if self.services else ())]
        text = "\n".join(known)
        return [
            log.redact(f"{row.name}: {row.reason}")
            for row in self.rows
            if row.light.needs_somebody and row.reason not in text and not self._is_failed(row)
        ]

    def _is_failed(self, row: Row) -> bool:
        """Check whether the row's reason is only that its last run failed."""
        return any(last.program == row.name and not last.is_well for last in self.runs)

    @property
    def status(self) -> ExitStatus:
        """Return the exit status: partly if something needs somebody."""
        is_well = (self.services is None or self.services.are_well) and not self.complaints
        is_lit = any(row.light.needs_somebody for row in self.rows)
        if is_well and not is_lit and all(last.is_well for last in self.runs):
            return ExitStatus.DONE
        return ExitStatus.PARTLY

    def as_json(self) -> dict[str, object]:
        """Return the records, and beside them what else is known."""
        found = self.services
        beside = {
            "services": found and found.as_json(),
            "compose": found and found.compose,
            "faults": (found and found.faults) or None,
            "schedule": self.schedule,
            "images": self.images and self.images.as_json(),
            "off": [flow for flow, is_on in self.host.flows.items() if not is_on] or None,
            "unusable": self.unusable or None,
            "reach": self.reached and self.reached.as_json(),
            "information": self.published and self.published.as_json(),
            "destinations": [one.as_json() for one in self.sent_to] or None,
            "rows": [row.as_json() for row in self.rows],
        }
        known = {name: value for name, value in beside.items() if value is not None}
        return {**self.records, **known}


def look(layout: Layout, *, asks_compose: bool = True) -> SiteStatus:
    """Return the state of a site; nothing is written, and no other host is asked.

    Compose 1.29.2 takes a second to print its version; ``asks_compose`` leaves that out.

    Raises:
        Unavailable: no program has run yet, and no service is installed.

    """
    host, now = settings.load(layout), clock.now()
    found_services = services.look(layout, host, asks_compose=asks_compose)
    records, unusable = last_records(layout)
    found = {path.stem: tree for path, tree in records.items()}
    if not found and found_services is None and not mark.fault(layout):
        raise Unavailable(layout.runs, "no program has run yet", "see appliance schedule")
    off = {path.stem for path in records if is_off(path, host)}
    runs = [
        last_run(program, tree, is_off=program in off)
        for program, tree in sorted(one_each.one_a_job(found).items())
    ]
    schedule, images = _schedule(layout, host), age.of_images(host, today=now.date())
    reached = reach.of_bdii(host, found_services)
    published = information.of_file(layout, host, now=now)
    sent_to = destinations.of_sender(layout, host, found, now=now)
    complaints = [
        *(schedule or ()),
        *unusable,
        *([images.complaint] if images and images.complaint else []),
        *(reached.complaints if reached else ()),
        *([published.complaint] if published and published.complaint else []),
        *(one.complaint for one in sent_to if one.complaint),
        *destinations.unread(layout, host),
    ]
    evidence = _evidence(layout, host, now, runs, found_services, sent_to, published)
    return SiteStatus(
        layout,
        host,
        now,
        found,
        runs,
        found_services,
        schedule,
        images,
        reached,
        published,
        sent_to,
        unusable,
        complaints,
        _rows(evidence, images),
    )


def _evidence(
    layout: Layout,
    host: Host,
    now: datetime,
    runs: Sequence[Last],
    found_services: Services | None,
    sent_to: Sequence[DestinationState],
    published: PublishedFile | None,
) -> SiteEvidence:
    try:
        starts = upcoming.of_jobs(layout, now=now, machine=Machine())
    except OSError:  # only root can read the tables; the complaint about the schedule says so
        starts = {}
    return SiteEvidence(
        layout,
        host,
        now,
        {last.program: last for last in runs},
        found_services,
        sent_to,
        published,
        starts,
    )


def _rows(evidence: SiteEvidence, images: Age | None) -> list[Row]:
    flows = evidence.host.flows
    makers = {
        "accounting": accounting_rows.rows,
        "information": information_rows.rows,
        "images": image_rows.rows,
    }
    found: list[Row] = []
    for flow, is_on in flows.items():
        if is_on:
            found += makers[flow](evidence)
    return [*found, *host_rows.rows(evidence, images)]


def _schedule(layout: Layout, host: Host) -> list[str] | None:
    """Return the complaints of `appliance schedule`; None if no table or timer is installed."""
    try:
        return state.complaints(layout, host) if state.is_installed(layout) else None
    except OSError as error:  # only root can read root's table
        return [str(LocalFailure.from_os(error))]
