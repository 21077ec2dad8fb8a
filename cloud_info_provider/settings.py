"""The provider's settings: the account, the description of the site, and what flags choose.

`cloud_info_provider.account` reads ``openstack.rc`` and its like, `cloud_info_provider.site_file`
the YAML file. Both leave their errors here, so that a run reports them together.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from appliance.core.cloud.login import Access
from appliance.core.config import document, yaml_file
from appliance.core.config.document import Document, Setting
from appliance.core.config.settings import Settings
from appliance.core.run import place
from appliance.core.run.errors import ConfigurationError, Problem, UsageError
from appliance.core.run.layout import Layout
from cloud_info_provider import (
    account,
    clouds_file,
    ignored,
    site_options,
    static_offer,
    storage_options,
)
from cloud_info_provider.account import ACCOUNT, AccountFiles, LoginSettings
from cloud_info_provider.conversion import PropertyNames
from cloud_info_provider.publishing.selection import STDOUT
from cloud_info_provider.site_file import JSON, DescribedShare, Generation, SiteFile
from cloud_info_provider.site_settings import SiteSettings
from cloud_info_provider.static_offer import StaticOffer

__all__ = ["SiteSettings", "ShareSettings", "ProviderSettings", "load"]

_NO_SHARES = "must be set: the VOs, each with auth.project_id; or set OS_PROJECT_ID for one VO"
YAML_FILES = ("/etc/cloud-info-provider/openstack.yaml", "/etc/cloud-info-provider/static.yaml")


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """The share of one VO. Its ``information`` is published unchanged, by name.

    Attributes:
        vo: the VO's name, without the slash that begins a group of VOMS.
        project_id: the project.
        region: of the cloud; empty for the first of its catalog.
        membership: rules of its members.
        information: texts to publish.
        account: the VO's own account; None for the common one.
        place: file and line of the VO, for messages.

    """

    vo: str
    project_id: str
    region: str
    membership: tuple[str, ...]
    information: Mapping[str, str] = field(hash=False)
    account: LoginSettings | None = field(default=None, hash=False)
    place: str = ""


@dataclass(frozen=True, slots=True)
class Auditor:
    """The account of EGI's auditor, and the scope in which it looks: a project, or the system."""

    access: Access
    project: str
    is_of_system: bool


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """The whole configuration.

    Attributes:
        account: how to log in; of the first VO if each VO has its own.
        site: its description.
        shares: of the VOs; empty if the account's own project is the only one.
        endpoint: Keystone's URL as GOCDB has it.
        offer: of a cloud that the file alone describes; None for OpenStack.
        project: id or name of the account's own project, if it is configured.
        format: name of the output's format.
        select_flavors: ``all``, ``public`` or ``private`` ones are published.
        properties: names of the site's properties of flavors and images.
        auditor: the account of EGI's auditor; None if nobody asks for its role.
        gocdb_url: where GOCDB is asked; empty: nowhere.
        needs_all_vos: whether a VO that cannot be read fails the run.
        all_images: whether images without a place in the marketplace are published.
        generation: form of the YAML file.
        yaml_file: path of the file that was read.
        warnings: dubious options.

    """

    account: LoginSettings
    site: SiteSettings
    shares: tuple[ShareSettings, ...]
    endpoint: str
    offer: StaticOffer | None
    project: str
    format: str
    select_flavors: str
    properties: PropertyNames
    auditor: Auditor | None
    gocdb_url: str
    needs_all_vos: bool
    all_images: bool
    generation: Generation
    yaml_file: Path
    warnings: tuple[Problem, ...] = field(compare=False)

    @property
    def has_endpoint_facts(self) -> bool:
        """Check whether the format has what GOCDB and Keystone's certificate say."""
        return self.format in (JSON, "json")

    @property
    def access(self) -> Access:
        """Return how the account logs in."""
        return self.account.access


def load(arguments: argparse.Namespace, layout: Layout) -> ProviderSettings:
    """Return the whole configuration; raises `ConfigurationError` with all errors in it."""
    return _Loader(arguments, layout).load()


