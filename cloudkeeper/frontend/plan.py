"""The plan for one list: a function of the list, of its appliances in the cloud, and of the time.

An appliance is removed when the list no longer has it, or says that it has expired. An image of the
list that cannot be used, or that the configuration ignores, leaves its appliance as it is. Data are
replaced when their checksum differs, or, without a checksum, version or size; every other
difference changes the metadata.

While an image of the list is refused, an appliance that the list no longer has waits: the refused
image may be the same one under a new identifier, or one whose identifier is unreadable. Nothing
remembers since when an image has been refused, so even an old refusal holds the removals of its
list back, until the configuration ignores the image or an administrator confirms (`release`). An
appliance that has expired is removed nevertheless: no successor can make it valid again.

Additions and updates come in the order of their size, small ones first: most images are there
before the largest is. Removals come last, and only after all additions and updates of the list have
succeeded: an image whose identifier has changed is an addition and a removal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from appliance.core.trust.errors import Untrusted
from cloudkeeper.model import (
    DIGEST_KEYS,
    FORMAT_KEY,
    HIDDEN_KEY,
    HOLDER_KEY,
    IMAGE_KEYS,
    LAYER_KEY,
    SBOM_KEY,
    Appliance,
    ApplianceId,
    Change,
    Create,
    Hide,
    ImageList,
    Offer,
    Plan,
    Remove,
    Update,
    UpdateMetadata,
)

# Removals that need no confirmation: half of a small list would be none or one.
_FEW = 3


@dataclass(frozen=True, slots=True)
class AcceptedFormats:
    """The formats that the configuration accepts, in Glance's words; without any, all are.

    With ``reconverts``, an image in another format is replaced, otherwise it stays. An accepted
    format is as good as the preferred one: the order decides only about new conversions.
    """

    words: frozenset[str] = frozenset()
    reconverts: bool = False

    def refuse(self, held: Appliance) -> bool:
        """Check whether an image in the cloud has a format that is not accepted."""
        found = held.attributes.get(FORMAT_KEY)
        return bool(self.words and found and found not in self.words)


_ALL = AcceptedFormats()


def compare(
    wanted: ImageList,
    held: Iterable[Appliance],
    *,
    at: datetime,
    can_update_metadata: bool = True,
    formats: AcceptedFormats = _ALL,
) -> Plan:
    """Return the changes that make the cloud equal to the offers of ``wanted`` at ``at``.

    ``held`` are the appliances that the backend reports for this list; those that another manager
    keeps count as present, and nothing changes them. A backend that cannot update
    the metadata alone (``can_update_metadata``) gets the data again instead.

    Raises:
        Untrusted: the images in the cloud of this list's identifier belong to another VO.

    """
    # If a backend reports an identifier twice, the last one counts.
    reported = {appliance.identifier: appliance for appliance in held}
    _check_owner(wanted, reported.values())
    others = {key for key, each in reported.items() if HOLDER_KEY in each.attributes}
    present = {key: each for key, each in reported.items() if key not in others}
    offered = {
        offer.appliance.identifier: offer
        for offer in wanted.offers
        if offer.appliance.identifier not in others
    }
    valid = {key: offer for key, offer in offered.items() if not offer.appliance.is_expired(at=at)}
    expired, missing = _removals(wanted, present, valid=valid, offered=offered, at=at)
    waiting = missing if wanted.refused else ()
    removals = (*expired, *(() if waiting else missing))
    creations = [
        Create(offer) for key, offer in sorted(valid.items(), key=_size) if key not in present
    ]
    updates = [
        change
        for key, offer in sorted(valid.items(), key=_size)
        if key in present
        and (
            change := _update(
                offer, present[key], can_update_metadata=can_update_metadata, formats=formats
            )
        )
    ]
    replaced = {change.appliance.identifier for change in updates if isinstance(change, Update)}
    outdated = tuple(
        present[key]
        for key in valid
        if key in present and key not in replaced and formats.refuse(present[key])
    )
    unchanged = len(present) - len(expired) - len(missing) - len(updates)
    changes = (*creations, *updates, *removals)
    return Plan(wanted.identifier, changes, unchanged, outdated, waiting=waiting)


def release(plan: Plan, *, allowed: int) -> Plan:
    """Return a plan with the removals that wait, if an administrator has confirmed all removals."""
    if len(plan.waiting) + len(plan.removals) > allowed:
        return plan
    return replace(plan, changes=(*plan.changes, *plan.waiting), waiting=())


def guard(plan: Plan, *, held: int, allowed: int = 0) -> Plan:
    """Withhold the removals of a plan if they are more than three and more than half of ``held``.

    ``held`` is the number of the list's appliances in the cloud, ``allowed`` the number of removals
    that an administrator has confirmed. All removals are withheld, not only those beyond the limit:
    a list that is wrong once is wrong as a whole.
    """
    removals = plan.removals
    if not is_too_many(len(removals), held=held, allowed=allowed):
        return plan
    kept: tuple[Change, ...] = tuple(
        change for change in plan.changes if not isinstance(change, Remove | Hide)
    )
    return replace(plan, changes=kept, withheld=removals)


def is_too_many(number: int, *, held: int, allowed: int) -> bool:
    """Check whether so many removals of ``held`` images need a confirmation that is missing."""
    return number > max(_FEW, allowed) and 2 * number > held


def _size(item: tuple[ApplianceId, Offer]) -> float:
    """Return the bytes of an offer's data; an unknown number counts as the largest."""
    size = item[1].source.size
    return math.inf if size is None else size


