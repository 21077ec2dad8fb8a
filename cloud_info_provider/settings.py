"""The provider's settings: ``openstack.rc`` for the account, ``openstack.yaml`` for the rest.

The account comes from flags, else from the process's environment, else from the file of shell
variables. The YAML file is that of cloud-info-provider 0.8 to 0.10 (one project, the account's own)
or 0.11 to 0.13 (``compute.shares``, one project a VO). Options of those releases without an effect
here are accepted.
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
from appliance.core.config.document import Document, Setting
from appliance.core.config.settings import Settings
from appliance.core.glue import vocabulary as terms
from appliance.core.run import place
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from cloud_info_provider import ignored, vocabulary

# Section of the account's options; messages show the names of their variables.
ACCOUNT = "OS"

RC_FILE = "/etc/cloud-info-provider/openstack.rc"
YAML_FILES = ("/etc/cloud-info-provider/openstack.yaml", "/etc/cloud-info-provider/static.yaml")
# Variables of the novaclient of 2013, which old files still have.
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
_NO_PROJECT = "has no project; write auth: project_id: below it"
_NETWORKS = ("none", "public", "public_only", "private", "private_only")
_INTERFACE = "OpenStack"
_DEFAULT_CAPABILITIES = ("executionmanagement.dynamicvmdeploy", "security.accounting")


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """The administrator's description of site and cloud.

    Attributes:
        name: as in GOCDB.
        cores: of all hypervisors.
        memory: of all hypervisors, in GB.
        hypervisor: name of the product.
        hypervisor_version: of the product.
        middleware_version: of OpenStack; empty for the one that Nova shows.
        service_level: quality level of the service.
        endpoint_level: quality level of the endpoint.
        authentication: method by which users log in: ``oidc``, ``X509-VOMS``.
        platform: architecture of the processors.
        capabilities: terms of GLUE 2.0.
        interface: name of the endpoint's interface.

    """

    name: str
    cores: int
    memory: int
    hypervisor: str
    hypervisor_version: str
    middleware_version: str
    service_level: str
    endpoint_level: str
    authentication: str
    platform: str
    capabilities: tuple[str, ...]
    interface: str = "OpenStack"


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """The share of one VO. Its ``information`` is published unchanged, by name."""

    vo: str
    project_id: str
    region: str
    membership: tuple[str, ...]
    information: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """The whole configuration.

    Attributes:
        access: how to log in.
        site: its description.
        shares: of the VOs; empty if the account's own project is the only one.
        project: id or name of the account's own project, if it is configured.
        format: name of the output's format.
        all_images: whether images without a place in the marketplace are published.
        yaml_file: path of the file that was read.
        warnings: dubious options.

    """

    access: Access
    site: SiteSettings
    shares: tuple[ShareSettings, ...]
    project: str
    format: str
    all_images: bool
    yaml_file: Path
    warnings: tuple[Problem, ...] = field(compare=False)


def load(arguments: argparse.Namespace, layout: Layout) -> ProviderSettings:
    """Return the whole configuration; raises `ConfigurationError` with all errors in it."""
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
    region = keystone.text(ACCOUNT, "region_name", aliases=[(ACCOUNT, "region")])
    needs_marketplace = settings.boolean(
        "compute.images.defaults", "require_marketplace_id", default=True
    )
    values = {
        "access": _access(keystone, account, arguments, region),
        "project": keystone.text(ACCOUNT, "project_id") or keystone.text(ACCOUNT, "project_name"),
        "site": _site(settings),
        "shares": _shares(settings, tree, region),
        "format": arguments.format,
        "all_images": arguments.all_images or not needs_marketplace,
    }
    ignored.accept(settings, tree)
    keystone.accept(ACCOUNT, account.sections.get(ACCOUNT, {}))
    if not (values["shares"] or tree.sections.get("compute.shares") or values["project"]):
        text = "must be set: the VOs, each with auth.project_id; or set OS_PROJECT_ID for one VO"
        settings.error("compute", "shares", text)
    warnings: list[Problem] = []
    for read, is_read in ((keystone, is_account_read), (settings, is_tree_read)):
        # each option of an unreadable file is missing: those errors would only repeat its own
        if not is_read:
            continue
        try:
            warnings += read.finish()
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError([_renamed(problem) for problem in problems])
    warned = tuple(map(_renamed, warnings))
    return ProviderSettings(**values, yaml_file=path, warnings=warned)


def _renamed(problem: Problem) -> Problem:
    """Return a problem with its option named as in the file.

    Such names are ``OS_USERNAME`` and ``compute.shares.ops.auth.project_id``.
    """
    section, _, option = problem.option.removeprefix("[").partition("] ")
    if not option:
        return problem
    name = f"{ACCOUNT}_{option.upper()}"
    if section != ACCOUNT:
        name = f"{section}.{option}".lstrip(".")
    return Problem(problem.path, problem.line, name, problem.text, problem.is_fatal)


# --------------------------------------------------------------------------------------------------
# account


def _read_account(
    arguments: argparse.Namespace, layout: Layout, problems: list[Problem]
) -> tuple[Document, Mapping[str, Setting]]:
    """Return the account's options, and all variables of the file."""
    path = Path(arguments.rc_file) if arguments.rc_file else layout.path(RC_FILE)
    variables: dict[str, Setting] = {}
    is_elsewhere = "OS_AUTH_URL" in os.environ or arguments.os_auth_url
    if arguments.rc_file or document.may_exist(path) or not is_elsewhere:
        try:
            variables = shell.parse(path, document.read_text(path)).sections.get(shell.SECTION, {})
        except ConfigurationError as error:
            problems += error.problems
    account = Document(paths=[path])
    account.sections[ACCOUNT] = {}
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
    for option in vocabulary.ACCOUNT_FLAGS:
        if value := getattr(arguments, f"os_{option}"):
            flag = Path(f"command line: --os-{option.replace('_', '-')}")
            account.set(ACCOUNT, option.replace("tenant", "project"), Setting(value, flag, 0))
    _lift_version(account)
    return account, variables


