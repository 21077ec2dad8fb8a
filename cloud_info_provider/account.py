"""The account that reads the cloud, and the accounts of single VOs.

The account's options come from flags, else from a cloud of ``clouds.yaml``, else from the process's
environment, else from ``openstack.rc``, else from the description of the site. A VO's own options,
from the description or from a directory of secrets, win over all of these.
"""

from __future__ import annotations

import argparse
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from appliance.core import hosts
from appliance.core.cloud import access
from appliance.core.cloud.login import SCOPE, Access
from appliance.core.config import document, shell
from appliance.core.config.document import Document, Setting
from appliance.core.config.settings import Settings
from appliance.core.run import log, place
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from cloud_info_provider import clouds_file, vocabulary

# Section of the account's options; messages show the names of their variables.
ACCOUNT = "OS"

RC_FILE = "/etc/cloud-info-provider/openstack.rc"
# Variables of older clients, which old files still have.
_OLD_NAMES = {
    "OS_AUTH_PLUGIN": "auth_type",
    "OS_ENDPOINT_TYPE": "interface",
    "NOVA_USERNAME": "username",
    "NOVA_PASSWORD": "password",
    "NOVA_PROJECT_ID": "project_name",
    "NOVA_URL": "auth_url",
    "NOVACLIENT_INSECURE": "insecure",
}
OF_EACH_VO = "oidcvorefresh"
"""The value of ``--auth-refresher`` for a refresh token of each VO; the other has one for all."""
_SECRET_LIMIT = 8192
_DEFAULTS_OF_CATCH_ALL = {"identity_provider": "egi.eu", "protocol": "openid"}
"""What EGI's catch-all adds to the description of a site."""


@dataclass(frozen=True, slots=True)
class TokenRefresh:
    """How an access token is got from an issuer, with a refresh token."""

    endpoint: str
    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)
    scopes: str
    places: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Where options are set, for messages."""


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """An account. With ``refresh``, its access token is still to be got from the issuer."""

    access: Access
    refresh: TokenRefresh | None = None


@dataclass(slots=True)
class AccountFiles:
    """The account's options as read, and what is wrong with the files."""

    options: Document
    variables: Mapping[str, Setting]
    problems: list[Problem]


def read(
    arguments: argparse.Namespace, layout: Layout, described: Mapping[str, Setting]
) -> AccountFiles:
    """Return the options of the account; ``described`` are those of the site's description."""
    path = Path(arguments.rc_file) if arguments.rc_file else layout.path(RC_FILE)
    problems: list[Problem] = []
    variables: Mapping[str, Setting] = {}
    cloud = arguments.os_cloud or os.environ.get("OS_CLOUD", "")
    is_elsewhere = "OS_AUTH_URL" in os.environ or arguments.os_auth_url or described or cloud
    if arguments.rc_file or document.may_exist(path) or not is_elsewhere:
        try:
            variables = shell.parse(path, document.read_text(path)).sections.get(shell.SECTION, {})
        except ConfigurationError as error:
            problems += error.problems
    account = Document(paths=[path])
    account.sections[ACCOUNT] = dict(described)
    _add_variables(account, variables)
    if cloud:
        try:
            account.sections[ACCOUNT] |= clouds_file.read(cloud, layout)
        except ConfigurationError as error:
            problems += error.problems
    for option in vocabulary.ACCOUNT_FLAGS:
        if value := getattr(arguments, f"os_{option}"):
            flag = Path(f"command line: --os-{option.replace('_', '-')}")
            account.set(ACCOUNT, option.replace("tenant", "project"), Setting(value, flag, 0))
    _replace_old_values(account)
    if described:
        _complete(account.sections[ACCOUNT], next(iter(described.values())).path)
    return AccountFiles(account, variables, problems)


def _complete(options: dict[str, Setting], path: Path) -> None:
    """Add the defaults that EGI's catch-all has for a description of its form."""
    for name, text in _DEFAULTS_OF_CATCH_ALL.items():
        options.setdefault(name, Setting(text, path, 0))
    names = ("auth", "auth_type", "username", "user_id", "password", "token", "trust_id")
    has_account = any(name in options for name in names)
    if not has_account and _usual_type(options, None) == "v3password":
        options["auth_type"] = Setting("v3oidcaccesstoken", path, 0)


