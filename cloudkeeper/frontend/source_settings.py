"""sources.yaml: registries and lists by name, with the keys that atrope has for them.

    harbor:                          # values for all sources of type harbor or oci
      registry_host: registry.egi.eu
    egi:
      type: harbor                   # or oci: a registry without Harbor's API; or hepix: a list
      project: egi_vm_images
      vos: [ops, vo.example.org]

Accounts of registries stand in ``registry.auth``, one ``HOST USER:SECRET`` a line, so that no
account is sent to another host. atrope's ``auth_user`` and ``auth_password`` are read, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from appliance.core import hosts
from appliance.core.config.document import Setting
from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import Tree
from appliance.core.registry import account as registry_account
from appliance.core.registry.account import RegistryAccount
from appliance.core.registry.names import is_repository
from appliance.core.run import place
from appliance.core.run.errors import ApplianceError, Problem
from cloudkeeper.frontend import addresses
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.ignored import SOURCES_IGNORED
from cloudkeeper.frontend.selection import ALL, Selection
from cloudkeeper.model import Endorser
from cloudkeeper.wire import own_properties

if TYPE_CHECKING:  # start-up is a cost
    from cloudkeeper.frontend.registry.signing_key import SigningKey

TAGS = "[^-]*"
"""EGI's images have a short tag for the newest build, ``24.04``, and long ones for each build."""
_SHARED = "harbor"
_TYPES = ("harbor", "oci", "hepix")
_VO = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,254}", re.ASCII)
# What a repository of a registry may be called, as its error says it.
_NO_REPOSITORY = (
    "is not a valid name of a repository; write it in lower case, without host, project and tag"
)


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """A project of a registry, and the ``vos`` that get its images.

    ``repositories`` are those to read, with the project's name before them; none: all.
    """

    host: str
    project: str
    vos: tuple[str, ...]
    tags: re.Pattern[str]
    has_harbor: bool
    repositories: tuple[str, ...] = ()
    account: RegistryAccount | None = field(default=None, repr=False)
    properties: tuple[tuple[str, str], ...] = ()
    """Names and values of the site's own properties of its images in Glance."""
    selection: Selection = ALL
    """The images to take."""
    signing_keys: tuple[SigningKey, ...] = ()
    """The keys one of which must have signed each artefact; none: no signature is needed."""
    origin: tuple[Path, int] = field(default=(Path(), 0), compare=False)
    """File and line of the source in the configuration."""

    def __str__(self) -> str:
        return f"{self.host}/{self.project}"


def read(
    tree: Tree, accounts: dict[str, RegistryAccount]
) -> tuple[list[RegistrySettings], list[Address], tuple[Problem, ...]]:
    """Return the registries and the lists of a file, and the warnings about it.

    Raises:
        ConfigurationError: the file is wrong; it holds all problems.

    """
    reader = _SourcesReader(tree, accounts)
    for name, entry in tree.children.get("", {}).items():
        reader.read(name, entry)
    return reader.registries, reader.lists, reader.settings.finish()


def _value_fault(text: str) -> str:
    """Return why a text cannot be the value of a property, empty if it can."""
    if not text:
        return "has no value; write one, or remove the line"
    if len(text) > own_properties.LONGEST or not text.isprintable() or max(text) > "\uffff":
        return f"is longer than {own_properties.LONGEST} characters, or has unprintable ones"
    return ""


