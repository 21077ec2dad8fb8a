"""The account section of a configuration file: ``[keystone_auth]``, ``[keystone_authtoken]``.

Its options are those of keystoneauth's plugin named by ``auth_type``. Options that the plugin
marks as secret are masked in logs and messages from here on. Each of them may instead be the first
line of a file, which ``OPTION_file`` names: ``password_file``, ``access_token_file``. A name
without a slash is one of systemd's credentials (``LoadCredential=``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from appliance.core import hosts
from appliance.core.cloud import login
from appliance.core.config import secret_file
from appliance.core.config.document import Document, Setting
from appliance.core.config.settings import Alias, Settings, note_endpoint
from appliance.core.run import log

_NONE: Mapping[str, str] = MappingProxyType({})
_PLACEHOLDERS = ("<None>", "<secret>", "<password>")


def read_url(settings: Settings, section: str) -> str:
    """Return Keystone's URL, which ends in its version."""
    url = settings.text(
        section,
        "auth_url",
        required="Keystone's public URL, https://HOST:5000/v3",
        placeholders=("yourkeystone",),
    ).rstrip("/")
    if url and (fault := hosts.url_fault(url)):
        # A URL with an account or a query is not quoted, because these may be secrets.
        shown = "" if set(url) & set("@?#") else f"{url!r} "
        settings.error(section, "auth_url", f"{shown}{fault}; write https://HOST:5000/v3")
    elif url.endswith("/v2.0"):
        settings.error(
            section, "auth_url", "Keystone's version 2 no longer exists; write https://HOST:5000/v3"
        )
    if entry := settings.where(section, "auth_url"):
        note_endpoint("Keystone", url, path=entry.path, line=entry.line)
    return url if url.endswith("/v3") else f"{url}/v3"


def read_options(
    settings: Settings, section: str, auth_type: str, *, defaults: Mapping[str, str] = _NONE
) -> dict[str, str]:
    """Return the options of the plugin, without URL and scope; missing ones become errors."""
    if not auth_type:
        return {}
    try:
        known = login.options(auth_type)
    except LookupError as error:
        settings.error(section, "auth_type", str(error))
        return {}
    settings.hold_account(section)
    found: dict[str, str] = {}
    is_complete = True
    for option in known:
        if option.name in login.SCOPE or option.name == "auth_url":
            continue
        aliases = [(section, alias) for alias in option.aliases]
        kept = secret_file.of_option(settings, section, option.name) if option.is_secret else None
        # Checked here, because keystoneauth's own error has neither file nor line.
        must = f"{auth_type} needs it" if option.is_required and kept is None else ""
        value = settings.text(
            section,
            option.name,
            default=defaults.get(option.name, "") if kept is None else "",
            aliases=aliases,
            required=must,
            placeholders=_PLACEHOLDERS,
        )
        if kept is not None:
            if value:
                words = f"{option.name} is set as well; remove one of the two"
                settings.error(section, option.name + secret_file.SUFFIX, words)
            is_complete &= bool(kept)  # an unreadable file is an error already
            value = kept
        is_complete &= bool(value) or not must
        if value:
            found[option.name] = value
        if option.is_secret:
            log.hide(value)
    _check_plugin(settings, section, auth_type, found, is_complete=is_complete)
    return found


def read_places(
    settings: Settings, section: str, auth_type: str, *, others: Iterable[Alias] = ()
) -> dict[str, str]:
    """Return where options are set, ``FILE:LINE``, for messages about failures of the cloud.

    They are those of the plugin, its name, and ``others``, each in a section of its own.
    """
    found: dict[str, str] = {}
    for group, name in ((section, "auth_type"), *others):
        if (where := settings.where(group, name)) and where.line:
            found[name] = f"{where.path}:{where.line}"
    for option in _known_options(auth_type):
        aliases = [(section, alias) for alias in option.aliases]
        entry = settings.where(section, option.name, aliases=aliases)
        if entry is None and option.is_secret:
            entry = settings.where(section, option.name + secret_file.SUFFIX)
        if entry:
            found[option.name] = f"{entry.path}:{entry.line}" if entry.line else str(entry.path)
    return found


def warn_of_open_files(settings: Settings, read: Document, section: str, auth_type: str) -> None:
    """Warn of secrets in files that every user of the host may read."""
    for option in filter(lambda option: option.is_secret, _known_options(auth_type)):
        warn_of_open_file(settings, section, option.name, read.get(section, option.name))


def warn_of_open_file(settings: Settings, section: str, option: str, entry: Setting | None) -> None:
    """Warn of a secret in a file that every user of the host may read."""
    if entry and entry.text and entry.path.is_file() and entry.path.stat().st_mode & 0o004:
        words = f"every user of this host can read it; chmod o-r {entry.path}"
        settings.warn(section, option, words, entry=entry)


def _check_plugin(
    settings: Settings, section: str, auth_type: str, found: Mapping[str, str], *, is_complete: bool
) -> None:
    # Name and domain are not required one by one: an id replaces both.
    if auth_type in ("v3password", "password"):
        domains = (
            "user_domain_id",
            "user_domain_name",
            *(["default_domain_id"] if auth_type == "password" else []),
        )
        if not found.keys() & {"username", "user_id"}:
            settings.error(section, "username", "must be set: the account's name")
            is_complete = False
        elif "user_id" not in found and not found.keys() & {*domains, "default_domain_name"}:
            settings.error(
                section, "user_domain_name", "must be set: the domain of the account, often Default"
            )
            is_complete = False
    fault = login.fault(auth_type, {**found, "auth_url": "https://unused"}) if is_complete else ""
    if fault:
        settings.error(section, "auth_type", f"{auth_type} rejects these options: {fault}")


def _known_options(auth_type: str) -> Iterable[login.PluginOption]:
    """Return the options of a plugin; none of an unknown one, which `read_options` reports."""
    try:
        return login.options(auth_type) if auth_type else ()
    except LookupError:
        return ()
