"""One run of the frontend: fetch and verify all lists, compare them with the cloud, change it.

    list: fetch ─ verify ─ compare with memory ─ plan ─ guard the removals
        change: check the backend ─ download, verify, convert ─ call the backend ─ delete the file

A failure affects its own subject only. A list that cannot be accepted keeps its images in the
cloud, and an appliance that cannot be transferred does not stop the others; each is a line of the
`SyncReport`. PreAction comes before the first download: if the backend refuses the run, nothing is
downloaded in vain. PostAction ends every run that PreAction began, also one that failed.

Frontend and backend share only the protocol and the directory of image files. The frontend decides
which lists are trusted and what changes; it has no account in the cloud. The backend holds the
account, and checks again what the frontend sends (`cloudkeeper.backend.calls`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from appliance.core.run.errors import ApplianceError
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Untrusted
from cloudkeeper.frontend import imagelist, plan
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.backend_client import BackendClient, BackendUnreachable
from cloudkeeper.frontend.download import Downloader
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import (
    Change,
    Create,
    ImageList,
    ListId,
    Offer,
    Plan,
    Remove,
    Update,
    UpdateMetadata,
)

logger = logging.getLogger(__name__)

_BUG = "bug in cloudkeeper"


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """A change and the reason of its failure; empty if it succeeded or was only planned."""

    change: Change
    vo: str
    failure: str = ""


@dataclass(slots=True)
class SyncReport:
    """The results of a run, and its failures."""

    outcomes: list[ChangeOutcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lists: int = 0
    """Lists that were accepted."""
    refused_lists: int = 0
    lists_left: int = 0
    """Configured lists whose changes have not all been attempted."""
    unchanged: int = 0
    withheld: int = 0
    transferred_bytes: int = 0
    """Bytes of image files that the backend has accepted."""

    def fail(self, line: str) -> None:
        """Record and log something that was not done."""
        self.failures.append(line)
        logger.error("%s", line)

    def refuse_list(self, line: str) -> None:
        """Record a list that is not accepted."""
        self.fail(f"{line}; its images stay as they are")
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
    address: Address
    vo: str


@dataclass(frozen=True, slots=True)
class ListSources:
    """The lists to fetch, and their trust; ``keeps`` is False for a run that remembers nothing."""

    addresses: Sequence[Address]
    client: Downloader
    trust: CADirectory
    memory: Memory
    keeps: bool = True

    def accepted(self, report: SyncReport, *, at: datetime) -> Iterator[tuple[Address, ImageList]]:
        """Yield the lists that may be acted on, one after another; report the others."""
        seen: dict[ListId, Address] = {}
        for address in self.addresses:
            try:
                found = self._fetch(address, at=at)
                if (other := seen.setdefault(found.identifier, address)) is not address:
                    raise Untrusted(
                        address.name,
                        f"has the same identifier as {other}, {found.identifier}",
                        "remove one of them",
                    )
                if self.keeps:
                    self.memory.note(found, url=address.place, at=at)
            except ApplianceError as error:
                where = "" if error.subject == address.name else f"{address}: "
                report.refuse_list(f"{where}{error}")
                continue
            except Exception as error:  # one list must not affect the others
                logger.exception("%s: %s", address, _BUG)
                report.refuse_list(f"{address}: {_BUG}: {type(error).__name__}: {error}")
                continue
            report.lists += 1
            for refusal in found.refused:
                name = refusal.identifier or "?"
                report.fail(f"{address}: image {name} refused: {refusal.reason}")
            yield address, found

    def _fetch(self, address: Address, *, at: datetime) -> ImageList:
        message = self.client.fetch(
            address.url,
            name=address.name,
            max_bytes=imagelist.MAX_BYTES,
            user=address.user,
            password=address.password,
        )
        found, warnings = imagelist.verify(message, trust=self.trust, at=at)
        self.memory.check(found, url=address.place)
        for warning in warnings:
            logger.warning("%s: %s", address, warning)
        images = len(found.offers)
        logger.info("%s: list %s of VO %s, %d images", address, found.identifier, found.vo, images)
        return found


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """One run with one backend; ``allowed`` is the confirmed number of removals of a list."""

    sources: ListSources
    backend: BackendClient
    workshop: Workshop
    allowed: int = 0
    is_dry: bool = False

    def run(self, report: SyncReport, *, at: datetime) -> None:
        """Make the cloud equal to the lists as they are valid at ``at``, or only plan it.

        ``report`` receives all results, also when the run ends early.

        Raises:
            BackendFailure: the backend begins no run, or cannot list the images of the cloud.

        """
        if self.is_dry:
            for _, wanted_plan, vo in self._plans(report, at=at):
                report.outcomes += [ChangeOutcome(change, vo) for change in wanted_plan.changes]
            return
        for line in self.workshop.sweep():
            report.fail(str(line))
        self.backend.begin(allowed=self.allowed)
        try:
            suspects: list[Suspect] = []
            for address, wanted_plan, vo in self._plans(report, at=at):
                suspects += self._carry_out(wanted_plan.changes, address, vo=vo, report=report)
                report.lists_left -= 1
            for suspect in suspects:  # after all others, which a second failure then cannot affect
                self._carry_out(
                    [suspect.change],
                    suspect.address,
                    vo=suspect.vo,
                    report=report,
                    is_last=True,
                )
        finally:  # also after a failure: the backend writes the record of its run then
            self._end(report)

    def _plans(self, report: SyncReport, *, at: datetime) -> Iterator[tuple[Address, Plan, str]]:
        """Yield for each accepted list its address, its plan and its VO."""
        known = set(self.backend.list_ids())
        for address, wanted in self.sources.accepted(report, at=at):
            try:
                # A list that is not known has no appliances; the call then checks its VO only.
                is_asked = wanted.identifier in known or self.backend.can_check_vo
                held = self.backend.appliances(wanted.identifier, vo=wanted.vo) if is_asked else []
                full = plan.compare(
                    wanted, held, at=at, can_update_metadata=self.backend.can_update_metadata
                )
            except ApplianceError as error:
                report.fail(f"{address}: {error}; its images stay as they are")
                continue
            except Exception as error:  # one list must not affect the others
                logger.exception("%s: %s", address, _BUG)
                report.fail(
                    f"{address}: {_BUG}: {type(error).__name__}: {error}; its images stay as they "
                    "are"
                )
                continue
            guarded = plan.guard(full, held=len(held), allowed=self.allowed)
            if guarded.withheld:
                number = len(guarded.withheld)
                report.withheld += number
                report.fail(
                    f"{address}: {number} of {len(held)} images would be removed, so none is "
                    f"removed; to confirm that, run once with --allow-remove {number}"
                )
            report.unchanged += guarded.unchanged
            yield address, guarded, wanted.vo

    def _carry_out(
        self,
        changes: Iterable[Change],
        address: Address,
        *,
        vo: str,
        report: SyncReport,
        is_last: bool = False,
    ) -> list[Suspect]:
        """Make changes one by one; return those to retry after all others.

        Those are the changes during which the backend became unreachable and then returned. With
        ``is_last``, such a change is not retried again: it probably crashes the backend.
        """
        suspects: list[Suspect] = []
        for change in changes:
            failure = ""
            try:
                report.transferred_bytes += self._apply(change)
            except BackendUnreachable as error:
                if self.backend.wait() and not is_last:
                    words = f"{address}: {describe(change)}: {error}"
                    logger.warning("%s; retried after all others", words)
                    suspects.append(Suspect(change, address, vo))
                    continue
                failure = str(error)
                if is_last:
                    failure = (
                        "the backend became unreachable twice at this image, which is skipped: "
                        f"{error}"
                    )
            except ApplianceError as error:
                failure = str(error)
            except Exception as error:  # one image must not affect the others
                failure = f"{_BUG}: {type(error).__name__}: {error}"
                logger.exception("%s: %s", address, _BUG)
            if failure:
                report.fail(f"{address}: {describe(change)}: {failure}")
            else:
                logger.info("%s: %s: done", address, describe(change))
            report.outcomes.append(ChangeOutcome(change, vo, failure))
        return suspects

    def _apply(self, change: Change) -> int:
        """Make one change; return the bytes that the backend has accepted."""
        match change:
            case Create(offer):
                return self._transfer(offer, is_new=True)
            case Update(offer, _):
                return self._transfer(offer, is_new=False)
            case UpdateMetadata(appliance, _):
                self.backend.update(appliance)
            case Remove(appliance, _):
                self.backend.remove(appliance)
        return 0

    def _transfer(self, offer: Offer, *, is_new: bool) -> int:
        self.backend.check()  # before the download, which may take hours
        with self.workshop.prepare(offer) as data:
            appliance = replace(offer.appliance, data=data)
            (self.backend.add if is_new else self.backend.update)(appliance)
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
