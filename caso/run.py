"""A run of `caso-extract`: the batches that earlier runs left, then the selected projects.

Each project is accounted by itself, several at a time: a failure is a value in its outcome, and
stops no other project. A run may be killed at any point: see `caso.batch` and `caso.checkpoint`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from appliance.core import clock
from appliance.core.cloud.hops import LoginFailure
from appliance.core.cloud.identity import UserNames
from appliance.core.cloud.session import Cloud
from appliance.core.run import cli, lock
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure
from appliance.core.run.record import RunRecord
from caso.batch import Recovered, Staging
from caso.checkpoint import BEGINNING, Checkpoints
from caso.extract.project import OVERLAP, ProjectTally, Shared, extract
from caso.kinds import cloud as wire
from caso.kinds.months import ExtractionWindow
from caso.selection import Selected, select
from caso.settings import CasoConfiguration

logger = logging.getLogger(__name__)

PROGRAM = "caso-extract"
LOCK_NAME = "caso_should_not_run_in_parallel"
"""The name of cASO's lock file: caso-extract and cASO exclude each other."""
LOCK_WAIT = timedelta(minutes=10)
MAX_SKEW = timedelta(seconds=60)
"""Clock difference to the cloud above which a run warns."""
ONE_SECOND = timedelta(seconds=1)
"""Windows include both ends, so the next one begins a second later, as in cASO 5.2.2."""


@dataclass(frozen=True, slots=True)
class ProjectOutcome:
    """The result of accounting one project."""

    selected: Selected
    window: ExtractionWindow | None = None
    tally: ProjectTally = field(default_factory=ProjectTally)
    messages: int = 0
    error: ApplianceError | None = None
    bug: Exception | None = None
    """An unexpected exception, to be raised when all other projects are done."""


def run(configuration: CasoConfiguration, record: RunRecord) -> ExitStatus:
    """Account all selected projects; report and count failures of single ones, raise none."""
    with _locked(configuration):
        return _AccountingRun(configuration, record).run()


@contextlib.contextmanager
def _locked(configuration: CasoConfiguration) -> Iterator[None]:
    if configuration.is_dry_run:  # which changes nothing, lock files included
        yield
        return
    with lock.hold(configuration.lock / LOCK_NAME, wait=LOCK_WAIT):
        yield


