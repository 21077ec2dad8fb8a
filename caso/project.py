"""The accounting of one project: its sources, the records that they give, and its lanes.

Each kind of record has a window of its own: see `caso.windows`. A source or a messenger that fails
costs its own kinds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial

from appliance.core import causes, clock
from appliance.core.cloud.hops import LoginFailure
from appliance.core.cloud.identity import UserNames
from appliance.core.cloud.image import ImageProperties
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.log import Once
from caso import quarantine
from caso.checkpoint import Checkpoints
from caso.forecast import Forecast
from caso.kinds.kind import Checked, UsageRecord
from caso.kinds.months import ExtractionWindow
from caso.kinds.registry import KINDS
from caso.lanes import Advance, Lanes, OneMonth, RecordSink, Withheld
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, Origin, Span, Stream, month_of, month_text
from caso.memory.cloud import CloudMemory
from caso.messengers.messenger import OpenMessenger
from caso.seen import LedgerHistory
from caso.selection import Selected
from caso.settings import CasoConfiguration
from caso.sources import nova
from caso.sources import registry as sources
from caso.sources.shared_usage import SharedUsage
from caso.sources.source import ProjectContext, Source, Unaccountable, Usage
from caso.vanished import KindLook
from caso.windows import KindWindow, ProjectWindows

logger = logging.getLogger(__name__)

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
    dropped: Counter[str] = field(default_factory=Counter)
    """Records without one of their optional fields, by the reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """A thing with such a record, by the reason."""
    refused: list[str] = field(default_factory=list)
    quarantined: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Those of them by month and kind, each empty if it is not known."""
    withheld: list[Withheld] = field(default_factory=list)
    """Records that would take back what was delivered."""
    is_unkept: bool = False
    """Whether a refused record could not be written to the quarantine."""

    def forget(self, kinds: frozenset[str]) -> None:
        """Take the figures of some kinds back, because there are not all of them."""
        for kind in kinds:
            self.things.pop(kind, None)
        for of_month in [one for one in self.records if one[1] in kinds]:
            del self.records[of_month]

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
    region: str = ""
    window: ExtractionWindow | None = None
    tally: ProjectTally = field(default_factory=ProjectTally)
    messages: int = 0
    forecasts: tuple[Forecast, ...] = ()
    """What a dry run would have sent."""
    failures: tuple[ApplianceError, ...] = ()
    bug: Exception | None = None
    """An unexpected exception, to be raised when all other projects are done."""


class SharedAnswers:
    """The cloud's answers that hold in all projects and regions of a run, and the next runs."""

    def __init__(self, cloud: Cloud, configuration: CasoConfiguration) -> None:
        self.memory = CloudMemory(
            configuration.state / "memory.sqlite",
            configuration.access.auth_url,
            names_age=configuration.names_age,
            read_only=configuration.is_dry_run,
        )
        self.users = UserNames(cloud, self.memory.users)
        self.images = ImageProperties(IMAGE_PROPERTY, self.memory.images)
        self.warn_once = Once(logger)  # a warning that would repeat for each server


