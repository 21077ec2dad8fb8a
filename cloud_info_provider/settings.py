"""The configuration of the information provider: ``openstack.rc`` for the account, ``openstack.yaml`` for the rest.

The account comes from flags, else from the process's environment, else from the file of shell
variables. The YAML file is that of cloud-info-provider 0.8 to 0.10 (one project, the account's own)
or 0.11 to 0.13 (``compute.shares``, one project a VO); what those releases knew and what has no
effect here is accepted.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.core.cloud import access
from appliance.core.cloud.login import Access
from appliance.core.config import document, shell, yaml_file
from appliance.core.config.document import Document, Entry
from appliance.core.config.settings import Settings
from appliance.core.run import place
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from cloud_info_provider import ignored, vocabulary

ACCOUNT = "OS"
"""Section of the account's options; they are told by the names of their variables."""

_RC = "/etc/cloud-info-provider/openstack.rc"
_YAML = ("/etc/cloud-info-provider/openstack.yaml", "/etc/cloud-info-provider/static.yaml")
_OLD_NAMES = {
    "NOVA_USERNAME": "username",
    "NOVA_PASSWORD": "password",
    "NOVA_PROJECT_ID": "project_name",
    "NOVA_URL": "auth_url",
    "NOVACLIENT_INSECURE": "insecure",
}
_VO = re.compile(r"[!-~]{1,255}")
_SITE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_PROJECT = re.compile(r"[!-~]{1,64}")
_NO_PROJECT = "has no project: write auth: project_id: below it"
_DEFAULT_CAPABILITIES = ("executionmanagement.dynamicvmdeploy", "security.accounting")


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What the administrator says of site and cloud."""

    name: str
    """As in GOCDB."""
    cores: int
    memory: int
    """GB."""
    hypervisor: str
    hypervisor_version: str
    middleware_version: str
    """Empty: what Nova tells."""
    service_level: str
    endpoint_level: str
    authentication: str
    """How users log in: ``oidc``, ``X509-VOMS``."""
    platform: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """What the administrator says of one VO's share. Its ``information`` goes out as it is, by name."""

    vo: str
    project_id: str
    region: str
    membership: tuple[str, ...]
    information: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What the program needs to know. Without ``shares``, the account's own project is the only one."""

    access: Access
    site: SiteSettings
    shares: tuple[ShareSettings, ...]
    project: str
    """The account's own project, by id or name, as far as the configuration names it."""
    all_images: bool
    """Publish images without a place in the marketplace too."""
    yaml_file: Path
    warnings: tuple[Problem, ...] = field(compare=False)


def load(arguments: argparse.Namespace, layout: Layout) -> ProviderSettings:
    """Read the whole configuration; raises `ConfigurationError` with all that is wrong in it."""
    problems: list[Problem] = []
    account, variables = _read_account(arguments, layout, problems)
    is_account_read = not problems
    path = _yaml_path(arguments, layout, variables)
    tree = yaml_file.Tree(paths=[path])
    try:
        tree = yaml_file.parse(path, document.read_text(path))
        is_tree_read = True
    except ConfigurationError as error:
        problems += error.problems
        is_tree_read = False
    settings, keystone = Settings(tree), Settings(account)
    values = {
        "access": _access(keystone, account, arguments),
        "project": _project(keystone),
        "site": _site(settings),
        "shares": _shares(
            settings, tree, keystone.text(ACCOUNT, "region_name", aliases=[(ACCOUNT, "region")])
        ),
        "all_images": arguments.all_images
        or not settings.boolean("compute.images.defaults", "require_marketplace_id", default=True),
    }
    ignored.accept(settings, tree)
    keystone.accept(ACCOUNT, account.sections.get(ACCOUNT, {}))
    if not (values["shares"] or tree.sections.get("compute.shares") or values["project"]):
        text = "must be set: the VOs, each with auth.project_id; or set OS_PROJECT_ID for the only project"
        settings.error("compute", "shares", text)
    warnings: list[Problem] = []
    for read, is_read in ((keystone, is_account_read), (settings, is_tree_read)):
        if is_read:  # else its complaints would only follow from that
            _finish(read, problems, warnings)
    if problems:
        raise ConfigurationError([_renamed(problem) for problem in problems])
    return ProviderSettings(**values, yaml_file=path, warnings=tuple(map(_renamed, warnings)))  # type: ignore[arg-type]


def _finish(settings: Settings, problems: list[Problem], warnings: list[Problem]) -> None:
    try:
        warnings += settings.finish()
    except ConfigurationError as error:
        problems += error.problems


