"""The jobs and services of an appliance: which service runs each job, with what command, how often it is started."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.core.run.errors import UsageError
from appliance.core.run.layout import Layout
from appliance.core.suggestion import closest


class Flow(enum.StrEnum):
    """One of the flows of data that a site can do without: `flows` in appliance.yaml."""

    ACCOUNTING = "accounting"
    INFORMATION = "information"
    IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Without a ``service`` it is a program of the host itself."""

    name: str
    flow: Flow | None
    """The flow that it is part of; None for a job that all flows need."""
    service: str
    command: tuple[str, ...]
    """What runs in the service's container, or on the host."""
    log: str
    """File in ``/var/log`` that its output goes to when nobody watches."""
    cron: str
    """File in ``/etc/cron.d`` that starts it."""
    timeout: timedelta
    """After that it is stopped, unless ``appliance.yaml`` says otherwise."""
    is_scheduled: bool = True
    """Whether an appliance runs it without being asked to."""


SERVICES = {"cloudbdii": "bdii", "sitebdii": "bdii", "cloudkeeper-os": "cloudkeeper-os"}
"""What runs always: the unit of each service."""
_SERVICE_FLOWS = {
    "bdii": Flow.INFORMATION,
    "cloudbdii": Flow.INFORMATION,
    "sitebdii": Flow.INFORMATION,
    "cloudkeeper-os": Flow.IMAGES,
}
"""The flow of each service, and of the unit that runs it."""
UNITS = {
    unit: tuple(service for service, owner in SERVICES.items() if owner == unit)
    for unit in dict.fromkeys(SERVICES.values())
}
"""The services of each unit, in the order in which they start."""
JOBS = {
    job.name: job
    for job in (
        Job(
            "caso",
            Flow.ACCOUNTING,
            "caso",
            ("caso-extract",),
            "caso.log",
            "caso",
            timedelta(hours=6),
        ),
        Job(
            "ssmsend",
            Flow.ACCOUNTING,
            "ssm",
            ("ssmsend",),
            "ssm.log",
            "ssmsend",
            timedelta(hours=5),
        ),
        Job(
            "cloudkeeper",
            Flow.IMAGES,
            "cloudkeeper",
            ("cloudkeeper", "sync"),
            "cloudkeeper.log",
            "cloudkeeper",
            timedelta(days=1),
        ),
        Job(
            "cloud-info",
            Flow.INFORMATION,
            "cloud-info",
            ("cloud-info-provider-service",),
            "cloud-info.log",
            "cloud-info",
            timedelta(minutes=30),
            is_scheduled=False,
        ),
        Job(
            "fetch-crl",
            None,
            "",
            ("/usr/sbin/fetch-crl", "-q", "-p", "4"),
            "fetch-crl.log",
            "fedcloud-crl",
            timedelta(hours=1),
        ),
    )
}
CONTAINERS = (*SERVICES, *(job.service for job in JOBS.values() if job.service))
"""All services of the compose file; each has an image of its name."""


def records(layout: Layout) -> Path:
    """Return the directory of the records that root writes of jobs; no container can write there."""
    return layout.runs / "jobs"


def flow_of(name: str) -> Flow | None:
    """Return the flow of a job, a service, or a service's unit; None when it belongs to all of them."""
    return JOBS[name].flow if name in JOBS else _SERVICE_FLOWS.get(name)


def flow_of_record(program: str, service: str) -> Flow | None:
    """Return the flow of a run record by its program, and by the ``service`` whose container wrote it.

    Programs that run without containers write into the directory of all records; ``service`` names
    none of ours then.
    """
    by_program = {job.command[0]: job.flow for job in JOBS.values()}
    by_program |= {f"job-{job.name}": job.flow for job in JOBS.values()}
    by_program |= {f"bdii-{level}": Flow.INFORMATION for level in ("resource", "site")}
    by_service = {job.service: job.flow for job in JOBS.values() if job.service}
    return (
        by_program.get(program) or by_service.get(service) or flow_of(program) or flow_of(service)
    )


def find(name: str) -> Job:
    """Return a job by its name; raises `UsageError` with the nearest one."""
    if name in JOBS:
        return JOBS[name]
    known = {
        **{job.name: job for job in JOBS.values()},
        **{job.command[0]: job for job in JOBS.values()},
    }
    near = closest(name, known)
    hint = f"did you mean {known[near].name}?" if near else f"write one of {', '.join(JOBS)}"
    raise UsageError(name, "there is no such job", hint)