class _AccountingRun:
    def __init__(self, configuration: CasoConfiguration, record: RunRecord) -> None:
        self.configuration = configuration
        self.record = record
        self.checkpoints = Checkpoints(configuration.spool)
        self.staging = Staging(configuration.output, self.checkpoints)
        self.cloud = Cloud(configuration.access)
        self.shared = Shared(self.cloud, configuration, UserNames(self.cloud))
        self._recording = threading.Lock()

    def run(self) -> ExitStatus:
        if self.configuration.projects:  # for the record of a run that fails early
            self.record.counts["projects_left"] = len(self.configuration.projects)
        recovered = self._recover()
        try:
            selected, failures = select(self.cloud, self.configuration)
            # Batches of projects that are not selected (any more) are reported here, others below.
            known = {one.project.id for one in selected}
            failures += [error for name, error in recovered.stuck.items() if name not in known]
            self.record.counts |= {
                "projects": len(selected) + len(failures),
                "projects_failed": len(failures),
                "projects_left": len(selected) + len(failures),
            }
            outcomes = self._account_all(selected, recovered.stuck)
        finally:
            self.record.add("api_requests", self.cloud.transport.requests)
        failures += [outcome.error for outcome in outcomes if outcome.error]
        # A login that fails gives the same line for each project.
        for line in dict.fromkeys(map(str, [*failures, *recovered.foreign])):
            self._report(line)
        for outcome in outcomes:
            self._report_outcome(outcome)
        for bug in [outcome.bug for outcome in outcomes if outcome.bug]:
            raise bug
        status = _status(outcomes, failures)
        return ExitStatus.PARTLY if status is ExitStatus.DONE and recovered.foreign else status

    def _account_all(
        self,
        selected: list[Selected],
        stuck: Mapping[str, ApplianceError],
    ) -> list[ProjectOutcome]:
        end = self._end()
        logger.info("%d projects, up to %s", len(selected), end.isoformat(timespec="seconds"))

        def account(one: Selected) -> ProjectOutcome:
            # A project with a batch that is stuck must wait: see `caso.batch`.
            error = stuck.get(one.project.id)
            outcome = ProjectOutcome(one, error=error and _about(one, error))
            if error is None:
                outcome = self._account(one, end=end)
            with self._recording:
                self._count(outcome)
            return outcome

        # Threads, because a project mostly waits for Nova.
        with ThreadPoolExecutor(self.configuration.parallel, thread_name_prefix="project") as pool:
            return list(pool.map(account, selected))

    def _recover(self) -> Recovered:
        if self.configuration.is_dry_run:
            for project in self.staging.pending():
                logger.info(
                    "project %s: a batch of an earlier run waits; a dry run leaves it",
                    project,
                )
            return Recovered()
        recovered = self.staging.recover()
        if recovered.messages:
            logger.info("%d messages of an interrupted run moved to the spool", recovered.messages)
            self.record.add("messages_recovered", recovered.messages)
        return recovered

    def _end(self) -> datetime:
        """Return the end of this run's windows: at most the host's time, and the cloud's."""
        latest = self.cloud.server_time()
        offset = self.cloud.transport.keystone_offset or timedelta(0)
        if abs(offset) > MAX_SKEW:
            logger.warning(
                "the clocks of this host and of %s differ by %s; set them by NTP",
                self.cloud.host,
                abs(offset),
            )
        asked = self.configuration.period.end
        if asked is not None and asked > latest:
            logger.warning("extract-to %s is in the future; records end now", asked.isoformat())
        return min(asked, latest) if asked else latest

    def _account(self, selected: Selected, *, end: datetime) -> ProjectOutcome:
        """Account one project, from Nova to the checkpoint; a failure is in the outcome."""
        window = None
        try:
            window = self._window(selected, end)
            if window is None:
                return ProjectOutcome(selected)
            return self._extract(selected, window)
        except (ApplianceError, OSError) as error:
            failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
            return ProjectOutcome(selected, window, error=_about(selected, failure))
        except Exception as bug:  # noqa: BLE001  raised again after the other projects
            failure = ApplianceError(selected.project, "not accounted, because of a bug")
            return ProjectOutcome(selected, window, error=failure, bug=bug)

    def _window(self, selected: Selected, end: datetime) -> ExtractionWindow | None:
        known = self.configuration.period.start or self._checkpoint(selected)
        start = known or self._beginning(selected)
        # Small differences are clocks that were corrected; then the window is empty, see below.
        if start > clock.now() + OVERLAP:
            raise LocalFailure(
                self.checkpoints.path(selected.aliases[0]),
                f"has the time {start.isoformat()}, which is in the future",
                "check this host's clock, or correct the time",
            )
        return ExtractionWindow(start, end, is_first=known is None) if start < end else None

    def _beginning(self, selected: Selected) -> datetime:
        """Return the start of a first window; servers that ended before it do not count."""
        start = self.configuration.since or BEGINNING
        line = "%s: first extraction: servers that existed on %s or later, each from its creation"
        logger.info(line, selected.project, start.isoformat())
        return start

    def _checkpoint(self, selected: Selected) -> datetime | None:
        found = self.checkpoints.find((*selected.aliases, *selected.former))
        for path in found.broken:
            logger.warning(
                "%s: has no time; going on from %s, as the project's other file says",
                path,
                found.moment,
            )
        for line in found.unreadable:
            source = "as the project's other file says"
            logger.warning("%s; going on from %s, %s", line, found.moment, source)
        return found.moment

    def _extract(self, selected: Selected, window: ExtractionWindow) -> ProjectOutcome:
        configuration = self.configuration
        # `noop` discards records, and moves the checkpoints all the same, as in cASO.
        if configuration.is_dry_run or configuration.version is None:
            tally = extract(selected, window, self.shared, None)
            if not configuration.is_dry_run:
                self.checkpoints.write(self._next_checkpoints(selected, window))
            return ProjectOutcome(selected, window, tally)
        compose = partial(wire.message, version=configuration.version)
        batch = self.staging.begin(
            selected.project.id, compose=compose, size=configuration.max_size
        )
        try:
            tally = extract(selected, window, self.shared, batch)
            # Refused records that could not be kept must be extracted again: the checkpoint stays.
            batch.commit({} if tally.is_unkept else self._next_checkpoints(selected, window))
        except (ApplianceError, OSError):
            batch.discard()
            raise
        self.staging.hand_over(batch.directory)
        return ProjectOutcome(selected, window, tally, batch.messages)

    def _next_checkpoints(self, selected: Selected, window: ExtractionWindow) -> dict[str, str]:
        """Return the checkpoint files to write; none if the window begins after the checkpoint."""
        if self.configuration.period.start is not None:
            # An explicit start is the remedy for broken files, so they are no failure here.
            with contextlib.suppress(LocalFailure):
                reached = self._checkpoint(selected)
                if reached is not None and reached < window.start:
                    logger.warning(
                        "%s: not extracted from %s to %s; its checkpoint stays, so that the next"
                        " run begins there",
                        *(selected.project, reached, window.start),
                    )
                    return {}
        return self.checkpoints.later(selected.aliases, window.end + ONE_SECOND)

    def _report(self, line: str) -> None:
        cli.report(PROGRAM, ApplianceError("", line))
        self.record.fail(line)

    def _count(self, outcome: ProjectOutcome) -> None:
        """Add a project's figures to the record, at once: SIGTERM writes it as it is."""
        tally = outcome.tally
        self.record.add("servers", tally.servers)
        self.record.add("records", tally.records.total())
        self.record.add("records_refused", len(tally.refused))
        self.record.add("messages", outcome.messages)
        if outcome.error:
            self.record.add("projects_failed")
        else:
            self.record.add("projects_left", -1)

    def _report_outcome(self, outcome: ProjectOutcome) -> None:
        for line in outcome.tally.refused:
            self._report(line)
        if outcome.error is None:
            print(_summary(outcome, is_dry_run=self.configuration.is_dry_run))


