"""The projects that a run accounts, and their VOs: listed ones, and those with the tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from appliance.core.cloud import identity, vo
from appliance.core.cloud.project import Project, by_name_or_id
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable
from caso.settings import CasoConfiguration


@dataclass(frozen=True, slots=True)
class Selected:
    """A project to account."""

    project: Project
    vo: str
    aliases: tuple[str, ...]
    """Its names as the configuration and cASO write them; the id is last."""
    former: tuple[str, ...] = ()
    """Other names of its checkpoint: the project's name, if no other project has it."""


def select(
    cloud: Cloud, configuration: CasoConfiguration
) -> tuple[list[Selected], list[ApplianceError]]:
    """Return the projects to account, and a failure for each of those that cannot be accounted.

    Raises:
        Unavailable: Keystone does not answer, or no project is selected.

    """
    known = identity.projects(cloud, tag=configuration.tag)
    aliases, failures = _aliases(cloud, configuration, known)
    if not aliases and not failures:
        raise Unavailable(
            cloud.host,
            "no project is selected: the configuration lists none, and none has the tag"
            f" {configuration.tag!r}",
            f"set projects, or: openstack project set --tag {configuration.tag or 'caso'} PROJECT",
        )
    selected: list[Selected] = []
    for project in known:
        if project.id in aliases:
            try:
                accepted = _accept(cloud, configuration, project, aliases[project.id])
                is_unique = [other.name for other in known].count(project.name) == 1
                selected.append(replace(accepted, former=(project.name,) if is_unique else ()))
            except ApplianceError as error:
                failures.append(error)
    return selected, failures


def _aliases(
    cloud: Cloud, configuration: CasoConfiguration, known: Sequence[Project]
) -> tuple[dict[str, list[str]], list[ApplianceError]]:
    """Return the names of the selected projects by id, and the failures of listed ones."""
    aliases: dict[str, list[str]] = {}
    failures: list[ApplianceError] = []
    for wanted in dict.fromkeys(configuration.projects):
        try:
            project = find(cloud, known, wanted, place=configuration.projects_place)
            _refuse_local(configuration, project, wanted)
        except ApplianceError as error:
            failures.append(error)
        else:
            aliases.setdefault(project.id, []).append(wanted)
    # A project that is both listed and tagged keeps its listed names, which cASO's files have.
    for project in known:
        is_tagged = bool(configuration.tag) and configuration.tag in project.tags
        if is_tagged and not _is_local(configuration, project):
            aliases.setdefault(project.id, []).append(project.id)
    return aliases, failures


def _is_local(configuration: CasoConfiguration, project: Project) -> bool:
    return not {project.id, project.name}.isdisjoint(configuration.local_projects)


def _refuse_local(configuration: CasoConfiguration, project: Project, wanted: str) -> None:
    if _is_local(configuration, project):
        raise AccessDenied(
            f"project {wanted}",
            f"is {project}, which is in local_projects, too",
            "remove one of them: a local project is never sent",
        )


def find(cloud: Cloud, known: Sequence[Project], wanted: str, *, place: str = "") -> Project:
    """Return the project that a name or id of the configuration means; ``place`` is where it is.

    Raises:
        AccessDenied: the account sees no such project, or several.

    """
    # Names are unique within a domain only. Of several projects, one in which the account has a
    # role is meant.
    found = by_name_or_id([project for project in known if project.has_role], wanted)
    found = found or by_name_or_id(known, wanted)
    if len(found) > 1:
        found = identity.in_project_domain(cloud, found) or found
    at = f" at {place}" if place else ""
    if not found:
        raise AccessDenied(
            f"project {wanted}",
            f"the account {cloud.access.account!r} sees no such project at {cloud.host}",
            f"correct its name{at}, or: {cloud.access.grant(f'--project {wanted}')}",
        )
    if len(found) > 1:
        ids = " or ".join(project.id for project in found)
        raise AccessDenied(
            f"project {wanted}",
            f"{len(found)} projects have this name",
            f"use one of the ids{at}: {ids}",
        )
    return found[0]


def _accept(
    cloud: Cloud, configuration: CasoConfiguration, project: Project, aliases: Sequence[str]
) -> Selected:
    if not project.is_enabled:
        raise AccessDenied(project, "is disabled", f"openstack project set --enable {project.id}")
    if not project.has_role:
        raise AccessDenied(
            project,
            f"has the tag {configuration.tag!r}, but the account {cloud.access.account!r} has no"
            " role in it",
            cloud.access.grant(f"--project {project.id}"),
        )
    found = vo.vo_of(project, mapping=configuration.mapping, preferred=configuration.vo_properties)
    return Selected(project, found, tuple(dict.fromkeys((*aliases, project.id))))
