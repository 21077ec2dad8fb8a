"""Our images in one project, and the changes that keep a good version of each at every moment.

    create (STAGING, hidden, all properties) ─ upload ─ verify ─ activate ─ retire the older version

The process may be killed between any two steps. Before the activation, the older version is
untouched and the new one is an orphan that names its maker. After it there are two versions, of
which the newer one counts. `ProjectImages.repair` resolves both cases at the beginning of the next
run, and adopts the images of a backend of 0.9.x. Retiring means to delete an image or, while
something uses it, to hide it; `ProjectImages.sweep` retries the deletion at the end of each run.

An image may be for VOs of other projects, too (`cloudkeeper.backend.sharing`). It is deleted when
no VO uses it any more; until then it is only released for those that do not.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from appliance.core import causes, clock
from appliance.core.cloud import glance
from appliance.core.cloud.glance import Glance, GlanceRefusal, Image
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend import (
    filling,
    handover,
    others,
    properties,
    sharing,
    unknown,
    verdicts,
    versions,
)
from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.others import HeldImage, Holding
from cloudkeeper.backend.ownership import LONG_WAIT, Ownership
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord, State
from cloudkeeper.backend.quota import ProjectQuota
from cloudkeeper.backend.sharing import Audience, Identities
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.backend.upload import open_image
from cloudkeeper.model import LAYER_KEY, Appliance, ImageData, ListId
from cloudkeeper.wire import messages, second_numbering
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)

# Answers to a deletion: the image is protected, or used by a server or a copy (Ceph, for one).
_IN_USE = (glance.FORBIDDEN, glance.CONFLICT)
_USUAL_ALGORITHM = "sha512"


@dataclass(frozen=True, slots=True)
class MadeImage:
    """A new image that is offered, the digests of its data, and the projects that do not find it.

    ``failures`` are by project.
    """

    record: ImageRecord
    digests: Mapping[str, str]
    failures: Mapping[str, ApplianceError]


@dataclass(slots=True)
class ProjectImages:
    """The images of one project.

    ``name`` is the project's name, for messages. Image data come from ``places`` only.
    Calls from several threads share the records; `Ownership.claim` keeps two of them from one
    appliance.
    """

    name: str
    project_id: str
    glance: Glance
    ownership: Ownership
    tally: RunTally
    visibility: str
    places: DataPlaces
    doors: Mapping[str, Glance] = field(default_factory=dict)
    """Glance as the project of each VO sees it, by the project's id."""
    holders: Collection[str] = ()
    """The projects that may hold images of this backend, by id."""
    shared: dict[str, Image] = field(default_factory=dict)
    """Images of other projects that this backend has shared with this one, by id."""
    neighbours: list[Image] = field(default_factory=list)
    """Images that this project sees, and that this backend does not keep in it."""
    _names: dict[str, str] = field(default_factory=dict)
    """The name and id of each image that this project sees and this backend does not keep."""
    _unknown: list[Image] = field(default_factory=list)
    """Incomplete records that nobody has marked."""
    _records: dict[str, ImageRecord] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    quota: ProjectQuota = field(init=False)

    def __post_init__(self) -> None:
        self.quota = ProjectQuota(self.name, self.glance)

    def load(self) -> None:
        """List the project's images; done once a run."""
        # Glance lists either the hidden images or the others, never both.
        seen = list(self.glance.visible(owner=self.project_id, tags=(*others.TAGS, sharing.TAG)))
        hidden = list(self.glance.images(owner=self.project_id, hidden=True))
        listed = [image for image in (*seen, *hidden) if image.get("owner") == self.project_id]
        found = map(self._recognised, listed)
        self._records = {record.id: record for record in found if record}
        self.shared = {str(image["id"]): image for image in seen if self._is_shared(image)}
        ours = self._records.keys() | self.shared.keys()
        strangers = [image for image in seen if image.get("id") not in ours]
        self._names = {str(image.get("name")): str(image.get("id")) for image in strangers}
        self.neighbours = [image for image in strangers if others.is_relevant(image)]
        self._unknown = list(unknown.abandoned(strangers, owner=self.project_id, now=clock.now()))
        logger.info(
            "project %s: %d images, %d of them ours", self.name, len(listed), len(self._records)
        )

    def _recognised(self, image: Image) -> ImageRecord | None:
        """Return the record of an image that is ours; report and skip one that is unreadable."""
        try:
            record = properties.recognise(image, owner=self.project_id)
            if record:  # both raise for an image that later steps could not handle
                messages.to_message(record.appliance)
                record.created  # noqa: B018
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self.tally.fail(
                Failed(
                    f"project {self.name}: image {image.get('id')}",
                    f"its properties are invalid: {causes.of_answer(error)}",
                    "correct or delete it; until then it is ignored",
                    status=CallStatus.RESOURCE_RETRIEVAL,
                )
            )
            return None
        return record

    def _is_shared(self, image: Image) -> bool:
        """Check whether this backend has shared an image of another project with this one."""
        owner = str(image.get("owner") or "")
        if owner == self.project_id or owner not in self.holders:
            return False
        record = properties.recognise(image, owner=owner)
        return bool(
            record
            and record.backend_id == self.ownership.id
            and record.state is State.ACTIVE
            and record.has_data
            and any(use.project == self.project_id for use in sharing.stated(image))
        )

    def held(self, list_id: ListId, *, vo: str, owners: Mapping[str, str]) -> list[HeldImage]:
        """Return the images of a list that this project sees and that are not the VO's own.

        ``owners`` are the ids of the projects of all VOs.
        """
        ours = [record.image for record in self._all() if record.key.vo != vo]
        return list(others.held([*self.neighbours, *ours], list_id=list_id, vo=vo, owners=owners))

    def taken_over(self, list_id: ListId, *, vo: str) -> list[HeldImage]:
        """Return the VO's own images of a list that were taken over from another manager."""
        key = (vo, list_id)
        records = [
            record for record in self.offered() if (record.key.vo, record.key.list_id) == key
        ]
        return [
            HeldImage(
                record.key.identifier,
                Holding.OTHER_VO,
                " ".join(handover.recall(record.image)["tags"]),
                record.image,
            )
            for record in records
            if record.image.get(properties.TAKEN_OVER)
        ]

    @property
    def unknown(self) -> list[Image]:
        """Incomplete records that nobody has marked; see `cloudkeeper.backend.unknown`."""
        return list(self._unknown)

    def collect_unknown(self, image_id: str) -> None:
        """Delete an incomplete record that nobody has marked, if it is still one."""
        # The listing may be some minutes old: a user may have begun an upload.
        now = self.glance.get(image_id)
        if not list(unknown.abandoned([now], owner=self.project_id, now=clock.now())):
            raise Failed(
                f"project {self.name}: image {image_id}",
                "is in use, or has been marked meanwhile",
                "it stays as it is",
                status=CallStatus.RESOURCE_STATE,
            )
        self.glance.delete(image_id)
        self._unknown = [each for each in self._unknown if each["id"] != image_id]
        self.tally.count("unknown_collected")
        logger.warning("project %s: %s; deleted", self.name, unknown.line(now).partition(":")[0])

    def has(self, key: ApplianceKey) -> bool:
        """Check whether an appliance is offered in this project."""
        return bool(self.versions(key))

    def note(self, image: Image) -> None:
        """Keep an image as Glance now describes it: as one of ours, or as a neighbour."""
        image_id = str(image["id"])
        self.neighbours = [each for each in self.neighbours if each["id"] != image_id]
        if not self.keep(image_id, image) and others.is_relevant(image):
            self.neighbours.append(image)

    def repair(self) -> None:
        """Repair the images of killed runs, and adopt those of 0.9.x."""
        for image in self._unknown:
            self.tally.note("images_unknown", f"project {self.name}: {unknown.line(image)}")
        kept = self.ownership.uploads
        for record in versions.left_behind(
            self._all(), backend_id=self.ownership.id, kept=kept, now=clock.now()
        ):
            self._attempt(self._collect, record)
        for record in versions.outdated(self._own()):
            logger.warning("project %s: image %s has a newer version", self.name, record.id)
            self.replace(
                record, [use.identity for use in sharing.uses(self.versions(record.key)[0])]
            )
        for key, records in versions.by_key(self._own()).items():
            ours = versions.certain(records)
            unmarked = [record.id for record in records if not record.backend_id]
            if ours and not ours[0].backend_id:
                self._attempt(self._adopt, ours[0])
            elif unmarked:
                self._report_copies(key, unmarked, is_known=bool(ours))

    def offered(self, list_id: ListId | None = None) -> list[ImageRecord]:
        """Return the newest version of each appliance of one list, or of all.

        One whose data are incomplete is left out.
        """
        found = versions.by_key(self._own(list_id)).values()
        newest = [versions.in_order(versions.certain(records))[:1] for records in found]
        return [record for found in newest for record in found if record.has_data]

    def active(self) -> list[ImageRecord]:
        """Return all images that are offered, also those that are for other projects only."""
        return [record for record in self._all() if record.state is State.ACTIVE]

    def current(self, record: ImageRecord) -> ImageRecord:
        """Return the record of an image after the changes of this run."""
        with self._lock:
            return self._records.get(record.id, record)

    def offer(self, appliance: Appliance, *, is_wanted: Callable[[], bool]) -> Mapping[str, str]:
        """Offer an appliance with its data; return their digests, by algorithm.

        Data that the image has already are not sent again.

        Raises:
            ApplianceError: the appliance could not be added; an older version stays offered.

        """
        assert appliance.data is not None  # noqa: S101  the caller has checked it
        key = properties.key_of(appliance)
        subject = (self.project_id, key)
        with self.ownership.claim(subject, longest=LONG_WAIT, is_wanted=is_wanted):
            self._refresh(key)
            older = self.versions(key)
            served = [(key.vo, key.list_id, self.project_id)]
            if older and versions.has_these_data(older[0], appliance.data):
                # Only the metadata may differ: a repeated call, or a list whose version alone rose.
                self._describe(older.pop(0), appliance)
                digests: Mapping[str, str] = {"sha512": appliance.data.checksum.lower()}
            else:
                made = self.create(
                    appliance, appliance.data, older[0] if older else None, is_wanted
                )
                digests = made.digests
                for failure in made.failures.values():
                    self.tally.fail(failure)
                self.tally.count("updated" if older else "added")
            for record in older:
                self.replace(record, served)
        return digests

    def describe(self, appliance: Appliance) -> None:
        """Replace the metadata of an appliance; its data stay.

        Raises:
            Failed: the appliance is not offered.

        """
        key = properties.key_of(appliance)
        with self.ownership.claim((self.project_id, key)):
            found = self.versions(key)
            if not found:
                raise Failed(
                    key, f"is not in project {self.name}", status=CallStatus.APPLIANCE_NOT_FOUND
                )
            self.redescribe(found[0], appliance)

    def redescribe(self, record: ImageRecord, appliance: Appliance) -> None:
        """Replace the metadata of an image, whichever VO of those that use it asks for that."""
        old = record.appliance.attributes
        kept = second_numbering.inherit(appliance.attributes, old)
        vo, list_id = record.key.vo, record.key.list_id
        self._describe(record, replace(appliance, vo=vo, list_id=list_id, attributes=kept))

    def withdraw(self, key: ApplianceKey) -> None:
        """Remove an appliance; nothing happens if it is not offered."""
        with self.ownership.claim((self.project_id, key)):
            for record in self.versions(key):
                self.release(record, [(key.vo, key.list_id, self.project_id)])
                self.tally.count("removed")
                logger.info("project %s: removed %s, image %s", self.name, key, record.id)

    def hide(self, key: ApplianceKey) -> None:
        """Hide an appliance from users, and keep its data."""
        with self.ownership.claim((self.project_id, key)):
            for record in self.versions(key):
                self.hide_from(record, (key.vo, key.list_id, self.project_id))

    def hide_from(self, record: ImageRecord, user: tuple[str, ListId, str]) -> None:
        """Hide an image from the users of a VO; if other VOs use it, release it instead."""
        if len(sharing.uses(record)) > 1:
            self.release(record, [user])
        elif record.is_hidden:
            return
        else:
            self.keep(record.id, self.glance.change(record.id, properties.hiding()))
        self.tally.count("hidden")
        logger.info("project %s: hid %s from VO %s", self.name, record.id, user[0])

    def keys(self, list_id: ListId) -> list[ApplianceKey]:
        """Return the keys of a list's appliances that are offered, complete or not."""
        found = (record.key for record in self._own() if record.state is State.ACTIVE)
        return list(dict.fromkeys(key for key in found if key.list_id == list_id))

    def sweep(self) -> None:
        """Delete retired images; one that is still in use is counted, but is not a failure."""
        for record in [record for record in self._all() if record.state is State.EOL]:
            try:
                self._delete(record)
            except GlanceRefusal as error:
                if error.code not in _IN_USE:
                    self.tally.fail(error)
                    continue
                self.tally.count("still_in_use")
                logger.info("project %s: image %s is still in use", self.name, record.id)
            except ApplianceError as error:
                self.tally.fail(error)

    def create(
        self,
        appliance: Appliance,
        data: ImageData,
        older: ImageRecord | None,
        is_wanted: Callable[[], bool],
        audience: Audience | None = None,
    ) -> MadeImage:
        """Make a new image and offer it; keep the image that it replaces.

        Without an ``audience``, it is for this project and for the members of the ``older`` one.

        Raises:
            ApplianceError: it could not be made, and was removed.

        """
        started, key = clock.now(), properties.key_of(appliance)
        audience = audience or Audience(members=self._members(older))
        if older:
            sharing.check_taken_over(older, audience.members, self.doors)
        else:
            self._report_namesake(appliance)
        self.quota.check(data.size)
        # The file is opened first: a frontend's mistake leaves no record in Glance.
        with (
            open_image(
                data, places=self.places, is_wanted=is_wanted, algorithm=self._algorithm()
            ) as file,
            self.ownership.upload() as image_id,
        ):
            try:
                inherited = handover.inherited(older.image) if older else {}
                self.glance.create({**self._new_record(appliance, image_id, data), **inherited})
                image = filling.fill(self.glance, image_id, file)
                self._note_layer(image_id, appliance)
                offered, failures = self._activate(image, audience, older)
            except GlanceRefusal as error:
                self._abandon(image_id)
                known = verdicts.explain(error, data.format)
                if isinstance(known, Failed) and known.limits_size:
                    self.quota.note_refused(len(file), known.cause)
                raise known from error
            except BaseException:  # also when the program is interrupted
                self._abandon(image_id)
                raise
        record = self.keep(image_id, offered)
        assert record  # noqa: S101  it has our properties
        self.ownership.note((self.project_id, key), image_id)
        self.quota.note_stored(len(file))
        self.tally.count("uploaded_bytes", len(file))
        seconds = (clock.now() - started).total_seconds()
        logger.info(
            "project %s: %s is image %s, %d bytes in %.1f s",
            self.name,
            key,
            image_id,
            len(file),
            seconds,
        )
        return MadeImage(record, file.digests, failures)

    def _note_layer(self, image_id: str, appliance: Appliance) -> None:
        """Remember whose data an image holds; without that, it is not shared any further."""
        if layer := appliance.attributes.get(LAYER_KEY):
            try:
                self.ownership.layers.note(image_id, layer)
            except ApplianceError as error:
                self.tally.fail(error)

    def _members(self, older: ImageRecord | None) -> dict[str, str]:
        """Return the members that others have added to the older version, with their status."""
        return sharing.beside(self.glance, older.image) if older else {}

    def _activate(
        self, image: Image, audience: Audience, older: ImageRecord | None
    ) -> tuple[Image, Mapping[str, ApplianceError]]:
        """Share a complete image while it is hidden, then show it; return it, and failures."""
        image_id, is_taken = (
            str(image["id"]),
            bool(older and older.image.get(properties.TAKEN_OVER)),
        )
        has_members = is_taken or self.visibility not in sharing.FOR_ALL
        members = audience.wanted(self.project_id) if has_members else {}
        failures = sharing.share(self.glance, image_id, members, self.doors)
        if is_taken and failures:  # its users would lose it
            raise next(iter(failures.values()))
        uses = [use for use in audience.uses if use.project not in failures]
        for project in {use.project for use in audience.uses} & failures.keys():
            self._end_membership(image_id, project)
        visibility = sharing.visibility(older, default=self.visibility, has_members=bool(members))
        patch = properties.activation(image, visibility=visibility)
        stating = sharing.statement(image, uses)
        return self.glance.change(image_id, [*patch, *stating], is_new=True), failures

    def _end_membership(self, image_id: str, project: str) -> None:
        """Remove a member that could not accept; it finds nothing, so a failure costs nothing."""
        try:
            self.glance.remove_member(image_id, project)
        except ApplianceError as error:
            logger.warning("image %s: project %s stays a member: %s", image_id, project, error)

    def _report_namesake(self, appliance: Appliance) -> None:
        """Warn of another image with the name that a new one gets."""
        name = str(properties.standard(appliance)["name"])
        if other := self._names.get(name):
            self.tally.count("names_used_twice")
            logger.warning(
                "project %s: image %s has the name %r, too: clients that select by name fail; "
                "rename or delete it",
                self.name,
                other,
                name,
            )

    def _new_record(self, appliance: Appliance, image_id: str, data: ImageData) -> Image:
        # Private and hidden until the activation, whatever visibility is configured.
        return {
            "id": image_id,
            "visibility": "private",
            "os_hidden": True,
            "container_format": "bare",
            "disk_format": data.format.value,
            **properties.standard(appliance),
            **properties.describe(appliance),
            **properties.provenance(appliance),
            **properties.mark(self.ownership.id, image_id),
            properties.STATUS: State.STAGING.value,
        }

    def _algorithm(self) -> str:
        """Return the algorithm by which this Glance verifies images, as its newest image shows."""
        complete = [record for record in self._all() if record.has_data]
        if not complete:
            return _USUAL_ALGORITHM
        newest = max(complete, key=lambda record: (record.created, record.id))
        return filling.algorithm_of(newest.image)

    def _abandon(self, image_id: str) -> None:
        try:
            self.glance.delete(image_id)
        except ApplianceError as error:
            logger.warning(
                "project %s: incomplete image %s stays; the next run of cloudkeeper deletes it: %s",
                self.name,
                image_id,
                error,
            )

    def _describe(self, record: ImageRecord, appliance: Appliance) -> None:
        patch = properties.difference(record, appliance, backend_id=self.ownership.id)
        if patch:
            self.keep(record.id, self.glance.change(record.id, patch))
            self.tally.count("metadata_changed")
            logger.info(
                "project %s: updated the metadata of %s, image %s", self.name, record.key, record.id
            )

    def replace(self, record: ImageRecord, served: Identities) -> None:
        """Release an image for uses that a newer version serves; a failure is retried later."""
        self._attempt(functools.partial(self.release, served=served), record)

    def release(self, record: ImageRecord, served: Identities) -> None:
        """End some uses of an image, in all projects; the last one takes the image along.

        Raises:
            ApplianceError: Glance refuses it, or does not answer.

        """
        # The listing may be hours old: meanwhile another call has shared it, or it is not ours now.
        found = self._read_again(record)
        if found is None:
            return
        record = found
        left = [use for use in sharing.uses(record) if use.identity not in served]
        if not left:
            self._retire(record)
            return
        staying = {use.project for use in left} | {self.project_id}
        for use in sharing.uses(record):
            if use.is_added and use.project not in staying:
                self.glance.remove_member(record.id, use.project)
        if patch := sharing.handing_on(record, left):
            self.keep(record.id, self.glance.change(record.id, patch))

    def revert_visibility(self, image_id: str, visibility: str) -> None:
        """Give an image its visibility back that could not be shared; a failure is recorded."""
        patch = [properties.operation("replace", "visibility", visibility)]
        try:
            self.keep(image_id, self.glance.change(image_id, patch))
        except ApplianceError as error:
            self.tally.fail(error)

    def _read_again(self, record: ImageRecord) -> ImageRecord | None:
        """Return the present record of an image; None if it is deleted, or no longer ours."""
        try:
            found = self.keep(record.id, self.glance.get(record.id))
        except GlanceRefusal as error:
            if error.code != glance.NOT_FOUND:
                raise
            with self._lock:
                self._records.pop(record.id, None)
            return None
        if found is None:
            logger.warning("project %s: image %s is no longer ours", self.name, record.id)
        return found

    def _retire(self, record: ImageRecord) -> None:
        try:
            self._delete(record)
        except GlanceRefusal as error:
            if error.code not in _IN_USE:
                raise
            logger.warning(
                "project %s: image %s is hidden, not deleted: %s", self.name, record.id, error.cause
            )
            self.keep(record.id, self.glance.change(record.id, properties.retirement()))

    def _collect(self, record: ImageRecord) -> None:
        """Delete an incomplete image, unless a call has completed it since it was listed."""
        # The listing may be some minutes old.
        now = self.keep(record.id, self.glance.get(record.id))
        if now and now.state is State.STAGING:
            self._delete(now)
            self.tally.count("orphans_collected")
            logger.warning("project %s: image %s was incomplete; deleted", self.name, record.id)

    def _adopt(self, record: ImageRecord) -> None:
        """Mark an image of 0.9.x as ours; without a mark, it looks like any copy of it."""
        patch = properties.adoption(self.ownership.id, record.id)
        self.keep(record.id, self.glance.change(record.id, patch))
        logger.info("project %s: adopted image %s of cloudkeeper-os 0.9", self.name, record.id)

    def _report_copies(self, key: ApplianceKey, images: list[str], *, is_known: bool) -> None:
        where = f"project {self.name}: {', '.join(sorted(images))}"
        if is_known:
            logger.warning("%s: copies of %s, which stay as they are", where, key)
        else:
            self.tally.fail(
                f"{where}: all claim to be {key}, none has the mark of a backend, and all but one "
                "are copies, so none is used; delete the copies"
            )

    def _delete(self, record: ImageRecord) -> None:
        self.glance.delete(record.id)
        with self._lock:
            self._records.pop(record.id, None)

    def keep(self, image_id: str, image: Image) -> ImageRecord | None:
        """Keep the record of an image as Glance has just shown it, if it is ours."""
        record = properties.recognise(image, owner=self.project_id)
        with self._lock:
            self._records.pop(image_id, None)
            if record:
                self._records[image_id] = record
        return record

    def _refresh(self, key: ApplianceKey) -> None:
        """Read an image that another run's call has completed since this run began.

        That is the call of a frontend that was killed; the claim shows that it has ended.
        """
        image_id = self.ownership.completed((self.project_id, key))
        with self._lock:
            known = self._records.get(image_id)
        if not image_id or (known and known.state is not State.STAGING):
            return
        try:
            self.keep(image_id, self.glance.get(image_id))
        except GlanceRefusal as error:
            if error.code != glance.NOT_FOUND:  # it may have been removed
                raise

    def _attempt(self, change: Callable[[ImageRecord], None], record: ImageRecord) -> None:
        """Make a change that is not the purpose of the call.

        A failure is recorded, and the next run retries.
        """
        try:
            change(record)
        except ApplianceError as error:
            # Meanwhile a user may have deleted the image.
            if getattr(error, "code", None) != glance.NOT_FOUND:
                self.tally.fail(error)

    def versions(self, key: ApplianceKey) -> list[ImageRecord]:
        """Return the versions of an appliance that are offered, the newest first."""
        return versions.in_order(versions.certain(versions.by_key(self._own()).get(key, [])))

    def _own(self, list_id: ListId | None = None) -> list[ImageRecord]:
        """Return the images without those that are for VOs of other projects only."""
        return [
            record
            for record in self._all()
            if list_id in (None, record.key.list_id) and not sharing.is_held(record)
        ]

    def _all(self) -> list[ImageRecord]:
        with self._lock:
            return list(self._records.values())
