"""Our images in one project: what there is, and the changes that keep at least one good version at every moment.

    create (STAGING, hidden, all properties) ─ upload ─ verify ─ activate ─ retire the older version

A process may die between any two steps. Until the activation the older version is untouched and the
new one is an orphan that names its maker; after it there are two versions, of which the newer one
counts. `ProjectImages.repair` tells these cases apart at the beginning of the next run, and marks as ours
what a backend of 0.9.x left. Retiring is deleting or, when something uses the image, hiding it;
`ProjectImages.sweep` tries again at the end of each run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import clock
from appliance.core.cloud import glance
from appliance.core.cloud.glance import Glance, Image, Refusal
from appliance.core.run.errors import ApplianceError, Unavailable
from cloudkeeper.backend import properties
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord, State
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.backend.upload import ImageFile, open_image
from cloudkeeper.model import Appliance, ImageData, ListId
from cloudkeeper.wire import messages
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)

_ABANDONED = timedelta(hours=24)
"""When an incomplete image of another backend counts as left behind."""
_IN_USE = (glance.FORBIDDEN, glance.CONFLICT)
"""Answers to a deletion: protected, or used by a server or a copy (stores such as Ceph)."""


@dataclass(slots=True)
class ProjectImages:
    """The images of one project. ``name`` is what the administrator calls the project."""

    name: str
    project_id: str
    glance: Glance
    installation: Ownership
    tally: RunTally
    visibility: str
    directory: Path
    """Where files of images must be."""
    _records: dict[str, ImageRecord] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """List the project's images, once a run."""
        listed = [
            image
            for hidden in (False, True)
            for image in self.glance.images(owner=self.project_id, hidden=hidden)
        ]
        found = map(self._recognised, listed)
        self._records = {record.id: record for record in found if record}
        logger.info(
            "project %s: %d images, %d of them ours", self.name, len(listed), len(self._records)
        )

    def _recognised(self, image: Image) -> ImageRecord | None:
        """Return an image as a record of ours; report one that makes no sense, and skip it."""
        try:
            record = properties.recognise(image, owner=self.project_id)
            if record:
                messages.to_message(properties.read(record))
                record.created  # noqa: B018  raises when the time is none
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            words = f"its properties make no sense: {type(error).__name__}: {error}"
            remedy = "correct or delete it; it is left alone"
            name = f"project {self.name}: image {image.get('id')}"
            self.tally.fail(Failed(name, words, remedy, status=CallStatus.RESOURCE_RETRIEVAL))
            return None
        return record

    def repair(self) -> None:
        """Mend what killed runs left."""
        kept = self.installation.uploads
        for record in left_behind(
            self._all(), installation=self.installation.id, kept=kept, now=clock.now()
        ):
            self._attempt(self._collect, record)
        for record in outdated(self._all()):
            logger.warning("project %s: image %s has a newer version", self.name, record.id)
            self._attempt(self._retire, record)
        for key, records in by_key(self._all()).items():
            ours = certain(records)
            if [record for record in ours if not record.installation]:
                self._attempt(self._adopt, ours[0])
            elif strangers := [record.id for record in records if not record.installation]:
                self._tell_of_strangers(key, strangers, is_known=bool(ours))

    def offered(self) -> list[ImageRecord]:
        """Return what servers can be started from: the newest version of each appliance."""
        newest = [in_order(certain(records))[:1] for records in by_key(self._all()).values()]
        return [record for found in newest for record in found if record.has_data]

    def offer(self, appliance: Appliance, *, is_wanted: Callable[[], bool]) -> None:
        """Make an appliance with these data the one that is offered; data that are there already are not moved.

        :raises ApplianceError: nothing has changed
        """
        assert appliance.data is not None  # noqa: S101  the caller has looked
        key = properties.key_of(appliance)
        with self.installation.claim((self.project_id, key)):
            older = self._versions(key)
            if older and _has_these_data(older[0], appliance.data):
                self._describe(older.pop(0), appliance)
            else:
                self._create(appliance, key, appliance.data, is_wanted)
                self.tally.count("updated" if older else "added")
            for record in older:
                self._attempt(self._retire, record)

    def describe(self, appliance: Appliance) -> None:
        """Change what is told of an appliance; its data stay.

        :raises Failed: it is not offered
        """
        key = properties.key_of(appliance)
        with self.installation.claim((self.project_id, key)):
            found = self._versions(key)
            if not found:
                raise Failed(
                    key, f"not in project {self.name}", status=CallStatus.APPLIANCE_NOT_FOUND
                )
            self._describe(found[0], appliance)

    def withdraw(self, key: ApplianceKey) -> None:
        """Offer an appliance no longer; one that is not offered is no failure."""
        with self.installation.claim((self.project_id, key)):
            for record in self._versions(key):
                self._retire(record)
                self.tally.count("removed")
                logger.info("project %s: removed %s, image %s", self.name, key, record.id)

    def keys(self, list_id: ListId) -> list[ApplianceKey]:
        """Return the appliances of a list."""
        found = (record.key for record in self._all() if record.state is State.ACTIVE)
        return list(dict.fromkeys(key for key in found if key.list_id == list_id))

    def sweep(self) -> None:
        """Delete what could not be deleted earlier. What still is in use is counted, and no failure."""
        for record in [record for record in self._all() if record.state is State.EOL]:
            try:
                self._delete(record)
            except Refusal as error:
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
        key: ApplianceKey,
        data: ImageData,
        is_wanted: Callable[[], bool],
    ) -> None:
        started = clock.now()
        with (
            open_image(data, directory=self.directory, is_wanted=is_wanted) as file,
            self.installation.upload() as image_id,
        ):
            try:
                self.glance.create(self._blank(appliance, image_id, data))
                image = self._fill(image_id, file)
                self.glance.change(
                    image_id, properties.activation(image, visibility=self.visibility)
                )
            except BaseException:
                self._abandon(image_id)
                raise
        self._keep(image_id)
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

    def _blank(self, appliance: Appliance, image_id: str, data: ImageData) -> Image:
        return {
            "id": image_id,
            "visibility": "private",
            "os_hidden": True,
            "container_format": "bare",
            "disk_format": data.format.value,
            **properties.standard(appliance),
            **properties.describe(appliance),
            **properties.mark(self.installation.id, image_id),
            properties.STATUS: State.STAGING.value,
        }

    def _fill(self, image_id: str, file: ImageFile) -> Image:
        """Upload, and compare what Glance says that it has with what was sent."""
        failure = None
        try:
            self.glance.upload(image_id, file)
        except Unavailable as error:  # perhaps only the answer was lost, and the request that was repeated is refused
            failure = error
        image = self.glance.get(image_id)
        if failure and image.get("status") != "active":
            raise failure
        algorithm, told = (
            image.get("os_hash_algo") or "md5",
            image.get("os_hash_value") or image.get("checksum"),
        )
        ours = file.sha512 if algorithm == "sha512" and file.sha512 else file.digest(algorithm)
        if image.get("status") != "active" or image.get("size") != len(file) or told != ours:
            raise Failed(
                f"image {image_id}",
                f"Glance has it as {image.get('status')}, {image.get('size')} bytes, {algorithm} {str(told)[:16]}…,"
                f" after {len(file)} bytes with {ours[:16]}… were sent; not offered",
                status=CallStatus.RESOURCE_STATE,
            )
        return image

    def _abandon(self, image_id: str) -> None:
        try:
            self.glance.delete(image_id)
        except ApplianceError as error:
            logger.warning(
                "project %s: image %s stays until the next run: %s", self.name, image_id, error
            )

    def _describe(self, record: ImageRecord, appliance: Appliance) -> None:
        patch = properties.difference(record, appliance, installation=self.installation.id)
        if patch:
            self.glance.change(record.id, patch)
            self._keep(record.id)
            self.tally.count("metadata_changed")
            logger.info("project %s: %s described anew, image %s", self.name, record.key, record.id)

    def _retire(self, record: ImageRecord) -> None:
        try:
            self._delete(record)
        except Refusal as error:
            if error.code not in _IN_USE:
                raise
            logger.warning(
                "project %s: image %s hidden, not deleted: %s", self.name, record.id, error.cause
            )
            self.glance.change(record.id, properties.retirement())
            self._keep(record.id)

    def _collect(self, record: ImageRecord) -> None:
        """Delete an incomplete image, unless a call has completed it since it was listed."""
        now = self._keep(record.id)
        if now and now.state is State.STAGING:
            self._delete(now)
            self.tally.count("orphans_collected")
            logger.warning(
                "project %s: image %s was left incomplete; deleted", self.name, record.id
            )

    def _adopt(self, record: ImageRecord) -> None:
        """Mark an image of 0.9.x as ours, before a user copies it and nobody can tell the two apart."""
        self.glance.change(record.id, properties.adoption(self.installation.id, record.id))
        self._keep(record.id)
        logger.info(
            "project %s: image %s, made by cloudkeeper-os 0.9, is ours now", self.name, record.id
        )

    def _tell_of_strangers(self, key: ApplianceKey, images: list[str], *, is_known: bool) -> None:
        told = f"project {self.name}: {', '.join(sorted(images))} without mark of a backend, and called {key}"
        if is_known:
            logger.warning("%s: copies, which stay as they are", told)
        else:
            self.tally.fail(
                f"{told}: all but one are copies, so none is taken for it; delete what nobody needs"
            )

    def _delete(self, record: ImageRecord) -> None:
        self.glance.delete(record.id)
        with self._lock:
            self._records.pop(record.id, None)

    def _keep(self, image_id: str) -> ImageRecord | None:
        """Know an image as it is now, if it is ours."""
        record = properties.recognise(self.glance.get(image_id), owner=self.project_id)
        with self._lock:
            self._records.pop(image_id, None)
            if record:
                self._records[image_id] = record
        return record

    def _attempt(self, change: Callable[[ImageRecord], None], record: ImageRecord) -> None:
        """Change something beside the call's purpose: a failure is noted, and the next run tries again."""
        try:
            change(record)
        except Refusal as error:
            if error.code != glance.NOT_FOUND:  # else somebody was faster
                self.tally.fail(error)
        except ApplianceError as error:
            self.tally.fail(error)

    def _versions(self, key: ApplianceKey) -> list[ImageRecord]:
        """Return what is offered of an appliance, the newest first."""
        return in_order(certain(by_key(self._all()).get(key, [])))

    def _all(self) -> list[ImageRecord]:
        with self._lock:
            return list(self._records.values())


