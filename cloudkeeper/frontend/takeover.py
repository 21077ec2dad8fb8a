"""Which images to take over from another manager of the cloud, or to give back; and doing it.

The administrator names sources or images of registries. The backend lists what it could change, and
why it cannot change an image. An image may be shared with the projects of several VOs: it is
changed for the VO whose project owns it, and comes with it for all others.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from appliance.core.run.errors import ApplianceError, UsageError
from cloudkeeper.frontend.backend_client import BackendClient
from cloudkeeper.frontend.source_settings import RegistrySettings
from cloudkeeper.model import HINDRANCE_KEY, HOLDER_KEY, OWNER_KEY, Appliance, ListId
from cloudkeeper.wire.status import Takeover

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Handovers:
    """Images to hand over; those that come along because they are shared; and what hinders."""

    images: list[Appliance] = field(default_factory=list)
    shared: list[Appliance] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def fail(self, line: str) -> None:
        """Note and log an image that stays as it is."""
        self.failures.append(line)
        logger.error("%s", line)


def plan(
    registries: Sequence[RegistrySettings],
    names: Sequence[str],
    backend: BackendClient,
    *,
    wanted: Takeover,
) -> Handovers:
    """Resolve the names of sources and images to a plan; change nothing.

    Raises:
        UsageError: a name is none of the configured sources and of their images.
        BackendFailure: the backend does not answer, or cannot hand over images.

    """
    chosen = {registry: _references(registry, names) for registry in registries}
    for name in names:
        if not any(_means(registry, name) for registry in registries):
            known = ", ".join(map(str, registries)) or "none is configured"
            raise UsageError(
                wanted.value,
                f"{name!r} is neither a project of a registry nor an image of one",
                f"write HOST/PROJECT or PROJECT/REPOSITORY:TAG; the projects: {known}",
            )
    backend.list_ids()
    if not backend.can_take_over:
        raise UsageError(
            wanted.value,
            "this backend cannot take images over",
            "use cloudkeeper-os of the same release",
        )
    found = Handovers()
    missing = {name for name in names if ":" in name.rpartition("/")[2]}
    for registry, references in chosen.items():
        if references is None:
            continue
        seen = _plan(registry, references, backend, found, wanted=wanted)
        missing -= {name for name in missing if _reference(registry, name) in seen}
    found.images.sort(key=lambda image: (image.vo, image.identifier))
    for name in sorted(missing - _done(registries, missing, backend, wanted=wanted)):
        words = "no other manager keeps it" if wanted is Takeover.IMPORT else "was not taken over"
        found.fail(f"{name}: {words} in the projects of its VOs")
    return found


def carry_out(found: Handovers, backend: BackendClient, *, wanted: Takeover) -> int:
    """Hand the images over, one after the other; return how many were.

    Raises:
        BackendFailure: the backend begins no run.

    """
    done = 0
    backend.begin(is_partial=True)
    try:
        for image in found.images:
            try:
                backend.hand_over(image, wanted=wanted)
                done += 1
            except ApplianceError as error:
                found.fail(f"VO {image.vo}: {image.identifier}: {error}")
    finally:
        backend.end()
    return done


def _plan(
    registry: RegistrySettings,
    references: Collection[str],
    backend: BackendClient,
    found: Handovers,
    *,
    wanted: Takeover,
) -> set[str]:
    """Sort the images of a source into ``found``; return the references of all of them."""
    listed: list[Appliance] = []
    for vo in registry.vos:
        try:
            listed += _chosen(
                backend.to_hand_over(ListId(f"{registry}/{vo}"), vo=vo, wanted=wanted), references
            )
        except ApplianceError as error:  # one VO must not affect the others
            found.fail(f"VO {vo}: {error}")
    owned = {image.identifier for image in listed if image.attributes[OWNER_KEY] == image.vo}
    for image in listed:
        owner, hindrance = image.attributes[OWNER_KEY], image.attributes[HINDRANCE_KEY]
        subject = f"VO {image.vo}: {image.identifier}"
        if owner == image.vo and hindrance:
            found.fail(f"{subject}: {hindrance}")
        elif owner == image.vo:
            found.images.append(image)
        elif owner in registry.vos and image.identifier in owned:
            found.shared.append(image)
        elif owner.startswith("project "):
            words = f"belongs to {owner}, which no VO is mapped to"
            found.fail(f"{subject}: {words}; map a VO to that project, and name it in the source")
        else:
            words = f"belongs to the project of VO {owner}; add {owner} to the vos of the source"
            found.fail(f"{subject}: {words} {registry}")
    return {image.identifier for image in listed}


def _done(
    registries: Sequence[RegistrySettings],
    names: Collection[str],
    backend: BackendClient,
    *,
    wanted: Takeover,
) -> set[str]:
    """Return the names of images that were handed over before; a repeated command is harmless."""
    opposite = Takeover.RELEASE if wanted is Takeover.IMPORT else Takeover.IMPORT
    found: set[str] = set()
    for registry in registries:
        by_reference = {_reference(registry, name): name for name in names}
        for vo in registry.vos if names else ():
            with contextlib.suppress(ApplianceError):  # reported above
                list_id = ListId(f"{registry}/{vo}")
                images = backend.to_hand_over(list_id, vo=vo, wanted=opposite)
                found |= {by_reference.get(image.identifier, "") for image in images}
    return found


def _chosen(images: Iterable[Appliance], references: Collection[str]) -> Iterator[Appliance]:
    yield from (image for image in images if not references or image.identifier in references)


def _references(registry: RegistrySettings, names: Sequence[str]) -> set[str] | None:
    """Return the chosen images of a source; empty: all; None: it is not chosen."""
    meant = [name for name in names if _means(registry, name)]
    if any(name in (str(registry), registry.project) for name in meant):
        return set()
    return {_reference(registry, name) for name in meant} or None


def _means(registry: RegistrySettings, name: str) -> bool:
    """Check whether a name is that of a source, or may be that of one of its images."""
    if name in (str(registry), registry.project):
        return True
    reference = _reference(registry, name)
    return reference.startswith(f"{registry.project}/") and ":" in reference.rpartition("/")[2]


def _reference(registry: RegistrySettings, name: str) -> str:
    """Return a name without the host before it: ``PROJECT/REPOSITORY:TAG``."""
    return name.removeprefix(f"{registry.host}/")


def shown(image: Appliance) -> str:
    """Return a line about an image, for people."""
    return f"VO {image.vo}: {image.identifier}, {image.attributes[HOLDER_KEY]}"
