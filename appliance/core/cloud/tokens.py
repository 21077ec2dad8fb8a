"""One login for each run, and a token for each scope, made from the login if logins are costly.

Federated logins ask three parties in turn, and a passcode works once. So these log in once, without
a scope, and the token of each project is rescoped from that login (Keystone's method ``token``). A
password costs Keystone CPU time, so it is rescoped too: from the login that listed the projects, or
from the token of the first project. Application credentials and trusts have a scope of their own;
the other plugins log in to each scope. See docs/adr/0023-one-login-a-run.md.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from keystoneauth1 import exceptions
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.identity.v3 import Auth, Token

from appliance.core import clock, hosts
from appliance.core.cloud import expiry, hops, login
from appliance.core.cloud.hops import LoginFailure, LoginUnavailable
from appliance.core.cloud.locks import Locks
from appliance.core.cloud.login import Access
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, ApplianceError, Unavailable

if TYPE_CHECKING:
    from keystoneauth1.access import AccessInfo

    from appliance.core.cloud.transport import Transport

logger = logging.getLogger(__name__)

_PAGE_TIME = timedelta(seconds=10)
"""A large page of a listing may take this long; a token that ends earlier is useless."""
_REMEMBERED = 60.0
"""Seconds before a failed login is tried again."""
_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError, AssertionError)
"""Exceptions of keystoneauth for unexpected answers."""


class Tokens:
    """The tokens of an account in a cloud; each is requested once for all threads."""

    def __init__(self, access: Access, transport: Transport) -> None:
        self._access = access
        self.transport = transport
        self._locks = Locks()
        self._login: _Login | None = None
        self._first: _Direct | None = None
        """The scope of the first project, if the run has not logged in without a scope."""
        self._outage: tuple[float, Unavailable] | None = None
        """When Keystone did not answer the first login, and the error."""
        self._system: BaseIdentityPlugin | None = None
        self._is_system_known = False
        self._projects: dict[str, BaseIdentityPlugin] = {}

    def unscoped(self) -> BaseIdentityPlugin:
        """Return the login without a scope, or with the scope of its credential.

        Raises:
            LoginFailure: a hop of the login failed.

        """
        with self._locks.of("the login"):
            if self._login is None:
                self._login = _Login(self._access)
            is_new = self._login.auth_ref is None
            self._login.get_access(self.transport)
            if is_new and self._access.is_application_credential:
                expiry.warn(self._login, self._access, self.transport)
        return self._login

    def system(self) -> BaseIdentityPlugin | None:
        """Return the scope of the system; None if the account has no role in it."""
        with self._locks.of("the system"):
            if not self._is_system_known:
                plugin = self._scoped(is_system=True)
                try:
                    plugin.get_access(self.transport)
                except LoginFailure:
                    raise
                except exceptions.ClientException as error:
                    logger.debug("no system scope: %s", error)
                except Unavailable as error:
                    if not self._access.is_federated:
                        raise
                    # Keystone 30 answers 500 if a federated token is rescoped to the system.
                    logger.debug("no system scope for a federated account: %s", error)
                except _NOT_UNDERSTOOD as error:
                    raise self._no_keystone() from error
                else:
                    self._system = plugin
                self._is_system_known = True
            return self._system

    def project(self, project_id: str) -> BaseIdentityPlugin:
        """Return the scope of a project.

        Raises:
            LoginFailure: the account cannot log in at all.
            AccessDenied: the account has no role in the project.

        """
        with self._locks.of(project_id):  # one token for each project, several at a time
            if project_id not in self._projects:
                self._projects[project_id] = self._project(project_id)
            return self._projects[project_id]

    def _project(self, project_id: str) -> BaseIdentityPlugin:
        access, host = self._access, hosts.of_url(self._access.auth_url)
        if access.is_bound:
            plugin = self.unscoped()
            bound_to = plugin.get_access(self.transport).project_id
            if project_id != bound_to:
                raise AccessDenied(
                    f"project {project_id}",
                    f"the credential {access.account!r} belongs to project {bound_to}",
                    "use a credential of this project, or a user and password",
                )
            return plugin
        try:
            return self._first_login(project_id) or self._later(project_id)
        except (exceptions.Unauthorized, exceptions.Forbidden) as error:
            self._check_login(error)
            raise AccessDenied(
                f"project {project_id}",
                f"{host} gives the account {access.account!r} no token for it",
                access.grant(f"--project {project_id}"),
            ) from error
        except exceptions.ClientException as error:
            words = f"no token for project {project_id}: {error}"
            raise Unavailable(host, words, CHECK_LOGS) from error
        except _NOT_UNDERSTOOD as error:
            raise self._no_keystone() from error

    def _first_login(self, project_id: str) -> BaseIdentityPlugin | None:
        """Log in to the first project of a run; None if there was a login before."""
        if not self._access.is_rescoped or self._access.must_log_in_once:
            return None
        with self._locks.of("the first login"):
            if self._login is not None or self._first is not None:
                return None
            if self._outage and time.monotonic() - self._outage[0] < _REMEMBERED:
                raise self._outage[1]
            plugin = _Direct(self._access, project_id, is_system=False)
            try:
                plugin.get_access(self.transport)
            except exceptions.Unauthorized as error:
                # Before another thread tries the same password: attempts lock accounts.
                self._check_login(error)
                raise
            except Unavailable as error:
                self._outage = time.monotonic(), error
                raise
            self._first = plugin
            return plugin

    def _later(self, project_id: str) -> BaseIdentityPlugin:
        plugin = self._scoped(project_id=project_id)
        plugin.get_access(self.transport)
        return plugin

    def _no_keystone(self) -> Unavailable:
        remedy = f"check {self._access.place('auth_url')}; it ends in /v3"
        return Unavailable(
            hosts.of_url(self._access.auth_url), "answers, but is not a Keystone", remedy
        )

    def _check_login(self, error: Exception) -> None:
        """Log in without a scope: a wrong password looks like a missing role in a project."""
        if isinstance(error, exceptions.Unauthorized):
            self.unscoped()

    def _scoped(
        self, project_id: str | None = None, *, is_system: bool = False
    ) -> BaseIdentityPlugin:
        if self._access.must_log_in_once:
            self.unscoped()
        if self._login is not None:
            self._login.raise_failure()
        if self._access.is_rescoped and (source := self._login or self._first):
            return _Rescoped(source, project_id, is_system=is_system)
        return _Direct(self._access, project_id, is_system=is_system)


class _Plugin(BaseIdentityPlugin):
    """A plugin around one of keystoneauth; its lock makes one request for all threads."""

    def __init__(self, access: Access) -> None:
        super().__init__(auth_url=access.auth_url)
        self.access = access

    def replace(self, dead: str | None, session: Transport) -> str | None:
        """Return another token than ``dead``; the threads that find it dead share one login."""
        with self._lock:
            if self.auth_ref is not None and self.auth_ref.auth_token == dead:
                self.auth_ref = None
        return self.get_token(session)


class _Direct(_Plugin):
    """A plugin that logs in to one scope."""

    def __init__(self, access: Access, project_id: str | None, *, is_system: bool) -> None:
        super().__init__(access)
        self._inner = login.plugin(
            access.auth_type, access.options, project_id=project_id, system=is_system
        )

    def get_auth_ref(self, session: Transport) -> AccessInfo:  # type: ignore[override]
        sent = clock.now()
        found = self._inner.get_auth_ref(session)
        _settle(self, found, session, sent=sent)
        return found


class _Login(_Plugin):
    """The login of a run. The threads that wait for it share its failure, for some time."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self._inner = login.plugin(access.auth_type, access.options)
        if access.is_rescoped and isinstance(self._inner, Auth):
            self._inner.unscoped = True  # else Keystone chooses the user's default project
        self._failure: LoginFailure | None = None
        self._failed = 0.0

    def raise_failure(self) -> None:
        """Raise the failure of the last login, if it is recent."""
        if self._failure is not None and time.monotonic() - self._failed < _REMEMBERED:
            raise self._failure

    def get_auth_ref(self, session: Transport) -> AccessInfo:  # type: ignore[override]
        self.raise_failure()
        self._inner.invalidate()  # some plugins keep a token of their own
        sent = clock.now()
        with hops.trail() as steps:
            try:
                found = self._inner.get_auth_ref(session)
                _settle(self, found, session, sent=sent)
            except (ApplianceError, exceptions.ClientException, *_NOT_UNDERSTOOD) as error:
                self._failed = time.monotonic()
                self._failure = hops.explain(self.access, steps, error)
                raise self._failure from error
        self._failure = None
        return found