class ProjectAccounting:
    """What the projects of a run share in one region: its cloud, the sources and the messengers.

    The regions of a project are accounted one after another, in the order of the configuration.
    """

    def __init__(
        self,
        cloud: Cloud,
        configuration: CasoConfiguration,
        checkpoints: Checkpoints,
        messengers: list[OpenMessenger],
        ledger: Ledger,
        shared: SharedAnswers,
    ) -> None:
        self.cloud = cloud
        self.region = cloud.access.region or ""
        self.shared = shared
        self.configuration = configuration
        self.checkpoints = checkpoints
        self.messengers = messengers
        self.ledger = ledger
        key = f"usage, {cloud.access.account}, {self.region}"
        self.usage = SharedUsage(shared.memory.listings, key)
        self.windows = ProjectWindows(configuration, checkpoints, ledger)
        wanted = frozenset(kind.name for messenger in messengers for kind in messenger.kinds)
        chosen = [sources.source(name) for name in configuration.sources]
        self.sources: list[Source] = [one for one in chosen if wanted & set(one.kinds)]
        self.kinds = wanted & {kind for source in self.sources for kind in source.kinds}

    def origin(self, selected: Selected, region: str | None = None) -> Origin:
        """Return the place of a project, in this region if none is given, for the ledger."""
        where = self.region if region is None else region
        return Origin(self.configuration.access.auth_url, where, selected.project.id)

    def account(self, selected: Selected, *, end: datetime) -> ProjectOutcome:
        """Account one project, from the cloud to the checkpoint; a failure is in the outcome."""
        streams, beside = self.streams(selected), self._beside(selected)
        return self._guarded(selected, lambda: self.windows.of(selected, streams, beside, end=end))

    def account_again(
        self,
        selected: Selected,
        windows: Mapping[str, KindWindow],
        *,
        reason: str | None = None,
        month: Month | None = None,
    ) -> ProjectOutcome:
        """Account given windows of one project; with a reason, records may take hours back.

        With ``month``, records of other months are left out.
        """
        return self._guarded(selected, lambda: windows, reason=reason, month=month)

    def _guarded(
        self,
        selected: Selected,
        decide: Callable[[], Mapping[str, KindWindow]],
        *,
        reason: str | None = None,
        month: Month | None = None,
    ) -> ProjectOutcome:
        window = None
        try:
            windows = decide()
            if not windows:
                return ProjectOutcome(selected, self.region)
            window = min((one.window for one in windows.values()), key=lambda one: one.start)
            return self._extract(selected, window, windows, reason=reason, month=month)
        except (ApplianceError, OSError) as error:
            failure = self.about(selected, error)
            return ProjectOutcome(selected, self.region, window, failures=(failure,))
        except Exception as bug:  # noqa: BLE001  raised again after the other projects
            failure = ApplianceError(selected.project, "not accounted, because of a bug")
            return ProjectOutcome(selected, self.region, window, failures=(failure,), bug=bug)

    def check_clocks(self) -> None:
        """Warn of clocks that differ from this host's.

        Raises:
            ClockSkew: one differs by more than the limit, so that nothing may be spooled.

        """
        clocks = self.cloud.transport.clocks
        for line in clocks.judge(self.configuration.max_skew, region=self.region):
            self.shared.warn_once(line)

    def about(self, selected: Selected, error: ApplianceError | OSError) -> ApplianceError:
        """Return a failure that names its project, and the region if there are several."""
        failure = as_failure(error)
        if len(self.configuration.regions) > 1 and not isinstance(failure, LoginFailure):
            cause = f"region {self.region}: {about(selected, failure).cause}"
            return ApplianceError(selected.project, cause, failure.remedy)
        return about(selected, failure)

    def _beside(self, selected: Selected) -> list[Stream]:
        """Return the streams of the project's other regions."""
        others = [region for region in self.configuration.regions if region != self.region]
        found = [self.streams(selected, region) for region in others]
        return [stream for streams in found for of_kind in streams.values() for stream in of_kind]

    def streams(self, selected: Selected, region: str | None = None) -> dict[str, list[Stream]]:
        """Return the streams of a project by kind, in this region if none is given."""
        origin = self.origin(selected, region)
        return {
            kind: [
                Stream(origin, kind, messenger.name)
                for messenger in self.messengers
                if any(one.name == kind for one in messenger.kinds)
            ]
            for kind in sorted(self.kinds)
        }

    def read(
        self, selected: Selected, windows: Mapping[str, KindWindow], sink: RecordSink
    ) -> ProjectTally:
        """Give the records of a project to a sink, and return their figures."""
        reading = _Reading(self, selected, sink)
        for source in self.sources:
            for kinds in grouped(windows, source.kinds):
                reading.read(source, windows[min(kinds)].window, kinds)
        self.check_clocks()  # with the answers of the services that were asked meanwhile
        return reading.tally

    def _extract(
        self,
        selected: Selected,
        window: ExtractionWindow,
        windows: Mapping[str, KindWindow],
        *,
        reason: str | None,
        month: Month | None,
    ) -> ProjectOutcome:
        lanes = Lanes.open(
            self.ledger,
            self.origin(selected),
            self.messengers,
            windows,
            reason=reason,
            is_dry_run=self.configuration.is_dry_run,
        )
        try:
            sink = lanes if month is None else OneMonth(lanes, month)
            tally = self.read(selected, windows, sink)
            lanes.flush()
            messages = lanes.foreseen
            if not self.configuration.is_dry_run:
                # Refused records that could not be kept must be extracted again.
                advances = {
                    kind: Advance() if tally.is_unkept else _advance(one)
                    for kind, one in windows.items()
                }
                messages = lanes.commit(
                    advances, lambda: self._next_checkpoints(selected, advances)
                )
        except BaseException:
            lanes.discard()
            raise
        tally.forget(frozenset(windows) - lanes.kinds)  # they went nowhere
        tally.withheld = lanes.withheld()
        failures = tuple(self.about(selected, error) for error in lanes.failures)
        forecasts = tuple(lanes.forecasts())
        return ProjectOutcome(selected, self.region, window, tally, messages, forecasts, failures)

    def _next_checkpoints(
        self, selected: Selected, advances: Mapping[str, Advance]
    ) -> dict[str, str]:
        """Return cASO's checkpoint files to write.

        It has one for all kinds and regions, which holds the least of them.
        """
        moments = [advances[kind].checkpoint for kind in self.kinds if kind in advances]
        known = [moment for moment in moments if moment is not None]
        # A kind without a window is up to date.
        if not known or len(known) < len(moments):
            return {}
        beside = [self.ledger.windows.reached(one).checkpoint for one in self._beside(selected)]
        return self.checkpoints.later(
            selected.aliases, min([*known, *(moment for moment in beside if moment is not None)])
        )

    def context(
        self, selected: Selected, scope: Scope, kinds: frozenset[str], owners: dict[str, str]
    ) -> ProjectContext:
        """Return what the sources need to know of a project."""
        return ProjectContext(
            vo=selected.vo,
            names=self.configuration.names,
            user_name=lambda user_id: self.shared.users.get(user_id, scope),
            image=lambda image_id: self.shared.images.get(image_id, scope) or image_id,
            suspended_since=self.configuration.suspended_since,
            servers=self.shared.memory.servers(self.region, selected.project.id),
            warn=self.shared.warn_once,
            kinds=kinds,
            history=LedgerHistory(
                self.ledger, self.origin(selected), is_kept=self.lists_the_present
            ),
            usage=self.usage,
            owners=owners,
        )

    @property
    def lists_the_present(self) -> bool:
        """Return whether the windows end now, so that listings show their ends."""
        period = self.configuration.period
        return not (self.configuration.is_dry_run or period.start or period.end)