def _add_variables(account: Document, variables: Mapping[str, Setting]) -> None:
    """Add the options that variables set: those of the file, then those of the environment."""
    environment = {
        name: Setting(text, Path(f"environment variable {name}"), 0)
        for name, text in os.environ.items()
    }
    for source in (variables, environment):
        # old names first, so that OS_… replaces them
        for name in sorted(source, key=lambda name: name.startswith("OS_")):
            own = name.removeprefix("OS_").lower() if name.startswith("OS_") else ""
            option = _OLD_NAMES.get(name) or own
            if option and source[name].text:
                account.set(ACCOUNT, option.replace("tenant", "project"), source[name])


def _replace_old_values(account: Document) -> None:
    """Replace Keystone's version 2, which was removed in 2018, and old names of interfaces."""
    entry = account.get(ACCOUNT, "auth_url")
    if entry and (url := entry.text.rstrip("/")).endswith("/v2.0"):
        newer = f"{url.removesuffix('/v2.0')}/v3"
        account.set(ACCOUNT, "auth_url", Setting(newer, entry.path, entry.line))
    kind = account.get(ACCOUNT, "interface")
    if kind and kind.text.endswith("URL"):  # publicURL
        newer = kind.text.removesuffix("URL")
        account.set(ACCOUNT, "interface", Setting(newer, kind.path, kind.line))


def login(
    keystone: Settings,
    read: Document,
    section: str,
    arguments: argparse.Namespace,
    *,
    is_refreshed: bool = True,
) -> LoginSettings:
    """Return the account whose options a section holds; errors are left in ``keystone``.

    ``is_refreshed`` allows that its access token is got with a refresh token.
    """
    given = read.sections[section]
    refresh = _refresh(keystone, read, section, arguments) if is_refreshed else None
    auth_type = keystone.text(
        section, "auth_type", default=_usual_type(given, refresh), aliases=[(section, "auth")]
    )
    options = access.read_options(keystone, section, auth_type, defaults=_defaults(given, refresh))
    url = access.read_url(keystone, section)
    access.warn_of_open_files(keystone, read, section, auth_type)
    insecure = arguments.insecure or keystone.boolean(section, "insecure", default=False)
    if insecure:
        remedy = place.trust_remedy("set OS_CACERT instead")
        keystone.warn(
            section, "insecure", f"anybody on the network may read the password; {remedy}"
        )
    ca_file = keystone.file(section, "cacert")
    certificate, key = keystone.file(section, "cert"), keystone.file(section, "key")
    # a certificate alone is the path of one file that holds its key, too
    pair = (str(certificate), str(key)) if certificate and key else None
    region = keystone.text(section, "region_name", aliases=[(section, "region")])
    places = access.read_places(keystone, section, auth_type)
    if found := keystone.where(section, "region_name", aliases=[(section, "region")]):
        places["region_name"] = f"{found.path}:{found.line}" if found.line else str(found.path)
    account = Access(
        auth_type=auth_type,
        auth_url=url,
        options={**options, "auth_url": url},
        region=region or None,
        verify=not insecure and (str(ca_file) if ca_file else True),
        certificate=pair or (str(certificate) if certificate else None),
        timeout=timedelta(seconds=arguments.timeout),
        uses_system_scope=False,
        project_domain_id=keystone.text(section, "project_domain_id"),
        project_domain_name=keystone.text(section, "project_domain_name"),
        interface=keystone.choice(
            section, "interface", default="public", allowed=("public", "internal")
        ),
        section=str(read.paths[-1]),
        places=places,
        authorities=_authorities(keystone, section),
    )
    return LoginSettings(account, refresh)


def _authorities(keystone: Settings, section: str) -> str:
    """Return the option that names the file of trusted authorities, and where it is set."""
    named = "OS_CACERT" if section == ACCOUNT else f"{section}.cacert"
    entry = keystone.where(section, "cacert")
    if entry is None:
        return named
    return f"{named} ({entry.path}:{entry.line})" if entry.line else f"{named} ({entry.path})"


def _usual_type(given: Mapping[str, Setting], refresh: TokenRefresh | None) -> str:
    """Return the plugin of options that name none."""
    if "application_credential_id" in given or "application_credential_name" in given:
        return "v3applicationcredential"
    return "v3oidcaccesstoken" if refresh or "access_token" in given else "v3password"


def _defaults(given: Mapping[str, Setting], refresh: TokenRefresh | None) -> dict[str, str]:
    # A user's name needs its domain, which old files leave out; an id is unique without one.
    has_domain = "user_id" in given or any(
        name.startswith(("user_domain_", "default_domain_")) for name in given
    )
    found = {} if has_domain else {"user_domain_id": "default"}
    if refresh:
        # Its place is taken by the issuer's token. Random, since options like this are masked.
        found["access_token"] = uuid.uuid4().hex
    return found


