"""Cinder's volumes of a project.

Cinder has no listing of deleted volumes and keeps no history of sizes and owners that an ordinary
account could read: whoever accounts volumes must remember them from run to run. The microversion is
3.0, in which a volume has everything that accounting needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from appliance.core.cloud import answers, pages
from appliance.core.cloud.session import Scope

Volume = dict[str, Any]
"""A volume as Cinder's API describes it."""
SERVICE = "block-storage"

_VERSION = "3.0"
_OWNER = "os-vol-tenant-attr:tenant_id"


def volumes(scope: Scope) -> Iterator[Volume]:
    """Yield the volumes that the scope's project has now.

    Raises:
        AccessDenied: Cinder refuses the account.
        Unavailable: Cinder does not answer, or the catalog has none (`Scope.offers`).

    """

    def fetch(url: str) -> Any:
        response = scope.block_storage.get(url, microversion=_VERSION, raise_exc=False)
        return answers.accepted(response, service="Cinder", what="volumes", scope=scope)

    listed = pages.follow(
        fetch,
        "/volumes/detail",
        key="volumes",
        service="Cinder",
        catalog=scope.catalog_hosts,
        query={"limit": pages.PAGE_SIZE},
        added={"limit": pages.PAGE_SIZE},
    )
    # The listing has the own project only, unless a policy or a proxy widens it.
    return (volume for volume in listed if volume.get(_OWNER, scope.project_id) == scope.project_id)
