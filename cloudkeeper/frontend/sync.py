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

import contextlib
import functools
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from appliance.core import clock, hosts, retry
from appliance.core.download import deadline
from appliance.core.run.errors import ApplianceError
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend import conversion
from cloudkeeper.frontend.backend_client import (
    BackendClient,
    BackendUnreachable,
    FileWanted,
    FinalRefusal,
)
from cloudkeeper.frontend.comparison import Comparison
from cloudkeeper.frontend.ended import EndedList
from cloudkeeper.frontend.progress import Progress
from cloudkeeper.frontend.remote_images import RemoteImages
from cloudkeeper.frontend.shared_files import file_key
from cloudkeeper.frontend.slots import Slots, StoppableSource
from cloudkeeper.frontend.sources import ImageOpener, OfferSource
from cloudkeeper.frontend.stream import NeedsFile, shown
from cloudkeeper.frontend.sync_report import BUG, ChangeOutcome, SyncReport, describe
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import (
    LAYER_KEY,
    Appliance,
    Change,
    Create,
    Hide,
    ImageData,
    Offer,
    Plan,
    Remove,
    TransferMode,
    Update,
    UpdateMetadata,
)
from cloudkeeper.wire import own_properties

logger = logging.getLogger(__name__)

# For the backend to end the run after an interrupt. With the time that transfers have to end
# (`cloudkeeper.frontend.slots`), it is less than that between SIGTERM and SIGKILL of a job.
_STOP = timedelta(seconds=8)


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