class _Loader:
    """Reads the files one after the other, and collects what is wrong in them."""

    def __init__(self, arguments: argparse.Namespace, layout: Layout) -> None:
        self.arguments = arguments
        self.layout = layout
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def load(self) -> ProviderSettings:
        path = self.yaml_path({})
        tree = self.tree(path)
        described = SiteFile(Settings(tree), tree).account() if tree else {}
        if self.is_static:
            files = AccountFiles(Document({ACCOUNT: {}}, [path]), {}, [])
        else:
            files = account.read(self.arguments, self.layout, described)
        named = self.yaml_path(files.variables)
        if named != path:  # openstack.rc names another file
            path, self.problems = named, []
            tree = self.tree(path)
        self.problems += files.problems
        shown = tree or yaml_file.Tree(paths=[path])
        settings, keystone = Settings(shown), Settings(files.options)
        file = SiteFile(settings, shown)
        values = self.values(file, files, keystone, settings)
        ignored.accept(settings, shown, is_static=self.is_static)
        keystone.accept(ACCOUNT, files.options.sections.get(ACCOUNT, {}))
        # each option of an unreadable file is missing: those errors would only repeat its own
        if not files.problems:
            self.finish(keystone)
        if tree is not None:
            self.finish(settings)
        if self.problems:
            raise ConfigurationError(_renamed(self.problems, file))
        warnings = tuple(_renamed(self.warnings, file))
        return ProviderSettings(**values, yaml_file=path, warnings=warnings)

    @property
    def is_static(self) -> bool:
        """Check whether the YAML file alone describes the cloud."""
        return bool(self.arguments.middleware == "static")

    def yaml_path(self, variables: Mapping[str, Setting]) -> Path:
        named = variables.get("CLOUD_INFO_CONFIG")
        chosen = (
            self.arguments.yaml_file
            or self.arguments.site_config
            or os.environ.get("CLOUD_INFO_CONFIG")
            or (place.inside(named.text) if named else "")
        )
        usual = [self.layout.path(name) for name in YAML_FILES]
        return Path(chosen) if chosen else (document.first_existing(usual) or usual)[0]

    def tree(self, path: Path) -> yaml_file.Tree | None:
        """Return the content of the YAML file; None if it cannot be read."""
        try:
            return yaml_file.parse(path, document.read_text(path))
        except ConfigurationError as error:
            self.problems += error.problems
            return None

    def values(
        self, file: SiteFile, files: AccountFiles, keystone: Settings, settings: Settings
    ) -> dict[str, Any]:
        endpoint = file.endpoint()
        project, name = (keystone.text(ACCOUNT, f"project_{kind}") for kind in ("id", "name"))
        site = file.site(self.layout, self.arguments.glite_site_info_static)
        described = file.shares(needs_project=not self.is_static)
        region = keystone.text(ACCOUNT, "region_name", aliases=[(ACCOUNT, "region")])
        shares = tuple(self.share(share, files, region) for share in described)
        offer = None
        if self.is_static:
            offer = static_offer.read(settings, file.tree, described, region, site)
            used = LoginSettings(Access(site.endpoint.authentication, offer.name, {}))
        else:
            if not (described or file.has_shares or project or name):
                settings.error("compute", "shares", _NO_SHARES)
            used = self.common_account(shares, files, keystone)
        site = self.whole_site(site, settings, file, offer.name if offer else used.access.auth_url)
        return {
            "account": used,
            "site": site,
            "shares": shares,
            "endpoint": endpoint or used.access.auth_url,
            "offer": offer,
            "project": project or name,
            "format": self.format(file.generation),
            "select_flavors": self.arguments.select_flavors,
            "properties": PropertyNames(
                **{one.name: getattr(self.arguments, one.name) for one in fields(PropertyNames)}
            ),
            "auditor": self.auditor(),
            "gocdb_url": self.arguments.gocdb_url,
            "needs_all_vos": self.arguments.exit_on_share_errors,
            "all_images": self.all_images(file),
            "generation": file.generation,
        }

    def whole_site(
        self, site: SiteSettings, settings: Settings, file: SiteFile, cloud: str
    ) -> SiteSettings:
        """Return a description with the storage, and the site itself if it is to be printed.

        Raises `UsageError` for a site that the form of the file does not describe.
        """
        is_full = self.arguments.full_bdii_ldif
        if is_full and file.is_of_catch_all:
            words = f"the form of cloud-info-provider {file.generation.releases} has no contacts"
            remedy = "leave it out: the site's BDII publishes the site as site.cfg describes it"
            raise UsageError("--full-bdii-ldif", f"{file.path}: {words}", remedy)
        settings.accept("site", site_options.NAMES)
        storage = storage_options.read(settings, file.tree, cloud)
        if storage is not None and self.format(file.generation) == JSON:
            place = file.tree.children[""]["storage"]
            settings.ignore("", {"storage": "GLUE 2.1 of EGI has no storage"}, entry=place)
        return replace(
            site,
            storage=storage,
            is_below_domain=is_full or self.arguments.site_in_suffix,
            domain=site_options.read(settings, site.name) if is_full else None,
        )

    def common_account(
        self, shares: Sequence[ShareSettings], files: AccountFiles, keystone: Settings
    ) -> LoginSettings:
        """Return the common account; if each VO has its own, the first one's.

        Raises `UsageError` for refresh tokens of VOs of which there are none.
        """
        own = [share.account for share in shares if share.account]
        if not (own or self.problems) and self.arguments.auth_refresher == account.OF_EACH_VO:
            words = f"{account.OF_EACH_VO}: no VO has an account of its own"
            remedy = "write DIR/VO/refresh_token, and name DIR with --oidc-credentials-path"
            raise UsageError("--auth-refresher", words, remedy)
        if shares and len(own) == len(shares):
            return own[0]
        return account.login(keystone, files.options, ACCOUNT, self.arguments)

    def format(self, generation: Generation) -> str:
        usual = generation.format if self.arguments.publisher == STDOUT else JSON
        return self.arguments.format or usual

    def all_images(self, file: SiteFile) -> bool:
        needs_marketplace = file.needs_marketplace()
        if self.arguments.only_appdb_images:
            return False
        return self.arguments.all_images or not needs_marketplace

    def share(self, described: DescribedShare, files: AccountFiles, region: str) -> ShareSettings:
        return ShareSettings(
            vo=described.vo,
            project_id=described.project_id,
            region=described.region or region,
            membership=described.membership,
            information=described.information,
            account=self.own_account(described, files),
            place=described.place,
        )

    def own_account(self, described: DescribedShare, files: AccountFiles) -> LoginSettings | None:
        """Return the account that a VO has for itself; None if it has the common one."""
        if self.is_static:
            return None
        try:
            own = account.own_options(described.vo, described.auth, self.arguments)
        except ConfigurationError as error:
            self.problems += error.problems
            return None
        if not own:
            return None
        section = f"{described.section}.auth"
        merged = account.merged(files.options, section, own, described.entry.path)
        keystone = Settings(merged)
        keystone.accept(section, files.options.sections[ACCOUNT])
        found = account.login(keystone, merged, section, self.arguments)
        self.finish(keystone)
        return found

    def auditor(self) -> Auditor | None:
        """Return the account that ``--auditor-role-cloud`` names in clouds.yaml."""
        name = self.arguments.auditor_role_cloud
        if not name:
            return None
        try:
            options = clouds_file.read(name, self.layout)
        except ConfigurationError as error:
            self.problems += error.problems
            return None
        section = f"clouds.{name}"
        read = Document({section: options}, [next(iter(options.values())).path])
        keystone = Settings(read)
        keystone.accept(section, options)
        found = account.login(keystone, read, section, self.arguments, is_refreshed=False)
        system = options.get("system_scope")
        project = options.get("project_id") or options.get("project_name")
        self.finish(keystone)
        access = replace(found.access, uses_system_scope=system is not None)
        return Auditor(access, project.text if project else "", system is not None)

    def finish(self, settings: Settings) -> None:
        try:
            self.warnings += settings.finish()
        except ConfigurationError as error:
            self.problems += error.problems


_NAMES_IN_FILE = {"auth_url": "endpoint", "auth_type": "auth", "region_name": "region"}
"""Names of the account's options in a file of EGI's catch-all."""


def _renamed(problems: Iterable[Problem], file: SiteFile) -> list[Problem]:
    """Return each problem once, with its option named as in the file that sets it.

    Such names are ``OS_USERNAME`` and ``compute.shares.ops.auth.project_id``. Accounts of several
    VOs share the options of the common one, and its problems.
    """
    return sorted({_with_name(problem, file) for problem in problems})


def _with_name(problem: Problem, file: SiteFile) -> Problem:
    section, _, option = problem.option.removeprefix("[").partition("] ")
    if not option:
        return problem
    if section != ACCOUNT:
        name = f"{section}.{option}".removeprefix(".")
    elif file.is_of_catch_all and problem.path == file.path:
        name = _NAMES_IN_FILE.get(option, option)
    else:
        name = f"{ACCOUNT}_{option.upper()}"
    return Problem(problem.path, problem.line, name, problem.text, problem.is_fatal)
