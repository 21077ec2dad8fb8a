"""Logins to Keystone: keystoneauth's plugins, without the scope of the configuration file.

Each scope (none, the system, one project) gets a plugin of its own, so the scope in a configuration
file is left out: cASO 5 passed both, and Keystone refused "multiple targets". Application
credentials and trusts have a scope of their own and are never used for another one.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
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
"""Options of plugins that choose the scope, which `Cloud` does here."""

_PASSWORDS = frozenset({"v3password", "password"})
"""Plugins whose secret takes Keystone 0.3 s of CPU time to check (bcrypt)."""
_USUAL = "v3password, v3applicationcredential"
_BY_HAND = {
    "v3multifactor": "needs a person who enters a code",
    "v3websso": "needs a person with a browser",
}
"""Plugins that no program can use by itself."""
_NEEDED = frozenset({"password", "token", "passcode"})
"""Options that a plugin needs if it has them; keystoneauth does not mark all of them."""


@dataclass(frozen=True, slots=True)
class PluginOption:
    """An option of a plugin, under its name in configuration files."""

    name: str
    aliases: tuple[str, ...]
    is_required: bool
    is_secret: bool


@dataclass(frozen=True, slots=True)
class Access:
    """An account and its cloud. ``options`` are those of the plugin, without those of `SCOPE`."""

    auth_type: str
    auth_url: str
    options: Mapping[str, str] = field(repr=False)
    region: str | None = None
    verify: bool | str = True
    """True: the system's authorities; a path: those of that file; False: any certificate."""
    certificate: str | tuple[str, str] | None = None
    timeout: timedelta = timedelta(seconds=60)
    """The longest wait for the next byte of an answer."""
    attempts: int = 0
    """Attempts of a request to a service that is busy or out of reach; 0 for the usual number."""
    uses_system_scope: bool = True
    project_domain_id: str = ""
    """The domain to choose if projects in several domains have one name; or its name, below."""
    project_domain_name: str = ""
    interface: str = "public"
    """The endpoints of the catalog to use: public or internal."""
    section: str = "keystone_auth"
    """The section of the configuration file, for messages."""
    role: str = "reader"
    """The lowest role in a project that suffices."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where options are set, ``FILE:LINE``, for messages."""
    authorities: str = ""
    """The option that names the file of trusted authorities; empty for ``cafile``."""

    @property
    def is_bound(self) -> bool:
        """Check whether the credential is bound to one project."""
        return self.is_application_credential or bool(self.options.get("trust_id"))

    @property
    def is_application_credential(self) -> bool:
        """Check whether the account is an application credential of a user."""
        return "applicationcredential" in self.auth_type

    @property
    def is_federated(self) -> bool:
        """Check whether an identity provider other than Keystone has the account."""
        return bool(self.options.get("identity_provider"))

    @property
    def must_log_in_once(self) -> bool:
        """Check whether a second login is costly or fails, see `appliance.core.cloud.tokens`."""
        return (self.is_federated or "passcode" in self.options) and not self.is_bound

    @property
    def is_rescoped(self) -> bool:
        """Check whether tokens of projects are made from an earlier login."""
        is_password = self.auth_type in _PASSWORDS and not self.is_bound
        return is_password or self.must_log_in_once

    @property
    def account(self) -> str:
        """Return the name of the account, for messages."""
        names = ("application_credential_name", "application_credential_id")
        for name in (*names, "username", "user_id", "client_id"):
            if value := self.options.get(name):
                return value
        return self.auth_type

    @property
    def trust_option(self) -> str:
        """Return the option that names the file of trusted authorities, for messages."""
        return self.authorities or f"cafile in [{self.section}]"

    def place(self, option: str) -> str:
        """Return an option's name and where it is set, for messages."""
        where = self.places.get(option)
        return f"{option} ({where})" if where else f"{option} in [{self.section}]"

    def renewal(self) -> str:
        """Return the remedy that replaces an application credential."""
        named = "application_credential_name"
        if "application_credential_id" in self.options:
            named = "application_credential_id"
        return (
            "make a new one as its user: openstack application credential create --role"
            f" {self.role} NAME; write its id and secret in place of {self.place(named)}"
        )

    def grant(self, where: str, role: str = "") -> str:
        """Return the command that gives the account a role; ``where`` is like ``--project P``."""
        if self.is_federated and "trust_id" not in self.options:
            provider = self.options["identity_provider"]
            command = f"openstack role add --group GROUP {where} {role or self.role}"
            return f"{command}, with the group that the mapping of {provider} puts this account in"
        if self.is_application_credential:
            return self._grant_to_owner(where, role)
        domain = self.options.get("user_domain_id") or self.options.get("user_domain_name")
        user = f"--user {shlex.quote(self.account)}"
        user += f" --user-domain {shlex.quote(domain)}" if domain else ""
        return f"openstack role add {user} {where} {role or self.role}"

    def _grant_to_owner(self, where: str, role: str) -> str:
        """Return the remedy for an application credential, whose roles cannot change."""
        if where.startswith("--system"):
            return "an application credential has no role on the system: use a user and password"
        owner = self.options.get("username") or self.options.get("user_id") or "OWNER"
        command = f"openstack role add --user {shlex.quote(owner)} {where} {role or self.role}"
        return f"give its user the role ({command}), then {self.renewal()}"


def options(auth_type: str) -> tuple[PluginOption, ...]:
    """Return the options of a plugin.

    Raises:
        LookupError: no plugin of this name can log in; the message says why.

    """
    from importlib import metadata  # noqa: PLC0415  start-up is a cost

    from keystoneauth1 import loading  # noqa: PLC0415
    from keystoneauth1.exceptions import NoMatchingPlugin  # noqa: PLC0415

    if reason := _BY_HAND.get(auth_type):
        raise LookupError(f"{auth_type!r} {reason}; write one like {_USUAL}")
    # stevedore logs an error for each plugin that lacks a library.
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
    except (ImportError, AttributeError):  # some plugins of keystoneauth lack a library
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
    """Return the older names of an option, and the common one if the plugin has another."""
    usual = option.name.replace("-", "_")
    older = tuple(old.dest for old in option.deprecated)
    return older if usual == option.dest else (usual, *older)


def _is_identity(kind: type) -> bool:
    """Check whether a class of plugins gets tokens from Keystone v3.

    There are others for fixed tokens, for services without Keystone, and for v2.
    """
    from keystoneauth1.identity import BaseIdentityPlugin, v2  # noqa: PLC0415  start-up is a cost

    return issubclass(kind, BaseIdentityPlugin) and kind.__module__ != v2.__name__


def fault(auth_type: str, given: Mapping[str, str]) -> str:
    """Return why the plugin rejects these options; empty if it accepts them."""
    from keystoneauth1.exceptions import ClientException  # noqa: PLC0415  start-up is a cost

    try:
        plugin(auth_type, given)
    except TypeError as error:  # a missing argument, which keystoneauth does not check before
        missing = ", ".join(re.findall(r"'(\w+)'", str(error)))
        return f"{missing} must be set" if missing else str(error)
    except (ClientException, ValueError) as error:
        return str(error)
    return ""


def plugin(
    auth_type: str, given: Mapping[str, str], *, project_id: str | None = None, system: bool = False
) -> BaseIdentityPlugin:
    """Return a plugin for the scope of one project, of the system, or without scope."""
    from keystoneauth1 import loading  # noqa: PLC0415  start-up is a cost

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
