"""One image for the VOs of a registry's project: uploaded once, shared with the others' projects.

    first VO: upload into its project ── further VOs: member, accepted ── all find one image
    new version: upload, hidden ─ add and accept every member ─ show it ─ release the older version

The images of a registry are the same for all VOs of a source, so what one VO gets is good for the
others. A signed list is for one VO, with names of its own; its images stay images of that VO.

The owner is the project of the VO that needed the image first, and stays it as long as its VO uses
the image. When that VO leaves, its project holds the image for the others, until the next version
is uploaded into one of theirs. A project that cannot accept a new version keeps the older one.

With ``image_sharing = copy`` nothing new is shared. Whatever the option says, images stay as they
are until a new version replaces them, and none goes that another VO still uses.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from appliance.core.cloud import glance
from appliance.core.cloud.glance import GlanceRefusal
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend import others, properties, sharing, versions
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.image_data import algorithm_of
from cloudkeeper.backend.images import MadeImage, ProjectImages
from cloudkeeper.backend.ownership import LONG_WAIT, Ownership
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord, operation
from cloudkeeper.backend.removals import RunRemovals
from cloudkeeper.backend.sharing import Audience, Use
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.model import LAYER_KEY, Appliance, ImageData, ListId
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)


class ShareName(NamedTuple):
    """What the images of all VOs of a registry's project have in common."""

    source: str
    reference: str

    def __str__(self) -> str:
        return f"image {self.reference}"


StatedUse = tuple[ProjectImages, ImageRecord, Use]
"""A use, with the project that holds the image, and its record."""


_UsesOfImage = tuple[ProjectImages, ImageRecord, list[Use]]


@dataclass(frozen=True, slots=True)
class UsedImage:
    """An image as one of its VOs uses it; ``holder`` is None if its project cannot be reached."""

    holder: ProjectImages | None
    record: ImageRecord
    use: Use

    @property
    def as_own(self) -> ImageRecord:
        """The record with the key that the image has for this VO."""
        key = ApplianceKey(self.use.vo, self.use.list_id, self.record.key.identifier)
        return replace(self.record, key=key)


def name_of(key: ApplianceKey) -> ShareName | None:
    """Return the name of a registry's image, the same for all VOs; None for a signed list's."""
    source = key.list_id.removesuffix(f"/{key.vo}")
    if source == key.list_id or not others.is_of_registry(ListId(source)):
        return None
    return ShareName(source, key.identifier)


