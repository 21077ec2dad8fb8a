"""What Keystone tells an account: its projects with tags and properties, and the names of users."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keystoneauth1 import exceptions

from appliance.core.cloud.locks import Locks
from appliance.core.cloud.session import Cloud, Scope, understood
from appliance.core.cloud.vo import Entry
from appliance.core.run.errors import AccessDenied

logger = logging.getLogger(__name__)

_REFUSED = (exceptions.Forbidden, exceptions.Unauthorized)


@dataclass(frozen=True, slots=True)
class Project:
    """A project as Keystone describes it. ``properties`` are its text attributes, the VO's among them."""

    id: str
    name: str
    domain_id: str
    tags: frozenset[str]
    properties: Mapping[str, str]
    is_enabled: bool = True
    has_role: bool = True
    """Whether the account may work in it."""

    def __str__(self) -> str:
        return f"project {self.name} ({self.id})"


def projects(cloud: Cloud, *, tag: str = "") -> list[Project]:
    """Return the projects in which the account has a role, by one request, sorted by id.

    With ``tag``, those that carry it without giving the account a role come too, if its role on the
    system lets it see them.
    """
    account = cloud.unscoped
    with understood(cloud.host, "Keystone"):
        found = {project.id: project for project in map(_project, account.keystone.auth.projects())}
    if tag:
        for project in _tagged(cloud, tag):
            found.setdefault(project.id, project)
    return [found[key] for key in sorted(found)]


def _tagged(cloud: Cloud, tag: str) -> list[Project]:
    if cloud.system is None:
        return []
    keystone = cloud.system.keystone
    try:
        with understood(cloud.host, "Keystone", passing=_REFUSED):
            return [
                _project(resource, has_role=False) for resource in keystone.projects.list(tags=tag)
            ]
    except _REFUSED as error:
        logger.debug("tagged projects cannot be listed: %s", error)
        return []


def _project(resource: Any, *, has_role: bool = True) -> Project:
    told = resource.to_dict()
    return Project(
        id=told["id"],
        name=told["name"],
        domain_id=told.get("domain_id") or "",
        tags=frozenset(told.get("tags") or ()),
        properties={name: value for name, value in told.items() if isinstance(value, str)},
        is_enabled=told.get("enabled", True),
        has_role=has_role,
    )


class UserNames:
    """Names of users by id, each asked for once. After the first refusal nothing more is asked."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._names: dict[str, str | None] = {}
        # taken by the first refusal, for good: several threads may meet one at once
        self._refusal = threading.Lock()
        self._locks = Locks()

    def get(self, user_id: str, scope: Scope) -> str | None:
        """Return a user's name; None when there is no such user any more, or the account may not know.

        The system's scope is asked when the account has it, else ``scope``, the user's project.
        """
        with self._locks.of(user_id):
            if user_id not in self._names:
                self._names[user_id] = (
                    None
                    if self._refusal.locked()
                    else self._ask(user_id, self._cloud.system or scope)
                )
            return self._names[user_id]

    def _ask(self, user_id: str, scope: Scope) -> str | None:
        try:
            return self._named(user_id, scope)
        except exceptions.NotFound:
            return None
        except _REFUSED:
            if self._refusal.acquire(blocking=False):
                access = self._cloud.access
                logger.warning(
                    "%s: the account %r may not read names of users: records go without GlobalUserName; %s",
                    *(self._cloud.host, access.account, access.grant("--system all")),
                )
            return None

    def _named(self, user_id: str, scope: Scope) -> str:
        with understood(self._cloud.host, "Keystone", passing=(exceptions.NotFound, *_REFUSED)):
            name = scope.keystone.users.get(user_id).name
            if not isinstance(name, str):
                raise TypeError(name)
            return name


class AllProjects:
    """All projects of the cloud, to be changed by an administrator."""

    def __init__(self, cloud: Cloud) -> None:
        if cloud.system is None:
            raise AccessDenied(
                cloud.host,
                f"the account {cloud.access.account!r} has no role on the system, or system_scope is off",
                "use an administrator's account, or run the commands that are printed without --nodry-run",
            )
        self._host = cloud.host
        self._manager = cloud.system.keystone.projects

    def set_property(self, entry: Entry, *, name: str, value: str) -> None:
        """Set a property of the project that an entry means."""
        self._change(entry, lambda project: self._manager.update(project, **{name: value}))

    def add_tag(self, entry: Entry, tag: str) -> None:
        """Add a tag to the project that an entry means."""
        self._change(entry, lambda project: self._manager.add_tag(project, tag))

    def _change(self, entry: Entry, change: Callable[[Any], object]) -> None:
        subject = f"project {entry.project}"
        try:
            found = [item for item in self._candidates(entry.project) if entry.fits(_project(item))]
            if len(found) != 1:
                raise AccessDenied(subject, f"{len(found)} projects are called so", "write its id")
            change(found[0])
        except exceptions.HttpError as error:
            raise AccessDenied(subject, f"{self._host} refuses: {error.message}") from error

    def _candidates(self, wanted: str) -> list[Any]:
        try:
            return [self._manager.get(wanted)]
        except exceptions.NotFound:
            return list(self._manager.list(name=wanted))


def by_name_or_id(known: Iterable[Project], wanted: str) -> list[Project]:
    """Return the projects that an administrator may mean: the one with this id, else all with this name."""
    listed = list(known)
    return [project for project in listed if project.id == wanted] or [
        project for project in listed if project.name == wanted
    ]