class _SourcesReader:
    """Reads source after source, so that `Settings` can report all problems at once."""

    def __init__(self, tree: Tree, accounts: dict[str, RegistryAccount]) -> None:
        self.settings = Settings(tree)
        self._tree = tree
        self.registries: list[RegistrySettings] = []
        self.lists: list[Address] = []
        self._accounts = accounts

    def read(self, name: str, entry: Setting) -> None:
        found = self.settings
        found.ignore(name, SOURCES_IGNORED)
        self._refuse_subscriptions(name)
        if name == _SHARED and not found.where(name, "type"):
            self._read_shared()
            return
        kind = found.choice(name, "type", default="hepix", allowed=_TYPES)
        is_enabled = found.boolean(name, "enabled", default=True)
        if kind == "hepix":
            self._read_list(name, entry, is_enabled=is_enabled)
        else:
            self._read_registry(name, kind, entry, is_enabled=is_enabled)

    def _read_shared(self) -> None:
        """Take the shared values as known; each source reads those that it lacks."""
        names = (
            "registry_host",
            "api_url",
            "auth_user",
            "auth_password",
            "tag_pattern",
            "signing_key",
        )
        self.settings.accept(_SHARED, names)
        self.settings.hold_account(_SHARED)
        self._refuse_unsupported(_SHARED)

    def _read_registry(self, name: str, kind: str, entry: Setting, *, is_enabled: bool) -> None:
        found = self.settings
        found.hold_account(name)  # a misspelled signing_key must not mean that none is needed
        self._refuse_unsupported(name)
        host = self._host(name)
        project = found.text(name, "project", required="the project of the registry")
        if project and not is_repository(project):
            found.error(name, "project", f"{project!r} is not the name of a project")
        repositories = found.words(name, "repositories")
        for repository in repositories:
            if not is_repository(repository):
                found.error(name, "repositories", f"{repository!r} {_NO_REPOSITORY}")
            elif repository.startswith(f"{project}/"):
                words = f"{repository!r} begins with the project; write"
                found.error(name, "repositories", f"{words} {repository.removeprefix(project)[1:]}")
        vos = self._vos(name)
        tags = self._tags(name)
        account = self._account_of(name, host)
        properties, selection = self._properties(name), self._selection(name)
        keys = self._signing_keys(name) if is_enabled else ()
        if is_enabled:
            self.registries.append(
                RegistrySettings(
                    host,
                    project,
                    vos,
                    tags,
                    kind == "harbor",
                    tuple(f"{project}/{each}" for each in repositories),
                    account,
                    properties,
                    selection,
                    keys,
                    (entry.path, entry.line),
                )
            )

    def _host(self, name: str) -> str:
        found = self.settings
        api = self._shared_text(name, "api_url")
        default = ""
        if api:
            parts = urlsplit(api)
            default = parts.netloc
            if parts.scheme != "https" or parts.path.rstrip("/") not in ("", "/api/v2.0"):
                found.error(name, "api_url", "must be https://HOST/api/v2.0")
        host = self._shared_text(name, "registry_host") or default
        if not host:
            found.error(name, "registry_host", "must be set: the host of the registry")
        elif fault := hosts.place_fault(host):
            found.error(name, "registry_host", f"{host!r} {fault}")
        return host.lower()

    def _shared_text(self, name: str, option: str) -> str:
        return self.settings.text(name, option) or self.settings.text(_SHARED, option)

    def _vos(self, name: str) -> tuple[str, ...]:
        found = self.settings
        vos = found.words(name, "vos")
        if not vos:
            found.error(name, "vos", "must be set: the VOs that get the images, [ops, …]")
        for vo in vos:
            if not _VO.fullmatch(vo):
                found.error(name, "vos", f"{vo!r} is not the name of a VO")
        return tuple(dict.fromkeys(vos))

    def _tags(self, name: str) -> re.Pattern[str]:
        text = self._shared_text(name, "tag_pattern") or TAGS
        try:
            return re.compile(text)
        except re.error as error:
            words = f"{text!r} is not a regular expression: {error}"
            self.settings.error(name, "tag_pattern", words)
            return re.compile(TAGS)

    def _account_of(self, name: str, host: str) -> RegistryAccount | None:
        user = self._shared_text(name, "auth_user")
        secret = self._shared_text(name, "auth_password")
        if user and secret:
            return registry_account.hidden(user, secret, "auth_password in sources.yaml")
        if user or secret:
            option, other = ("auth_user", "auth_password")[:: 1 if user else -1]
            self.settings.error(name, option, f"is set without {other}; set both or none")
        return self._accounts.get(host)

    def _signing_keys(self, name: str) -> tuple[SigningKey, ...]:
        """Return the keys of a source, its own or the shared ones."""
        from cloudkeeper.frontend.registry import signing_key  # noqa: PLC0415  start-up is a cost

        found = self.settings
        by_home = {each: found.words(each, "signing_key") for each in (name, _SHARED)}
        home = name if found.where(name, "signing_key") else _SHARED
        files = by_home[home]
        if not files and found.where(home, "signing_key"):
            found.error(home, "signing_key", "is empty; write the file of a key, or remove it")
        keys = []
        for text in files:
            path = Path(text)
            if not path.is_absolute():
                found.error(home, "signing_key", f"must be an absolute path, not {text!r}")
                continue
            try:
                keys.append(signing_key.read(path))
            except ApplianceError as error:
                found.error(home, "signing_key", place.unseen(path) or str(error))
        return tuple(keys)

    def _properties(self, name: str, *, of_list: bool = False) -> tuple[tuple[str, str], ...]:
        """Return the site's own properties of the images of a source."""
        found, section = self.settings, f"{name}.properties"
        if (entry := found.where(name, "properties")) and entry.text:
            found.error(name, "properties", "is not a mapping; write one NAME: VALUE a line")
        options = list(self._tree.sections.get(section, ()))
        own = {option: found.text(section, option) for option in options}
        if len(own) > own_properties.MOST:
            words = f"has {len(own)} properties; an image can have {own_properties.MOST}"
            found.error(name, "properties", words, entry=self._tree.children[name]["properties"])
        for option, value in own.items():
            if fault := own_properties.fault(option, of_list=of_list) or _value_fault(value):
                found.error(section, option, fault)
        for option in options:
            if any(each != option and each.lower() == option.lower() for each in options):
                found.error(section, option, "is set twice, in capital and small letters")
        for child, line in self._tree.children.get(section, {}).items():
            found.error(section, child, "is not a text; write NAME: VALUE", entry=line)
        return tuple(sorted(own.items()))

    def _selection(self, name: str) -> Selection:
        return Selection(*(self.settings.words(name, each) for each in ("images", "ignore")))

    def _refuse_unsupported(self, name: str) -> None:
        found = self.settings
        if not found.boolean(name, "verify_ssl", default=True):
            words = "false: certificates are always verified; add the CA instead"
            found.error(name, "verify_ssl", words)
        if found.text(name, "auth_token"):
            words = "is not supported; write a robot account into registry.auth"
            found.error(name, "auth_token", words)

    def _refuse_subscriptions(self, name: str) -> None:
        """Refuse a choice of images that would be lost, so that all images would be taken.

        atrope compares it with the tags and digests of a registry's artefacts; patterns of
        ``images`` fit identifiers and titles.
        """
        found = self.settings
        if found.words(name, "subscribed_images"):
            words = "is not supported; write patterns into images instead, for example '*:24.04'"
            found.error(name, "subscribed_images", words)

    def _read_list(self, name: str, entry: Setting, *, is_enabled: bool) -> None:
        found = self.settings
        url = found.text(name, "url", required="the URL of the image list")
        token = found.text(name, "token")
        properties, selection = self._properties(name, of_list=True), self._selection(name)
        if found.where(name, "signing_key"):
            words = "is for registries: a list is signed by its endorser; remove this line"
            found.error(name, "signing_key", words)
        if found.where(name, "vos"):
            found.warn(name, "vos", "has no effect: a list names its VO itself")
        where = found.where(name, "url") or entry
        if not url or not is_enabled:
            return
        if token:
            scheme, separator, rest = url.partition("://")
            url = f"{scheme}{separator}{quote(token, safe='')}:x-oauth-basic@{rest}"
        lists, problems = addresses.read([(url, where.line)], path=where.path, option="url")
        dn, ca = (found.text(f"{name}.endorser", option) for option in ("dn", "ca"))
        if bool(dn) != bool(ca):
            given, other = ("dn", "ca") if dn else ("ca", "dn")
            found.error(f"{name}.endorser", given, f"is set without {other}; set both or none")
        endorser = Endorser(dn, ca) if dn and ca else None
        self.lists += [
            replace(each, endorser=endorser, selection=selection, properties=properties)
            for each in lists
        ]
        for problem in problems:
            found.error(name, "url", problem.text)
