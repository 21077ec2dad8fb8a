"""One run of the frontend: read and verify all sources, compare them with the cloud, change it.

    source: fetch ─ verify ─ compare with memory ─ plan for each list ─ guard the removals
        change: check the backend ─ download, verify, convert ─ call the backend ─ delete the file

A failure affects its own subject only. A source that cannot be accepted keeps its images in the
cloud, and an appliance that cannot be transferred does not stop the others; each is a line of the
`SyncReport`. PreAction comes before the first download: if the backend refuses the run, nothing is
downloaded in vain. PostAction ends every run that PreAction began, also one that failed.

Frontend and backend share only the protocol and the directory of image files. The frontend decides
which lists are trusted and what changes; it has no account in the cloud. The backend holds the
account, and checks again what the frontend sends (`cloudkeeper.backend.calls`).
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from appliance.core import hosts, retry
from appliance.core.run.errors import ApplianceError
from appliance.core.trust.errors import Untrusted
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend import accepted_log, conversion, deadline, ended, plan
from cloudkeeper.frontend.backend_client import (
    BackendClient,
    BackendUnreachable,
    FileWanted,
    FinalRefusal,
)
from cloudkeeper.frontend.ended import ConfiguredLists, EndedList, EndedPolicy, project_of
from cloudkeeper.frontend.imagelist import ListExpired
from cloudkeeper.frontend.plan import AcceptedFormats
from cloudkeeper.frontend.progress import Progress
from cloudkeeper.frontend.registry import accepted_lists
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.slots import Slots, StoppableSource
from cloudkeeper.frontend.sources import ImageOpener, OfferSource
from cloudkeeper.frontend.stream import NeedsFile
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import (
    FORMAT_KEY,
    HOLDER_KEY,
    Appliance,
    ApplianceId,
    Change,
    Create,
    Hide,
    ImageList,
    ListId,
    Offer,
    Plan,
    Remove,
    TransferMode,
    Update,
    UpdateMetadata,
)
from cloudkeeper.wire import own_properties

logger = logging.getLogger(__name__)

_BUG = "bug in cloudkeeper"
# Lists that one line names.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """A change and the reason of its failure; empty if it succeeded or was only planned."""

    change: Change
    vo: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class ComparedList:
    """The plan for a list of a source, and the appliances in the cloud it was compared with."""

    source: str
    vo: str
    plan: Plan
    held: Sequence[Appliance]


@dataclass(slots=True)
class SyncReport:
    """The results of a run, and its failures."""

    outcomes: list[ChangeOutcome] = field(default_factory=list)
    compared: list[ComparedList] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the administrator should know, and what is no failure."""
    lists: int = 0
    """Lists that were accepted."""
    refused_lists: int = 0
    lists_left: int = 0
    """Configured lists whose changes have not all been attempted."""
    unchanged: int = 0
    held_by_others: int = 0
    """Images that another manager of the cloud keeps, and that are not uploaded again."""
    outdated: list[Appliance] = field(default_factory=list)
    """Images in the cloud that stay in a format that the configuration no longer accepts."""
    kept_of_ended: int = 0
    """Images of lists that have ended, which the policy keeps."""
    withheld: int = 0
    transferred_bytes: int = 0
    """Bytes of image files that the backend has accepted."""

    def fail(self, line: str) -> None:
        """Record and log something that was not done."""
        self.failures.append(line)
        logger.error("%s", line)

    def note(self, line: str) -> None:
        """Record and log what the administrator should know."""
        self.notes.append(line)
        logger.info("%s", line)

    def note_formats(self) -> None:
        """Note how many images are in a format that the configuration no longer accepts."""
        if self.outdated:
            words = ", ".join(sorted({one.attributes[FORMAT_KEY] for one in self.outdated}))
            number = _images(len(self.outdated))
            again = command("sync", "--reconvert")
            self.note(
                f"kept in a format that formats no longer accepts ({words}): {number}; to convert "
                f"them, run: {again}"
            )

    def refuse_list(self, line: str, *, fate: str = "its images stay as they are") -> None:
        """Record a list that is not accepted, and what becomes of its images."""
        self.fail(f"{line}; {fate}")
        self.refused_lists += 1

    def done(self, kind: type[Change]) -> int:
        """Return the number of changes of a kind that succeeded."""
        return sum(
            isinstance(outcome.change, kind) and not outcome.failure for outcome in self.outcomes
        )


