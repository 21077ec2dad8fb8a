"""The accounting of one project: its sources, the records that they give, and its outboxes."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from appliance.core import clock
from appliance.core.cloud.hops import LoginFailure
from appliance.core.cloud.identity import UserNames
from appliance.core.cloud.image import ImageProperties
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.log import Once
from caso import quarantine
from caso.checkpoint import Checkpoints
from caso.kinds.kind import Checked, UsageRecord
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.kinds.registry import KINDS
from caso.memory.cloud import CloudMemory
from caso.messengers.messenger import OpenMessenger, Outbox
from caso.selection import Selected
from caso.settings import CasoConfiguration
from caso.sources import registry as sources
from caso.sources.listing import OVERLAP
from caso.sources.source import ProjectContext, Source, Unaccountable, Usage

logger = logging.getLogger(__name__)

ONE_SECOND = timedelta(seconds=1)
"""Windows include both ends, so the next one begins a second later, as in cASO 5.2.2."""

_MOST_REASONS = 20
"""Reasons for fields that are left out which a project's report distinguishes."""

IMAGE_PROPERTY = "vmcatcher_event_ad_mpuri"
"""The image property in which vmcatcher and cloudkeeper keep an endorsed image's URL."""


@dataclass(slots=True)
class ProjectTally:
    """The figures of one project."""

    things: Counter[str] = field(default_factory=Counter)
    """Servers, volumes and so on that have a record, by kind."""
    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records by month, ``2026-11``, and kind."""
    amounts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The sum of their amounts, by month and kind."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Records without one of their optional fields, by the reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """A thing with such a record, by the reason."""
    refused: list[str] = field(default_factory=list)
    is_unkept: bool = False
    """Whether a refused record could not be written to the quarantine."""

    def drop(self, reason: str, key: str) -> None:
        """Count a record without one of its optional fields."""
        if len(self.dropped) >= _MOST_REASONS and reason not in self.dropped:
            reason = "other fields cannot be sent"
        self.dropped[reason] += 1
        self.examples.setdefault(reason, key)


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


class Outboxes:
    """The outboxes of a project, by kind of record; a dry run has none."""

    def __init__(
        self, project_id: str, messengers: list[OpenMessenger], kinds: frozenset[str]
    ) -> None:
        self._by_kind: dict[str, list[Outbox]] = {}
        for messenger in messengers:
            for kind in messenger.kinds:
                if kind.name in kinds:
                    outbox = messenger.begin(project_id, kind)
                    self._by_kind.setdefault(kind.name, []).append(outbox)

    def add(self, kind: str, record: UsageRecord) -> None:
        """Add a record to each outbox of its kind."""
        for outbox in self._by_kind.get(kind, ()):
            outbox.add(record)

    def commit(self, checkpoints: dict[str, str]) -> int:
        """Hand over all records, the checkpoints with the last ones; return the messages."""
        *others, last = self._all()
        for outbox in others:
            outbox.commit({})
        last.commit(checkpoints)
        return sum(outbox.messages for outbox in self._all())

    def discard(self) -> None:
        """Drop what is not committed."""
        for outbox in self._all():
            outbox.discard()

    def _all(self) -> list[Outbox]:
        return [outbox for outboxes in self._by_kind.values() for outbox in outboxes]


class ProjectAccounting:
    """What the projects of a run share: the cloud's answers, the sources and the messengers."""

    def __init__(
        self,
        cloud: Cloud,
        configuration: CasoConfiguration,
        checkpoints: Checkpoints,
        messengers: list[OpenMessenger],
    ) -> None:
        self.cloud = cloud
        self.configuration = configuration
        self.checkpoints = checkpoints
        self.messengers = messengers
        wanted = frozenset(kind.name for messenger in messengers for kind in messenger.kinds)
        chosen = [sources.source(name) for name in configuration.sources]
        self.sources: list[Source] = [one for one in chosen if wanted & set(one.kinds)]
        self.kinds = wanted & {kind for source in self.sources for kind in source.kinds}
        self.memory = CloudMemory(
            configuration.state / "memory.sqlite",
            configuration.access.auth_url,
            names_age=configuration.names_age,
            read_only=configuration.is_dry_run,
        )
        self._users = UserNames(cloud, self.memory.users)
        self._images = ImageProperties(IMAGE_PROPERTY, self.memory.images)
        self._warn_once = Once(logger)  # a warning that would repeat for each server

    def account(self, selected: Selected, *, end: datetime) -> ProjectOutcome:
        """Account one project, from the cloud to the checkpoint; a failure is in the outcome."""
        window = None
        try:
            window = self._window(selected, end)
            if window is None:
                return ProjectOutcome(selected)
            return self._extract(selected, window)
        except (ApplianceError, OSError) as error:
            failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
            return ProjectOutcome(selected, window, error=about(selected, failure))
        except Exception as bug:  # noqa: BLE001  raised again after the other projects
            failure = ApplianceError(selected.project, "not accounted, because of a bug")
            return ProjectOutcome(selected, window, error=failure, bug=bug)

    def check_clocks(self) -> None:
        """Warn of clocks that differ from this host's.

        Raises:
            ClockSkew: one differs by more than the limit, so that nothing may be spooled.

        """
        for line in self.cloud.transport.clocks.judge(self.configuration.max_skew):
            self._warn_once(line)

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
        if self.configuration.is_dry_run:
            return ProjectOutcome(selected, window, self._tally(selected, window, None))
        outboxes = Outboxes(selected.project.id, self.messengers, self.kinds)
        try:
            tally = self._tally(selected, window, outboxes)
            self.check_clocks()  # with the answers of the services that were asked meanwhile
            # Refused records that could not be kept must be extracted again: the checkpoint stays.
            reached = {} if tally.is_unkept else self._next_checkpoints(selected, window)
            messages = outboxes.commit(reached)
        except (ApplianceError, OSError):
            outboxes.discard()
            raise
        return ProjectOutcome(selected, window, tally, messages)

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

    def _tally(
        self, selected: Selected, window: ExtractionWindow, outboxes: Outboxes | None
    ) -> ProjectTally:
        """Add the records of a project to its outboxes; without these, only count them."""
        tally, latest = ProjectTally(), dict[str, str]()
        for found in self._records(selected, window):
            if isinstance(found, Unaccountable):
                self._refuse(found, tally, is_kept=outboxes is not None)
                continue
            checked = self._checked(found)
            if isinstance(checked, Unaccountable):
                self._refuse(checked, tally, is_kept=outboxes is not None)
                continue
            record = checked.record
            for reason in checked.dropped:
                tally.drop(reason, record.key)
            if latest.get(found.kind) != record.key:  # the records of a thing come together
                latest[found.kind] = record.key
                tally.things[found.kind] += 1
            of_month = f"{record.measured:%Y-%m}", found.kind
            tally.records[of_month] += 1
            tally.amounts[of_month] += record.amount
            if outboxes is not None:
                outboxes.add(found.kind, record)
        return tally

    def _records(
        self, selected: Selected, window: ExtractionWindow
    ) -> Iterator[Usage | Unaccountable]:
        scope = self.cloud.project(selected.project.id)
        context = ProjectContext(
            vo=selected.vo,
            names=self.configuration.names,
            user_name=lambda user_id: self._users.get(user_id, scope),
            image=lambda image_id: self._images.get(image_id, scope) or image_id,
            servers=self.memory.servers(self.cloud.access.region or "", selected.project.id),
            warn=self._warn_once,
            kinds=self.kinds,
        )
        for source in self.sources:
            yield from source.records(scope, window, context)

    def _checked(self, found: Usage) -> Checked[UsageRecord] | Unaccountable:
        """Return a record that may be sent, or the reason why it may not."""
        kind, record = KINDS[found.kind], found.record
        try:
            checked = kind.check(record, clock.now())
            if not checked.faults:
                return checked
            key = f"{record.key}-{record.measured:%Y%m}"
            return Unaccountable(key, "; ".join(checked.faults), kind.render(record))
        except ArithmeticError as error:
            reason = f"its figures cannot be computed: {error}"
            return Unaccountable(record.key, reason, repr(record))

    def _refuse(self, refused: Unaccountable, tally: ProjectTally, *, is_kept: bool) -> None:
        key, reason, text = refused
        more = ""
        if is_kept:
            try:
                directory = self.configuration.spool / "quarantine"
                more = f"; see {quarantine.set_aside(directory, key=key, reason=reason, text=text)}"
            except OSError as error:  # the good records of the project are sent all the same
                tally.is_unkept = True
                more = f"; not kept: {LocalFailure.from_os(error)}"
        tally.refused.append(f"record {key}: not sent: {reason}{more}")


def about(selected: Selected, error: ApplianceError) -> ApplianceError:
    """Return a failure that names its project."""
    # A failed login concerns the account. With the project's name it would be another line for each
    # project.
    if isinstance(error, LoginFailure) or selected.project.id in error.subject:
        return error
    cause = f"{error.subject}: {error.cause}" if error.subject else error.cause
    return ApplianceError(selected.project, cause, error.remedy)