@dataclass(slots=True)
class SharedImages:
    """The images of all projects of one run, and the VOs that use each.

    ``by_vo`` is the mapping, ``projects`` are all that can be reached, by id.
    """

    is_on: bool
    ownership: Ownership
    tally: RunTally
    by_vo: Mapping[str, ProjectImages | ApplianceError]
    projects: dict[str, ProjectImages] = field(default_factory=dict)

    def stated(self) -> list[StatedUse]:
        """Return all uses that the images of all projects state."""
        return [
            (holder, record, use)
            for holder in self.projects.values()
            for record in holder.active()
            for use in sharing.stated(record.image)
        ]

    def used(
        self, images: ProjectImages, stated: Sequence[StatedUse] | None = None
    ) -> list[UsedImage]:
        """Return the images of other VOs that VOs of a project use and find.

        Who asks for several projects passes on what `stated` returns, which looks at all images.
        """
        found = [
            UsedImage(holder, self._with_layer(record), use)
            for holder, record, use in (self.stated() if stated is None else stated)
            if use.project == images.project_id and _finds(images, holder, record)
        ]
        reached = self.projects.keys()
        for image in list(images.shared.values()):  # other calls add to it
            owner = str(image["owner"])
            record = None if owner in reached else properties.recognise(image, owner=owner)
            found += [
                UsedImage(None, self._with_layer(record), use)
                for use in (sharing.stated(image) if record else ())
                if record and use.project == images.project_id
            ]
        return found

    def has(self, images: ProjectImages, key: ApplianceKey) -> bool:
        """Check whether a VO has an appliance in its project, its own or a shared image."""
        return images.has(key) or bool(self._uses(images, key))

    def offer(
        self, images: ProjectImages, appliance: Appliance, *, is_wanted: Callable[[], bool]
    ) -> Mapping[str, str]:
        """Offer an appliance to its VO in the project ``images``; return the digests of its data.

        Raises:
            ApplianceError: it could not be offered; an older version stays.

        """
        key = properties.key_of(appliance)
        name = name_of(key)
        if name is None:
            return images.offer(appliance, is_wanted=is_wanted)
        if not self.is_on and not self._is_shared(images, key):
            return images.offer(appliance, is_wanted=is_wanted)
        with self.ownership.claim(name, longest=LONG_WAIT, is_wanted=is_wanted):
            if not self.is_on:
                digests = images.offer(appliance, is_wanted=is_wanted)
                self._release_others(images, key)
                return digests
            subject = (images.project_id, key)
            with self.ownership.claim(subject, longest=LONG_WAIT, is_wanted=is_wanted):
                self._refresh(images, key)
                return self._share(images, key, appliance, is_wanted)

    def adopt(
        self,
        images: ProjectImages,
        appliance: Appliance,
        *,
        formats: Collection[str],
        is_wanted: Callable[[], bool],
    ) -> Mapping[str, str]:
        """Let a VO use an image that is there in one of the ``formats``; no data are needed.

        Returns the digest of its layer, by the algorithm; nothing if there is no such image.

        Raises:
            ApplianceError: the VO's project cannot find the image; an older version stays.

        """
        key = properties.key_of(appliance)
        name = name_of(key)
        if name is None or not self.is_on:
            return {}
        with self.ownership.claim(name, longest=LONG_WAIT, is_wanted=is_wanted):
            self._refresh(images, key)
            fitting = self._fitting(images, appliance, formats)
            if fitting is None:
                return {}
            self._join(images, key, appliance, *fitting)
        algorithm, _, digits = appliance.attributes[LAYER_KEY].lower().partition(":")
        return {algorithm: digits}

    def check_room(self, images: ProjectImages, appliance: Appliance, *, size: int) -> None:
        """Check whether the project that would get an image has room for it.

        Raises:
            ApplianceError: neither it nor the VO's own project has.

        """
        key = properties.key_of(appliance)
        base = self._newest(images, key) if self.is_on and name_of(key) else None
        try:
            images.quota.check(size)
        except Failed:
            if base is None or base[0] is images:
                raise
            base[0].quota.check(size)

    def describe(self, images: ProjectImages, appliance: Appliance) -> None:
        """Replace the metadata of an appliance, for all VOs that use the image; its data stay.

        Raises:
            ApplianceError: the appliance is not offered, or its project cannot be reached.

        """
        key = properties.key_of(appliance)
        used = self._uses(images, key)
        if images.has(key) or not used:
            images.describe(appliance)
            return
        with self._turn(key):
            newest = max(used, key=_age)
            if newest.holder is None:
                raise Failed(
                    f"image {newest.record.id}",
                    "is shared by a project that cannot be reached, so it stays as it is",
                    status=CallStatus.RESOURCE_STATE,
                )
            newest.holder.redescribe(newest.holder.current(newest.record), appliance)

    def withdraw(self, images: ProjectImages, key: ApplianceKey, *, hides: bool) -> None:
        """Remove an appliance from the users of a VO, or hide it; other VOs keep it.

        Raises:
            ApplianceError: Glance refuses that, or does not answer.

        """
        with self._turn(key):
            (images.hide if hides else images.withdraw)(key)
            for one in self._uses(images, key):
                if one.holder and hides:
                    one.holder.hide_from(one.record, one.use.identity)
                    continue
                self._release(images, one)
                self.tally.count("hidden" if hides else "removed")
                words = "project %s: %s is no longer shared with it, image %s"
                logger.info(words, images.name, key, one.record.id)

    def keys(self, images: ProjectImages, list_id: ListId) -> list[ApplianceKey]:
        """Return the keys of a list's appliances that a project has, complete or not."""
        shared = [one.as_own.key for one in self.used(images) if one.use.list_id == list_id]
        return list(dict.fromkeys([*images.keys(list_id), *shared]))

    def learn(self) -> None:
        """Find the hidden images of other projects, which no listing shows to a member."""
        for holder, record, found in self._unfound():
            if record.is_hidden:
                self._note_found(holder, record, found)

    def repair(self) -> None:
        """Complete the sharing and the replacement that a killed run has left unfinished."""
        for holder, record, found in self._unfound():
            left = self._note_found(holder, record, found)
            self._drop_unfound(holder, record, left)
        for project in self._mapped().values():
            self._release_outdated(project)

    def _unfound(self) -> list[_UsesOfImage]:
        """Return the images with uses by VOs whose projects do not list them, and these uses."""
        return _grouped(
            (holder, record, use)
            for holder, record, use in self.stated()
            if (images := self._project(use)) and not _finds(images, holder, record)
        )

    def _stale(self) -> list[_UsesOfImage]:
        """Return the images with uses by VOs that the mapping has elsewhere, and these uses."""
        return _grouped(found for found in self.stated() if self._is_stale(*found[1:]))

    def settle(self, removals: RunRemovals) -> Iterator[str]:
        """End the memberships of VOs that the mapping has elsewhere; yield what stays undone.

        A VO with a new project keeps the old membership until the new project has the image.
        """
        stale: dict[ListId, list[StatedUse]] = {}
        for one in self._stale_members():
            stale.setdefault(one[2].list_id, []).append(one)
        for list_id, found in stale.items():
            names = [f"{use.vo} {one.key.identifier} in {use.project}" for _, one, use in found]
            try:
                removals.allow(list_id, names)
                for holder, record, use in found:
                    holder.release(record, [use.identity])
                    self.tally.count("removed")
            except ApplianceError as error:
                vo, project = found[0][2].vo, found[0][2].project
                yield f"project {project}: was the project of VO {vo}, and stays a member: {error}"

    def _stale_members(self) -> Iterator[StatedUse]:
        """Yield the stale uses that show an image to users; end the others, which is no removal.

        Users can state many: they would use up the limit of removals of any list.
        """
        for holder, record, stale in self._stale():
            unfound = self._unfound_by(holder, record, stale) or ()
            is_used = len(unfound) < len(sharing.uses(record))
            if unfound and is_used:
                holder.replace(record, [use.identity for use in unfound])
            yield from ((holder, record, use) for use in stale if not is_used or use not in unfound)

    def report(self) -> None:
        """Log what the option does not change at once, and what projects hold for others."""
        holders: dict[ShareName, set[str]] = {}
        shared = 0
        for images in self.projects.values():
            for record in images.active():
                shared += len(sharing.uses(record)) > 1
                if (name := name_of(record.key)) and record.backend_id:
                    holders.setdefault(name, set()).add(images.project_id)
                if sharing.is_held(record):
                    self._note_held(images, record)
        copies = sum(len(found) for found in holders.values() if len(found) > 1)
        if self.is_on and copies:
            words = "image_sharing = share: copies that stay until a new version replaces them: %d"
            logger.info(words, copies)
            self.tally.count("copies_to_share", copies)
        if not self.is_on and shared:
            words = "image_sharing = copy: shared images that stay until each VO has another: %d"
            logger.info(words, shared)
            self.tally.count("shares_to_copy", shared)

    def _note_held(self, images: ProjectImages, record: ImageRecord) -> None:
        vos = ", ".join(dict.fromkeys(use.vo for use in sharing.uses(record)))
        words = "its users find it until a new version is uploaded elsewhere"
        line = f"project {images.name}: holds image {record.id} for VO {vos}; {words}"
        self.tally.note("images_held_for_others", line)

    def _share(
        self,
        images: ProjectImages,
        key: ApplianceKey,
        appliance: Appliance,
        is_wanted: Callable[[], bool],
    ) -> Mapping[str, str]:
        assert appliance.data is not None  # noqa: S101  the caller has checked it
        formats = (appliance.data.format.value,)
        fitting = self._fitting(images, appliance, formats, appliance.data)
        if fitting is None:
            return self._make(images, key, appliance, appliance.data, is_wanted).digests
        self._join(images, key, appliance, *fitting)
        algorithm = algorithm_of(appliance.data)
        return {algorithm: appliance.data.checksum.lower()} if algorithm else {}

    def _join(
        self,
        images: ProjectImages,
        key: ApplianceKey,
        appliance: Appliance,
        holder: ProjectImages,
        record: ImageRecord,
    ) -> None:
        """Let a VO use an image, in place of the versions that it has."""
        use = Use(key.vo, key.list_id, images.project_id)
        if use.identity not in self._found_by(holder, record):
            _admit(holder, record, use, images)
            self.tally.count("shared")
            words = "project %s: shares %s, image %s of project %s"
            logger.info(words, images.name, key, record.id, holder.name)
        holder.redescribe(holder.current(record), appliance)
        self._release_others(images, key, but=record.id)

    def _fitting(
        self,
        images: ProjectImages,
        appliance: Appliance,
        formats: Collection[str],
        data: ImageData | None = None,
    ) -> tuple[ProjectImages, ImageRecord] | None:
        """Return an image that VOs can share instead of an upload: of this project, or the first.

        It holds the same layer in the same format, by evidence that no member of its project can
        write, and has the site's own properties of the same source.
        """
        name = name_of(properties.key_of(appliance))
        for holder in {images.project_id: images, **self._mapped()}.values():
            for record in holder.active():
                is_ours = record.backend_id == self.ownership.id and name_of(record.key) == name
                is_fit = is_ours and _may_be_shared(record, appliance, formats)
                if is_fit and self._is_proven(record, appliance, data):
                    return holder, record
        return None

    def _is_proven(self, record: ImageRecord, appliance: Appliance, data: ImageData | None) -> bool:
        """Check whether an image certainly holds the layer of an appliance, or these data."""
        layer = appliance.attributes.get(LAYER_KEY, "").lower()
        if not layer:
            return False
        is_known = layer == self.ownership.layers.layer(record.id)
        return is_known or (data is not None and versions.has_these_data(record, data))

    def _with_layer(self, record: ImageRecord) -> ImageRecord:
        """Return a record with the layer that this backend knows, whatever Glance's property says.

        With a forged one, a VO of another project would miss a new version.
        """
        layer = self.ownership.layers.layer(record.id)
        if not layer or layer == record.image.get(LAYER_KEY):
            return record
        return replace(record, image={**record.image, LAYER_KEY: layer})

    def _make(
        self,
        images: ProjectImages,
        key: ApplianceKey,
        appliance: Appliance,
        data: ImageData,
        is_wanted: Callable[[], bool],
    ) -> MadeImage:
        """Upload a version, for all VOs that use the one before; release that."""
        caller = Use(key.vo, key.list_id, images.project_id, is_added=True)
        base = self._newest(images, key)
        users = self._followers(base, appliance, caller)
        owner = self._owner(images, base, users, size=data.size)
        first = next(use for use in users if use.project == owner.project_id)
        members = sharing.beside(base[0].glance, base[1].image) if base else {}
        rest = [
            use._replace(is_added=use.project not in members and use.project != owner.project_id)
            for use in users
            if use is not first
        ]
        made = owner.create(
            replace(appliance, vo=first.vo, list_id=first.list_id),
            data,
            base[1] if base and base[0] is owner else None,
            is_wanted,
            Audience(rest, members),
        )
        self.tally.count("updated" if base else "added")
        self._settle_made(images, made)
        return made

    def _owner(
        self,
        images: ProjectImages,
        base: tuple[ProjectImages, ImageRecord] | None,
        users: Sequence[Use],
        *,
        size: int,
    ) -> ProjectImages:
        """Return the project for a new version: that of the version before, while a VO uses it.

        A project whose quota is used up must not keep the version from all others.
        """
        if base is None or all(use.project != base[0].project_id for use in users):
            return images
        owner, older = base
        if owner is images or older.image.get(properties.TAKEN_OVER):
            return owner
        try:
            owner.quota.check(size)
        except Failed as error:
            self.tally.fail(f"{error}; project {images.name} gets it, and shares it")
            return images
        return owner

    def _settle_made(self, images: ProjectImages, made: MadeImage) -> None:
        """Release what a new version replaces; report the projects that do not find it.

        Raises:
            ApplianceError: the project of the call does not find it.

        """
        for use in sharing.uses(made.record):
            self.ownership.note(
                (use.project, ApplianceKey(use.vo, use.list_id, made.record.key.identifier)),
                made.record.id,
            )
            project = self.projects[use.project]
            if use.project != made.record.image["owner"]:
                project.shared[made.record.id] = made.record.image
        for use in sharing.uses(made.record):
            key = ApplianceKey(use.vo, use.list_id, made.record.key.identifier)
            self._release_others(self.projects[use.project], key, but=made.record.id, with_=made)
        failures = dict(made.failures)
        own = failures.pop(images.project_id, None)
        for failure in failures.values():
            self.tally.fail(failure)
        if own:
            raise own

    def _newest(
        self, images: ProjectImages, key: ApplianceKey
    ) -> tuple[ProjectImages, ImageRecord] | None:
        """Return the version that a VO has, and the project that holds it."""
        return next(iter(self._versions(images, key)), None)

    def _versions(
        self, images: ProjectImages, key: ApplianceKey
    ) -> list[tuple[ProjectImages, ImageRecord]]:
        """Return the versions that a VO has, and the projects that hold them; newest first."""
        found = [(images, record) for record in images.versions(key)]
        found += [(one.holder, one.record) for one in self._uses(images, key) if one.holder]
        return sorted(found, key=lambda one: (one[1].created, one[1].id), reverse=True)

    def _followers(
        self, base: tuple[ProjectImages, ImageRecord] | None, appliance: Appliance, caller: Use
    ) -> list[Use]:
        """Return the uses of a new version: those of the version before, and the caller's.

        Sources with other properties of the site are different ones, so their VOs do not follow.
        """
        if base is None or not properties.has_same_own(base[1].image, appliance):
            return [caller]
        found = [
            use
            for use in sharing.uses(base[1])
            if (images := self._project(use))
            and use.identity != caller.identity
            and _finds(images, *base)
        ]
        return [*found, caller]

    def _release_others(
        self,
        images: ProjectImages,
        key: ApplianceKey,
        *,
        but: str = "",
        with_: MadeImage | None = None,
    ) -> None:
        """Release all images of a VO's appliance but one, for this VO and for all ``with_`` it."""
        identity = (key.vo, key.list_id, images.project_id)
        served = [use.identity for use in sharing.uses(with_.record)] if with_ else [identity]
        if self.is_on:
            for record in images.versions(key):
                if record.id != but:
                    images.replace(record, served)
        for one in self._uses(images, key):
            if one.record.id == but:
                continue
            if one.holder:
                one.holder.replace(one.record, served)
            else:
                self._reject(images, one)

    def _release_outdated(self, images: ProjectImages) -> None:
        """Release all versions but the newest of each appliance that a project has and shares."""
        for key in {one.as_own.key for one in self.used(images)}:
            outdated = self._versions(images, key)[1:]
            # A call of a killed frontend may be replacing them, and waits for Glance.
            if not outdated or self.ownership.is_claimed(name_of(key)):
                continue
            with self._turn(key):
                for holder, record in outdated:
                    holder.replace(record, [(key.vo, key.list_id, images.project_id)])

    def _note_found(
        self, holder: ProjectImages, record: ImageRecord, uses: Sequence[Use]
    ) -> Sequence[Use]:
        """Note that the projects that have accepted an image find it; return the other uses."""
        unfound = self._unfound_by(holder, record, uses)
        for use in uses:
            if unfound is not None and use not in unfound:
                self.projects[use.project].shared[record.id] = record.image
        return unfound or ()

    def _unfound_by(
        self, holder: ProjectImages, record: ImageRecord, uses: Sequence[Use]
    ) -> Sequence[Use] | None:
        """Return the uses by projects that have not accepted an image; None if Glance is silent.

        What the image states is no evidence: the users of its project can write that.
        """
        try:
            # The listing may be older than the call that shared it.
            found = sharing.accepted(holder.glance, holder.glance.get(record.id))
        except ApplianceError as error:
            if getattr(error, "code", None) == glance.NOT_FOUND:
                return uses
            self.tally.fail(error)
            return None
        return [use for use in uses if use.project not in (holder.project_id, *found)]

    def _drop_unfound(
        self, holder: ProjectImages, record: ImageRecord, uses: Sequence[Use]
    ) -> None:
        """Take back a sharing that was not completed; the VO's list shares it again if it wants.

        A call of a killed frontend may be completing it.
        """
        reference = record.key.identifier
        dropped = [
            use
            for use in uses
            if not self.ownership.is_claimed(
                (use.project, ApplianceKey(use.vo, use.list_id, reference))
            )
        ]
        if not dropped:
            return
        names = ", ".join(dict.fromkeys(use.project for use in dropped))
        words = "project %s: image %s was not accepted in project %s; its sharing is taken back"
        logger.warning(words, holder.name, record.id, names)
        holder.replace(record, [use.identity for use in dropped])

    def _release(self, images: ProjectImages, one: UsedImage) -> None:
        if one.holder:
            one.holder.release(one.record, [one.use.identity])
        else:
            images.glance.reject(one.record.id, images.project_id)
        images.shared.pop(one.record.id, None)

    def _reject(self, images: ProjectImages, one: UsedImage) -> None:
        try:
            self._release(images, one)
        except ApplianceError as error:
            self.tally.fail(error)

    def _refresh(self, images: ProjectImages, key: ApplianceKey) -> None:
        """Read an image that another run's call has completed since this run began."""
        image_id = self.ownership.completed((images.project_id, key))
        known = {record.id for one in self.projects.values() for record in one.active()}
        if not image_id or image_id in known:
            return
        try:
            image = images.glance.get(image_id)
        except GlanceRefusal as error:
            if error.code != glance.NOT_FOUND:  # it may have been removed
                raise
            return
        holder = self.projects.get(str(image.get("owner")))
        if holder:
            holder.keep(image_id, image)
        if holder is not images:
            images.shared[image_id] = image

    def _turn(self, key: ApplianceKey) -> contextlib.AbstractContextManager[None]:
        name = name_of(key)
        if name is None:
            return contextlib.nullcontext()
        return self.ownership.claim(name)

    def _is_shared(self, images: ProjectImages, key: ApplianceKey) -> bool:
        """Check whether a VO's appliance is an image that several VOs use, or may be one."""
        own = (sharing.stated(record.image) for record in images.versions(key))
        return any(own) or bool(self._uses(images, key))

    def _uses(self, images: ProjectImages, key: ApplianceKey) -> list[UsedImage]:
        return [one for one in self.used(images) if one.as_own.key == key]

    def _found_by(self, holder: ProjectImages, record: ImageRecord) -> set[tuple[str, ListId, str]]:
        """Return the uses of an image by VOs that find it."""
        return {
            use.identity
            for use in sharing.uses(record)
            if (images := self.projects.get(use.project)) and _finds(images, holder, record)
        }

    def _mapped(self) -> dict[str, ProjectImages]:
        """Return the projects of all VOs, by id, in the order of the mapping."""
        found = self.by_vo.values()
        return {one.project_id: one for one in found if isinstance(one, ProjectImages)}

    def _project(self, use: Use) -> ProjectImages | None:
        """Return the project of a use, if it is its VO's and can be reached."""
        found = self.by_vo.get(use.vo)
        is_same = isinstance(found, ProjectImages) and found.project_id == use.project
        return found if isinstance(found, ProjectImages) and is_same else None

    def _is_stale(self, record: ImageRecord, use: Use) -> bool:
        """Check whether the mapping has a VO elsewhere, where it has the image by now."""
        found = self.by_vo.get(use.vo)
        if found is None:
            return True
        if isinstance(found, ApplianceError) or found.project_id == use.project:
            return False
        return self.has(found, ApplianceKey(use.vo, use.list_id, record.key.identifier))


