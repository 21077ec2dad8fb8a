"""Our images in one project, and the changes that keep a good version of each at every moment.

    create (STAGING, hidden, all properties) ─ upload ─ verify ─ activate ─ retire the older version

The process may be killed between any two steps. Before the activation, the older version is
untouched and the new one is an orphan that names its maker. After it there are two versions, of
which the newer one counts. `ProjectImages.repair` resolves both cases at the beginning of the next
run, and adopts the images of a backend of 0.9.x. Retiring means to delete an image or, while
something uses it, to hide it; `ProjectImages.sweep` retries the deletion at the end of each run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from appliance.core import clock
from appliance.core.cloud import glance
from appliance.core.cloud.glance import Glance, GlanceRefusal, Image
from appliance.core.run.errors import ApplianceError, Unavailable
from cloudkeeper.backend import handover, others, properties, sharing, verdicts
from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.errors import Failed, status_of
from cloudkeeper.backend.image_data import ImageBytes
from cloudkeeper.backend.others import HeldImage, Holding
from cloudkeeper.backend.ownership import LONG_WAIT, Ownership
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord, State
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.backend.upload import open_image
from cloudkeeper.model import Appliance, ImageData, ListId
from cloudkeeper.wire import messages, second_numbering
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)

# Age at which an incomplete image of another backend is an orphan: its upload may be running.
_ABANDONED = timedelta(hours=24)
# Answers to a deletion: the image is protected, or used by a server or a copy (Ceph, for one).
_IN_USE = (glance.FORBIDDEN, glance.CONFLICT)
# Refusals that another upload may overcome: of a token that has ended, and by a Glance that does
# not see the new record yet or is busy. Without a code there was no answer, or none but 5xx.
_PASSING = (glance.UNAUTHORIZED, glance.NOT_FOUND, 408, 429)
_USUAL_ALGORITHM = "sha512"


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
    neighbours: list[Image] = field(default_factory=list)
    """Images that this project sees, and that this backend does not keep in it."""
    _names: dict[str, str] = field(default_factory=dict)
    """The name and id of each image that this project sees and this backend does not keep."""
    _records: dict[str, ImageRecord] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """List the project's images; done once a run."""
        # Glance lists either the hidden images or the others, never both.
        seen = list(self.glance.visible(owner=self.project_id, tags=others.TAGS))
        hidden = list(self.glance.images(owner=self.project_id, hidden=True))
        listed = [image for image in (*seen, *hidden) if image.get("owner") == self.project_id]
        found = map(self._recognised, listed)
        self._records = {record.id: record for record in found if record}
        strangers = [image for image in seen if image.get("id") not in self._records]
        self._names = {str(image.get("name")): str(image.get("id")) for image in strangers}
        self.neighbours = [image for image in strangers if others.is_relevant(image)]
        logger.info(
            "project %s: %d images, %d of them ours", self.name, len(listed), len(self._records)
        )

    def _recognised(self, image: Image) -> ImageRecord | None:
        """Return the record of an image that is ours; report and skip one that is unreadable."""
        try:
            record = properties.recognise(image, owner=self.project_id)
            if record:  # both raise for an image that later steps could not handle
                messages.to_message(properties.read(record))
                record.created  # noqa: B018
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self.tally.fail(
                Failed(
                    f"project {self.name}: image {image.get('id')}",
                    f"its properties are invalid: {type(error).__name__}: {error}",
                    "correct or delete it; until then it is ignored",
                    status=CallStatus.RESOURCE_RETRIEVAL,
                )
            )
            return None
        return record

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

    def has(self, key: ApplianceKey) -> bool:
        """Check whether an appliance is offered in this project."""
        return bool(self._versions(key))

    def note(self, image: Image) -> None:
        """Keep an image as Glance now describes it: as one of ours, or as a neighbour."""
        image_id = str(image["id"])
        self.neighbours = [each for each in self.neighbours if each["id"] != image_id]
        if not self._keep(image_id, image) and others.is_relevant(image):
            self.neighbours.append(image)

    def repair(self) -> None:
        """Repair the images of killed runs, and adopt those of 0.9.x."""
        kept = self.ownership.uploads
        for record in left_behind(
            self._all(), backend_id=self.ownership.id, kept=kept, now=clock.now()
        ):
            self._attempt(self._collect, record)
        for record in outdated(self._all()):
            logger.warning("project %s: image %s has a newer version", self.name, record.id)
            self._attempt(self._retire, record)
        for key, records in by_key(self._all()).items():
            ours = certain(records)
            unmarked = [record.id for record in records if not record.backend_id]
            if ours and not ours[0].backend_id:
                self._attempt(self._adopt, ours[0])
            elif unmarked:
                self._report_copies(key, unmarked, is_known=bool(ours))

    def offered(self) -> list[ImageRecord]:
        """Return the newest version of each appliance, if its data are complete."""
        newest = [in_order(certain(records))[:1] for records in by_key(self._all()).values()]
        return [record for found in newest for record in found if record.has_data]

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
            older = self._versions(key)
            if older and _has_these_data(older[0], appliance.data):
                # Only the metadata may differ: a repeated call, or a list whose version alone rose.
                self._describe(older.pop(0), appliance)
                digests: Mapping[str, str] = {"sha512": appliance.data.checksum.lower()}
            else:
                digests = self._create(
                    appliance, appliance.data, older[0] if older else None, is_wanted
                )
                self.tally.count("updated" if older else "added")
            for record in older:
                self._attempt(self._retire, record)
        return digests

    def describe(self, appliance: Appliance) -> None:
        """Replace the metadata of an appliance; its data stay.

        Raises:
            Failed: the appliance is not offered.

        """
        key = properties.key_of(appliance)
        with self.ownership.claim((self.project_id, key)):
            found = self._versions(key)
            if not found:
                raise Failed(
                    key, f"is not in project {self.name}", status=CallStatus.APPLIANCE_NOT_FOUND
                )
            old = properties.read(found[0]).attributes
            kept = second_numbering.inherit(appliance.attributes, old)
            self._describe(found[0], replace(appliance, attributes=kept))

    def withdraw(self, key: ApplianceKey) -> None:
        """Remove an appliance; nothing happens if it is not offered."""
        with self.ownership.claim((self.project_id, key)):
            for record in self._versions(key):
                self._retire(record)
                self.tally.count("removed")
                logger.info("project %s: removed %s, image %s", self.name, key, record.id)

    def hide(self, key: ApplianceKey) -> None:
        """Hide an appliance from users, and keep its data."""
        with self.ownership.claim((self.project_id, key)):
            for record in self._versions(key):
                if not record.is_hidden:
                    self._keep(record.id, self.glance.change(record.id, properties.hiding()))
                    self.tally.count("hidden")
                    logger.info("project %s: hid %s, image %s", self.name, key, record.id)

    def keys(self, list_id: ListId) -> list[ApplianceKey]:
        """Return the keys of a list's appliances that are offered, complete or not."""
        found = (record.key for record in self._all() if record.state is State.ACTIVE)
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

    def _create(
        self,
        appliance: Appliance,
        data: ImageData,
        older: ImageRecord | None,
        is_wanted: Callable[[], bool],
    ) -> Mapping[str, str]:
        started, key = clock.now(), properties.key_of(appliance)
        members = sharing.inherited(older, self.glance, self.doors) if older else {}
        if not older:
            self._report_namesake(appliance)
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
                image = self._fill(image_id, file)
                visibility = sharing.visibility(older, default=self.visibility)
                sharing.share(self.glance, image_id, members)
                patch = properties.activation(image, visibility=visibility)
                offered = self.glance.change(image_id, patch, is_new=True)
            except GlanceRefusal as error:
                self._abandon(image_id)
                raise verdicts.explain(error, data.format) from error
            except BaseException:  # also when the program is interrupted
                self._abandon(image_id)
                raise
        self._keep(image_id, offered)
        self.ownership.note((self.project_id, key), image_id)
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
        return file.digests

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
            **properties.mark(self.ownership.id, image_id),
            properties.STATUS: State.STAGING.value,
        }

    def _algorithm(self) -> str:
        """Return the algorithm by which this Glance verifies images, as its newest image shows."""
        complete = [record for record in self._all() if record.has_data]
        if not complete:
            return _USUAL_ALGORITHM
        newest = max(complete, key=lambda record: (record.created, record.id))
        return _algorithm_of(newest.image)

    def _fill(self, image_id: str, file: ImageBytes) -> Image:
        """Upload the data, and compare Glance's size and checksum with those of the sent bytes."""
        failure = None
        try:
            self.glance.upload(image_id, file)
        except Unavailable as error:
            # Glance may have stored the data and only its answer was lost; it refuses the retry.
            failure = error
        image = self._filled(image_id, failure)
        if failure and image.get("status") != "active":
            raise failure if file.is_repeatable else _with_file(failure)
        algorithm = _algorithm_of(image)
        stored = image.get("os_hash_value") or image.get("checksum")
        sent = file.digest(algorithm)
        if image.get("status") != "active" or image.get("size") != len(file) or stored != sent:
            found = f"{image.get('status')}, {image.get('size')} bytes, {algorithm} {stored!s:.16}…"
            raise Failed(
                f"image {image_id}",
                f"not offered: {len(file)} bytes with {sent:.16}… were sent, Glance has {found}",
                "the next run retries; if that recurs, check Glance's logs and store",
                status=CallStatus.RESOURCE_STATE,
            )
        return image

    def _filled(self, image_id: str, failure: Unavailable | None) -> Image:
        """Return the record after an upload.

        Raises:
            Unavailable: ``failure``, if the upload failed and left no record.

        """

        def is_settled(image: Image) -> bool:
            return image.get("status") == "active"

        # 409 is the answer to a repeat, after the answer to the first request was lost.
        if failure is None or getattr(failure, "code", None) == glance.CONFLICT:
            return self.glance.settled(image_id, is_settled=is_settled)
        try:
            return self.glance.get(image_id)
        except GlanceRefusal:
            raise failure from None

    def _abandon(self, image_id: str) -> None:
        try:
            self.glance.delete(image_id)
        except ApplianceError as error:
            logger.warning(
                "project %s: incomplete image %s stays until the next run: %s",
                self.name,
                image_id,
                error,
            )

    def _describe(self, record: ImageRecord, appliance: Appliance) -> None:
        patch = properties.difference(record, appliance, backend_id=self.ownership.id)
        if patch:
            self._keep(record.id, self.glance.change(record.id, patch))
            self.tally.count("metadata_changed")
            logger.info(
                "project %s: updated the metadata of %s, image %s", self.name, record.key, record.id
            )

    def _retire(self, record: ImageRecord) -> None:
        try:
            self._delete(record)
        except GlanceRefusal as error:
            if error.code not in _IN_USE:
                raise
            logger.warning(
                "project %s: image %s is hidden, not deleted: %s", self.name, record.id, error.cause
            )
            self._keep(record.id, self.glance.change(record.id, properties.retirement()))

    def _collect(self, record: ImageRecord) -> None:
        """Delete an incomplete image, unless a call has completed it since it was listed."""
        # The listing may be some minutes old.
        now = self._keep(record.id, self.glance.get(record.id))
        if now and now.state is State.STAGING:
            self._delete(now)
            self.tally.count("orphans_collected")
            logger.warning("project %s: image %s was incomplete; deleted", self.name, record.id)

    def _adopt(self, record: ImageRecord) -> None:
        """Mark an image of 0.9.x as ours; without a mark, it looks like any copy of it."""
        patch = properties.adoption(self.ownership.id, record.id)
        self._keep(record.id, self.glance.change(record.id, patch))
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

    def _keep(self, image_id: str, image: Image) -> ImageRecord | None:
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
            self._keep(image_id, self.glance.get(image_id))
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

    def _versions(self, key: ApplianceKey) -> list[ImageRecord]:
        """Return the versions of an appliance that are offered, the newest first."""
        return in_order(certain(by_key(self._all()).get(key, [])))

    def _all(self) -> list[ImageRecord]:
        with self._lock:
            return list(self._records.values())


