"""Images that this backend takes over from another manager of the cloud, and gives back.

A takeover is one patch of the image in Glance: it gets our properties, and loses the tag by which
the other manager finds it. `TAKEN_OVER` remembers the tag, and the properties as they were, in the
image itself, so that a lost state directory loses nothing; `give_back` undoes the takeover with one
patch. No data are uploaded. Between the two the image is ours by all rules: updates replace it, and
the new version inherits the memory of the tag and the members that the other manager had added.

Members of the project can write the properties of the other manager's images, so its word on the
data counts for nothing: the property `LAYER_KEY` gets the digest of the bytes that Glance holds,
whatever it was before. Where that is not the digest of the source, or Glance does not let the bytes
be read, the next sync uploads the image again and replaces this one.

The other manager uploads an image again, and deletes ours, if it still runs: whoever asks for a
takeover must have switched it off first. That cannot be seen from here, but its opposite can: while
the other manager has written an image within `QUIET`, by Glance's own clock, nothing is taken over.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from appliance.core.cloud.glance import FORBIDDEN, GlanceRefusal, Image
from appliance.core.run.errors import ApplianceError, Unavailable
from cloudkeeper.backend import handover, others, properties, sharing
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.images import ProjectImages
from cloudkeeper.backend.others import HeldImage, Holding
from cloudkeeper.backend.properties import ApplianceKey
from cloudkeeper.backend.run import Run
from cloudkeeper.model import HINDRANCE_KEY, LAYER_KEY, OWNER_KEY, Appliance, ListId
from cloudkeeper.wire.status import CallStatus, Takeover

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""In place of the digest of data that cannot be read; no source has this one."""
QUIET = timedelta(hours=6)
"""Two periods of EGI's catch-all, which runs every three hours."""


def candidates(run: Run, list_id: ListId, *, vo: str, wanted: Takeover) -> Iterator[Appliance]:
    """Yield the images of a list that a takeover, or its end, would concern, without changing any.

    Each says who holds it, the VO that owns it, and what hinders the change, if anything does.

    Raises:
        ApplianceError: the VO has no project, or the project cannot be reached.

    """
    images = run.images(vo)
    for one in _candidates(run, images, list_id, vo=vo, wanted=wanted):
        hindrance, owner = "", _owner(run, images, vo, one.image)
        try:
            if owner == vo:
                _check(run, images, ApplianceKey(vo, list_id, one.reference), one, wanted)
        except ApplianceError as error:
            hindrance = str(error)
        more = {OWNER_KEY: owner, HINDRANCE_KEY: hindrance}
        yield one.as_appliance(list_id, vo=vo, **more)


def change(run: Run, key: ApplianceKey, wanted: Takeover) -> None:
    """Take an image over, or give it back; nothing happens if that is done already.

    Raises:
        ApplianceError: the image cannot be taken over, or given back.

    """
    images = run.images(key.vo)
    with images.ownership.claim((images.project_id, key)):
        found = [
            one
            for one in _candidates(run, images, key.list_id, vo=key.vo, wanted=wanted)
            if one.reference == key.identifier
        ]
        if not found:
            if _is_done(run, images, key, wanted):
                return
            words = "is not one that another manager keeps"
            if wanted is Takeover.RELEASE:
                words = "is not one that was taken over"
            raise Failed(
                key, f"{words} in project {images.name}", status=CallStatus.APPLIANCE_NOT_FOUND
            )
        if len(found) > 1:
            ids = " and ".join(str(one.image["id"]) for one in found)
            raise _refused(key, f"project {images.name} sees it twice, {ids}", "delete one of them")
        (one,) = found
        _check(run, images, key, one, wanted)
        _hand_over(images, one, key, wanted)
        run.tally.count("taken_over" if wanted is Takeover.IMPORT else "given_back")


def _candidates(
    run: Run, images: ProjectImages, list_id: ListId, *, vo: str, wanted: Takeover
) -> Iterator[HeldImage]:
    held = images.held(list_id, vo=vo, owners=run.owners)
    if wanted is Takeover.IMPORT:
        yield from (one for one in held if one.holding is Holding.MANAGER)
        return
    yield from images.taken_over(list_id, vo=vo)
    yield from (one for one in held if one.holding is Holding.OTHER_VO)


def _hand_over(images: ProjectImages, one: HeldImage, key: ApplianceKey, wanted: Takeover) -> None:
    """Patch the image, as it is now: the listing may be some minutes old."""
    image_id = str(one.image["id"])
    image = images.glance.get(image_id)
    if wanted is Takeover.IMPORT:
        # Data never change once an image is active, but its properties may while they are read.
        digest = _digest(images, image)
        image = images.glance.get(image_id)
        if others.manager(image) != one.holder or image.get("owner") != images.project_id:
            raise _refused(f"image {image_id}", f"is no longer one of {one.holder}", "run again")
        tags = [tag for tag in others.TAGS if tag in image["tags"]]
        taken_by = images.ownership.id
        patch = handover.taking(image, key, tags=tags, backend_id=taken_by, digest=digest)
        if digest != str(image.get(LAYER_KEY)).lower():
            words = "its data are not those of its image_hash, so the next sync uploads it again"
            images.tally.note(
                "taken_over_with_other_data", f"VO {key.vo}: {key.identifier}: {words}"
            )
    else:
        patch = handover.giving_back(image)
    try:
        changed = images.glance.change(image_id, patch)
    except Unavailable:  # only the answer may be lost, and a repeated patch cannot be applied
        changed = images.glance.get(image_id)
        if (properties.TAKEN_OVER in changed) is not (wanted is Takeover.IMPORT):
            raise
    images.note(changed)
    words = "took %s over" if wanted is Takeover.IMPORT else "gave %s back"
    logger.info(f"project %s: {words}, image %s", images.name, key, image_id)


