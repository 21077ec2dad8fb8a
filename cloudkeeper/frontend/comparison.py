"""The comparison of all sources with the cloud: plans for their lists, and for lists that ended.

Each list goes through these steps: the appliances that the backend has, what this backend can set,
`plan.compare`, removals that wait for a refused image, removals in doubt, `plan.guard`.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from appliance.core.run.errors import ApplianceError
from cloudkeeper.frontend import ended, plan
from cloudkeeper.frontend.backend_client import BackendClient
from cloudkeeper.frontend.ended import EndedList, EndedPolicy, Missing
from cloudkeeper.frontend.plan import AcceptedFormats
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.selection import WHOLE, RunFilter
from cloudkeeper.frontend.sources import OfferSource
from cloudkeeper.frontend.sync_report import BUG, ComparedList, SyncReport, counted
from cloudkeeper.model import (
    HOLDER_KEY,
    Appliance,
    ApplianceId,
    Change,
    Create,
    Hide,
    ImageList,
    ListId,
    Plan,
    Remove,
    Update,
)
from cloudkeeper.wire import own_properties

logger = logging.getLogger(__name__)

# Lists or images that one line names.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """The sources beside one backend; ``allowed`` is the confirmed number of removals of a list.

    Images in the cloud whose format ``formats`` does not accept are counted or replaced.
    """

    sources: OfferSources
    backend: BackendClient
    allowed: int = 0
    formats: AcceptedFormats = field(default_factory=AcceptedFormats)
    chosen: RunFilter = WHOLE
    """The part of the lists that the run is about."""

    def plans(
        self, in_cloud: Iterable[ListId], report: SyncReport, *, at: datetime
    ) -> Iterator[tuple[OfferSource, Sequence[tuple[Plan, str]]]]:
        """Yield each accepted source with the plans for its lists, and their VOs."""
        known = frozenset(in_cloud)
        for source, lists in self.sources.accepted(report, at=at):
            plans: list[tuple[Plan, str]] = []
            for wanted in lists:
                if not self.chosen.has(source, wanted):
                    continue
                try:
                    found = self._plan(source, wanted, known, report, at=at)
                except ApplianceError as error:
                    self._leave(wanted, source, str(error), report)
                    continue
                except Exception as error:  # one list must not affect the others
                    logger.exception("%s: %s", source, BUG)
                    self._leave(wanted, source, f"{BUG}: {type(error).__name__}: {error}", report)
                    continue
                plans.append((found, wanted.vo))
            yield source, plans
        if self.chosen and not report.chosen:
            words = "no image matches in the sources that could be read"
            report.fail(f"{self.chosen}: {words}; for their names, run: {command('list')}")

    def _leave(
        self, wanted: ImageList, source: OfferSource, words: str, report: SyncReport
    ) -> None:
        """Report a list that cannot be compared with the cloud."""
        report.fail(f"{source}: {words}; its images stay as they are")
        missing = Missing(f"{source} was not compared with the cloud")
        self.sources.configured.incomplete[wanted.vo] = missing

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
        ignored = {one.identifier for one in wanted.ignored}
        offered = {offer.appliance.identifier for offer in wanted.offers} | ignored
        released = self._released(full, wanted, source, report)
        proven = self._without_doubt(released, source, report, offered=offered)
        ignoring = self._ignoring(proven, wanted, held, report)
        guarded = self._guarded(ignoring, source, report, held=len(held) - len(others))
        report.unchanged += guarded.unchanged
        report.compared.append(ComparedList(str(source), wanted.vo, guarded, held))
        known_images = [*held, *(offer.appliance for offer in wanted.offers), *wanted.ignored]
        report.chosen += sum(map(self.chosen.covers, known_images))
        return replace(guarded, changes=self.chosen.part(guarded.changes))

    def _released(
        self, full: Plan, wanted: ImageList, source: OfferSource, report: SyncReport
    ) -> Plan:
        """Return a plan with the removals that wait if they are confirmed; report them otherwise.

        Only a run that names its lists confirms them: the number that confirms the removals of
        another list does not mean these.
        """
        found = plan.release(full, allowed=self.allowed if self.chosen.lists else 0)
        if found.waiting:
            report.withheld += len(found.waiting)
            report.fail(f"{source}: VO {wanted.vo}: {_why_waiting(found, wanted)}")
        return found

    def _ignoring(
        self, full: Plan, wanted: ImageList, held: Iterable[Appliance], report: SyncReport
    ) -> Plan:
        """Return a plan in which images that the configuration ignores follow the policy."""
        ignored = {one.identifier for one in wanted.ignored}
        leaving = {change.appliance.identifier for change in full.removals}
        affected = [
            one
            for one in held
            if one.identifier in ignored - leaving and HOLDER_KEY not in one.attributes
        ]
        policy = self._possible_policy(report) if affected else EndedPolicy.KEEP
        found = EndedList(wanted.identifier, "the configuration ignores it")
        ending, kept = ended.plan(found, affected, policy)
        report.ignored += [one for one in kept if self.chosen.covers(one)]
        unchanged = full.unchanged - len(ending.removals)
        return replace(full, changes=(*full.changes, *ending.removals), unchanged=unchanged)

    def _possible_policy(self, report: SyncReport) -> EndedPolicy:
        """Return the policy for ended lists, as far as the backend can follow it."""
        policy = self.sources.configured.policy
        if policy is EndedPolicy.HIDE and not self.backend.can_hide:
            words = (
                "ended-lists: hide: this backend cannot hide images, so they stay as they are; "
                "use the cloudkeeper-os of this release, or set keep or remove"
            )
            if words not in report.failures:
                report.fail(words)
            return EndedPolicy.KEEP
        return policy

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

    def ended(
        self, in_cloud: Sequence[ListId], report: SyncReport
    ) -> Iterator[tuple[EndedList, Sequence[Remove | Hide]]]:
        """Yield the lists that have ended, with the removals that the policy asks for."""
        configured = self.sources.configured
        if self.chosen:  # some sources have not been read
            return
        if in_cloud and not configured.is_whole and configured.policy is not EndedPolicy.KEEP:
            words = "no effect when the command line names the sources"
            report.note(f"ended-lists: {configured.policy}: {words}")
        policy = self._possible_policy(report)
        kept: dict[EndedList, int] = {}
        for found in configured.doubtful(in_cloud):
            kept[found] = len(self._held(found, report))
        planned: list[tuple[EndedList, Plan, list[Appliance]]] = []
        for found in configured.ended(in_cloud):
            held = self._held(found, report)
            full, staying = ended.plan(found, held, policy)
            vos = {change.appliance.vo for change in full.removals}
            if full.removals and (reason := self._reason_to_wait(vos, report)):
                report.fail(f"{found}: {len(full.removals)} images stay in this run: {reason}")
                continue
            kept[found] = len(staying)
            planned.append((found, self._guarded(full, found, report, held=len(held)), held))
        for found, guarded, held in self._guarded_together(planned, report):
            vo = held[0].vo if held else ""
            report.compared.append(ComparedList(str(found), vo, guarded, held))
            yield found, guarded.removals
        self._note_kept(kept, report)

    def _guarded_together(
        self, planned: Sequence[tuple[EndedList, Plan, list[Appliance]]], report: SyncReport
    ) -> Sequence[tuple[EndedList, Plan, list[Appliance]]]:
        """Return plans for ended lists that together keep half of all images, or are confirmed.

        Most lists have a few images, of which the limit of a list allows all. A file of lists that
        is emptied by mistake would end all of them at once.
        """
        number = sum(len(each.removals) for _, each, _ in planned)
        total = sum(len(one.held) for one in report.compared)
        total += sum(len(held) for _, _, held in planned)
        lists = sum(bool(each.removals) for _, each, _ in planned)
        if lists <= 1 or not plan.is_too_many(number, held=total, allowed=self.allowed):
            return planned
        report.withheld += number
        again = command("sync", "--allow-remove", str(number))
        report.fail(
            f"{lists} lists have ended: {number} of {total} images would be removed, so none is "
            f"removed; to confirm that, run once: {again}"
        )
        return [
            (found, replace(each, changes=(), withheld=(*each.withheld, *each.removals)), held)
            for found, each, held in planned
        ]

    def _held(self, found: EndedList, report: SyncReport) -> list[Appliance]:
        try:
            return self.backend.appliances(found.identifier, vo="")
        except ApplianceError as error:  # one list must not affect the others
            report.fail(f"{found}: {error}; its images stay as they are")
            return []

    def _reason_to_wait(self, vos: Container[str], report: SyncReport) -> str:
        """Return why the images of ended lists of VOs stay in this run; empty if they need not.

        Another source may offer the same images from now on. As long as it has not replaced them,
        users need the present ones.
        """
        if unread := self.sources.configured.unread:
            return f"{unread[0]} could not be read, and may replace them"
        for vo, missing in self.sources.configured.incomplete.items():
            if vo in vos:
                words = f"{missing.reason}, and may replace one of them for VO {vo}"
                return f"{words}; {missing.remedy}" if missing.remedy else words
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
            f"kept in the cloud: {counted(total)} of lists that have ended "
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


def _why_waiting(found: Plan, wanted: ImageList) -> str:
    """Return which refused images hold removals of a list back, and the remedy."""
    refused = dict.fromkeys(one.identifier or "one without identifier" for one in wanted.refused)
    more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    names = f"{', '.join([*refused][:_SHOWN])}{more}"
    number = len(found.waiting) + len(found.removals)
    again = command("sync", "--list", wanted.identifier, "--allow-remove", str(number))
    is_named = all(one.identifier for one in wanted.refused)
    ignore = "add the refused ones to ignore-images, or " if is_named else ""
    return (
        f"no longer in the list, but kept: {counted(len(found.waiting))}, because a refused "
        f"image may be a new version: {names}; if none is, {ignore}run once: {again}"
    )
