"""What the rows of ``appliance status`` are made from; nothing of it asks another host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from appliance.admin.inventory import JOBS, SERVICES, Flow
from appliance.admin.schedule.upcoming import Upcoming
from appliance.admin.settings import Host
from appliance.admin.status import services as services_view
from appliance.admin.status.destinations import DestinationState
from appliance.admin.status.information import PublishedFile
from appliance.admin.status.records import Last
from appliance.admin.status.row import Figures, Light, Row
from appliance.admin.status.services import Services
from appliance.core.run import lock
from appliance.core.run.errors import ExitStatus
from appliance.core.run.layout import Layout


@dataclass(frozen=True, slots=True)
class SiteEvidence:
    """The state of a site at one moment."""

    layout: Layout
    host: Host
    now: datetime
    runs: Mapping[str, Last]
    """The last runs by program; a job that never reached its program is ``job-NAME``."""
    services: Services | None
    destinations: Sequence[DestinationState]
    published: PublishedFile | None
    starts: Mapping[str, Upcoming]
    """The next start of each job that something starts."""

    def last(self, job: str, program: str = "") -> Last | None:
        """Return the last run of a job; ``program`` is the name of its record."""
        named = program or JOBS[job].command[0].rpartition("/")[2]
        return self.runs.get(named) or self.runs.get(f"job-{job}")

    def span(self, moment: datetime) -> str:
        """Return how long ago a moment is."""
        return services_view.span(self.now - moment)

    def period(self, job: str) -> timedelta | None:
        """Return the time between two starts of a job; None if nothing of ours starts it."""
        start = self.starts.get(job)
        return start.period if start else None

    def is_known(self, job: str, program: str = "") -> bool:
        """Check whether a job has run or is scheduled."""
        return job in self.starts or self.last(job, program) is not None


def of_job(
    evidence: SiteEvidence,
    job: str,
    *,
    name: str = "",
    program: str = "",
    details: str = "",
    figures: Figures | None = None,
    trouble: str = "",
) -> Row:
    """Return the row of a job: its light is that of its last run, its delay, and ``trouble``."""
    last, start = evidence.last(job, program), evidence.starts.get(job)
    light, reason = _of_last(evidence, job, last)
    if trouble and light is not Light.BAD:
        light, reason = Light.WARNING, reason or trouble
    return Row(
        str(JOBS[job].flow or "host"),
        name or job,
        light,
        details,
        reason,
        (last.ended or last.started) if last else None,
        start.at if start else None,
        figures or {},
    )


def _of_last(evidence: SiteEvidence, job: str, last: Last | None) -> tuple[Light, str]:
    if last is None:
        return Light.UNKNOWN, ""
    reason = last.failures[0] if last.failures else ""
    if last.status is None:
        return Light.WARNING, reason or "its record has no exit status"
    if last.status is not ExitStatus.DONE:
        light = Light.WARNING if last.status is ExitStatus.PARTLY else Light.BAD
        return light, reason or f"its last run ended with exit status {last.status}"
    if late := _delay(evidence, job, last):
        return Light.WARNING, late
    return Light.OK, ""


def _delay(evidence: SiteEvidence, job: str, last: Last) -> str:
    """Return why a job is late; empty if it is not, or runs just now."""
    period, begun = evidence.period(job), last.started or last.ended
    if period is None or begun is None or evidence.now - begun <= 2 * period:
        return ""
    if lock.holder(evidence.layout.path(f"/run/fedcloud/{job}.lock")):
        return ""
    every = services_view.span(period)
    return (
        f"it last began {evidence.span(begun)} ago, and is due every {every}; see appliance check"
    )


def of_service(evidence: SiteEvidence, service: str, *, program: str, details: str) -> Row | None:
    """Return the row of a long-running service; None if it is neither installed nor recorded."""
    found = evidence.services
    state = next((one for one in found.states if one.service == service), None) if found else None
    last = evidence.runs.get(program)
    if state is None and last is None:
        return None
    light, reason = _of_last(evidence, "", last)
    if found and (faults := found.faults.get(service)):
        light, reason = Light.WARNING, faults[0]
    if state is not None and not state.is_well and not (found and service in found.off):
        light, reason = Light.BAD, services_view.complaint(state)
    flow = Flow.INFORMATION if SERVICES[service] == "bdii" else Flow.IMAGES
    ended = last.ended if last else None
    return Row(flow.value, service, light, details, reason, ended)
