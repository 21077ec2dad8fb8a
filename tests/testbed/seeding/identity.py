"""Domains, projects, users, and the tools' accounts of least privilege."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.testbed.api import KEYSTONE, Api, ApiError
from tests.testbed.seed import Account, ApplicationCredential, Project, User
from tests.testbed.seeding import content
from tests.testbed.seeding.access import Access

_CONFLICT = 409
_CREDENTIAL_NAME = "accounting-reader"


@dataclass(frozen=True, slots=True)
class People:
    """Who is there."""

    projects: dict[str, Project]
    users: dict[str, User]
    accounts: dict[str, Account]
    application_credential: ApplicationCredential


def plant(access: Access) -> People:
    """Create everybody."""
    admin = access.admin
    domains = _domains(admin)
    roles = {role["name"]: str(role["id"]) for role in admin.get(KEYSTONE, "/roles")["roles"]}
    projects = {planned.name: _project(admin, planned, domains) for planned in content.PROJECTS}
    users = {
        name: _user(access, name, project, role=roles["member"])
        for project in projects.values()
        for name in content.user_names(project.name)
    }
    accounts = {
        planned.name: _account(access, planned, projects, domain_id=domains["Default"], roles=roles)
        for planned in content.ACCOUNTS
    }
    return People(
        projects,
        users,
        accounts,
        _application_credential(access, projects[content.CREDENTIAL_PROJECT]),
    )


def _domains(admin: Api) -> dict[str, str]:
    known = {
        domain["name"]: str(domain["id"]) for domain in admin.get(KEYSTONE, "/domains")["domains"]
    }
    for name in content.DOMAINS:
        if name not in known:
            known[name] = admin.post(KEYSTONE, "/domains", {"domain": {"name": name}})["domain"][
                "id"
            ]
    return known


def _ensure(admin: Api, kind: str, name: str, properties: dict[str, Any]) -> str:
    found = admin.get(KEYSTONE, f"/{kind}s?name={name}&domain_id={properties['domain_id']}")[
        f"{kind}s"
    ]
    made = (
        found[0]
        if found
        else admin.post(KEYSTONE, f"/{kind}s", {kind: {"name": name} | properties})[kind]
    )
    return str(made["id"])


def _project(admin: Api, planned: content.PlannedProject, domains: dict[str, str]) -> Project:
    properties: dict[str, Any] = {
        "domain_id": domains[planned.domain],
        "description": f"project {planned.name}",
    }
    if planned.vo:
        properties |= {"VO": planned.vo, "egi.VO": planned.vo}
    project = _ensure(admin, "project", planned.name, properties)
    admin.put(KEYSTONE, f"/projects/{project}/tags", {"tags": list(planned.tags)})
    return Project(
        project, planned.name, planned.domain, domains[planned.domain], planned.vo, planned.tags
    )


def _user(access: Access, name: str, project: Project, *, role: str) -> User:
    properties = {
        "domain_id": project.domain_id,
        "password": access.password(name),
        "email": f"{name}@example.org",
    }
    user = _ensure(access.admin, "user", name, properties)
    access.admin.put(KEYSTONE, f"/projects/{project.id}/users/{user}/roles/{role}")
    return User(user, name, project.domain, project.domain_id, project.name, access.password(name))


def _account(
    access: Access,
    planned: content.PlannedAccount,
    projects: dict[str, Project],
    *,
    domain_id: str,
    roles: dict[str, str],
) -> Account:
    properties = {"domain_id": domain_id, "password": access.password(planned.name)}
    user = _ensure(access.admin, "user", planned.name, properties)
    of_a_vo = [project for project in projects.values() if project.vo]
    for project in of_a_vo:
        access.admin.put(
            KEYSTONE, f"/projects/{project.id}/users/{user}/roles/{roles[planned.role]}"
        )
    if planned.system_role:
        access.admin.put(KEYSTONE, f"/system/users/{user}/roles/{roles[planned.system_role]}")
    return Account(
        id=user,
        name=planned.name,
        password=access.password(planned.name),
        roles=(planned.role,),
        projects=tuple(project.name for project in of_a_vo),
        system_roles=(planned.system_role,) if planned.system_role else (),
    )


def _application_credential(access: Access, project: Project) -> ApplicationCredential:
    """Create the credential with a secret of our choice, so that doing it twice is harmless."""
    door = access.door("accounting", domain="Default", project_id=project.id)
    secret = access.password("application-credential")
    wanted = {"name": _CREDENTIAL_NAME, "secret": secret, "roles": [{"name": "reader"}]}
    path = f"/users/{door.user_id}/application_credentials"
    try:
        made = door.post(KEYSTONE, path, {"application_credential": wanted})[
            "application_credential"
        ]
    except ApiError as error:
        if error.status_code != _CONFLICT:
            raise
        (made,) = door.get(KEYSTONE, f"{path}?name={_CREDENTIAL_NAME}")["application_credentials"]
    return ApplicationCredential(made["id"], secret, project.name)
