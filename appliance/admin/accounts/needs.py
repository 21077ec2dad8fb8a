"""The account of each flow: what it may do, who it is, and the projects that it serves.

Everything comes from the answers of the programs (`appliance.admin.config.show`), so aliases,
defaults and files of every form count as in a run. The backend's table of VOs is the host's file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.check.inside import ProgramSettings
from appliance.admin.inventory import Flow
from appliance.admin.settings import Host
from appliance.core.cloud import vo
from appliance.core.cloud.login import Access
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout

READER, MEMBER, ADMIN = "reader", "member", "admin"
RANKS = (READER, MEMBER, "manager", ADMIN)
"""Keystone's default roles; each implies those before it."""


@dataclass(frozen=True, slots=True)
class AccountNeed:
    """What the account of a flow needs, and where its program has it."""

    flow: Flow
    job: str
    """The job or service whose program is asked."""
    beside: str
    """The same on a host where no installer has run."""
    file: str
    """The file that the program has there, if the site runs the flow."""
    login: str
    """The file of the appliance that holds the account."""
    program: str
    section: str
    role: str
    """The role in the project of each VO."""
    system_role: str
    """The role on the system; empty for none."""
    why: str


NEEDS: Sequence[AccountNeed] = (
    AccountNeed(
        Flow.ACCOUNTING,
        job="caso",
        beside="caso",
        file="/etc/caso/caso.conf",
        login="/etc/caso/caso.conf",
        program="caso-extract",
        section="keystone_auth",
        role=READER,
        system_role=READER,
        why="reads servers, volumes and addresses of each project; names of users from the system",
    ),
    AccountNeed(
        Flow.INFORMATION,
        job="cloudbdii",
        beside="cloud-info",
        file="/etc/cloud-info-provider/openstack.yaml",
        login="/etc/cloud-info-provider/openstack.rc",
        program="cloud-info-provider-service",
        section="OS",
        role=READER,
        system_role="",
        why="reads flavors, images, networks and quotas of each project",
    ),
    AccountNeed(
        Flow.IMAGES,
        job="cloudkeeper-os",
        beside="cloudkeeper-os",
        file="/etc/cloudkeeper-os/cloudkeeper-os.conf",
        login="/etc/cloudkeeper/cloudkeeper-os.conf",
        program="cloudkeeper-os",
        section="keystone_authtoken",
        role=MEMBER,
        system_role="",
        why="makes and removes images in each project",
    ),
)


@dataclass(frozen=True, slots=True)
class ServedProject:
    """A project of a VO; the VO is empty if only Keystone knows it."""

    project: str
    """Name or id."""
    vo: str
    domain: str = ""
    """Name or id of the domain that narrows a name."""

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words of a command that name it."""
        is_name = not re.fullmatch(r"[0-9a-f]{32}", self.project)
        of_domain = ("--project-domain", self.domain) if self.domain and is_name else ()
        return ("--project", self.project, *of_domain)


@dataclass(frozen=True, slots=True)
class FlowAccount:
    """The account of a flow as the site has configured it."""

    need: AccountNeed
    access: Access
    place: str
    """``FILE:LINE`` of the account's name; empty if no file sets it."""
    projects: tuple[ServedProject, ...]
    tag: str = ""
    """The tag of further projects, which only Keystone knows."""
    publishes: bool = False
    """Whether images are visible to all projects, which Glance allows administrators only."""
    unset: tuple[str, ...] = ()
    """What the site has not set yet, each with its file, and the remedy."""

    @property
    def user(self) -> str:
        """Return the name or id of the user; the flow's name if the site has set none."""
        options = self.access.options
        return options.get("username") or options.get("user_id") or self.need.flow.value

    @property
    def domain(self) -> str:
        """Return the name or id of the user's domain."""
        options = self.access.options
        if "user_id" in options and "username" not in options:
            return ""
        return options.get("user_domain_name") or options.get("user_domain_id") or "Default"


_OPTIONS = (
    *("username", "user_id", "user_domain_name", "user_domain_id"),
    *("application_credential_id", "application_credential_name", "identity_provider"),
    *("client_id", "trust_id"),
)
_PLACED = ("username", "user_id", "application_credential_id", "client_id")
_PLACEHOLDERS = frozenset({"PROJECT-NAMES", "PROJECT-ID"})
"""Projects in the shipped files, which a site replaces."""
_SHARE = re.compile(r"(?:compute\.shares\.(?P<vo>.+)|(?P<item>vos\[\d+\]))\.auth")