@dataclass(frozen=True, slots=True)
class Suspect:
    """A change during which the backend became unreachable; either of the two may be the cause."""

    change: Change
    source: OfferSource | EndedList
    vo: str


@dataclass(frozen=True, slots=True)
class Attempted:
    """What came of a change: the reason of its failure, or the bytes that the backend accepted."""

    failure: str = ""
    transferred: int = 0
    is_unreachable: bool = False
    """Whether it failed because the backend became unreachable."""
    is_suspect: bool = False
    """Whether the backend then returned, so that the change may be retried."""


_Begun = tuple[Change, Callable[[], Attempted]]
"""A change, and the function that makes it or waits for its transfer."""


@dataclass(frozen=True, slots=True)
class OfferSources:
    """The configured sources; ``keeps`` is False for a run that remembers nothing."""

    sources: Sequence[OfferSource]
    keeps: bool = True
    configured: ConfiguredLists = field(default_factory=ConfiguredLists)
    """What the run learns of the lists that the sources have."""
    log: Path | None = None
    """The file that keeps when each source was accepted; None: none does."""
    registry_lists: Path | None = None
    """The file that keeps which lists of registries were accepted; None: none does."""

    def accepted(
        self, report: SyncReport, *, at: datetime
    ) -> Iterator[tuple[OfferSource, Sequence[ImageList]]]:
        """Yield the sources that may be acted on with their lists; report the others."""
        seen: dict[ListId, OfferSource] = {}
        good: list[str] = []
        for source in self.sources:
            self.configured.identifiers |= source.list_ids()
            try:
                lists = self._fetch(source, seen, at=at)
            except ListExpired as error:
                self.configured.expired[error.expired.identifier] = error.cause
                report.refuse_list(f"{source}: {error}", fate=self.configured.fate)
                continue
            except ApplianceError as error:
                is_named = error.subject == str(source)
                report.refuse_list(str(error) if is_named else f"{source}: {error}")
                self._note_unread(source)
                continue
            except Exception as error:  # one source must not affect the others
                logger.exception("%s: %s", source, _BUG)
                report.refuse_list(f"{source}: {_BUG}: {type(error).__name__}: {error}")
                self._note_unread(source)
                continue
            self.configured.offered |= {found.identifier for found in lists}
            self.configured.identifiers |= self.configured.offered
            report.lists += 1
            good.append(str(source))
            for each in lists:
                if each.refused:
                    self.configured.incomplete[each.vo] = f"{source} has images that were refused"
            for refusal in dict.fromkeys(each for found in lists for each in found.refused):
                name = refusal.identifier or "?"
                report.fail(f"{source}: image {name} refused: {refusal.reason}")
            yield source, lists
        if self.log and self.keeps:
            accepted_log.note(self.log, good, at=at)

    def _note_unread(self, source: OfferSource) -> None:
        self.configured.unread.append(str(source))
        if not source.list_ids():
            self.configured.unknown.append(str(source))

    def _fetch(
        self, source: OfferSource, seen: dict[ListId, OfferSource], *, at: datetime
    ) -> Sequence[ImageList]:
        lists, warnings = source.fetch(at=at)
        for found in lists:
            if (other := seen.setdefault(found.identifier, source)) is not source:
                raise Untrusted(
                    str(source),
                    f"has the same identifier as {other}, {found.identifier}",
                    "remove one of them",
                )
            images = len(found.offers)
            words = "%s: list %s of VO %s, %d images"
            logger.info(words, source, found.identifier, found.vo, images)
        if self.keeps:
            source.accept(at=at)
            if self.registry_lists:
                of_registry = [each.identifier for each in lists if project_of(each.identifier)[0]]
                accepted_lists.note(self.registry_lists, of_registry)
        for warning in warnings:
            logger.warning("%s: %s", source, warning)
        return lists


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """One run with one backend; ``allowed`` is the confirmed number of removals of a list.

    Images in the cloud whose format ``formats`` does not accept are counted or replaced.
    Up to ``parallel`` images are transferred at the same time, if the backend allows that.
    """

    sources: OfferSources
    backend: BackendClient
    workshop: Workshop
    allowed: int = 0
    is_dry: bool = False
    formats: AcceptedFormats = field(default_factory=AcceptedFormats)
    parallel: int = 1
    progress: Progress = field(default_factory=Progress)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, report: SyncReport, *, at: datetime) -> None:
        """Make the cloud equal to the lists as they are valid at ``at``, or only plan it.

        ``report`` receives all results, also when the run ends early.

        Raises:
            BackendFailure: the backend begins no run, or cannot list the images of the cloud.

        """
        if self.is_dry:
            known = self.backend.list_ids()
            for _, plans in self._plans(known, report, at=at):
                for wanted_plan, vo in plans:
                    report.outcomes += [ChangeOutcome(change, vo) for change in wanted_plan.changes]
                report.lists_left -= 1
            for _, removals in self._ended(known, report):
                report.outcomes += [ChangeOutcome(one, one.appliance.vo) for one in removals]
            report.note_formats()
            return
        for line in self.workshop.sweep():
            report.fail(str(line))
        self.backend.begin(allowed=self.allowed)
        try:
            known = self.backend.list_ids()
            with self._slots() as slots:
                begun = [
                    (source, self._begun_lists(plans, source, slots))
                    for source, plans in self._plans(known, report, at=at)
                ]
                suspects = self._finish(begun, report)
            for suspect in suspects:  # after all others, which a second failure then cannot affect
                self._carry_out_last(suspect.change, suspect.source, vo=suspect.vo, report=report)
            report.note_formats()
            # After all additions: another list may offer the same images to the same VO.
            for former, removals in self._ended(known, report):
                for change in removals:
                    vo = change.appliance.vo
                    self._carry_out_last(change, former, vo=vo, report=report)
        finally:  # also after a failure: the backend writes the record of its run then
            self.workshop.shared.clear()
            self._end(report)

    def _plans(
        self, in_cloud: Iterable[ListId], report: SyncReport, *, at: datetime
    ) -> Iterator[tuple[OfferSource, Sequence[tuple[Plan, str]]]]:
        """Yield each accepted source with the plans for its lists, and their VOs."""
        known = frozenset(in_cloud)
        for source, lists in self.sources.accepted(report, at=at):
            plans: list[tuple[Plan, str]] = []
            for wanted in lists:
                try:
                    found = self._plan(source, wanted, known, report, at=at)
                except ApplianceError as error:
                    self._leave(wanted, source, str(error), report)
                    continue
                except Exception as error:  # one list must not affect the others
                    logger.exception("%s: %s", source, _BUG)
                    self._leave(wanted, source, f"{_BUG}: {type(error).__name__}: {error}", report)
                    continue
                plans.append((found, wanted.vo))
            yield source, plans

    def _leave(
        self, wanted: ImageList, source: OfferSource, words: str, report: SyncReport
    ) -> None:
        """Report a list that cannot be compared with the cloud."""
        report.fail(f"{source}: {words}; its images stay as they are")
        self.sources.configured.incomplete[wanted.vo] = f"{source} was not compared with the cloud"

    def _plan(
        self,
        source: OfferSource,
        wanted: ImageList,
        known: Container[ListId],
        report: SyncReport,
        *,
        at: datetime,
    ) -> Plan:
        """Return the plan for a list, without removals that are in doubt or too many."""
        # A list that is not known has no appliances; the call then checks its VO only.
        is_asked = wanted.identifier in known or self.backend.can_check_vo
        held = self.backend.appliances(wanted.identifier, vo=wanted.vo) if is_asked else []
        others = [one for one in held if HOLDER_KEY in one.attributes]
        for one in others:
            holder = one.attributes[HOLDER_KEY]
            logger.info("%s: VO %s: %s is held by %s", source, one.vo, one.identifier, holder)
        report.held_by_others += len(others)
        settable = self._settable(wanted, source, report)
        full = plan.compare(
            settable,
            held,
            at=at,
            can_update_metadata=self.backend.can_update_metadata,
            formats=self.formats,
        )
        report.outdated += full.outdated
        offered = {offer.appliance.identifier for offer in wanted.offers}
        proven = self._without_doubt(full, source, report, offered=offered)
        guarded = self._guarded(proven, source, report, held=len(held) - len(others))
        report.unchanged += guarded.unchanged
        report.compared.append(ComparedList(str(source), wanted.vo, guarded, held))
        return guarded

    def _guarded(
        self, full: Plan, source: OfferSource | EndedList, report: SyncReport, *, held: int
    ) -> Plan:
        """Return a plan without removals that are too many; ``held`` images are in the cloud."""
        guarded = plan.guard(full, held=held, allowed=self.allowed)
        if guarded.withheld:
            number = len(guarded.withheld)
            report.withheld += number
            cause = f"{number} of {held} images would be removed, so none is removed"
            again = command("sync", "--allow-remove", str(number))
            remedy = f"to confirm that, run once: {again}"
            report.fail(f"{source}: {cause}; {remedy}")
        return guarded

    def _ended(
        self, in_cloud: Sequence[ListId], report: SyncReport
    ) -> Iterator[tuple[EndedList, Sequence[Remove | Hide]]]:
        """Yield the lists that have ended, with the removals that the policy asks for."""
        configured = self.sources.configured
        policy = configured.policy
        if in_cloud and not configured.is_whole and policy is not EndedPolicy.KEEP:
            report.note(f"ended-lists: {policy}: no effect when the command line names the sources")
        if policy is EndedPolicy.HIDE and not self.backend.can_hide:
            report.fail(
                "ended-lists: hide: this backend cannot hide images, so they stay as they are; "
                "use the cloudkeeper-os of this release, or set keep or remove"
            )
            policy = EndedPolicy.KEEP
        kept: dict[EndedList, int] = {}
        for found in configured.doubtful(in_cloud):
            kept[found] = len(self._held(found, report))
        for found in configured.ended(in_cloud):
            held = self._held(found, report)
            full, staying = ended.plan(found, held, policy)
            vos = {change.appliance.vo for change in full.removals}
            if full.removals and (reason := self._reason_to_wait(vos, report)):
                report.fail(f"{found}: {len(full.removals)} images stay in this run: {reason}")
                continue
            kept[found] = len(staying)
            guarded = self._guarded(full, found, report, held=len(held))
            vo = held[0].vo if held else ""
            report.compared.append(ComparedList(str(found), vo, guarded, held))
            yield found, guarded.removals
        self._note_kept(kept, report)

    def _held(self, found: EndedList, report: SyncReport) -> list[Appliance]:
        try:
            return self.backend.appliances(found.identifier, vo="")
        except ApplianceError as error:  # one list must not affect the others
            report.fail(f"{found}: {error}; its images stay as they are")
            return []

    def _reason_to_wait(self, vos: Container[str], report: SyncReport) -> str:
        """Return why the images of ended lists of VOs stay for now; empty if they need not.

        Another source may offer the same images from now on. As long as it has not replaced them,
        users need the present ones.
        """
        if unread := self.sources.configured.unread:
            return f"{unread[0]} could not be read, and may replace them"
        for vo, reason in self.sources.configured.incomplete.items():
            if vo in vos:
                return f"{reason}, and may replace one of them for VO {vo}"
        for outcome in report.outcomes:
            is_addition = isinstance(outcome.change, Create | Update)
            if outcome.failure and is_addition and outcome.vo in vos:
                return f"an image for VO {outcome.vo} was not added, which may replace one of them"
        return ""

    def _note_kept(self, kept: Mapping[EndedList, int], report: SyncReport) -> None:
        total = sum(kept.values())
        report.kept_of_ended = total
        if not total:
            return
        several = [f"{found} ({number}): {found.reason}" for found, number in kept.items()]
        more = f"; and {len(several) - _SHOWN} more lists" if len(several) > _SHOWN else ""
        report.note(
            f"kept in the cloud: {_images(total)} of lists that have ended "
            f"(ended-lists: {self.sources.configured.policy}): {'; '.join(several[:_SHOWN])}{more}"
        )

    def _settable(self, wanted: ImageList, source: OfferSource, report: SyncReport) -> ImageList:
        """Return a list without the properties that this backend cannot set."""
        if self.backend.can_set_properties:
            return wanted
        if any(own_properties.of(offer.appliance.attributes) for offer in wanted.offers):
            words = "the backend cannot set the properties of sources.yaml"
            remedy = "use the cloudkeeper-os of this release, or remove them"
            report.fail(f"{source}: VO {wanted.vo}: {words}; {remedy}")
        offers = tuple(
            replace(
                offer,
                appliance=replace(
                    offer.appliance,
                    attributes=own_properties.plain(offer.appliance.attributes),
                ),
            )
            for offer in wanted.offers
        )
        return replace(wanted, offers=offers)

    def _without_doubt(
        self,
        full: Plan,
        source: OfferSource,
        report: SyncReport,
        *,
        offered: Container[ApplianceId],
    ) -> Plan:
        """Return a plan without the removals of images that the source may still have.

        An image that is ``offered`` and removed has expired, which needs no other evidence.
        """
        kept: list[Change] = []
        for change in full.changes:
            doubt = ""
            if isinstance(change, Remove) and change.appliance.identifier not in offered:
                try:
                    doubt = source.doubt(change.appliance)
                except ApplianceError as error:
                    doubt = str(error)
            if doubt:
                report.fail(f"{source}: {change.appliance.identifier} is kept: {doubt}")
            else:
                kept.append(change)
        return replace(full, changes=tuple(kept))

    def _slots(self) -> Slots:
        is_parallel = self.parallel > 1 and self.backend.can_work_in_parallel
        return Slots(
            self.parallel if is_parallel else 0, free=self.workshop.room, abort=self._abort
        )

    def _abort(self) -> None:
        """Make the transfers of all threads fail, after an interrupt."""
        self.stopping.set()
        retry.interrupt()
        deadline.end_all()
        conversion.end_all()
        self.backend.cancel()

    def _begun_lists(
        self, plans: Sequence[tuple[Plan, str]], source: OfferSource, slots: Slots
    ) -> list[tuple[list[_Begun], str]]:
        """Begin the transfers of a source; an image for several VOs is fetched once."""
        changes = [change for wanted, _ in plans for change in wanted.changes]
        self.workshop.shared.expect(
            change.offer for change in changes if isinstance(change, Create | Update)
        )
        return [(self._begun(each, source, slots), vo) for each, vo in plans]

    def _begun(self, wanted: Plan, source: OfferSource, slots: Slots) -> list[_Begun]:
        """Begin the transfers of a plan; return all its changes, with how each is finished."""
        begun: list[_Begun] = []
        for change in wanted.changes:
            attempt: Callable[[], Attempted] = functools.partial(self._attempt, change, source)
            if isinstance(change, Create | Update):
                data = change.offer.source
                attempt = slots.submit(
                    attempt,
                    host=hosts.of_url(data.uri),
                    image=data.digest,
                    size=self.workshop.disk_bytes(change.offer, may_stream=self.backend.can_stream),
                )
            begun.append((change, attempt))
        return begun

    def _finish(
        self,
        begun: Iterable[tuple[OfferSource, Sequence[tuple[Sequence[_Begun], str]]]],
        report: SyncReport,
    ) -> list[Suspect]:
        """Finish the changes of all sources; return those to retry after all others."""
        suspects: list[Suspect] = []
        for source, lists in begun:
            for changes, vo in lists:
                suspects += self._carry_out(changes, source, vo=vo, report=report)
            report.lists_left -= 1
        return suspects

    def _carry_out(
        self, changes: Iterable[_Begun], source: OfferSource, *, vo: str, report: SyncReport
    ) -> list[Suspect]:
        """Finish the changes of a list in their order; return those to retry after all others.

        Those are the changes during which the backend became unreachable and then returned.
        """
        suspects: list[Suspect] = []
        is_whole = True
        for change, attempt in changes:
            if isinstance(change, Remove) and not is_whole:
                words = "an addition or update of its list failed, so nothing of it is removed"
                report.fail(f"{source}: {describe(change)}: {words}")
                report.outcomes.append(ChangeOutcome(change, vo, words))
                continue
            done = attempt()
            if done.is_suspect:
                words = f"{source}: {describe(change)}: {done.failure}"
                logger.warning("%s; retried after all others", words)
                suspects.append(Suspect(change, source, vo))
                is_whole = False
                continue
            is_whole = is_whole and (not done.failure or isinstance(change, Remove))
            self._note(change, done, source, vo=vo, report=report)
        return suspects

    def _carry_out_last(
        self, change: Change, source: OfferSource | EndedList, *, vo: str, report: SyncReport
    ) -> None:
        """Make a change alone, after all others.

        If the backend becomes unreachable, the change is not retried again: it probably crashes it.
        """
        done = self._attempt(change, source)
        if done.is_unreachable:
            words = "the backend became unreachable twice at this image, which is skipped"
            done = replace(done, failure=f"{words}: {done.failure}")
        self._note(change, done, source, vo=vo, report=report)

    def _note(
        self,
        change: Change,
        done: Attempted,
        source: OfferSource | EndedList,
        *,
        vo: str,
        report: SyncReport,
    ) -> None:
        report.transferred_bytes += done.transferred
        if done.failure:
            report.fail(f"{source}: {describe(change)}: {done.failure}")
        else:
            logger.info("%s: %s: done", source, describe(change))
        report.outcomes.append(ChangeOutcome(change, vo, done.failure))

    def _attempt(self, change: Change, source: OfferSource | EndedList) -> Attempted:
        """Make a change; several threads may do so at the same time."""
        try:
            return Attempted(transferred=self._apply(change, source))
        except BackendUnreachable as error:
            return Attempted(str(error), is_unreachable=True, is_suspect=self.backend.wait())
        except ApplianceError as error:
            return Attempted(str(error))
        except Exception as error:  # one image must not affect the others
            logger.exception("%s: %s", source, _BUG)
            return Attempted(f"{_BUG}: {type(error).__name__}: {error}")

    def _apply(self, change: Change, source: OfferSource | EndedList) -> int:
        """Make one change; return the bytes that the backend has accepted."""
        match change:
            case Create(offer) | Update(offer, _):
                assert not isinstance(source, EndedList)  # noqa: S101  it offers nothing
                followed = self.progress.followed(StoppableSource(source, self.stopping), offer)
                return self._transfer(offer, followed, is_new=isinstance(change, Create))
            case Hide(appliance, _):
                self.backend.hide(appliance)
            case UpdateMetadata(appliance, _):
                self.backend.update(appliance)
            case Remove(appliance, _):
                self.backend.remove(appliance)
        return 0

    def _transfer(self, offer: Offer, source: ImageOpener, *, is_new: bool) -> int:
        self.backend.check()  # before the download, which may take hours
        if self.backend.can_stream:
            try:
                return self._send(offer, source, is_new=is_new, may_stream=True)
            except (NeedsFile, FileWanted) as error:
                name = offer.appliance.identifier
                logger.warning("%s: %s; the image is sent again as a file", name, error)
        return self._send(offer, source, is_new=is_new)

    def _send(
        self, offer: Offer, source: ImageOpener, *, is_new: bool, may_stream: bool = False
    ) -> int:
        """Send an image once, as a stream if possible; return its bytes.

        Raises:
            NeedsFile, FileWanted: a stream has failed, and a file may succeed.
            ApplianceError: the image cannot be sent.

        """
        with (
            self.workshop.prepare(offer, source, may_stream=may_stream) as data,
            self.workshop.refused.noting(offer),
        ):
            appliance = replace(offer.appliance, data=data)
            try:
                (self.backend.add if is_new else self.backend.update)(appliance)
            except FinalRefusal as error:
                if data.mode is TransferMode.REMOTE:  # only a verified file is refused for good
                    raise NeedsFile(error.subject, error.cause, error.remedy) from error
                again = self.workshop.refused.retry(offer)
                remedy = f"after a change of Glance's configuration: {again}"
                raise Unusable(str(error.subject), error.cause, remedy) from error
            return data.size

    def _end(self, report: SyncReport) -> None:
        try:
            self.backend.end()
        except ApplianceError as error:
            report.fail(str(error))


def describe(change: Change) -> str:
    """Return a short description of a change, for messages."""
    name = f'{change.appliance.identifier} "{change.appliance.title[:60]}"'
    match change:
        case Create():
            return f"add {name}"
        case Update(_, reason):
            return f"update {name} ({reason})"
        case UpdateMetadata(_, reason):
            return f"update metadata of {name} ({reason})"
        case Remove(_, reason):
            return f"remove {name} ({reason})"
        case Hide(_, reason):
            return f"hide {name} ({reason})"


def _images(number: int) -> str:
    return f"{number} image" if number == 1 else f"{number} images"