def _check_owner(wanted: ImageList, present: Iterable[Appliance]) -> None:
    for appliance in present:
        if appliance.vo and appliance.vo != wanted.vo:
            other = f"belongs to a list of VO {appliance.vo}, but this list is for VO {wanted.vo}"
            raise Untrusted(
                "image list", f"its identifier {wanted.identifier} {other}", "ask the endorser"
            )


def _removals(
    wanted: ImageList,
    present: Mapping[ApplianceId, Appliance],
    *,
    valid: Mapping[ApplianceId, Offer],
    offered: Mapping[ApplianceId, Offer],
    at: datetime,
) -> tuple[tuple[Remove, ...], tuple[Remove, ...]]:
    """Return the removals of appliances that have expired, and of those no longer in the list."""
    refused = {refusal.identifier for refusal in wanted.refused}
    ignored = {one.identifier: one.is_expired(at=at) for one in wanted.ignored}
    expired = tuple(
        Remove(present[key], "it has expired")
        for key in present
        if (key in offered and key not in valid) or ignored.get(key)
    )
    missing = [key for key in present if key not in {*offered, *refused, *ignored}]
    return expired, tuple(Remove(present[key], "it is no longer in the list") for key in missing)


def _update(
    offer: Offer, held: Appliance, *, can_update_metadata: bool, formats: AcceptedFormats
) -> Update | UpdateMetadata | None:
    wanted = offer.appliance
    if formats.reconverts and formats.refuse(held):
        return Update(offer, f"its format {held.attributes[FORMAT_KEY]} is no longer accepted")
    differing = _differing(wanted.attributes, held.attributes)
    if LAYER_KEY in wanted.attributes and wanted.mpuri != held.mpuri:
        differing.append("manifest")
    if not differing and HIDDEN_KEY in held.attributes:
        return UpdateMetadata(wanted, "shown again: its list is back")
    if not differing:
        return None
    of_image = _of_image(differing, wanted.attributes, held.attributes)
    reason = f"changed: {', '.join(of_image or differing)}"
    if of_image:
        return Update(offer, reason)
    if not can_update_metadata:
        return Update(offer, f"{reason}; this backend cannot change metadata alone")
    return UpdateMetadata(wanted, reason)


def _differing(wanted: Mapping[str, str], held: Mapping[str, str]) -> list[str]:
    """Return the keys whose values differ.

    Only keys of a list's vocabulary count, which have a colon, and those of a registry, which have
    dots: other programs add keys without. An SBOM counts when it is known: a registry may have
    been unable to list it in this run.
    """
    named = {LAYER_KEY, *({SBOM_KEY} & wanted.keys())}
    changed = {key for key, _ in wanted.items() ^ held.items()}  # of nearly all images, none
    keys = (key for key in changed if {":", "."} & set(key) or key in named)
    return sorted(key for key in keys if not _is_same(key, wanted.get(key, ""), held.get(key, "")))


def _is_same(key: str, wanted: str, held: str) -> bool:
    return wanted.lower() == held.lower() if key in DIGEST_KEYS else wanted == held


def _of_image(
    differing: Sequence[str], wanted: Mapping[str, str], held: Mapping[str, str]
) -> list[str]:
    """Return the differing keys that mean other image data.

    A version says nothing where a checksum says that the data are the same.
    """
    if any(wanted.get(key) and held.get(key) for key in DIGEST_KEYS):
        return [key for key in differing if key in DIGEST_KEYS]
    return [key for key in differing if key in IMAGE_KEYS]
