"""The flows, jobs and services of an appliance.

It states which service runs each job, with which command, and how long the job may take.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from appliance.core.run.errors import UsageError
from appliance.core.run.layout import Layout
from appliance.core.suggestion import closest


class Flow(enum.StrEnum):
    """A flow of data that a site can switch off: ``flows`` in appliance.yaml."""

    ACCOUNTING = "accounting"
    INFORMATION = "information"
    IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Job:
    """A job. Without a ``service`` it is a program of the host itself."""

    name: str
    flow: Flow | None
    """The flow that it belongs to; None for a job that all flows need."""
    service: str
    command: tuple[str, ...]
    """The command line in the service's container, or on the host."""
    log: str
    """The file in ``/var/log`` that receives the output when cron or a timer starts the job."""
    cron: str
    """The file in ``/etc/cron.d`` that starts it."""
    timeout: timedelta
    """The default time limit; ``timeouts`` in appliance.yaml overrides it."""
    is_scheduled: bool = True
    """Whether `appliance schedule` includes the job without ``--with``."""
    verbs: frozenset[str] = frozenset()
    """Verbs of the program that may take the place of the command's own, beside a run of it."""
    verb_program: str = ""
    """The program that has these verbs; empty if it is the command's own."""
    base: str = ""
    """The job whose verb this is; empty for a job of the schedule."""
    profile: str = ""
    """The federation whose new hosts schedule it at first, though not every site needs it."""
    is_spread: bool = False
    """Whether its minutes follow from the site's name, so that sites do not start it together."""

    def called(self, arguments: Sequence[str]) -> tuple[Job, Sequence[str]]:
        """Return the job that the arguments call for, and those that are left for its program.

        A verb is a job of its own: it has no schedule and no record, and its program itself keeps
        it apart from a run of this job where that matters.
        """
        verb, *rest = arguments or ("",)
        if verb in self.verbs:
            program = (self.verb_program or self.command[0], verb)
            name = f"{self.name}-{verb}"
            return replace(self, name=name, command=program, base=self.name), rest
        is_repeated = verb in self.command[1:] and not verb.startswith("-")
        return self, rest if is_repeated else arguments


SERVICES = {"cloudbdii": "bdii", "sitebdii": "bdii", "cloudkeeper-os": "cloudkeeper-os"}
"""The long-running services, each with the systemd unit that runs it."""
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
            verbs=frozenset(
                {
                    *(
                        "check",
                        "checkpoints",
                        "compare",
                        "gaps",
                        "ledger",
                        "mapping-migrate",
                        "offers",
                        "projects",
                    ),
                    *("quarantine", "reconcile", "report", "republish", "shadow"),
                }
            ),
            verb_program="caso",
        ),
        Job(
            "ssmsend",
            Flow.ACCOUNTING,
            "ssm",
            ("ssmsend",),
            "ssm.log",
            "ssmsend",
            timedelta(hours=5),
            # `verify` is not among them: its file is on the host, which the container does not see.
            verbs=frozenset({"spool", "sent", "failed", "requeue"}),
            verb_program="ssmctl",
        ),
        Job(
            "cloudkeeper",
            Flow.IMAGES,
            "cloudkeeper",
            ("cloudkeeper", "sync"),
            "cloudkeeper.log",
            "cloudkeeper",
            timedelta(days=1),
            verbs=frozenset(
                {"plan", "verify", "trust", "list", "status", "gc", "import", "release", "version"}
            ),
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
            "cloud-info-json",
            Flow.INFORMATION,
            "cloud-info",
            ("cloud-info-provider-service", "--format", "glue21json", "--publisher", "file"),
            "cloud-info-json.log",
            "cloud-info-json",
            timedelta(minutes=30),
            is_scheduled=False,
            profile="egi",
            is_spread=True,
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
CONTAINERS = tuple(
    dict.fromkeys([*SERVICES, *(job.service for job in JOBS.values() if job.service)])
)
"""All services of the compose file; each has an image of the same name."""


def records(layout: Layout) -> Path:
    """Return the directory of the job records.

    Root writes them; no container has this directory mounted.
    """
    return layout.runs / "jobs"


def flow_of(name: str) -> Flow | None:
    """Return the flow of a job, a service or a unit; None if all flows need it."""
    return JOBS[name].flow if name in JOBS else _SERVICE_FLOWS.get(name)


def flow_of_record(program: str, service: str) -> Flow | None:
    """Return the flow of a run record.

    ``program`` is the name of the record, ``service`` the directory that it is in. Programs that
    run without containers write into the common directory, so ``service`` may name no service.
    """
    # Programs name their record after themselves, `appliance run` as job-NAME, the two BDIIs as
    # bdii-LEVEL.
    by_program = {job.command[0]: job.flow for job in JOBS.values()}
    by_program |= {f"job-{job.name}": job.flow for job in JOBS.values()}
    by_program |= {f"bdii-{level}": Flow.INFORMATION for level in ("resource", "site")}
    by_service = {job.service: job.flow for job in JOBS.values() if job.service}
    return (
        by_program.get(program) or by_service.get(service) or flow_of(program) or flow_of(service)
    )


def find(name: str) -> Job:
    """Return a job by its name.

    Raises:
        UsageError: There is no such job; the message suggests the nearest name.

    """
    if name in JOBS:
        return JOBS[name]
    known = {
        **{job.name: job for job in JOBS.values()},
        **{job.command[0]: job for job in reversed(JOBS.values())},
    }
    near = closest(name, known)
    hint = f"did you mean {known[near].name}?" if near else f"write one of {', '.join(JOBS)}"
    raise UsageError(name, "there is no such job", hint)
