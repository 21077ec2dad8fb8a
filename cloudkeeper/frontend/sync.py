"""One run: fetch and verify every list, plan, and carry out change by change.

What fails fails alone: a list that cannot be believed keeps its images, an appliance that cannot be
transferred leaves the others to go on. What was left undone is a line of the `SyncReport` each. The
backend is asked before anything is downloaded, and told of the end of the run whatever happened in
it.
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
from cloudkeeper.frontend.backend_client import BackendClient, BackendGone
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
_BY_CONFIRMATION = "run once with --allow-remove"


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """What became of one change: nothing yet, when it was only planned."""

    change: Change
    vo: str
    failure: str = ""


@dataclass(slots=True)
class SyncReport:
    """What a run found, did and left undone."""

    outcomes: list[ChangeOutcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lists: int = 0
    """Lists that were believed."""
    refused_lists: int = 0
    lists_left: int = 0
    """Lists of the configuration whose changes have not all been tried."""
    unchanged: int = 0
    withheld: int = 0
    transferred_bytes: int = 0
    """Bytes of image files that the backend was given."""

    def fail(self, line: str) -> None:
        """Note and log what was left undone."""
        self.failures.append(line)
        logger.error("%s", line)

    def refuse_list(self, line: str) -> None:
        """Note a list that is not acted on."""
        self.fail(f"{line}; its images stay as they are")
        self.refused_lists += 1

    def done(self, kind: type[Change]) -> int:
        """Return how many changes of a kind were carried out."""
        return sum(
            isinstance(outcome.change, kind) and not outcome.failure for outcome in self.outcomes
        )


@dataclass(frozen=True, slots=True)
class Suspect:
    """A change at which the backend went away: it, or the change, is to blame."""

    change: Change
    address: Address
    vo: str


@dataclass(frozen=True, slots=True)
class ListSources:
    """Where lists come from and who is believed. ``keeps`` tells whether what is believed is remembered."""

    addresses: Sequence[Address]
    client: Downloader
    trust: CADirectory
    memory: Memory
    keeps: bool = True

    def believed(self, report: SyncReport, *, at: datetime) -> Iterator[tuple[Address, ImageList]]:
        """Fetch list after list; gives those that may be acted on, reports the others."""
        seen: dict[ListId, Address] = {}
        for address in self.addresses:
            try:
                found = self._fetch(address, at=at)
                if (other := seen.setdefault(found.identifier, address)) is not address:
                    raise Untrusted(
                        address.name,
                        f"has the identifier of {other}, {found.identifier}",
                        "remove one of them",
                    )
                if self.keeps:
                    self.memory.note(found, url=address.place, at=at)
            except ApplianceError as error:
                report.refuse_list(
                    str(error) if error.subject == address.name else f"{address}: {error}"
                )
                continue
            except Exception as error:  # what one list brings about must not cost the others
                logger.exception("%s: %s", address, _BUG)
                report.refuse_list(f"{address}: {_BUG}: {type(error).__name__}: {error}")
                continue
            report.lists += 1
            for refusal in found.refused:
                report.fail(
                    f"{address}: image {refusal.identifier or '?'} refused: {refusal.reason}"
                )
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
        logger.info(
            "%s: list %s of VO %s, %d images",
            address,
            found.identifier,
            found.vo,
            len(found.offers),
        )
        return found


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """One run against one backend. ``allowed`` is how many removals a list may ask for whatever the guard says."""

    sources: ListSources
    backend: BackendClient
    workshop: Workshop
    allowed: int = 0
    is_dry: bool = False

    def run(self, report: SyncReport, *, at: datetime) -> None:
        """Bring the cloud up to the lists as they are valid at ``at``, or plan it only; ``report`` takes it all down.

        :raises BackendFailure: the backend does not let a run begin, or cannot tell what the cloud
        holds
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
            for suspect in suspects:  # each by itself, after all others
                self._carry_out(
                    [suspect.change],
                    suspect.address,
                    vo=suspect.vo,
                    report=report,
                    is_last=True,
                )
        finally:
            self._end(report)

    def _plans(self, report: SyncReport, *, at: datetime) -> Iterator[tuple[Address, Plan, str]]:
        known = set(self.backend.list_ids())
        for address, wanted in self.sources.believed(report, at=at):
            try:
                is_asked = wanted.identifier in known or self.backend.can_check_vo
                held = self.backend.appliances(wanted.identifier, vo=wanted.vo) if is_asked else []
                full = plan.compare(
                    wanted, held, at=at, can_update_metadata=self.backend.can_update_metadata
                )
            except ApplianceError as error:
                report.fail(f"{address}: {error}; its images stay as they are")
                continue
            except Exception as error:  # what one list brings about must not cost the others
                logger.exception("%s: %s", address, _BUG)
                words = f"{_BUG}: {type(error).__name__}: {error}"
                report.fail(f"{address}: {words}; its images stay as they are")
                continue
            guarded = plan.guard(full, held=len(held), allowed=self.allowed)
            if guarded.withheld:
                report.withheld += len(guarded.withheld)
                many = f"{len(guarded.withheld)} of {len(held)} images would be removed, which is held back"
                report.fail(
                    f"{address}: {many}; {_BY_CONFIRMATION} {len(guarded.withheld)} if it is right"
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
        """Carry out changes, each by itself; return those to try once more, after all others.

        Those are the ones at which a backend went away that is back by now. ``is_last`` is for that
        second time: what makes the backend go away again is left out of this run.
        """
        suspects: list[Suspect] = []
        for change in changes:
            failure = ""
            try:
                report.transferred_bytes += self._apply(change)
            except BackendGone as error:
                if self.backend.wait() and not is_last:
                    words = f"{address}: {describe(change)}: {error}"
                    logger.warning("%s; tried again after all others", words)
                    suspects.append(Suspect(change, address, vo))
                    continue
                failure = str(error)
                if is_last:
                    words = "the backend went away twice at this image, which is left out"
                    failure = f"{words}: {error}"
            except ApplianceError as error:
                failure = str(error)
            except Exception as error:  # what one image brings about must not cost the others
                failure = f"{_BUG}: {type(error).__name__}: {error}"
                logger.exception("%s: %s", address, _BUG)
            if failure:
                report.fail(f"{address}: {describe(change)}: {failure}")
            else:
                logger.info("%s: %s: done", address, describe(change))
            report.outcomes.append(ChangeOutcome(change, vo, failure))
        return suspects

    def _apply(self, change: Change) -> int:
        """Carry out one change; returns the bytes that the backend was given."""
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
        self.backend.check()
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
    """Return a change in a few words."""
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
