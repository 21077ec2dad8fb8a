"""The project of a VO: found by id or name, in the domain that mapping or configuration names."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.cloud import identity
from appliance.core.cloud.project import Project
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.cloud.vo import MappingEntry
from appliance.core.run.errors import AccessDenied, ApplianceError
from cloudkeeper.backend.errors import Failed
from cloudkeeper.wire.status import CallStatus


def resolve(
    cloud: Cloud, wanted: Mapping[str, MappingEntry]
) -> dict[str, tuple[Project, Scope] | ApplianceError]:
    """Return for each VO its project with a session for it, or why there is none.

    Raises:
        ApplianceError: Keystone rejects the account, or does not answer.

    """
    try:
        known = identity.projects(cloud)
    except AccessDenied as error:
        raise Failed(
            error.subject, error.cause, error.remedy, status=CallStatus.AUTHENTICATION
        ) from error
    found: dict[str, tuple[Project, Scope] | ApplianceError] = {}
    for vo, entry in wanted.items():
        try:
            found[vo] = _find(cloud, known, entry)
        except ApplianceError as error:
            found[vo] = error
    return found


def _find(cloud: Cloud, known: list[Project], entry: MappingEntry) -> tuple[Project, Scope]:
    candidates = [(project, cloud.project(project.id)) for project in known if entry.fits(project)]
    by_id = [candidate for candidate in candidates if candidate[0].id == entry.project]
    domain = entry.domain or cloud.access.project_domain_name
    in_domain = [candidate for candidate in candidates if domain.lower() in _domain(*candidate)]
    # A domain in the mapping must match; project_domain_name of the configuration, which has a
    # default, only decides between several projects of one name.
    chosen = by_id or in_domain or ([] if entry.domain else candidates)
    if len(chosen) == 1:
        return chosen[0]
    subject = f"VO {entry.vo}"
    if not chosen:
        account = cloud.access.account
        where = f" in domain {entry.domain}" if entry.domain else ""
        raise Failed(
            subject,
            f"the account {account!r} sees no project {entry.project}{where} at {cloud.host}",
            f"correct the mapping, or run: {cloud.access.grant(f'--project {entry.project}')}",
            status=CallStatus.RESOURCE_NOT_FOUND,
        )
    ids = " or ".join(project.id for project, _ in chosen)
    raise Failed(
        subject,
        f"{len(chosen)} projects have the name {entry.project}",
        f"use one of the ids in the mapping: {ids}",
        status=CallStatus.RESOURCE_NOT_FOUND,
    )


def _domain(project: Project, scope: Scope) -> tuple[str, str]:
    """Return id and name of a project's domain; Keystone compares both without case."""
    return project.domain_id.lower(), (scope.project_domain_name or "").lower()
