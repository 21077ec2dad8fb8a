"""Which images of a project are versions of one appliance, and which of them count.

All functions are pure: from the records of a project to those that a call works on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from cloudkeeper.backend.properties import ApplianceKey, ImageRecord, State
from cloudkeeper.model import ImageData

# Age at which an incomplete image of another backend is an orphan: its upload may be running.
_ABANDONED = timedelta(hours=24)


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
        and (record.backend_id == backend_id or is_abandoned(record, now=now))
    ]


def is_abandoned(record: ImageRecord, *, now: datetime) -> bool:
    """Check whether an image has been incomplete for a day, so that no upload will complete it."""
    return record.state is State.STAGING and now - record.created > _ABANDONED


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


def has_these_data(record: ImageRecord, data: ImageData) -> bool:
    """Check whether a record has these data already, by Glance's own SHA-512."""
    image = record.image
    return bool(
        record.has_data
        and image.get("disk_format") == data.format.value
        and image.get("os_hash_algo") == "sha512"
        and image.get("os_hash_value") == data.checksum.lower()
    )
