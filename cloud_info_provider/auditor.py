"""Whether EGI's auditor has its role in the cloud: then its account may list the users."""

from __future__ import annotations

import logging

from appliance.core.cloud import identity
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run.errors import AccessDenied, ApplianceError
from cloud_info_provider.settings import Auditor

logger = logging.getLogger(__name__)


def has_role(auditor: Auditor) -> bool | None:
    """Return whether the auditor's account may list users; None if that cannot be known now."""
    cloud = Cloud(auditor.access)
    try:
        return identity.may_list_users(cloud, _scope(auditor, cloud))
    except AccessDenied as error:
        logger.warning("auditor: %s", error)
        return False
    except ApplianceError as error:
        logger.warning("auditor: %s; its role is not published", error)
        return None


def _scope(auditor: Auditor, cloud: Cloud) -> Scope:
    """Return the scope that clouds.yaml chooses."""
    if auditor.is_of_system:
        if cloud.system is None:
            name = auditor.access.account
            raise AccessDenied(cloud.host, f"the account {name!r} has no role on the system")
        return cloud.system
    if auditor.project and not auditor.access.is_bound:
        found = identity.own_projects(cloud, auditor.project)
        if len(found) == 1:
            return cloud.project(found[0].id)
        words = f"{len(found)} projects of the account have this name or id"
        raise AccessDenied(f"project {auditor.project}", words, "correct it in clouds.yaml")
    return cloud.unscoped
