"""Publishers: where a run's document goes, by ``--publisher``."""

from __future__ import annotations

import logging
from collections.abc import Collection

from appliance.core import site_document
from appliance.core.clock import Moment
from appliance.core.run.errors import ApplianceError
from appliance.core.run.record import RunRecord
from cloud_info_provider.publishing.kept import KeptDocument
from cloud_info_provider.publishing.s3 import S3Bucket
from cloud_info_provider.publishing.settings import (
    BucketTarget,
    PublishSettings,
    SwiftTarget,
    Target,
)
from cloud_info_provider.publishing.store import ObjectStore
from cloud_info_provider.publishing.web import WebFolder

logger = logging.getLogger(__name__)


def publish(
    chosen: PublishSettings,
    text: str,
    *,
    failed: Collection[str],
    record: RunRecord,
    replacing: str = "",
) -> None:
    """Write the file, and upload it to the store if there is one; note in the record what is left.

    Raises:
        ApplianceError: the document was not published.

    """
    kept = KeptDocument(chosen.output, shrink_hold=chosen.shrink_hold)
    with kept.opened():
        kept.update(site_document.load(text.encode()), failed=failed, moment=Moment.now())
        for line in kept.problems:
            record.fail(line)
            logger.warning("%s", line)
        record.add("held", len(kept.problems))
        if chosen.target is not None and (
            name := kept.deliver(_store(chosen.target), replacing=replacing)
        ):
            logger.info("stored %s", name)


def retry(chosen: PublishSettings, *, site: str) -> None:
    """Upload what an earlier run could not, though this one could not read the cloud.

    A failure is logged: the run has failed already, for another reason. The file of another site,
    which a run that reads the cloud refuses, is not uploaded here either.
    """
    if chosen.target is None:
        return
    kept = KeptDocument(chosen.output, shrink_hold=chosen.shrink_hold)
    try:
        with kept.opened():
            held = kept.site  # empty without a file, or with a damaged one
            if held not in ("", site):
                words = "%s: holds the information of %s, not of %s, so it is not uploaded"
                logger.warning(words, chosen.output, held, site)
            elif held and (name := kept.deliver(_store(chosen.target))):
                logger.info("stored %s of an earlier run", name)
    except ApplianceError as error:
        logger.warning("%s", error)


def _store(target: Target) -> ObjectStore:
    if isinstance(target, SwiftTarget):
        from cloud_info_provider.publishing.swift import (  # noqa: PLC0415  loads keystoneauth
            SwiftContainer,
        )

        return SwiftContainer(
            target.access, project_id=target.project_id, container=target.container
        )
    if isinstance(target, BucketTarget):
        return S3Bucket(target.server, bucket=target.bucket, key=target.key)
    return WebFolder(target.server, authorization=target.authorization, account=target.account)
