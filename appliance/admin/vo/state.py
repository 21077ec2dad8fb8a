"""What the cloud has for a VO now, read with an administrator's requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from appliance.admin.accounts.needs import FlowAccount
from appliance.admin.vo import mapping
from appliance.admin.vo.cloud import COMPUTE, IDENTITY, NOT_FOUND, VOLUME, Requests, checked, get
from appliance.admin.vo.mapping import FederationMapping
from appliance.admin.vo.wish import COMPUTE_QUOTAS, VOLUME_QUOTAS, VoWish
from appliance.core.run.errors import UsageError

PROPERTY = "egi.VO"
_PROPERTIES = (PROPERTY, "VO", "accounting:VO", "egi.eu:VO")
FEDERATION = "/OS-FEDERATION"


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """The account of a flow, as Keystone has it."""

    flow: str
    name: str
    role: str
    user: str
    """Its id; empty if Keystone has no such user."""


@dataclass(frozen=True, slots=True)
class VoState:
    """What the cloud has."""

    mapping: FederationMapping
    roles: Mapping[str, str]
    """The id of each role."""
    domain: str
    """The id of the domain."""
    project: str
    """The id of the VO's project; empty without one."""
    project_name: str
    has_property: bool
    """Whether the project names the VO."""
    group: str
    """The id of the group; empty without one."""
    grants: frozenset[tuple[str, str]]
    """Ids of users and groups with a role in the project, each with the role's id."""
    accounts: tuple[ServiceAccount, ...] = ()
    quotas: Mapping[str, int] = field(default_factory=dict)
    """The limits of the project that the wish names."""


def read(cloud: Requests, wish: VoWish, accounts: Sequence[FlowAccount] = ()) -> VoState:
    """Read the state.

    Raises:
        AccessDenied: The account may not read it.
        UsageError: The wish names something that is not there, or twice.

    """
    domain = _domain(cloud, wish.domain)
    roles = {one["name"]: str(one["id"]) for one in get(cloud, "/roles")["roles"]}
    if wish.role not in roles:
        hint = f"there are {', '.join(sorted(roles))}"
        raise UsageError("--role", f"the cloud has no role {wish.role!r}", hint)
    project = _project(cloud, wish, domain)
    identifier = str(project.get("id", ""))
    return VoState(
        mapping=_mapping(cloud, wish),
        roles=roles,
        domain=domain,
        project=identifier,
        project_name=str(project.get("name", "")),
        has_property=any(project.get(name) == wish.vo for name in _PROPERTIES),
        group=_id(cloud, "groups", wish.group, domain),
        grants=_grants(cloud, identifier),
        accounts=tuple(_account(cloud, one) for one in accounts),
        quotas=_quotas(cloud, wish, identifier),
    )


def _mapping(cloud: Requests, wish: VoWish) -> FederationMapping:
    provider = f"{FEDERATION}/identity_providers/{quote(wish.provider, safe='')}"
    path = f"{provider}/protocols/{quote(wish.protocol, safe='')}"
    answer = cloud.send(IDENTITY, "GET", path)
    if answer.status == NOT_FOUND:
        raise UsageError(
            "--identity-provider, --protocol",
            f"Keystone has no provider {wish.provider!r} with protocol {wish.protocol!r}",
            _providers(cloud),
        )
    identifier = str(checked(answer, f"GET {path}").json["protocol"]["mapping_id"])
    place = f"{FEDERATION}/mappings/{quote(identifier, safe='')}"
    text = checked(cloud.send(IDENTITY, "GET", place), f"GET {place}").text
    return mapping.read(text, identifier)


def _providers(cloud: Requests) -> str:
    """Return which identity providers there are, as a remedy."""
    listed = get(cloud, f"{FEDERATION}/identity_providers")["identity_providers"]
    names = ", ".join(str(one["id"]) for one in listed)
    return f"there are {names}" if names else "register EGI Check-in in Keystone first"


def _domain(cloud: Requests, name: str) -> str:
    for one in get(cloud, "/domains")["domains"]:
        if name in (one["name"], one["id"]):
            return str(one["id"])
    raise UsageError("--domain", f"the cloud has no domain {name!r}", "name another one")


def _project(cloud: Requests, wish: VoWish, domain: str) -> Mapping[str, Any]:
    """Return the project of the VO: the one that names it, else the one with the wished name.

    Raises:
        UsageError: Several projects name the VO, or the one with the name serves another VO.

    """
    listed = get(cloud, "/projects")["projects"]
    own = [one for one in listed if wish.vo in (one.get(name) for name in _PROPERTIES)]
    if len(own) > 1:
        names = ", ".join(str(one["id"]) for one in own)
        remedy = "let one project name it: openstack project unset --property egi.VO ID"
        raise UsageError(wish.vo, f"several projects name this VO: {names}", remedy)
    if own:
        return dict(own[0])
    for one in listed:
        if one["name"] == wish.project and one["domain_id"] == domain:
            other = next((one[name] for name in _PROPERTIES if one.get(name)), "")
            if other:
                cause = f"the project {wish.project!r} serves the VO {other}"
                raise UsageError("--project", cause, "give another name")
            return dict(one)
    return {}


def _id(cloud: Requests, kind: str, name: str, domain: str) -> str:
    """Return the id of a user or group by its name in a domain; empty without one."""
    query = f"?name={quote(name, safe='')}&domain_id={quote(domain, safe='')}"
    found = [one for one in get(cloud, f"/{kind}{query}")[kind] if one["name"] == name]
    return str(found[0]["id"]) if found else ""


def _grants(cloud: Requests, project: str) -> frozenset[tuple[str, str]]:
    if not project:
        return frozenset()
    listed = get(cloud, f"/role_assignments?scope.project.id={quote(project, safe='')}")
    return frozenset(
        (str(one[kind]["id"]), str(one["role"]["id"]))
        for one in listed["role_assignments"]
        for kind in ("user", "group")
        if kind in one
    )


def _account(cloud: Requests, one: FlowAccount) -> ServiceAccount:
    """Return the user of a flow's account; a federated one has its roles by a group."""
    named = one.access.options.get("user_id", "")
    try:
        domain = _domain(cloud, one.domain) if one.domain else ""
    except UsageError:
        domain = ""
    user = named or (_id(cloud, "users", one.user, domain) if domain else "")
    if one.access.is_federated:
        user = ""
    return ServiceAccount(one.need.flow.value, one.user, one.need.role, user)


def _quotas(cloud: Requests, wish: VoWish, project: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for service, names in ((COMPUTE, COMPUTE_QUOTAS), (VOLUME, VOLUME_QUOTAS)):
        wanted = [name for name in names if name in wish.quotas]
        if wanted and project:
            limits = get(cloud, f"/os-quota-sets/{quote(project, safe='')}", service)["quota_set"]
            found |= {name: int(limits[name]) for name in wanted}
    return found


def lost(cloud: Requests, project: str) -> dict[str, list[str]]:
    """Return the names of servers, volumes and images in a project.

    Raises:
        AccessDenied: The account may not list those of all projects.

    """
    place = quote(project, safe="")
    found = {}
    for kind, service, path in (
        ("servers", COMPUTE, f"/servers?all_tenants=1&project_id={place}&limit=1000"),
        ("volumes", VOLUME, f"/volumes?all_tenants=1&project_id={place}&limit=1000"),
        ("images", "image", f"/v2/images?owner={place}&limit=1000"),
    ):
        listed = get(cloud, path, service)[kind]
        found[kind] = [f"{one.get('name') or 'without a name'} ({one['id']})" for one in listed]
    return found