def left_behind(
    records: Iterable[ImageRecord], *, installation: str, kept: frozenset[str], now: datetime
) -> list[ImageRecord]:
    """Return the images that nobody will complete.

    Those are images of this backend that it is not making (``kept``), and old ones of others.
    """
    return [
        record
        for record in records
        if record.state is State.STAGING
        and record.id not in kept
        and (record.installation == installation or now - record.created > _ABANDONED)
    ]


def outdated(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """Yield all versions of appliances but the newest one. Only marked images are judged: others may be copies."""
    for versions in by_key(record for record in records if record.installation).values():
        yield from in_order(versions)[1:]


def by_key(records: Iterable[ImageRecord]) -> dict[ApplianceKey, list[ImageRecord]]:
    """Return the images that are offered, by the appliance that they are."""
    found: dict[ApplianceKey, list[ImageRecord]] = {}
    for record in records:
        if record.state is State.ACTIVE:
            found.setdefault(record.key, []).append(record)
    return found


def in_order(versions: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Return versions of one appliance, the one that counts first."""
    return sorted(
        versions, key=lambda record: (record.has_data, record.created, record.id), reverse=True
    )


def certain(versions: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Of versions of one appliance return those that are certainly ours: the marked ones or, without any, a single one.

    0.9.x keeps one version. Of several without a mark, all but one are copies that users have made
    by way of a volume.
    """
    marked = [record for record in versions if record.installation]
    return marked or (list(versions) if len(versions) == 1 else [])


def _has_these_data(record: ImageRecord, data: ImageData) -> bool:
    image = record.image
    return bool(
        record.has_data
        and image.get("disk_format") == data.format.value
        and image.get("os_hash_algo") == "sha512"
        and image.get("os_hash_value") == data.checksum.lower()
    )