def _renamed(problem: Problem) -> Problem:
    """Tell options as the administrator has written them: ``OS_USERNAME``, ``compute.shares.ops.auth.project_id``."""
    section, _, option = problem.option.removeprefix("[").partition("] ")
    if not option:
        return problem
    name = (
        f"{ACCOUNT}_{option.upper()}" if section == ACCOUNT else f"{section}.{option}".lstrip(".")
    )
    return Problem(problem.path, problem.line, name, problem.text, problem.is_fatal)


# ----------------------------------------------------------------------------------------------------------
# account


def _read_account(
    arguments: argparse.Namespace, layout: Layout, problems: list[Problem]
) -> tuple[Document, Mapping[str, Entry]]:
    """Return the account's options, and the other variables of the file."""
    path = Path(arguments.rc_file) if arguments.rc_file else layout.path(_RC)
    variables: dict[str, Entry] = {}
    is_told = "OS_AUTH_URL" in os.environ or arguments.os_auth_url
    if arguments.rc_file or document.may_exist(path) or not is_told:
        try:
            variables = shell.parse(path, document.read_text(path)).sections.get(shell.SECTION, {})
        except ConfigurationError as error:
            problems += error.problems
    account = Document(paths=[path])
    account.sections[ACCOUNT] = {}
    environment = {
        name: Entry(text, Path(f"environment variable {name}"), 0)
        for name, text in os.environ.items()
    }
    for source in (variables, environment):
        # the older names first: they lose
        for name in sorted(source, key=lambda name: name.startswith("OS_")):
            option = _OLD_NAMES.get(name) or (
                name.removeprefix("OS_").lower() if name.startswith("OS_") else ""
            )
            if option and source[name].text:
                account.set(ACCOUNT, option.replace("tenant", "project"), source[name])
    for option in vocabulary.ACCOUNT_FLAGS:
        if value := getattr(arguments, f"os_{option}"):
            flag = Path(f"command line: --os-{option.replace('_', '-')}")
            account.set(ACCOUNT, option.replace("tenant", "project"), Entry(value, flag, 0))
    _lift_version(account)
    return account, variables


def _lift_version(account: Document) -> None:
    """Turn the URL of Keystone's version 2, which is gone, into that of version 3 on the same host."""
    entry = account.get(ACCOUNT, "auth_url")
    if entry and (url := entry.text.rstrip("/")).endswith("/v2.0"):
        account.set(
            ACCOUNT, "auth_url", Entry(url.removesuffix("/v2.0") + "/v3", entry.path, entry.line)
        )


def _access(keystone: Settings, account: Document, arguments: argparse.Namespace) -> Access:
    given = account.sections[ACCOUNT]
    bound = "application_credential_id" in given or "application_credential_name" in given
    auth_type = keystone.text(
        ACCOUNT,
        "auth_type",
        default="v3applicationcredential" if bound else "v3password",
        aliases=[(ACCOUNT, "auth")],
    )
    has_domain = (
        any(name.startswith(("user_domain_", "default_domain_")) for name in given)
        or "user_id" in given
    )
    options = access.read_options(
        keystone, ACCOUNT, auth_type, defaults={} if has_domain else {"user_domain_id": "default"}
    )
    url = access.read_url(keystone, ACCOUNT)
    access.warn_of_open_files(keystone, account, ACCOUNT, auth_type)
    insecure = arguments.insecure or keystone.boolean(ACCOUNT, "insecure", default=False)
    if insecure:
        remedy = place.trust_remedy("set OS_CACERT instead")
        keystone.warn(
            ACCOUNT, "insecure", f"anybody on the network may read the password; {remedy}"
        )
    ca_file = keystone.file(ACCOUNT, "cacert")
    certificate, key = keystone.file(ACCOUNT, "cert"), keystone.file(ACCOUNT, "key")
    return Access(
        auth_type=auth_type,
        auth_url=url,
        options={**options, "auth_url": url},
        region=keystone.text(ACCOUNT, "region_name", aliases=[(ACCOUNT, "region")]) or None,
        verify=False if insecure else str(ca_file) if ca_file else True,
        certificate=(str(certificate), str(key))
        if certificate and key
        else str(certificate)
        if certificate
        else None,
        timeout=timedelta(seconds=arguments.timeout),
        uses_system_scope=False,
        project_domain_id=keystone.text(ACCOUNT, "project_domain_id"),
        interface=keystone.choice(
            ACCOUNT, "interface", default="public", allowed=("public", "internal")
        ),
        section=str(account.paths[0]),
        places=access.read_places(keystone, ACCOUNT, auth_type),
    )


