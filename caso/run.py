"""A run of `caso-extract`: the batches that earlier runs left, then the selected projects.

Each project is accounted by itself, several at a time: a failure is a value in its outcome, and
stops no other project. A run may be killed at any point: see `caso.messengers.batch` and
`caso.checkpoint`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import chain

from appliance.core import clock
from appliance.core.cloud.session import Cloud
from appliance.core.run import cli, lock, place
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure
from appliance.core.run.record import CREDENTIAL_END, RunRecord
from caso import dry_run, gathered, quarantine
from caso.checkpoint import Checkpoints
from caso.former_spool import left_behind
from caso.kinds.months import BEGINNING, SECOND
from caso.kinds.registry import KINDS
from caso.lanes import Withheld
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, Origin, Outstanding, month_text
from caso.messengers.messenger import Recovered
from caso.project import ProjectAccounting, ProjectOutcome, ProjectTally, SharedAnswers
from caso.rebuild import goes_further, rebuild
from caso.selection import Selected, select
from caso.settings import CasoConfiguration
from caso.usage.destinations import destinations

logger = logging.getLogger(__name__)

PROGRAM = "caso-extract"
LOCK_NAME = "caso_should_not_run_in_parallel"
"""The name of cASO's lock file: caso-extract and cASO exclude each other."""
LOCK_WAIT = timedelta(minutes=10)
_MONTH = timedelta(days=31)
_HOUR = 3600
_M_ARENA_MAX = -8
"""The parameter of glibc's mallopt(3) for the number of heaps."""


Show = Callable[[Sequence[ProjectOutcome]], None]
"""Prints the outcomes of a run."""


def run(
    configuration: CasoConfiguration, record: RunRecord, *, show: Show | None = None
) -> ExitStatus:
    """Account all selected projects; report and count failures of single ones, raise none.

    ``show`` prints what was done, in place of a line for each project.
    """
    if configuration.projects:  # for the record of a run that fails early
        record.counts["projects_left"] = len(configuration.projects)
    with opened(configuration, record) as accounting:
        return accounting.run(show)


@contextlib.contextmanager
def opened(configuration: CasoConfiguration, record: RunRecord) -> Iterator[AccountingRun]:
    """Hold the lock and the ledger for a run; a dry run writes neither.

    Raises:
        Busy: another run holds the lock.
        LocalFailure: the ledger cannot be used.

    """
    with (
        locked(configuration),
        Ledger(
            configuration.ledger,
            read_only=configuration.is_dry_run,
            retention=configuration.retention,
        ) as ledger,
    ):
        accounting = AccountingRun(configuration, record, ledger)
        try:
            yield accounting
        finally:
            accounting.shared.memory.close()
            transport = accounting.cloud.transport
            record.add("api_requests", transport.requests)
            if transport.credential_ends:
                record.counts[CREDENTIAL_END] = transport.credential_ends.timestamp()
            record.parts["service"] = {
                name: asdict(use) for name, use in transport.services.items()
            }


@contextlib.contextmanager
def locked(configuration: CasoConfiguration) -> Iterator[None]:
    """Exclude other runs, and cASO.

    Raises:
        Busy: another run holds the lock.

    """
    if configuration.is_dry_run:  # which changes nothing, lock files included
        yield
        return
    with lock.hold(configuration.lock / LOCK_NAME, wait=LOCK_WAIT):
        yield