def _lift_version(account: Document) -> None:
    """Replace the URL of Keystone's version 2, which was removed in 2018, by that of version 3."""
    entry = account.get(ACCOUNT, "auth_url")
    if entry and (url := entry.text.rstrip("/")).endswith("/v2.0"):
        newer = f"{url.removesuffix('/v2.0')}/v3"
        account.set(ACCOUNT, "auth_url", Setting(newer, entry.path, entry.line))


def _access(
    keystone: Settings, account: Document, arguments: argparse.Namespace, region: str
) -> Access:
    given = account.sections[ACCOUNT]
    is_bound = "application_credential_id" in given or "application_credential_name" in given
    auth_type = keystone.text(
        ACCOUNT,
        "auth_type",
        default="v3applicationcredential" if is_bound else "v3password",
        aliases=[(ACCOUNT, "auth")],
    )
    # A user's name needs its domain, which old files leave out; an id is unique without one.
    has_domain = "user_id" in given or any(
        name.startswith(("user_domain_", "default_domain_")) for name in given
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
    # a certificate alone is the path of one file that holds its key, too
    pair = (str(certificate), str(key)) if certificate and key else None
    return Access(
        auth_type=auth_type,
        auth_url=url,
        options={**options, "auth_url": url},
        region=region or None,
        verify=not insecure and (str(ca_file) if ca_file else True),
        certificate=pair or (str(certificate) if certificate else None),
        timeout=timedelta(seconds=arguments.timeout),
        uses_system_scope=False,
        project_domain_id=keystone.text(ACCOUNT, "project_domain_id"),
        interface=keystone.choice(
            ACCOUNT, "interface", default="public", allowed=("public", "internal")
        ),
        section=str(account.paths[0]),
        places=access.read_places(keystone, ACCOUNT, auth_type),
    )


# --------------------------------------------------------------------------------------------------
# YAML file


def _yaml_path(
    arguments: argparse.Namespace, layout: Layout, variables: Mapping[str, Setting]
) -> Path:
    named = variables.get("CLOUD_INFO_CONFIG")
    in_file = named.text if named else ""
    chosen = arguments.yaml_file or os.environ.get("CLOUD_INFO_CONFIG") or in_file
    usual = [layout.path(name) for name in YAML_FILES]
    return Path(chosen) if chosen else (document.first_existing(usual) or usual)[0]


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
        interface=_interface(settings, endpoint),
    )
    if site.name and not _SITE.fullmatch(site.name):
        words = f"{site.name!r} is not a site name of GOCDB; use letters, digits and . _ -"
        settings.error("site", "name", words)
    for option, meaning in (
        ("total_cores", "the cores of all hypervisors"),
        ("total_ram", "their memory in GB"),
    ):
        entry = settings.where("compute", option)
        if entry is None or entry.text in ("", "0"):
            settings.warn("compute", option, f"is not set, so 0 is published; write {meaning}")
    return site