def _grouped(stated: Iterable[StatedUse]) -> list[_UsesOfImage]:
    """Return uses by image: Glance is asked once for each image, however many uses it states."""
    found: dict[str, _UsesOfImage] = {}
    for holder, record, use in stated:
        found.setdefault(record.id, (holder, record, []))[2].append(use)
    return list(found.values())


def _finds(images: ProjectImages, holder: ProjectImages, record: ImageRecord) -> bool:
    """Check whether a project finds an image that states it."""
    return holder is images or record.id in images.shared


def _may_be_shared(record: ImageRecord, appliance: Appliance, formats: Collection[str]) -> bool:
    """Check whether an image is in use, in a right format, and described by the same source."""
    image = record.image
    return bool(
        image.get("disk_format") in formats
        and image.get("status") == "active"
        and not image.get("os_hidden")
        and image.get("visibility") not in sharing.FOR_ALL
        and properties.has_same_own(image, appliance)
    )


def _age(one: UsedImage) -> tuple[datetime, str]:
    return one.record.created, one.record.id


def _admit(holder: ProjectImages, record: ImageRecord, use: Use, guest: ProjectImages) -> None:
    """Let a VO of the project ``guest`` use an image.

    Raises:
        ApplianceError: the project cannot become a member; nothing has changed for others.

    """
    # The listing may be some minutes old, and other calls change what an image states.
    image, is_other = holder.glance.get(record.id), guest is not holder
    known = [one for one in sharing.stated(image) if one.project == use.project]
    is_shared = image.get("visibility") == "shared"
    if known:
        is_added = known[0].is_added
    else:
        members = holder.glance.members(record.id) if is_other and is_shared else {}
        is_added = is_other and use.project not in members
    use = use._replace(is_added=is_added)
    staying = [one for one in sharing.stated(image) if one.identity != use.identity]
    patch = sharing.statement(image, [*staying, use])
    if is_other and not is_shared:
        patch.insert(0, operation("replace", "visibility", "shared"))
    admitted = holder.keep(record.id, holder.glance.change(record.id, patch)) if patch else record
    if is_other and admitted:
        try:
            if not is_shared:
                _end_earlier(holder, admitted)
            sharing.join(holder.glance, record.id, use.project, guest.glance)
        except ApplianceError:
            holder.replace(admitted, [use.identity])
            if not is_shared:
                holder.revert_visibility(record.id, str(image.get("visibility")))
            raise
        guest.shared[record.id] = admitted.image


def _end_earlier(holder: ProjectImages, record: ImageRecord) -> None:
    """Remove the members that an image had before it was private: Glance keeps them meanwhile.

    Nobody could list them until it was shared again, and nobody wants them now.

    Raises:
        ApplianceError: Glance refuses that, or does not answer.

    """
    wanted = {use.project for use in sharing.stated(record.image)}
    for project in holder.glance.members(record.id):
        if project not in wanted:
            holder.glance.remove_member(record.id, project)
            words = "project %s: image %s was shared with project %s before; no longer"
            logger.info(words, holder.name, record.id, project)