def _about(selected: Selected, error: ApplianceError) -> ApplianceError:
    """Return a failure that names its project."""
    # A failed login concerns the account. With the project's name it would be another line for each
    # project.
    if isinstance(error, LoginFailure) or selected.project.id in error.subject:
        return error
    cause = f"{error.subject}: {error.cause}" if error.subject else error.cause
    return ApplianceError(selected.project, cause, error.remedy)


def _status(outcomes: list[ProjectOutcome], failures: list[ApplianceError]) -> ExitStatus:
    if failures and all(outcome.error for outcome in outcomes):
        return ExitStatus.NOTHING
    is_partial = failures or any(outcome.tally.refused for outcome in outcomes)
    return ExitStatus.PARTLY if is_partial else ExitStatus.DONE


def _summary(outcome: ProjectOutcome, *, is_dry_run: bool) -> str:
    lead = f"{outcome.selected.project}, VO {outcome.selected.vo}"
    if outcome.window is None:
        return f"{lead}: nothing to do"
    tally = outcome.tally
    counted = f"{tally.servers} servers, {tally.records.total()} records"
    line = f"{lead}: from {outcome.window.start.isoformat(timespec='seconds')}: {counted}"
    if not is_dry_run:
        return f"{line}, {outcome.messages} messages"
    months = [
        f"  {month}: {tally.records[month]} records, {seconds / 3600:.1f} h of wall time since the"
        " servers' creation"
        for month, seconds in sorted(tally.wall.items())
    ]
    return "\n".join([line, *months])
