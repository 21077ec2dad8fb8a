"""The upload of an image's data, which ends well only if Glance has stored what was sent."""

from __future__ import annotations

from appliance.core.cloud import glance
from appliance.core.cloud.glance import Glance, GlanceRefusal, Image
from appliance.core.run.errors import ApplianceError, Unavailable
from cloudkeeper.backend.errors import Failed, status_of
from cloudkeeper.backend.image_data import ImageBytes
from cloudkeeper.wire.status import CallStatus

# Refusals that another upload may overcome: of a token that has ended, and by a Glance that does
# not see the new record yet or is busy. Without a code there was no answer, or none but 5xx.
_PASSING = (glance.UNAUTHORIZED, glance.NOT_FOUND, 408, 429)


def fill(door: Glance, image_id: str, file: ImageBytes) -> Image:
    """Upload the data, and compare Glance's size and checksum with those of the sent bytes."""
    failure = None
    try:
        door.upload(image_id, file)
    except Unavailable as error:
        # Glance may have stored the data and only its answer was lost; it refuses the retry.
        failure = error
    image = _filled(door, image_id, failure)
    if failure and image.get("status") != "active":
        raise failure if file.is_repeatable else _with_file(failure)
    algorithm = algorithm_of(image)
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


def _filled(door: Glance, image_id: str, failure: Unavailable | None) -> Image:
    """Return the record after an upload.

    Raises:
        Unavailable: ``failure``, if the upload failed and left no record.

    """

    def is_settled(image: Image) -> bool:
        return image.get("status") == "active"

    # 409 is the answer to a repeat, after the answer to the first request was lost.
    if failure is None or getattr(failure, "code", None) == glance.CONFLICT:
        return door.settled(image_id, is_settled=is_settled)
    try:
        return door.get(image_id)
    except GlanceRefusal:
        raise failure from None


def algorithm_of(image: Image) -> str:
    """Return the algorithm of the digest that Glance has computed of an image."""
    # Glance before Rocky has an MD5 checksum only.
    return str(image.get("os_hash_algo") or "md5")


def _with_file(error: Unavailable) -> ApplianceError:
    """Return the failure of a stream; it asks for a file unless Glance refuses the data."""
    code = error.code if isinstance(error, GlanceRefusal) else 0
    if code and code not in _PASSING:
        return error
    status = status_of(error)
    return Failed(error.subject, error.cause, error.remedy, status=status, wants_file=True)