# --------------------------------------------------------------------------------------------------
# accounts of single VOs


def own_options(
    vo: str, described: Mapping[str, Setting], arguments: argparse.Namespace
) -> Mapping[str, Setting]:
    """Return the options of a VO's own account; empty if it has none.

    Raises:
        ConfigurationError: a file of its directory cannot be used.

    """
    own = {name: entry for name, entry in described.items() if name not in _SCOPE_OF_SHARE}
    return {**own, **_secrets(vo, arguments.oidc_credentials_path)}


_SCOPE_OF_SHARE = SCOPE | {"region_name", "region"}
"""Options of a VO that choose the project, and no other account."""


def _secrets(vo: str, directory: str | None) -> Mapping[str, Setting]:
    """Return the options that the files of a VO's directory hold, by the names of the files."""
    path = Path(directory or "") / vo
    if not directory:
        return {}
    problems: list[Problem] = []
    found = {}
    try:
        names = sorted(one for one in os.listdir(path) if not one.startswith("."))
    except FileNotFoundError:
        if Path(directory).is_dir():
            return {}
        words = "does not exist; correct --oidc-credentials-path"
        raise ConfigurationError([Problem(Path(directory), 0, "", words)]) from None
    except OSError as error:
        raise ConfigurationError([_unreadable(path, error)]) from error
    for name in names:
        try:
            text = document.read_text(path / name).strip()
        except ConfigurationError as error:
            problems += error.problems
            continue
        if len(text) > _SECRET_LIMIT or "\n" in text:
            problems.append(Problem(path / name, 0, "", "must hold one line, the value"))
        elif text:
            log.hide(text)
            found[name] = Setting(text, path / name, 1)
    if problems:
        raise ConfigurationError(problems)
    return found


def _unreadable(path: Path, error: OSError) -> Problem:
    return Problem(path, 0, "", f"cannot be read: {(error.strerror or str(error)).lower()}")


def merged(base: Document, section: str, own: Mapping[str, Setting], path: Path) -> Document:
    """Return a document with the options of the account below a VO's own ones."""
    made = Document(paths=[path])
    # The account's secret is of no use to another plugin, and may be refused beside its options.
    inherited = dict(base.sections[ACCOUNT])
    if "auth_type" not in own and _usual_type(own, None) != "v3password":
        inherited.pop("auth_type", None)
    made.sections[section] = {**inherited, **own}
    return made


# --------------------------------------------------------------------------------------------------
# refresh tokens


def _refresh(
    keystone: Settings, read: Document, section: str, arguments: argparse.Namespace
) -> TokenRefresh | None:
    """Return how the account's access token is got; None if it is not by a refresh token."""
    chosen = arguments.auth_refresher
    if not chosen:
        return None
    is_of_vo = chosen == OF_EACH_VO
    if is_of_vo and section == ACCOUNT:
        return None
    found = read.sections[section]
    values, places = {}, {}
    for name in ("token_endpoint", "client_id", "client_secret", "refresh_token", "scopes"):
        flag = f"--oidc-{name.replace('_', '-')}"
        entry = found.get(name) if is_of_vo else None
        values[name] = entry.text if entry else getattr(arguments, f"oidc_{name}") or ""
        places[name] = str(entry.path) if entry else flag
        keystone.accept(section, [name])
        is_secret = name in ("client_secret", "refresh_token")
        if is_secret:
            log.hide(values[name])
            access.warn_of_open_file(keystone, section, name, entry)
        if not values[name] and name in ("token_endpoint", "client_id", "refresh_token"):
            where = f"{arguments.oidc_credentials_path}/VO/{name}" if is_of_vo else flag
            keystone.error(section, name, f"must be set for --auth-refresher {chosen}: {where}")
    url = values["token_endpoint"]
    if url and (fault := hosts.url_fault(url)):
        keystone.error(section, "token_endpoint", f"{fault}; correct --oidc-token-endpoint")
    return TokenRefresh(
        url,
        values["client_id"],
        values["client_secret"],
        values["refresh_token"],
        values["scopes"],
        places,
    )


def with_token(account: LoginSettings, token: str) -> Access:
    """Return the account with an access token from the issuer."""
    log.hide(token)
    return replace(account.access, options={**account.access.options, "access_token": token})