class _Rescoped(_Plugin):
    """A plugin that makes the token of a scope from the one of the login, or of another scope."""

    def __init__(self, of: _Plugin, project_id: str | None, *, is_system: bool) -> None:
        super().__init__(of.access)
        self._login = of
        self._project_id = project_id
        self._system = "all" if is_system else None

    def get_auth_ref(self, session: Transport) -> AccessInfo:  # type: ignore[override]
        token = self._login.get_token(session)
        try:
            found = self._rescope(token, session)
        except exceptions.Unauthorized:
            if _is_alive(token, self.access, session):
                raise  # the token is valid, so Keystone refuses the scope
            found = self._rescope(self._login.replace(token, session), session)
        except exceptions.Forbidden:
            if self.access.is_federated:
                raise
            found = self._log_in(session)
        self.MIN_TOKEN_LIFE_SECONDS = self._login.MIN_TOKEN_LIFE_SECONDS
        return found

    def _log_in(self, session: Transport) -> AccessInfo:
        """Log in to this scope, because Keystone refuses to rescope the token of a project.

        This happens with ``[token] allow_rescope_scoped_token = false`` and the plugin
        ``password``, which cannot request a token without a scope.
        """
        plugin = login.plugin(
            self.access.auth_type,
            self.access.options,
            project_id=self._project_id,
            system=self._system is not None,
        )
        return plugin.get_auth_ref(session)

    def _rescope(self, token: str | None, session: Transport) -> AccessInfo:
        plugin = Token(
            self.access.auth_url,
            token or "",
            project_id=self._project_id,
            system_scope=self._system,
        )
        return plugin.get_auth_ref(session)