class AccountingRun:
    """A run, and what it opens."""

    def __init__(self, configuration: CasoConfiguration, record: RunRecord, ledger: Ledger) -> None:
        self.configuration = configuration
        self.record = record
        self.ledger = ledger
        self.checkpoints = Checkpoints(configuration.spool)
        self.messengers = [one.open(self.checkpoints) for one in configuration.messengers]
        self.cloud = Cloud(configuration.access)
        self.shared = SharedAnswers(self.cloud, configuration)
        self.regions = [
            ProjectAccounting(
                *(self.cloud.in_region(region), configuration, self.checkpoints),
                *(self.messengers, ledger, self.shared),
            )
            for region in configuration.regions
        ]
        self._recording = threading.Lock()

    def run(self, show: Show | None = None) -> ExitStatus:
        """Account the selected projects, and print what was done."""
        self._name_missing_kinds()
        recovered = self.recover()
        selected, failures = select(self.cloud, self.configuration)
        # Batches of projects that are not selected (any more) are reported here, others below.
        known = {region.origin(one).label for one in selected for region in self.regions}
        failures += [error for name, error in recovered.stuck.items() if name not in known]
        self.record.counts |= {
            "projects": len(selected) + len(failures),
            "projects_failed": len(failures),
            "projects_left": len(selected) + len(failures),
        }
        outcomes = self._account_all(selected, recovered.stuck)
        late = self.deliver()
        self._count_lag(selected)
        self._count_vos()
        failures += [error for outcome in outcomes for error in outcome.failures]
        # A login that fails gives the same line for each project.
        for line in gathered.lines([*failures, *recovered.foreign, *late]):
            self._report(line)
        for outcome in outcomes:
            self._report_outcome(outcome)
        (show or self._print)(outcomes)
        for bug in [outcome.bug for outcome in outcomes if outcome.bug]:
            raise bug
        status, others = _status(outcomes, failures), [*recovered.foreign, *late]
        if line := self._held_line(sum(len(outcome.tally.refused) for outcome in outcomes)):
            self._report(line)
            others.append(ApplianceError("", line))
        return ExitStatus.PARTLY if status is ExitStatus.DONE and others else status

    def deliver(self) -> list[ApplianceError]:
        """Have messengers send what waits; one that fails holds back no other."""
        if self.configuration.is_dry_run:
            return []
        return [failure for messenger in self.messengers for failure in messenger.deliver()]

    def _held_line(self, reported: int) -> str:
        """Return what the quarantine holds in a line, unless this run has reported all of it."""
        if self.configuration.is_dry_run:
            return ""
        try:
            held = quarantine.open_entries(self.configuration.quarantine, self._delivered)
        except OSError as error:
            return str(LocalFailure.from_os(error))
        self.record.counts["records_in_quarantine"] = len(held)
        if len(held) <= reported:
            return ""
        command = place.command("caso", "caso", "quarantine", "list")
        return f"records in the quarantine are not sent: {quarantine.summary(held)}; see {command}"

    def _delivered(self, key: str) -> list[quarantine.Delivered]:
        rows = self.ledger.deliveries.of(key)
        return [
            quarantine.Delivered(
                month_text(row.month), row.amount if row.progress is None else row.progress, at
            )
            for row, at in ((one.row, one.at) for one in rows)
        ]

    def _name_missing_kinds(self) -> None:
        if missing := self.configuration.missing:
            options = " ".join(f"output_path_{kind}" for kind in missing)
            logger.warning(
                "records of these kinds are not sent, which cASO sends by default: %s; set [ssm]"
                " %s to send them, or extractor = nova to leave it so",
                *(", ".join(missing), options),
            )

    def _account_all(
        self,
        selected: list[Selected],
        stuck: Mapping[str, ApplianceError],
    ) -> list[ProjectOutcome]:
        self.regions[0].check_clocks()
        self._purge()
        end = self.end()
        logger.info("%d projects, up to %s", len(selected), end.isoformat(timespec="seconds"))

        for region in self.regions:
            region.usage.expect([one.project.id for one in selected])

        def account(one: Selected) -> list[ProjectOutcome]:
            outcomes = [self._account(one, region, stuck, end) for region in self.regions]
            with self._recording:
                self._count(outcomes)
            return outcomes

        _keep_one_heap()
        # Threads, because a project mostly waits for Nova.
        with ThreadPoolExecutor(self.configuration.parallel, thread_name_prefix="project") as pool:
            return list(chain.from_iterable(pool.map(account, selected)))

    def _account(
        self,
        selected: Selected,
        region: ProjectAccounting,
        stuck: Mapping[str, ApplianceError],
        end: datetime,
    ) -> ProjectOutcome:
        # A project with a batch that is stuck must wait: see `caso.messengers.batch`.
        if error := stuck.get(region.origin(selected).label):
            failure = region.about(selected, error)
            return ProjectOutcome(selected, region.region, failures=(failure,))
        return region.account(selected, end=end)

    def recover(self) -> Recovered:
        """Finish what earlier runs have committed."""
        if self.configuration.is_dry_run:
            for project in chain.from_iterable(one.pending() for one in self.messengers):
                logger.info(
                    "project %s: a batch of an earlier run waits; a dry run leaves it",
                    project,
                )
            return Recovered()
        # Before anything moves: what is staged now was committed, and counts.
        self._reconcile()
        recovered = Recovered()
        for messenger in self.messengers:
            recovered.add(messenger.recover())
        recovered.foreign += left_behind(self.ledger, self.configuration.spool)
        self._rebuild()
        if recovered.messages:
            logger.info("%d messages of an interrupted run moved to the spool", recovered.messages)
            self.record.add("messages_recovered", recovered.messages)
        return recovered

    def _rebuild(self) -> None:
        """Read earlier deliveries again, if the ledger may lack some of them.

        It is lost, or older than lastrun files, spool or journal. Or the run ends in the past: then
        only they show how far its months were delivered.
        """
        ends_early = self.configuration.period.end is not None
        if not (self.ledger.is_lost or self._is_behind() or ends_early):
            return
        # Neither a message nor the journal names the region; the guard does not need it.
        access, region = self.configuration.access, self.regions[0].region
        is_read = True
        for messenger in self.messengers:
            if not messenger.spools:
                continue
            found = rebuild(
                self.ledger,
                messenger.name,
                messenger.spools,
                journal=self.configuration.sent_journal,
                origin=lambda project: Origin(access.auth_url, region, project),
            )
            if found.sent or found.waiting:
                logger.warning(
                    "%s: read again what was delivered: %d records of messages that wait, %d of"
                    " the journal of sent messages",
                    *(self.ledger.file.path, found.waiting, found.sent),
                )
            for line in found.failures:
                logger.warning("%s", line)
            is_read = is_read and not found.failures
        if is_read:
            self.ledger.restored()

    def _is_behind(self) -> bool:
        """Check whether lastrun files, spools or journal go further than the ledger."""
        known = self.ledger.windows.all().values()
        reached = [one.checkpoint for one in known if one.checkpoint]
        latest = self.checkpoints.latest()
        if reached and latest is not None and latest > max(reached) + SECOND:
            return True
        ends = [one.end for one in known if one.end]
        journal = self.configuration.sent_journal
        return bool(ends) and any(
            goes_further(
                *(self.ledger, one.name, one.spools),
                journal=journal,
                after=max(ends) + SECOND,
            )
            for one in self.messengers
            if one.spools
        )

    def _reconcile(self) -> None:
        """Settle the batches that a killed run has left between ledger and messenger."""
        by_name = {messenger.name: messenger for messenger in self.messengers}

        def is_held(batch: Outstanding) -> bool | None:
            messenger = by_name.get(batch.stream.destination)
            # Of a messenger that is no longer configured, nothing can be known.
            return messenger.is_held(batch.name) if messenger else None

        done = self.ledger.deliveries.reconcile(is_held)
        for name in done.confirmed:
            logger.info("%s: committed by an interrupted run; its records count", name)

    def _purge(self) -> None:
        """Remove what is older than the retention, by a time that the cloud has confirmed."""
        # Of a cloud that shows no time, the clock may be wrong by years: a month a run at most.
        reached = [one.checkpoint for one in self.ledger.windows.all().values() if one.checkpoint]
        now = min([self.cloud.server_time(), max(reached, default=BEGINNING) + _MONTH])
        if not self.configuration.is_dry_run and self.ledger.retention.is_due(now):
            purged = self.ledger.retention.purge(now)
            logger.info("ledger: %d rows older than the retention removed", purged.deliveries)

    def end(self) -> datetime:
        """Return the end of this run's windows: at most the host's time, and the cloud's."""
        latest = self.cloud.server_time()
        asked = self.configuration.period.end
        if asked is not None and asked > latest:
            logger.warning("extract-to %s is in the future; records end now", asked.isoformat())
        return min(asked, latest) if asked else latest

    def _report(self, line: str) -> None:
        cli.report(PROGRAM, ApplianceError("", line))
        self.record.fail(line)

    def _count(self, outcomes: Sequence[ProjectOutcome]) -> None:
        """Add the figures of a project to the record, at once: SIGTERM writes it as it is."""
        for tally in (outcome.tally for outcome in outcomes):
            for kind in self.regions[0].kinds:
                name = KINDS[kind].things.replace(" ", "_")
                self.record.add(name, tally.things[kind])
            self.record.add("records", tally.records.total())
            self.record.add("records_refused", len(tally.refused))
            self.record.add("fields_left_out", tally.dropped.total())
        self.record.add("messages", sum(outcome.messages for outcome in outcomes))
        if any(outcome.failures for outcome in outcomes):
            self.record.add("projects_failed")
        else:
            self.record.add("projects_left", -1)

    def _count_lag(self, selected: Sequence[Selected]) -> None:
        """Add how long ago the accounting ends that is the furthest behind."""
        places = [(region, one) for region in self.regions for one in selected]
        streams = [of for region, one in places for of in region.streams(one).values()]
        reached = [self.ledger.windows.reached(stream) for of in streams for stream in of]
        known = [one.checkpoint for one in reached if one.checkpoint is not None]
        if known:
            lag = clock.now() - min(known)
            self.record.counts["lag_seconds"] = max(0.0, lag.total_seconds())

    def _count_vos(self) -> None:
        """Add the CPU hours of the last month with deliveries, by VO."""
        months = self.ledger.deliveries.months()
        destination = destinations(self.configuration).get("cloud")
        if months and destination and not self.configuration.is_dry_run:
            found = self.ledger.deliveries.cpu_by_vo(months[-1], destination)
            self.record.parts["vo"] = {
                vo: {"cpu_hours": spent / _HOUR} for vo, spent in found.items()
            }

    def _report_outcome(self, outcome: ProjectOutcome) -> None:
        for line in outcome.tally.refused:
            self._report(line)
        for line in withheld_lines(outcome):
            self._report(line)
        for reason, number in outcome.tally.dropped.items():
            logger.warning(
                "%s: %s: left out of %d records, one of them of %s; what was used is sent",
                *(outcome.selected.project, reason, number, outcome.tally.examples[reason]),
            )

    def _print(self, outcomes: Sequence[ProjectOutcome]) -> None:
        for outcome in outcomes:
            if not outcome.failures or outcome.tally.records:
                print(_summary(outcome))
                for line in dry_run.lines(outcome):
                    print(line)