class _Reading:
    """Reading the sources of one project."""

    def __init__(self, accounting: ProjectAccounting, selected: Selected, sink: RecordSink) -> None:
        self.tally = ProjectTally()
        self._accounting = accounting
        self._configuration = accounting.configuration
        self._selected = selected
        self._sink = sink
        self._latest: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    @cached_property
    def _scope(self) -> Scope:
        """Return the scope of the project, which keeps what several sources ask for."""
        return self._accounting.cloud.project(self._selected.project.id)

    def read(self, source: Source, window: ExtractionWindow, kinds: frozenset[str]) -> None:
        """Read the records of some kinds; a source that fails costs these alone."""
        looks = self._looks(kinds)
        try:
            scope = self._scope
            # A source may leave something behind for the kinds of another one.
            others = self._accounting.kinds - set(source.kinds)
            context = self._accounting.context(self._selected, scope, kinds | others, self._owners)
            for found in source.records(scope, window, context):
                if isinstance(found, Unaccountable) or found.kind in kinds:
                    self._found(found, looks)
            for kind, look in looks.items():
                traces = partial(nova.traces, scope)
                for record, is_estimated in look.close(window.end, traces, context.names):
                    self._take(Usage(kind, record), is_estimated=is_estimated)
        except BaseException as error:
            for look in looks.values():
                look.abandon()
            if not isinstance(error, (ApplianceError, OSError)):
                raise
            self._sink.drop(kinds, as_failure(error))
            self.tally.forget(kinds)

    def _looks(self, kinds: frozenset[str]) -> dict[str, KindLook]:
        """Return looks for the kinds whose things may vanish, if the run lists all that live."""
        if not self._accounting.lists_the_present:
            return {}
        ledger, origin = self._accounting.ledger, self._accounting.origin(self._selected)
        looks: dict[str, KindLook] = {}
        for kind, streams in self._accounting.streams(self._selected).items():
            if kind in kinds and KINDS[kind].life is not None:
                destinations = {stream.destination for stream in streams}
                vo = self._selected.vo
                looks[kind] = KindLook(ledger, origin, KINDS[kind], destinations, vo=vo)
        return looks

    def _found(self, found: Usage | Unaccountable, looks: Mapping[str, KindLook]) -> None:
        if isinstance(found, Unaccountable):
            self._refuse(found)
            record, key = None, found.key
        else:
            record, key = self._take(found), found.record.key
            if record is not None and found.kind in looks:
                looks[found.kind].see(record)
        if record is None:  # it cannot be sent, but it is there
            for look in looks.values():
                look.pass_by(key)

    def _take(self, found: Usage, *, is_estimated: bool = False) -> UsageRecord | None:
        """Give a record to the sink and return it; return None if it cannot be sent."""
        checked = self._checked(found)
        if isinstance(checked, Unaccountable):
            self._refuse(checked)
            return None
        record = checked.record
        for reason in checked.dropped:
            self.tally.drop(reason, record.key)
        if self._latest.get(found.kind) != record.key:  # the records of a thing come together
            self._latest[found.kind] = record.key
            self.tally.things[found.kind] += 1
        self.tally.records[month_text(month_of(record.measured)), found.kind] += 1
        is_estimated |= found.is_estimated
        self._sink.add(found.kind, record, is_estimated=is_estimated)
        return record

    def _checked(self, found: Usage) -> Checked[UsageRecord] | Unaccountable:
        """Return a record that may be sent, or the reason why it may not."""
        kind, record = KINDS[found.kind], found.record
        try:
            checked = kind.check(record, clock.now())
            if not checked.faults:
                return checked
            key = f"{record.key}-{record.measured:%Y%m}"
            text = kind.render(record)
            return Unaccountable(key, "; ".join(checked.faults), text, found.kind, record)
        except ArithmeticError as error:
            reason = f"its figures cannot be computed: {causes.of_answer(error)}"
            return Unaccountable(record.key, reason, repr(record))

    def _refuse(self, refused: Unaccountable) -> None:
        key, reason, text, kind, record = refused
        month = "" if record is None else month_text(month_of(record.measured))
        self.tally.quarantined[month, kind or ""] += 1
        more = ""
        if not self._configuration.is_dry_run:
            try:
                kept = quarantine.set_aside(
                    self._configuration.quarantine,
                    key=key,
                    reason=reason,
                    text=text,
                    kind=kind,
                    project=self._selected.project.id,
                    region=self._accounting.origin(self._selected).region,
                    record=record,
                )
                more = f"; see {kept}"
            except OSError as error:  # the good records of the project are sent all the same
                self.tally.is_unkept = True
                more = f"; not kept: {LocalFailure.from_os(error)}"
        self.tally.refused.append(f"record {key}: not sent: {reason}{more}")


def grouped(windows: Mapping[str, KindWindow], kinds: Sequence[str]) -> Iterator[frozenset[str]]:
    """Yield those of ``kinds`` that have the same window together, so that they are read once."""
    left = {kind for kind in kinds if kind in windows}
    while left:
        window = windows[min(left)].window
        group = frozenset(kind for kind in left if windows[kind].window == window)
        yield group
        left -= group


def _advance(one: KindWindow) -> Advance:
    return Advance(Span(one.window.start, one.window.end), one.checkpoint)


def as_failure(error: ApplianceError | OSError) -> ApplianceError:
    """Return a known failure for an error of the file system."""
    return LocalFailure.from_os(error) if isinstance(error, OSError) else error


def about(selected: Selected, error: ApplianceError | OSError) -> ApplianceError:
    """Return a failure that names its project."""
    error = as_failure(error)
    # A failed login concerns the account. With the project's name it would be another line for each
    # project.
    if isinstance(error, LoginFailure) or selected.project.id in error.subject:
        return error
    cause = f"{error.subject}: {error.cause}" if error.subject else error.cause
    return ApplianceError(selected.project, cause, error.remedy)