def read(need: AccountNeed, settings: ProgramSettings, host: Host, layout: Layout) -> FlowAccount:
    """Return the account of a flow; ``settings`` is what its program has read.

    Raises:
        ConfigurationError: The backend's table of VOs is wrong.

    """
    section = need.section
    found = {name: settings.find(section, name) for name in _OPTIONS}
    access = Access(
        auth_type=settings.get(section, "auth_type") or "v3password",
        auth_url=settings.get(section, "auth_url"),
        options={name: one.text for name, one in found.items() if one and one.text},
        section=section,
        role=need.role,
    )
    placed = (one for name in _PLACED if (one := found[name]) and one.line)
    projects = tuple(dict.fromkeys(_projects(need, settings, host, layout)))
    tag = settings.get("DEFAULT", "caso_tag") if need.flow is Flow.ACCOUNTING else ""
    unset = [*_unset_account(need, access, layout), *_placeholders(settings)]
    if not (projects or tag or unset):
        unset.append("no project of a VO is configured; appliance configure")
    return FlowAccount(
        need,
        access,
        next((one.place for one in placed), ""),
        tuple(one for one in projects if one.project not in _PLACEHOLDERS),
        tag=tag,
        publishes=settings.get("DEFAULT", "image_visibility") == "public",
        unset=tuple(unset),
    )


def _unset_account(need: AccountNeed, access: Access, layout: Layout) -> Iterator[str]:
    """Yield that a user's name is missing; the commands show the flow's name instead."""
    if access.auth_type == "v3password" and not access.options.keys() & {"username", "user_id"}:
        place = layout.path(need.login)
        yield f"{place}: names no account; write {need.flow.value!r} or a name of your own"


def _placeholders(settings: ProgramSettings) -> Iterator[str]:
    """Yield each project that is still the one of the shipped file."""
    for value in settings.values:
        if value.text in _PLACEHOLDERS:
            fault = f"is still the placeholder {value.text!r}; appliance configure"
            yield f"{value.place}: {value.named}: {fault}"


def _projects(
    need: AccountNeed, settings: ProgramSettings, host: Host, layout: Layout
) -> Iterator[ServedProject]:
    match need.flow:
        case Flow.ACCOUNTING:
            yield from _accounted(settings, layout.path(host.mounts["FEDCLOUD_CASO_MAPPING"]))
        case Flow.INFORMATION:
            yield from _shared(settings)
        case Flow.IMAGES:
            mapping = layout.path(host.mounts["FEDCLOUD_BACKEND_MAPPING"])
            for entry in vo.read_mapping(mapping).entries:
                yield ServedProject(entry.project, entry.vo, entry.domain or "")


def _accounted(settings: ProgramSettings, mapping: Path) -> Iterator[ServedProject]:
    """Yield the projects that cASO's options name; their VOs are those of the mapping."""
    names = f"{settings.get('DEFAULT', 'projects')},{settings.get('DEFAULT', 'local_projects')}"
    domain = settings.get("keystone_auth", "project_domain_name")
    vos = _vos(mapping)
    for name in names.split(","):
        if name.strip():
            yield ServedProject(name.strip(), vos.get(name.strip(), ""), domain)


def _vos(mapping: Path) -> Mapping[str, str]:
    """Return the VO of each project; none if the mapping is missing or wrong: cASO reports it."""
    try:
        return {entry.project: entry.vo for entry in vo.read_mapping(mapping).entries}
    except ConfigurationError:
        return {}


def shares(settings: ProgramSettings) -> Iterator[ServedProject]:
    """Yield the projects of the site's description, in all its forms."""
    for value in settings.values:
        found = _SHARE.fullmatch(value.section)
        if found and value.option == "project_id" and value.text:
            yield ServedProject(value.text, found["vo"] or settings.get(found["item"], "name"))


def _shared(settings: ProgramSettings) -> Iterator[ServedProject]:
    """Yield the projects of the site's description, or the one of the account."""
    listed = list(shares(settings))
    yield from listed
    own = settings.get("OS", "project_id") or settings.get("OS", "project_name")
    if own and not listed:
        yield ServedProject(own, "", settings.get("OS", "project_domain_name"))
