"""The ``openstack`` commands that make the account of a flow, and give it its roles.

They are for an administrator of the cloud, on any machine. A line that begins with ``#`` explains;
the others can be typed as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from appliance.admin.accounts.needs import ADMIN, FlowAccount, ServedProject

PASSWORD, CREDENTIAL = "password", "application-credential"
FORMS = (PASSWORD, CREDENTIAL)


def lines(account: FlowAccount, *, form: str = "", group: str = "") -> Iterator[str]:
    """Yield the commands of a flow; ``form`` is one of `FORMS`, empty for the configured one.

    ``group`` is the group of a federated account, empty if it is not known.
    """
    yield f"# {account.need.flow}: {account.need.why}"
    if account.place:
        yield f"# the account is in {account.place}"
    if account.access.is_federated and not form:
        yield from _of_group(account, group or "GROUP")
    else:
        yield from _of_user(account)
        if form == CREDENTIAL or (account.access.is_application_credential and not form):
            yield from _credentials(account)
    yield from _remarks(account)


def _of_user(account: FlowAccount) -> Iterator[str]:
    of_domain = ("--user-domain", account.domain) if account.domain else ()
    if account.domain:
        yield _line("user", "create", "--domain", account.domain, "--password-prompt", account.user)
    yield from _roles(account, ("--user", account.user, *of_domain))


def _of_group(account: FlowAccount, group: str) -> Iterator[str]:
    provider = account.access.options["identity_provider"]
    yield f"# {group}: the group that the mapping of {provider} puts this account in"
    yield from _roles(account, ("--group", group))


def _roles(account: FlowAccount, who: tuple[str, ...]) -> Iterator[str]:
    for project in account.projects:
        yield _line("role", "add", *who, *project.words, account.need.role)
    if account.need.system_role:
        yield _line("role", "add", *who, "--system", "all", account.need.system_role)


def _credentials(account: FlowAccount) -> Iterator[str]:
    """Yield the commands for application credentials, which serve one project each."""
    yield "# the next lines are for the account itself; each prints an id and a secret"
    for project in account.projects:
        yield _line(*_login(account, project), *_creation(account, project))


def _login(account: FlowAccount, project: ServedProject) -> tuple[str, ...]:
    options = account.access.options
    who: tuple[str, ...] = ("--os-username", account.user, "--os-user-domain-name", account.domain)
    if not account.domain:
        who = ("--os-user-id", options["user_id"])
    elif "user_domain_id" in options and "user_domain_name" not in options:
        who = ("--os-username", account.user, "--os-user-domain-id", account.domain)
    where: tuple[str, ...] = ("--os-project-id", project.project)
    if "--project-domain" in project.words:
        where = ("--os-project-name", project.project, "--os-project-domain-name", project.domain)
    return ("--os-auth-type", "v3password", *who, *where)


def _creation(account: FlowAccount, project: ServedProject) -> tuple[str, ...]:
    name = f"fedcloud-{account.need.flow}-{project.vo or project.project}"
    return ("application", "credential", "create", "--role", account.need.role, name)


def _remarks(account: FlowAccount) -> Iterator[str]:
    if account.tag:
        yield f"# give the same role in each project with the tag {account.tag}"
    elif not account.projects:
        yield "# no project is configured yet; run this again when the VOs are in the files"
    if account.publishes:
        yield (
            f"# image_visibility is public: Glance lets {ADMIN} publish only; allow"
            " publicize_image to a role of your own in its policy"
        )


def credential_faults(account: FlowAccount) -> str:
    """Return why application credentials do not suffice for a flow; empty if they do."""
    count = len(account.projects)
    if account.need.system_role:
        return (
            "application credentials have no role on the system, so records would lack names of"
            " users; use a user and a password"
        )
    if count > 1 and account.need.section != "OS":
        return f"an application credential serves one project, and {count} are configured"
    return ""


def _line(*words: str) -> str:
    return shlex.join(("openstack", *words))
