"""The YAML file that describes a site and its VOs, in the forms of three generations.

    0.8 to 0.10     ``site``, ``compute``; the account's own project is the only one
    0.11 to 0.13    ``site``, ``compute`` with ``shares``: one project for each VO
    1               ``gocdb``, ``endpoint``, ``vos``, as EGI's catch-all has them

Each generation of cloud-info-provider had its own defaults, and keeps them here. Options of those
releases without an effect here are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import hosts
from appliance.core.config import document
from appliance.core.config.document import Setting
from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import OUTERMOST, Tree
from appliance.core.glue import vocabulary as terms
from appliance.core.run.layout import Layout
from cloud_info_provider import compute_options, decoration, vocabulary
from cloud_info_provider.facts import EndpointTerms, FlavorTerms
from cloud_info_provider.site_settings import SiteSettings

SITE_CFG = "/etc/glite-info-static/site/site.cfg"
_OUR_SITE_CFG = "/etc/sitebdii/site.cfg"
_SITE_NAME = re.compile(r"^[ \t]*SITE_NAME[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_VO = re.compile(r"[!-~]{1,255}")
_SITE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_PROJECT = re.compile(r"[!-~]{1,64}")
_NO_PROJECT = "has no project; write auth: project_id: below it"
_SAMPLE_PROJECT = re.compile(r"x{3,}")
_NETWORKS = ("none", "public", "public_only", "private", "private_only")
_DEFAULT_CAPABILITIES = ("executionmanagement.dynamicvmdeploy", "security.accounting")
_UNKNOWN = "UNKNOWN"
_SHARES, _IMAGES = "compute.shares", "compute.images.defaults"


@dataclass(frozen=True, slots=True)
class Generation:
    """A form of the file, with the defaults of the releases that had it."""

    releases: str
    format: str
    needs_marketplace: bool
    """Whether images without an entry in the marketplace are left out."""


LDIF, JSON = "glue", "glue21json"
ONE_PROJECT = Generation("0.8 to 0.10", LDIF, needs_marketplace=False)
SHARES = Generation("0.11 to 0.13", LDIF, needs_marketplace=True)
CATCH_ALL = Generation("1", JSON, needs_marketplace=False)
# For an incomplete file: whichever keys there are, they are of this generation only.
_OF_CATCH_ALL = ("gocdb", "endpoint", "vos")


@dataclass(frozen=True, slots=True)
class DescribedShare:
    """The share of one VO as the file describes it; ``auth`` are all options below that name."""

    vo: str
    section: str
    project_id: str
    region: str
    membership: tuple[str, ...]
    information: Mapping[str, str] = field(hash=False)
    auth: Mapping[str, Setting] = field(hash=False)
    project: str
    """The project's name, of a cloud that the file alone describes."""
    entry: Setting
    """Where the VO begins in the file."""

    @property
    def place(self) -> str:
        """Return file and line, for messages."""
        return f"{self.entry.path}:{self.entry.line}"


def generation(tree: Tree) -> Generation:
    """Return the form of a file."""
    names = {*tree.sections.get(OUTERMOST, {}), *tree.children.get("", {})}
    if any(name.partition("[")[0] in _OF_CATCH_ALL for name in names):
        return CATCH_ALL
    has_shares = "shares" in tree.children.get("compute", {}) or "shares" in tree.sections.get(
        "compute", {}
    )
    return SHARES if has_shares else ONE_PROJECT