def _is_alive(token: str | None, access: Access, session: Transport) -> bool:
    """Ask Keystone whether a token of ours is still valid."""
    headers = {"X-Auth-Token": token or "", "X-Subject-Token": token or ""}
    url = f"{access.auth_url}/auth/tokens?nocatalog"
    return bool(session.get(url, headers=headers, authenticated=False, raise_exc=False).ok)


def _settle(
    plugin: BaseIdentityPlugin, found: AccessInfo, session: Transport, *, sent: datetime
) -> None:
    """Set when a token is renewed: two minutes before its end, or at half its life if shorter.

    ``sent`` is the time at which the token was requested.

    Raises:
        LoginUnavailable: the token is too short-lived for one page of a listing.

    """
    try:
        issued, expires = found.issued, found.expires
    except (KeyError, ValueError):
        return
    if issued is None or expires is None:
        return
    session.note_token(issued, sent=sent)
    life, usual = expires - issued, timedelta(seconds=BaseIdentityPlugin.MIN_TOKEN_LIFE_SECONDS)
    subject, seconds = hosts.of_url(plugin.auth_url or ""), int(life.total_seconds())
    if life < _PAGE_TIME:
        raise LoginUnavailable(
            subject,
            f"gives tokens that live {seconds} s, too short for one page of a listing",
            f"raise their lifetime to an hour, at least to {_PAGE_TIME.seconds} s: [token]"
            " expiration in keystone.conf, or the lifetime of the issuer's access tokens",
        )
    if life < 2 * usual:
        session.warn_once(
            f"{subject}: gives tokens that live {seconds} s, so the account logs in again and"
            " again; set [token] expiration in keystone.conf, or the issuer's lifetime, to an hour"
        )
    # keystoneauth compares with our clock, but the times come from Keystone's.
    offset = session.keystone_offset or timedelta(0)
    plugin.MIN_TOKEN_LIFE_SECONDS = int((min(usual, life / 2) + offset).total_seconds())
