"""How an account proves itself to Keystone: keystoneauth's plugins, without their scope.

A plugin is made anew for each scope (none, the system, one project), so the scope that a
configuration file may name is left out: cASO 5 passed both and Keystone refused "multiple targets".
Application credentials and trusts carry their scope in themselves and are never asked for another.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from typing import TYPE_CHECKING

from appliance.core.suggestion import did_you_mean

if TYPE_CHECKING:
    from keystoneauth1.identity import BaseIdentityPlugin
    from keystoneauth1.loading import Opt

SCOPE = frozenset(
    {
        *("system_scope", "domain_id", "domain_name", "tenant_id", "tenant_name"),
        *("project_id", "project_name", "project_domain_id", "project_domain_name"),
    }
)
"""Options of plugins that say which scope to ask for; `Cloud` decides that."""

_PASSWORDS = frozenset({"v3password", "password"})
"""Plugins whose secret costs Keystone 0.3 s of CPU time to check (bcrypt), a token nothing."""
_USUAL = "v3password, v3applicationcredential"
_NEEDED = frozenset({"password", "token", "passcode"})
"""Options without which no plugin that has them can work; keystoneauth does not mark them all."""


@dataclass(frozen=True, slots=True)
class PluginOption:
    """An option of a plugin, by the name that configuration files use."""

    name: str
    aliases: tuple[str, ...]
    is_required: bool
    is_secret: bool


@dataclass(frozen=True, slots=True)
class Access:
    """An account and how to reach its cloud. ``options`` are the plugin's, without those of `SCOPE`."""

    auth_type: str
    auth_url: str
    options: Mapping[str, str] = field(repr=False)
    region: str | None = None
    verify: bool | str = True
    """True: the system's certificate authorities; a path: those of that file; False: trust anything."""
    certificate: str | tuple[str, str] | None = None
    timeout: timedelta = timedelta(seconds=60)
    """How long the cloud may be silent before a request counts as failed."""
    uses_system_scope: bool = True
    project_domain_id: str = ""
    """The domain meant where projects of several domains have one name; or ``project_domain_name``."""
    project_domain_name: str = ""
    interface: str = "public"
    """Which of the catalog's endpoints to talk to: public or internal."""
    section: str = "keystone_auth"
    """Where the administrator has written all this."""
    role: str = "reader"
    """The least role in a project that serves the purpose."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where options are set, ``FILE:LINE``."""

    @property
    def is_bound(self) -> bool:
        """Check whether the credential itself decides which project it is for."""
        return self.is_application_credential or bool(self.options.get("trust_id"))

    @property
    def is_application_credential(self) -> bool:
        """Check whether the account is an application credential of a user."""
        return "applicationcredential" in self.auth_type

    @property
    def is_federated(self) -> bool:
        """Check whether somebody else than Keystone knows the account."""
        return bool(self.options.get("identity_provider"))

    @property
    def must_log_in_once(self) -> bool:
        """Check whether a second login is costly or fails, see `appliance.core.cloud.tokens`."""
        return (self.is_federated or "passcode" in self.options) and not self.is_bound

    @property
    def is_rescoped(self) -> bool:
        """Check whether tokens of projects are made from a login, if there was one."""
        is_password = self.auth_type in _PASSWORDS and not self.is_bound
        return is_password or self.must_log_in_once

    @property
    def account(self) -> str:
        """Return the account as an administrator knows it."""
        names = ("application_credential_name", "application_credential_id")
        for name in (*names, "username", "user_id", "client_id"):
            if value := self.options.get(name):
                return value
        return self.auth_type

    def place(self, option: str) -> str:
        """Return an option's name and where it is set, as far as that is known."""
        where = self.places.get(option)
        return f"{option} ({where})" if where else f"{option} in [{self.section}]"

    def renewal(self) -> str:
        """Return the command that makes another application credential."""
        named = "application_credential_name"
        if "application_credential_id" in self.options:
            named = "application_credential_id"
        return (
            f"make a new one as its user: openstack application credential create --role {self.role}"
            f" NAME; write its id and secret in place of {self.place(named)}"
        )

    def grant(self, where: str, role: str = "") -> str:
        """Return how an administrator gives the account a role, ``where`` being ``--project P``."""
        if self.is_federated and "trust_id" not in self.options:
            provider = self.options["identity_provider"]
            command = f"openstack role add --group GROUP {where} {role or self.role}"
            return f"{command}, with the group that the mapping of {provider} puts this account in"
        if self.is_application_credential:
            return self._grant_to_owner(where, role)
        domain = self.options.get("user_domain_id") or self.options.get("user_domain_name")
        user = f"--user {self.account}" + (f" --user-domain {domain}" if domain else "")
        return f"openstack role add {user} {where} {role or self.role}"

    def _grant_to_owner(self, where: str, role: str) -> str:
        """Return what helps an application credential, whose roles in its one project are fixed."""
        if where.startswith("--system"):
            return "an application credential has no role on the system: use a user and password"
        owner = self.options.get("username") or self.options.get("user_id") or "OWNER"
        command = f"openstack role add --user {owner} {where} {role or self.role}"
        return f"give its user the role ({command}), then {self.renewal()}"


