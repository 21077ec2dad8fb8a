"""Projects and users as Keystone shows them to an account."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from urllib.parse import quote

from keystoneauth1 import exceptions

from appliance.core.cloud import pages
from appliance.core.cloud.locks import Locks
from appliance.core.cloud.project import Project, by_name_or_id
from appliance.core.cloud.session import Cloud, Scope, understood
from appliance.core.cloud.vo import MappingEntry
from appliance.core.config.settings import note_roles
from appliance.core.run.errors import AccessDenied

logger = logging.getLogger(__name__)

_REFUSED = (exceptions.Forbidden, exceptions.Unauthorized)


def projects(cloud: Cloud, *, tag: str = "") -> list[Project]:
    """Return the projects in which the account has a role, sorted by id.

    With ``tag``, projects that carry it without giving the account a role are returned too, if the
    account's role on the system lets it list them.
    """
    with understood(cloud.host, "Keystone"):
        found = [Project.read(one) for one in _listing(cloud.unscoped, "/auth/projects")]
    for project in found:
        note_roles(project.id, ())
    # In the account's own listing `has_role` is true, so it wins over the tagged ones.
    by_id = {project.id: project for project in found}
    if tag:
        for project in _tagged(cloud, tag):
            by_id.setdefault(project.id, project)
    return [by_id[key] for key in sorted(by_id)]


def own_projects(cloud: Cloud, wanted: str) -> list[Project]:
    """Return the account's projects that a name or id of the configuration can mean."""
    found = by_name_or_id(projects(cloud), wanted)
    # names are unique within a domain only
    return (in_project_domain(cloud, found) or found) if len(found) > 1 else found


def in_project_domain(cloud: Cloud, found: Sequence[Project]) -> list[Project]:
    """Return those of several projects that are in the configuration's project domain."""
    by_id, by_name = cloud.access.project_domain_id, cloud.access.project_domain_name
    if by_id:
        return [project for project in found if project.domain_id == by_id]
    if by_name:
        return [
            project for project in found if cloud.project(project.id).project_domain_name == by_name
        ]
    return []


def _tagged(cloud: Cloud, tag: str) -> list[Project]:
    if cloud.system is None:
        return []
    try:
        with understood(cloud.host, "Keystone", passing=_REFUSED):
            listed = _listing(cloud.system, "/projects", tags=tag)
            return [Project.read(one, has_role=False) for one in listed]
    except _REFUSED as error:
        logger.debug("tagged projects cannot be listed: %s", error)
        return []


def all_names(cloud: Cloud) -> dict[str, str]:
    """Return the name of each project of the cloud by its id; none if the account may not list."""
    if cloud.system is None:
        return {}
    try:
        with understood(cloud.host, "Keystone", passing=_REFUSED):
            return {one["id"]: one["name"] for one in _listing(cloud.system, "/projects")}
    except _REFUSED as error:
        logger.debug("projects cannot be listed: %s", error)
        return {}


def _listing(scope: Scope, path: str, **query: str) -> Iterator[pages.Item]:
    """Yield projects. Keystone chooses the size of pages: many releases know no ``limit``."""
    return pages.follow(
        scope.identity.get,
        path,
        key="projects",
        service="Keystone",
        catalog=scope.catalog_hosts,
        query=query,
    )


def may_list_users(cloud: Cloud, scope: Scope) -> bool:
    """Check whether the account may list the users of the cloud, and one is there: itself."""
    try:
        with understood(cloud.host, "Keystone", passing=_REFUSED):
            # Many releases know no ``limit``, and ignore it.
            return bool(scope.identity.get("/users?limit=1").json()["users"])
    except _REFUSED as error:
        logger.debug("users cannot be listed: %s", error)
        return False


class UserNames:
    """Names of users by id. Each is requested once, and none after the first refusal.

    ``known`` has the names of earlier runs and gets those of this one, None for a deleted user.
    """

    def __init__(self, cloud: Cloud, known: MutableMapping[str, str | None] | None = None) -> None:
        self._cloud = cloud
        self._names = {} if known is None else known
        # The first refusal takes this lock for good, so only one of several threads logs it.
        self._refusal = threading.Lock()
        self._locks = Locks()

    def get(self, user_id: str, scope: Scope) -> str | None:
        """Return the name of a user; None if the user was deleted, or the account may not see it.

        The request goes to the scope of the system if the account has it, else to ``scope``.
        """
        if user_id in self._names:  # without the lock, because nearly all requests end here
            return self._names[user_id]
        with self._locks.of(user_id):
            if user_id not in self._names and not self._refusal.locked():
                self._ask(user_id, self._cloud.system or scope)
            return self._names.get(user_id)

    def _ask(self, user_id: str, scope: Scope) -> None:
        """Note the name of a user, unless the account may not see it."""
        try:
            self._names[user_id] = self._named(user_id, scope)
        except exceptions.NotFound:
            self._names[user_id] = None
        except _REFUSED:
            if self._refusal.acquire(blocking=False):
                access = self._cloud.access
                logger.warning(
                    "%s: the account %r may not read names of users,"
                    " so records have no GlobalUserName; %s",
                    *(self._cloud.host, access.account, access.grant("--system all")),
                )

    def _named(self, user_id: str, scope: Scope) -> str:
        with understood(self._cloud.host, "Keystone", passing=(exceptions.NotFound, *_REFUSED)):
            # keystoneclient would cost each run its import, for one kind of request.
            name = scope.identity.get(f"/users/{quote(user_id, safe='')}").json()["user"]["name"]
            if not isinstance(name, str):
                raise TypeError(name)
            return name


_AS_ADMINISTRATOR = (
    "use an administrator's account, or run the commands that are printed without --nodry-run"
)


class AllProjects:
    """All projects of the cloud, for changes by an administrator."""

    def __init__(self, cloud: Cloud) -> None:
        if cloud.system is None:
            raise AccessDenied(
                cloud.host,
                f"the account {cloud.access.account!r} has no role on the system, or"
                " system_scope is off",
                _AS_ADMINISTRATOR,
            )
        self._host = cloud.host
        self._system = cloud.system
        self._manager = cloud.system.keystone.projects

    def set_property(self, mapped: MappingEntry, *, name: str, value: str) -> None:
        """Set a property of the project that an entry of the mapping names."""
        self._change(mapped, lambda project: self._manager.update(project, **{name: value}))

    def add_tag(self, mapped: MappingEntry, tag: str) -> None:
        """Add a tag to the project that an entry of the mapping names."""
        self._change(mapped, lambda project: self._manager.add_tag(project, tag))

    def _change(self, mapped: MappingEntry, change: Callable[[str], object]) -> None:
        subject = f"project {mapped.project}"
        try:
            found = [one for one in self._candidates(mapped.project) if mapped.fits(one)]
            if len(found) != 1:
                cause = f"{len(found)} projects have this name"
                raise AccessDenied(subject, cause, "use the id of one of them")
            change(found[0].id)
        except exceptions.HttpError as error:
            words = f"{self._host} refuses: {error.message}"
            raise AccessDenied(subject, words, _AS_ADMINISTRATOR) from error

    def _candidates(self, wanted: str) -> list[Project]:
        try:
            return [Project.read(self._manager.get(wanted).to_dict())]
        except exceptions.NotFound:
            return [Project.read(one) for one in _listing(self._system, "/projects", name=wanted)]