def _keep_one_heap() -> None:
    """Have all threads use the same heap; the C library gives each of them one otherwise.

    These would hold a sixth of a run's memory, free and in pieces. Python runs one thread at a
    time, so that none waits for another at a common heap.
    """
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _status(outcomes: list[ProjectOutcome], failures: list[ApplianceError]) -> ExitStatus:
    if failures and all(one.failures and not one.tally.records for one in outcomes):
        return ExitStatus.NOTHING
    is_partial = failures or any(
        outcome.tally.refused or outcome.tally.withheld for outcome in outcomes
    )
    return ExitStatus.PARTLY if is_partial else ExitStatus.DONE


def _summary(outcome: ProjectOutcome) -> str:
    where = f", region {outcome.region}" if outcome.region else ""
    lead = f"{outcome.selected.project}, VO {outcome.selected.vo}{where}"
    if outcome.window is None:
        return f"{lead}: nothing to do"
    tally = outcome.tally
    counted = ", ".join([*_things(tally), f"{tally.records.total()} records"])
    line = f"{lead}: from {outcome.window.start.isoformat(timespec='seconds')}: {counted}"
    return f"{line}, {outcome.messages} messages"


def withheld_lines(outcome: ProjectOutcome) -> Iterator[str]:
    """Yield a line for each month of which records were withheld."""
    by_month: dict[tuple[Month, str], list[Withheld]] = {}
    for one in outcome.tally.withheld:
        by_month.setdefault((one.month, one.kind), []).append(one)
    for (month, kind), found in sorted(by_month.items()):
        lost = [one.lost for one in found if one.lost is not None]
        more = f"{sum(lost) / 3600:.1f} h more" if lost else "later counts"
        command = place.command(
            "caso", "caso republish", "--month", month_text(month), "--allow-decrease"
        )
        yield (
            f"{outcome.selected.project}: {month_text(month)}: {len(found)} records not sent, of"
            f" {KINDS[kind].things} such as {found[0].key}: {more} were delivered before; if that"
            f" was wrong: {command}"
        )


def _things(tally: ProjectTally) -> list[str]:
    kinds = tally.things or {"cloud": 0}
    return [f"{tally.things[kind]} {KINDS[kind].things}" for kind in kinds]