def _digest(images: ProjectImages, image: Image) -> str:
    """Return ``sha256:…`` of the bytes that Glance holds; `UNKNOWN` if it does not show them.

    Raises:
        Unavailable: the bytes cannot be read to their end now.

    """
    if image.get("os_hash_algo") == "sha256" and (known := str(image.get("os_hash_value") or "")):
        return f"sha256:{known.lower()}"
    found = hashlib.sha256()
    try:
        for block in images.glance.read(image):
            found.update(block)
    except GlanceRefusal as error:
        if error.code != FORBIDDEN:
            raise
        logger.warning("project %s: image %s: %s", images.name, image["id"], error)
        return UNKNOWN
    return f"sha256:{found.hexdigest()}"


def _owner(run: Run, images: ProjectImages, vo: str, image: Image) -> str:
    """Return the VO in whose project an image is; or that project, if it is none of ours."""
    owner = str(image.get("owner"))
    if owner == images.project_id:
        taken = str(image.get(properties.VO) or "") if image.get(properties.TAKEN_OVER) else ""
        return taken if run.owners.get(taken) == owner else vo
    found = (other for other, project in run.owners.items() if project == owner)
    return next(found, f"project {owner}")


def _check(
    run: Run, images: ProjectImages, key: ApplianceKey, one: HeldImage, wanted: Takeover
) -> None:
    """Check that an image can be taken over or given back now.

    Raises:
        ApplianceError: it cannot.

    """
    image = one.image
    if wanted is Takeover.RELEASE:
        if not handover.recall(image)["tags"]:
            words = f"its property {properties.TAKEN_OVER} names no tag"
            remedy = "add the tag of its manager with openstack image set --tag"
            raise _refused(f"image {image['id']}", words, remedy)
        return
    subject = f"image {image['id']} of {one.holder}"
    if image.get("owner") != images.project_id:
        owner = _owner(run, images, key.vo, image)
        raise _refused(
            subject,
            f"is shared with project {images.name} and belongs to {owner}",
            "import it for the VO of that project, which its source must name",
        )
    if image.get("status") != "active" or image.get("os_hidden"):
        raise _refused(
            subject,
            f"is {image.get('status')} or hidden, not active",
            "ask its manager to repair it",
        )
    if not str(image.get(LAYER_KEY) or "").startswith("sha256:"):
        words = f"has no property {LAYER_KEY}, which says whose data it holds"
        raise _refused(subject, words, "delete it, and the next sync uploads it")
    if run.shares.has(images, key):
        words = f"project {images.name} has an image of its own of {key.identifier}"
        raise _refused(subject, words, "delete one of the two")
    foreign = [member for member in sharing.accepted(images.glance, image) if not run.has(member)]
    if foreign:
        words = f"is shared with project {', '.join(foreign)}, which no VO is mapped to: its users"
        remedy = "map its VO to it, or end the sharing"
        raise _refused(subject, f"{words} would lose the image at its first update", remedy)
    _check_quiet(run, images, one)


def _check_quiet(run: Run, images: ProjectImages, one: HeldImage) -> None:
    """Check that the manager of an image has not written for a while, in any project.

    Both times are Glance's: the clock of this host may be wrong. An image that was written in the
    future shows that Glance's clocks differ, and counts as just written.
    """
    _, now = images.glance.dated(str(one.image["id"]))
    last = max(_writings(run, one.holder), key=lambda written: written.at)
    if now - last.at < QUIET:
        hours = QUIET // timedelta(hours=1)
        raise _refused(
            one.holder,
            f"has written image {last.image_id} at {last.at:%Y-%m-%d %H:%M} UTC, less than {hours} "
            f"hours before {now:%H:%M}, Glance's time, so it still manages images",
            f"switch it off, and wait until it has written nothing for {hours} hours",
        )


@dataclass(frozen=True, slots=True)
class _Writing:
    at: datetime
    image_id: str


def _writings(run: Run, tag: str) -> Iterator[_Writing]:
    for images in run.projects():
        for image in images.neighbours:
            if others.manager(image) == tag:
                times = [image.get("updated_at"), image.get("created_at")]
                at = max(datetime.fromisoformat(str(time)) for time in times if time)
                yield _Writing(at, str(image["id"]))


def _is_done(run: Run, images: ProjectImages, key: ApplianceKey, wanted: Takeover) -> bool:
    if wanted is Takeover.IMPORT:
        done: Iterable[HeldImage] = images.taken_over(key.list_id, vo=key.vo)
    else:
        held = images.held(key.list_id, vo=key.vo, owners=run.owners)
        done = [one for one in held if one.holding is Holding.MANAGER]
    return any(one.reference == key.identifier for one in done)


def _refused(subject: object, cause: str, remedy: str) -> Failed:
    return Failed(subject, cause, remedy, status=CallStatus.RESOURCE_STATE)