def _project(keystone: Settings) -> str:
    return keystone.text(ACCOUNT, "project_id") or keystone.text(ACCOUNT, "project_name")


# --------------------------------------------------------------------------------------------------------
# YAML file


def _yaml_path(
    arguments: argparse.Namespace, layout: Layout, variables: Mapping[str, Entry]
) -> Path:
    named = variables.get("CLOUD_INFO_CONFIG")
    told = (
        arguments.yaml_file or os.environ.get("CLOUD_INFO_CONFIG") or (named.text if named else "")
    )
    usual = [layout.path(name) for name in _YAML]
    return Path(told) if told else (document.first_existing(usual) or usual)[0]


def _site(settings: Settings) -> SiteSettings:
    endpoint = "compute.endpoints.defaults"
    site = SiteSettings(
        name=settings.text(
            "site",
            "name",
            required="the site's name exactly as in GOCDB",
            placeholders=("SITE-NAME", "SITE_NAME"),
        ),
        cores=settings.integer("compute", "total_cores", default=0),
        memory=settings.integer("compute", "total_ram", default=0),
        hypervisor=settings.text("compute", "hypervisor", default="UNKNOWN"),
        hypervisor_version=settings.text("compute", "hypervisor_version", default="UNKNOWN"),
        middleware_version=settings.text(
            "compute",
            "middleware_version",
            aliases=[(endpoint, "middleware_version"), (endpoint, "api_version")],
        ),
        service_level=_level(settings, "compute", "service_production_level"),
        endpoint_level=_level(settings, endpoint, "production_level"),
        authentication=settings.text(endpoint, "api_authn_method", default="oidc"),
        platform=settings.text("compute.templates.defaults", "platform", default="amd64"),
        capabilities=_capabilities(settings),
    )
    if site.name and not _SITE.fullmatch(site.name):
        settings.error(
            "site",
            "name",
            f"{site.name!r} is not the name of a site in GOCDB: letters, digits and . _ -",
        )
    for option, meaning in (
        ("total_cores", "the cores of all hypervisors"),
        ("total_ram", "their memory in GB"),
    ):
        entry = settings.where("compute", option)
        if entry is None or entry.text in ("", "0"):
            settings.warn("compute", option, f"is not set: 0 is published; write {meaning}")
    return site


def _level(settings: Settings, section: str, option: str) -> str:
    return settings.choice(section, option, default="production", allowed=vocabulary.QUALITY_LEVELS)


def _capabilities(settings: Settings) -> tuple[str, ...]:
    told = settings.words("compute", "capabilities")
    foreign = [name for name in told if name not in vocabulary.CAPABILITIES]
    if foreign:
        published = " and ".join(_DEFAULT_CAPABILITIES)
        text = f"{', '.join(foreign)}: no capability of GLUE 2.0; left out, {published} are in"
        settings.warn("compute", "capabilities", text)
    return tuple(
        dict.fromkeys((*_DEFAULT_CAPABILITIES, *(name for name in told if name not in foreign)))
    )


def _shares(settings: Settings, tree: yaml_file.Tree, region: str) -> tuple[ShareSettings, ...]:
    names, bare = tree.children.get("compute.shares", {}), tree.sections.get("compute.shares", {})
    settings.accept("compute.shares", [*names, *bare])
    for vo in bare:
        settings.error("compute.shares", vo, _NO_PROJECT)
    return tuple(_share(settings, vo, entry, region) for vo, entry in names.items())


def _share(settings: Settings, vo: str, entry: Entry, region: str) -> ShareSettings:
    section = f"compute.shares.{vo}"
    project = settings.text(f"{section}.auth", "project_id", placeholders=("PROJECT-ID",))
    if not project:
        settings.error("compute.shares", vo, _NO_PROJECT, entry=entry)
    elif not _PROJECT.fullmatch(project):
        settings.error(f"{section}.auth", "project_id", f"{project!r} is not the id of a project")
    if not _VO.fullmatch(vo):
        settings.error(
            "compute.shares",
            vo,
            "is not the name of a VO: printable ASCII without blanks",
            entry=entry,
        )
    kinds = ("none", "public", "public_only", "private", "private_only")
    settings.choice(section, "default_network_type", default="", allowed=kinds)
    return ShareSettings(
        vo=vo,
        project_id=project,
        region=settings.text(f"{section}.auth", "region_name", default=region),
        membership=settings.words(section, "membership", default=(f"VO:{vo}",)),
        information={
            name: value
            for name in vocabulary.SHARE_TEXTS
            if (value := settings.text(section, name))
        },
    )