def options(auth_type: str) -> tuple[PluginOption, ...]:
    """Return the options of a plugin by its name; `LookupError` says in words why there are none."""
    from keystoneauth1 import loading  # noqa: PLC0415  a heavy client, imported when used
    from keystoneauth1.exceptions import NoMatchingPlugin  # noqa: PLC0415

    # it tells of every plugin that lacks a library
    logging.getLogger("stevedore").setLevel(logging.CRITICAL)
    try:
        loader: loading.BaseLoader[BaseIdentityPlugin] = loading.get_plugin_loader(auth_type)
        found, is_identity, is_complete = (
            loader.get_options(),
            _is_identity(loader.plugin_class),
            loader.available,
        )
    except NoMatchingPlugin:
        known = sorted(metadata.entry_points(group=loading.PLUGIN_NAMESPACE).names)
        hint = did_you_mean(auth_type, known, otherwise=f"write one like {_USUAL}")
        raise LookupError(f"{auth_type!r} is not a plugin; {hint}") from None
    except (
        ImportError,
        AttributeError,
    ):  # so some plugins of keystoneauth tell of a library that is missing
        is_complete = False
    if not is_complete:
        raise LookupError(
            f"{auth_type!r} needs a library that is not installed here; write one like {_USUAL}"
        )
    if not is_identity:
        raise LookupError(f"{auth_type!r} does not log in to Keystone v3; write one like {_USUAL}")
    return tuple(
        PluginOption(
            option.dest,
            _other_names(option),
            option.required or option.dest in _NEEDED,
            option.secret,
        )
        for option in found
    )


def _other_names(option: Opt) -> tuple[str, ...]:
    """Return the older names, and the one that other tools write where a plugin keeps another."""
    usual = option.name.replace("-", "_")
    older = tuple(old.dest for old in option.deprecated)
    return older if usual == option.dest else (usual, *older)


def _is_identity(kind: type) -> bool:
    """Say whether a class of plugins gets tokens from Keystone v3: not those for fixed tokens, for none, and for v2."""
    from keystoneauth1.identity import BaseIdentityPlugin, v2  # noqa: PLC0415  a heavy client, imported when used

    return issubclass(kind, BaseIdentityPlugin) and kind.__module__ != v2.__name__


def complaint(auth_type: str, given: Mapping[str, str]) -> str:
    """Return what the plugin itself says against these options, empty when it takes them."""
    from keystoneauth1.exceptions import ClientException  # noqa: PLC0415  a heavy client, imported when used

    try:
        plugin(auth_type, given)
    except TypeError as error:  # what keystoneauth does not check beforehand is missing in a call
        missing = ", ".join(re.findall(r"'(\w+)'", str(error)))
        return f"{missing} must be set" if missing else str(error)
    except (ClientException, ValueError) as error:
        return str(error)
    return ""


def plugin(
    auth_type: str, given: Mapping[str, str], *, project_id: str | None = None, system: bool = False
) -> BaseIdentityPlugin:
    """Return a plugin for the scope of one project, of the system, or none."""
    from keystoneauth1 import loading  # noqa: PLC0415  a heavy client, imported when used

    loader: loading.BaseLoader[BaseIdentityPlugin] = loading.get_plugin_loader(auth_type)
    values: dict[str, str | None] = dict.fromkeys(
        (option.dest for option in loader.get_options()), None
    )
    values.update({name: value for name, value in given.items() if name in values})
    if project_id is not None:
        values["project_id"] = project_id
    if system:
        values["system_scope"] = "all"
    return loader.load_from_options(**{k: v for k, v in values.items() if v is not None})