def _algorithm_of(image: Image) -> str:
    # Glance before Rocky has an MD5 checksum only.
    return str(image.get("os_hash_algo") or "md5")


def _with_file(error: Unavailable) -> ApplianceError:
    """Return the failure of a stream; it asks for a file unless Glance refuses the data."""
    code = error.code if isinstance(error, GlanceRefusal) else 0
    if code and code not in _PASSING:
        return error
    status = status_of(error)
    return Failed(error.subject, error.cause, error.remedy, status=status, wants_file=True)


def left_behind(
    records: Iterable[ImageRecord], *, backend_id: str, kept: frozenset[str], now: datetime
) -> list[ImageRecord]:
    """Return the incomplete images that no upload will complete.

    Those are images of this backend that it is not uploading (``kept``), and old ones of others.
    """
    return [
        record
        for record in records
        if record.state is State.STAGING
        and record.id not in kept
        and (record.backend_id == backend_id or now - record.created > _ABANDONED)
    ]


def outdated(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """Yield all versions of each appliance but the newest.

    Images without a mark are left out: they may be copies that users have made.
    """
    for versions in by_key(record for record in records if record.backend_id).values():
        yield from in_order(versions)[1:]


def by_key(records: Iterable[ImageRecord]) -> dict[ApplianceKey, list[ImageRecord]]:
    """Return the images that are offered, by appliance."""
    found: dict[ApplianceKey, list[ImageRecord]] = {}
    for record in records:
        if record.state is State.ACTIVE:
            found.setdefault(record.key, []).append(record)
    return found


def in_order(versions: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Sort versions of one appliance: complete data first, then the newest."""
    return sorted(
        versions, key=lambda record: (record.has_data, record.created, record.id), reverse=True
    )


def certain(versions: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the versions of one appliance that are certainly ours.

    Those are the marked ones or, if none is marked, a single one: 0.9.x keeps one version, so of
    several without a mark all but one are copies that users have made, through a volume.
    """
    marked = [record for record in versions if record.backend_id]
    return marked or (list(versions) if len(versions) == 1 else [])


def _has_these_data(record: ImageRecord, data: ImageData) -> bool:
    image = record.image
    return bool(
        record.has_data
        and image.get("disk_format") == data.format.value
        and image.get("os_hash_algo") == "sha512"
        and image.get("os_hash_value") == data.checksum.lower()
    )