_Compared = tuple[OfferSource, Sequence[tuple[Plan, str]]]
"""A source, and the plans for its lists with their VOs."""
_Begun = tuple[Change, Callable[[], Attempted]]
"""A change, and the function that makes it or waits for its transfer."""


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """One run; up to ``parallel`` images are transferred at once, if the backend allows that."""

    comparison: Comparison
    workshop: Workshop
    is_dry: bool = False
    parallel: int = 1
    per_host: int | None = None
    """Of them, those of one server; None: all."""
    remote: RemoteImages | None = None
    """Serves image files to a backend on another host; None: it shares the directory."""
    progress: Progress = field(default_factory=Progress)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def backend(self) -> BackendClient:
        """The backend that makes the changes."""
        return self.comparison.backend

    def run(self, report: SyncReport, *, at: datetime) -> None:
        """Make the cloud equal to the lists as they are valid at ``at``, or only plan it.

        ``report`` receives all results, also when the run ends early.

        Raises:
            BackendFailure: the backend begins no run, or cannot list the images of the cloud.

        """
        if self.is_dry:
            self._plan(report, at=at)
            return
        for line in self.workshop.sweep():
            report.fail(str(line))
        self.backend.begin(allowed=self.comparison.allowed, is_partial=bool(self.comparison.chosen))
        is_urgent = False
        try:
            known = self.backend.list_ids()
            # All sources are read first: several may offer the same file, which is fetched once.
            compared = list(self.comparison.plans(known, report, at=at))
            with self._slots() as slots:
                begun = self._begun(compared, slots)
                suspects = self._finish(begun, report)
            for suspect in suspects:  # after all others, which a second failure then cannot affect
                self._carry_out_last(suspect.change, suspect.source, vo=suspect.vo, report=report)
            report.note_formats()
            report.note_ignored()
            # After all additions: another list may offer the same images to the same VO.
            for former, removals in self.comparison.ended(known, report):
                for change in removals:
                    vo = change.appliance.vo
                    self._carry_out_last(change, former, vo=vo, report=report)
        except KeyboardInterrupt as error:
            self.stopping.set()
            # A second one, during the end of the transfers: nothing is waited for.
            is_urgent = isinstance(error.__context__, KeyboardInterrupt)
            raise
        finally:  # also after a failure: the backend writes the record of its run then
            self.workshop.shared.clear()
            if not is_urgent:
                self._end(report)

    def _plan(self, report: SyncReport, *, at: datetime) -> None:
        """Report what a run would change."""
        known = self.backend.list_ids()
        for _, plans in self.comparison.plans(known, report, at=at):
            for wanted_plan, vo in plans:
                report.outcomes += [ChangeOutcome(change, vo) for change in wanted_plan.changes]
            report.lists_left -= 1
        report.note_ignored()
        for _, removals in self.comparison.ended(known, report):
            report.outcomes += [ChangeOutcome(one, one.appliance.vo) for one in removals]
        report.note_formats()

    def _slots(self) -> Slots:
        is_parallel = self.parallel > 1 and self.backend.can_work_in_parallel
        return Slots(
            self.parallel if is_parallel else 0,
            free=self.workshop.room,
            abort=self._abort,
            per_host=self.per_host,
        )

    def _abort(self) -> None:
        """Make the transfers of all threads fail, after an interrupt."""
        self.stopping.set()
        retry.interrupt()
        deadline.end_all()
        conversion.end_all()
        self.backend.cancel()

    def _begun(
        self, compared: Sequence[_Compared], slots: Slots
    ) -> list[tuple[OfferSource, list[tuple[list[_Begun], str]]]]:
        """Begin the transfers of all sources; return all changes, with how each is finished."""
        transfers = [
            (change, source)
            for source, plans in compared
            for wanted, _ in plans
            for change in wanted.changes
            if isinstance(change, Create | Update)
        ]
        self.workshop.shared.expect(change.offer for change, _ in transfers)
        # By identity: equal changes of two sources are two.
        attempts = {
            id(change): self._submitted(change, source, slots)
            for change, source in in_groups(transfers)
        }
        return [
            (source, [(self._finishers(wanted, source, attempts), vo) for wanted, vo in plans])
            for source, plans in compared
        ]

    def _finishers(
        self, wanted: Plan, source: OfferSource, attempts: Mapping[int, Callable[[], Attempted]]
    ) -> list[_Begun]:
        """Return the changes of a plan, with how each is finished."""
        return [
            (change, attempts.get(id(change)) or self._later(change, source))
            for change in wanted.changes
        ]

    def _later(self, change: Change, source: OfferSource) -> Callable[[], Attempted]:
        return functools.partial(self._attempt, change, source)

    def _submitted(
        self, change: Create | Update, source: OfferSource, slots: Slots
    ) -> Callable[[], Attempted]:
        """Begin a transfer as soon as a slot is free; return how it is finished."""
        data = change.offer.source
        return slots.submit(
            self._later(change, source),
            host=hosts.of_url(data.uri),
            image=file_key(change.offer),
            size=self.workshop.disk_bytes(change.offer, may_stream=self.backend.can_stream),
            length=math.inf if data.size is None else data.size,
        )

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
            logger.exception("%s: %s", source, BUG)
            return Attempted(f"{BUG}: {type(error).__name__}: {error}")

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
        if self._is_shared(offer):
            return 0
        if size := self.workshop.stored_bytes(offer, may_stream=self.backend.can_stream):
            self.backend.check_room(offer.appliance, size=size)
        if self.backend.can_stream:
            try:
                return self._send(offer, source, is_new=is_new, may_stream=True)
            except (NeedsFile, FileWanted) as error:
                name = offer.appliance.identifier
                logger.warning("%s: %s; the image is sent again as a file", name, error)
        return self._send(offer, source, is_new=is_new)

    def _is_shared(self, offer: Offer) -> bool:
        """Share the image that another VO has already, if the backend does that."""
        if not self.backend.can_share or LAYER_KEY not in offer.appliance.attributes:
            return False
        is_there = self.backend.share(offer.appliance, formats=self.workshop.accepted)
        if is_there:
            self.workshop.shared.forgo(offer)
        return is_there

    def _send(
        self, offer: Offer, source: ImageOpener, *, is_new: bool, may_stream: bool = False
    ) -> int:
        """Send an image once, as a stream if possible; return its bytes.

        Raises:
            NeedsFile, FileWanted: a stream has failed, and a file may succeed.
            ApplianceError: the image cannot be sent.

        """
        with (
            self.workshop.prepare(offer, source, may_stream=may_stream) as prepared,
            self.workshop.refused.noting(offer),
            self._reachable(prepared) as data,
        ):
            appliance = replace(self._with_provenance(offer, prepared), data=data)
            try:
                (self.backend.add if is_new else self.backend.update)(appliance)
            except FinalRefusal as error:
                if prepared.mode is TransferMode.REMOTE:  # only a verified file is refused for good
                    raise NeedsFile(error.subject, error.cause, error.remedy) from error
                again = self.workshop.refused.retry(offer)
                remedy = f"after a change of Glance's configuration: {again}"
                raise Unusable(str(error.subject), error.cause, remedy) from error
            return data.size

    def _with_provenance(self, offer: Offer, prepared: ImageData) -> Appliance:
        """Return the appliance of an offer with what its data are made from, if that is stored."""
        if not self.backend.can_note_provenance:
            return offer.appliance
        made_from = {
            "source_url": shown(offer.source.uri),
            "source_digest": offer.source.digest,
            "source_version": offer.version,
            "endorser": offer.endorser,
            "conversion": prepared.conversion,
            "synced_at": f"{clock.now():%Y-%m-%dT%H:%M:%SZ}",
        }
        attributes = own_properties.with_provenance(offer.appliance.attributes, made_from)
        return replace(offer.appliance, attributes=attributes)

    def _reachable(self, prepared: ImageData) -> contextlib.AbstractContextManager[ImageData]:
        """Return data as the backend gets them: a file, or its URL in remote mode."""
        return self.remote.offered(prepared) if self.remote else contextlib.nullcontext(prepared)

    def _end(self, report: SyncReport) -> None:
        try:
            self.backend.end(**({"within": _STOP} if self.stopping.is_set() else {}))
        except ApplianceError as error:
            report.fail(str(error))


def in_groups(
    transfers: Iterable[tuple[Create | Update, OfferSource]],
) -> Iterator[tuple[Create | Update, OfferSource]]:
    """Yield transfers in their order, but those of one file together.

    Its file is on the disk from the first of them to the last.
    """
    groups: dict[str, list[tuple[Create | Update, OfferSource]]] = {}
    for change, source in transfers:
        groups.setdefault(file_key(change.offer), []).append((change, source))
    for group in groups.values():
        yield from group