class SiteFile:
    """A file whose options are read through ``settings``, which collects all errors."""

    def __init__(self, settings: Settings, tree: Tree) -> None:
        self._settings = settings
        self.tree = tree
        self.generation = generation(tree)

    @property
    def path(self) -> Path:
        """Return the path of the file."""
        return self.tree.paths[0]

    @property
    def is_of_catch_all(self) -> bool:
        """Check whether the file has the form of EGI's catch-all."""
        return self.generation is CATCH_ALL

    @property
    def has_shares(self) -> bool:
        """Check whether the file lists VOs, even if all of them are wrong."""
        return self.is_of_catch_all or bool(self.tree.sections.get(_SHARES))

    def needs_marketplace(self) -> bool:
        """Return whether images without an entry in the marketplace are left out."""
        usual = self.generation.needs_marketplace
        if self.is_of_catch_all:
            return usual
        return self._settings.boolean(_IMAGES, "require_marketplace_id", default=usual)

    def account(self) -> Mapping[str, Setting]:
        """Return the options of the account that the file has."""
        if not self.is_of_catch_all:
            return {}
        names = {
            "auth_url": "endpoint",
            "auth_type": "auth",
            "region_name": "region",
            "protocol": "protocol",
        }
        top = self.tree.sections.get(OUTERMOST, {})
        found = {name: top[key] for name, key in names.items() if key in top}
        if "auth_type" in top:
            found["auth_type"] = top["auth_type"]
        return found

    def endpoint(self) -> str:
        """Return Keystone's URL as the file has it; empty if it has none."""
        settings = self._settings
        if not self.is_of_catch_all:
            settings.accept(OUTERMOST, ("site",))  # without any option
            return ""
        settings.accept(OUTERMOST, ("auth", "auth_type", "region", "protocol", "images"))
        settings.accept("images", ("sync", "formats"))
        settings.accept("accounting", ("enabled", "site_name"))
        url = settings.text(OUTERMOST, "endpoint", required="Keystone's URL exactly as in GOCDB")
        if url and (fault := hosts.url_fault(url)):
            # The words of `appliance.core.cloud.access`, so that the two errors become one.
            shown = "" if set(url) & set("@?#") else f"{url.rstrip('/')!r} "
            settings.error(OUTERMOST, "endpoint", f"{shown}{fault}; write https://HOST:5000/v3")
        return url

    # ----------------------------------------------------------------------------------------------
    # site

    def site(self, layout: Layout, site_cfg: str | None) -> SiteSettings:
        """Return the description; ``site_cfg`` is the file with the name for one that lacks it."""
        settings = self._settings
        section, option = (OUTERMOST, "gocdb") if self.is_of_catch_all else ("site", "name")
        site = SiteSettings(
            name=self._name(section, option, layout, site_cfg),
            cores=self._total("total_cores", "the cores of all hypervisors"),
            memory=self._total("total_ram", "their memory in GB"),
            hypervisor=settings.text("compute", "hypervisor", default=_UNKNOWN),
            hypervisor_version=settings.text("compute", "hypervisor_version", default=_UNKNOWN),
            service_level=compute_options.level(settings, "compute", "service_production_level"),
            capabilities=self._capabilities(),
            endpoint=self._endpoint_terms(),
            flavors=compute_options.flavor_terms(
                settings, compute_options.TEMPLATES, FlavorTerms()
            ),
            flavor_schema=compute_options.schema(settings, compute_options.TEMPLATES, "resource"),
            image_schema=compute_options.schema(settings, _IMAGES, "os"),
            image_platform=decoration.text(settings, _IMAGES, "platform"),
            manager=compute_options.manager(settings),
            quotas=compute_options.quotas(settings),
        )
        if site.name and not _SITE.fullmatch(site.name):
            words = f"{site.name!r} is not a site name of GOCDB; use letters, digits and . _ -"
            settings.error(section, option, words)
        return site

    def _name(self, section: str, option: str, layout: Layout, site_cfg: str | None) -> str:
        given = self._settings.where(section, option)
        if self.is_of_catch_all or (given and given.text not in ("", "None")):
            remedy = "the site's name exactly as in GOCDB"
            placeholders = ("SITE-NAME", "SITE_NAME")
            return self._settings.text(section, option, required=remedy, placeholders=placeholders)
        places = [Path(site_cfg)] if site_cfg else [*map(layout.path, (SITE_CFG, _OUR_SITE_CFG))]
        for path in document.first_existing(places):
            if found := _SITE_NAME.search(document.read_text(path)):
                return found[1].strip("'\"")
        words = f"must be set: the site's name exactly as in GOCDB, or SITE_NAME in {places[0]}"
        self._settings.error(section, option, words)
        return ""

    def _total(self, option: str, meaning: str) -> int:
        entry = self._settings.where("compute", option)
        is_set = entry is not None and entry.text not in ("", "0", _UNKNOWN)
        if not is_set and not self.is_of_catch_all:
            words = f"is not set, so 0 is published; write {meaning}"
            self._settings.warn("compute", option, words)
        # read in any case, for the reference
        if entry is not None and entry.text == _UNKNOWN:
            return 0
        return self._settings.integer("compute", option, default=0)

    def _endpoint_terms(self) -> EndpointTerms:
        endpoint = compute_options.ENDPOINTS
        version = self._settings.text(
            "compute",
            "middleware_version",
            aliases=[
                (endpoint, "middleware_version"),
                (endpoint, "compute_middleware_version"),
                (endpoint, "api_version"),
            ],
        )
        return compute_options.endpoint_terms(
            self._settings, endpoint, EndpointTerms(), version=version, software=False
        )

    def _capabilities(self) -> tuple[str, ...]:
        given = self._settings.words("compute", "capabilities")
        known = [name for name in given if name in terms.CAPABILITIES]
        if foreign := [name for name in given if name not in terms.CAPABILITIES]:
            defaults = " and ".join(_DEFAULT_CAPABILITIES)
            words = f"left out; {defaults} are always published"
            listed = f"{', '.join(foreign)}: no capability of GLUE 2.0"
            self._settings.warn("compute", "capabilities", f"{listed}, {words}")
        return tuple(dict.fromkeys((*_DEFAULT_CAPABILITIES, *known)))

    # ----------------------------------------------------------------------------------------------
    # VOs

    def shares(self, *, needs_project: bool = True) -> tuple[DescribedShare, ...]:
        """Return the VOs; with ``needs_project`` a VO without a project is an error."""
        if self.is_of_catch_all:
            found = [*self._listed_vos()]
        else:
            found = [*self._named_vos(needs_project=needs_project)]
        seen: dict[tuple[str, str], DescribedShare] = {}
        for share in found:
            first = seen.setdefault((share.vo, share.project_id), share)
            if first is not share and share.vo and share.project_id:
                words = f"VO {share.vo} has project {share.project_id} already at {first.place}"
                self._settings.error("", share.section, f"{words}; remove one", entry=share.entry)
        return tuple(found)

    def _listed_vos(self) -> Iterator[DescribedShare]:
        settings = self._settings
        names = [name for name in self.tree.children.get("", {}) if name.startswith("vos[")]
        if not names:
            self._report_no_list()
        for section in names:
            entry = self.tree.children[""][section]
            settings.accept(section, self.tree.sections.get(section, {}))  # more keys are allowed
            vo = settings.text(section, "name")
            if not vo:
                named = settings.where(section, "name") or entry
                settings.error(section, "name", "must be set: the VO's name", entry=named)
            yield self._share(vo, section, entry, needs_project=True)

    def _report_no_list(self) -> None:
        """Report that the VOs are missing, or not in a list."""
        self._settings.accept(OUTERMOST, ["vos"])
        named = self.tree.children.get("", {}).get("vos")
        words = "must be a list" if named else "must be set"
        text = f"{words}: the VOs, each with name and auth"
        self._settings.error(OUTERMOST, "vos", text, entry=named)
        for section, options in self.tree.sections.items():
            if section.partition(".")[0] == "vos":
                self._settings.accept(section, options)

    def _named_vos(self, *, needs_project: bool) -> Iterator[DescribedShare]:
        names = self.tree.children.get(_SHARES, {})
        bare = self.tree.sections.get(_SHARES, {})
        self._settings.accept(_SHARES, [*names, *bare])
        for vo, entry in bare.items():
            if needs_project:
                self._settings.error(_SHARES, vo, _NO_PROJECT)
            else:
                yield self._share(vo, f"{_SHARES}.{vo}", entry, needs_project=False)
        for vo, entry in names.items():
            yield self._share(vo, f"{_SHARES}.{vo}", entry, needs_project=needs_project)

    def _share(
        self, name: str, section: str, entry: Setting, *, needs_project: bool
    ) -> DescribedShare:
        settings = self._settings
        project = settings.text(f"{section}.auth", "project_id", placeholders=("PROJECT-ID",))
        if not project:
            if needs_project:
                above, _, last = section.rpartition(".")
                settings.error(above, last, _NO_PROJECT, entry=entry)
        elif not _PROJECT.fullmatch(project):
            settings.error(
                f"{section}.auth", "project_id", f"{project!r} is not the id of a project"
            )
        elif _SAMPLE_PROJECT.fullmatch(project):
            words = f"is still the placeholder {project!r}; write the id of the VO's project"
            settings.warn(f"{section}.auth", "project_id", words)
        # A group of Keystone-VOMS, /VO; EGI knows the VO by its name.
        vo = name.lstrip("/")
        if not _is_vo(vo) and (name or not self.is_of_catch_all):  # there it must be set
            above, _, last = section.rpartition(".")
            words = "is not a VO's name; write printable ASCII without blanks"
            words = words if name else "a VO has no name; write it before the colon"
            settings.error(above, last, words, entry=entry)
        settings.choice(section, "default_network_type", default="", allowed=_NETWORKS)
        texts = {option: settings.text(section, option) for option in vocabulary.SHARE_TEXTS}
        if needs_project:
            reason = "auth.project_id names the project"
            settings.ignore(section, {"project": reason}, is_missed=False)
        auth = self.tree.sections.get(f"{section}.auth", {})
        settings.accept(f"{section}.auth", auth)  # the account reads them
        return DescribedShare(
            vo=vo,
            section=section,
            project_id=project,
            region=settings.text(
                f"{section}.auth", "region_name", aliases=[(f"{section}.auth", "region")]
            ),
            membership=settings.words(section, "membership", default=(f"VO:{vo}",)),
            information={option: text for option, text in texts.items() if text},
            auth=auth,
            project=settings.text(section, "project"),
            entry=entry,
        )


def _is_vo(name: str) -> bool:
    """Check whether a text can be a VO's name; the names of its files in directories follow it."""
    return _VO.fullmatch(name) is not None and not {"", ".", ".."} & {*name.split("/")}