def _interface(settings: Settings, endpoint: str) -> str:
    given = settings.text(endpoint, "api_type", default=_INTERFACE)
    # files for the OCCI interface that clouds once had beside their own
    if given.upper() != "OCCI":
        return given
    settings.warn(
        endpoint, "api_type", f"{given}: clouds have no OCCI any more; {_INTERFACE} is published"
    )
    return _INTERFACE


def _level(settings: Settings, section: str, option: str) -> str:
    return settings.choice(section, option, default="production", allowed=terms.QUALITY_LEVELS)


def _capabilities(settings: Settings) -> tuple[str, ...]:
    given = settings.words("compute", "capabilities")
    known = [name for name in given if name in terms.CAPABILITIES]
    if foreign := [name for name in given if name not in terms.CAPABILITIES]:
        defaults = " and ".join(_DEFAULT_CAPABILITIES)
        words = f"left out; {defaults} are always published"
        settings.warn(
            "compute", "capabilities", f"{', '.join(foreign)}: no capability of GLUE 2.0, {words}"
        )
    return tuple(dict.fromkeys((*_DEFAULT_CAPABILITIES, *known)))


def _shares(settings: Settings, tree: yaml_file.Tree, region: str) -> tuple[ShareSettings, ...]:
    names, bare = tree.children.get("compute.shares", {}), tree.sections.get("compute.shares", {})
    settings.accept("compute.shares", [*names, *bare])
    for vo in bare:
        settings.error("compute.shares", vo, _NO_PROJECT)
    return tuple(_share(settings, vo, entry, region) for vo, entry in names.items())


def _share(settings: Settings, vo: str, entry: Setting, region: str) -> ShareSettings:
    section = f"compute.shares.{vo}"
    project = settings.text(f"{section}.auth", "project_id", placeholders=("PROJECT-ID",))
    if not project:
        settings.error("compute.shares", vo, _NO_PROJECT, entry=entry)
    elif not _PROJECT.fullmatch(project):
        settings.error(f"{section}.auth", "project_id", f"{project!r} is not the id of a project")
    if not _VO.fullmatch(vo):
        words = "is not a VO's name; write printable ASCII without blanks"
        settings.error("compute.shares", vo, words, entry=entry)
    settings.choice(section, "default_network_type", default="", allowed=_NETWORKS)
    texts = {name: settings.text(section, name) for name in vocabulary.SHARE_TEXTS}
    return ShareSettings(
        vo=vo,
        project_id=project,
        region=settings.text(f"{section}.auth", "region_name", default=region),
        membership=settings.words(section, "membership", default=(f"VO:{vo}",)),
        information={name: value for name, value in texts.items() if value},
    )
