"""A cloud that the description alone describes: ``--middleware static``, without any account.

    compute:
      service_name: NAME                       names the cloud; default: the first endpoint
      endpoints: {URL: {api_version: …}}
      templates: {ID: {cpu: 1, memory: 1024}}  flavors; memory in MiB, disk in GB
      images: {ID: {name: …, version: …, marketplace_id: …, os_name: …, os_version: …}}
      shares: {VO: {project: …}}               optional: the VOs, each with the whole offer

Each list has ``defaults`` for its entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.core import hosts
from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import Tree
from cloud_info_provider import compute_options, decoration
from cloud_info_provider.facts import (
    Endpoint,
    EndpointTerms,
    Facts,
    Flavor,
    OfferedImage,
    ServerCounts,
    Share,
)
from cloud_info_provider.site_file import DescribedShare
from cloud_info_provider.site_settings import SiteSettings

_COMPUTE = "compute"
_DEFAULTS = "defaults"
_IMAGE_TEXTS = (
    *("minimal_cpu", "recommended_cpu", "minimal_ram", "recommended_ram", "minimal_accel"),
    *("recommended_accel", "accel_type", "context_format", "software"),
)
"""Options of an image that are published under their names."""
_ACCESS = ("none", "passwd", "rsa")


@dataclass(frozen=True, slots=True)
class StaticOffer:
    """What the description offers to each VO, and the name of the cloud."""

    name: str
    facts: Facts


def read(
    settings: Settings,
    tree: Tree,
    shares: Sequence[DescribedShare],
    region: str,
    site: SiteSettings,
) -> StaticOffer:
    """Return the offer; errors are left in ``settings``."""
    reader = _StaticReader(settings, tree, site)
    endpoints = tuple(reader.endpoints(region))
    flavors, images = tuple(reader.flavors()), tuple(reader.images())
    name = settings.text(_COMPUTE, "service_name") or (endpoints[0].url if endpoints else "")
    if not name:
        words = "must be set: the URLs of the cloud, or service_name"
        settings.error(_COMPUTE, "endpoints", words)
    first = endpoints[0] if endpoints else Endpoint(name, "", "", region, "")
    # Without VOs the offer is one to nobody in particular.
    whom = [(share.vo, share.project_id, share.project) for share in shares] or [("", "", "")]
    offered = (
        Share(vo, key, project, "", first, flavors, images, ServerCounts(), site.quotas)
        for vo, key, project in whom
    )
    return StaticOffer(name, Facts(tuple(offered), {}, endpoints=endpoints))


class _StaticReader:
    def __init__(self, settings: Settings, tree: Tree, site: SiteSettings) -> None:
        self._settings = settings
        self._tree = tree
        self._site = site

    def _names(self, kind: str) -> list[str]:
        return compute_options.names_below(self._settings, self._tree, f"{_COMPUTE}.{kind}")

    def _text(self, kind: str, name: str, option: str, default: str = "") -> str:
        own, usual = f"{_COMPUTE}.{kind}.{name}", f"{_COMPUTE}.{kind}.{_DEFAULTS}"
        default = self._settings.text(usual, option, default=default)
        return self._settings.text(own, option, default=default)

    def _number(self, kind: str, name: str, option: str, default: int) -> int:
        own, usual = f"{_COMPUTE}.{kind}.{name}", f"{_COMPUTE}.{kind}.{_DEFAULTS}"
        default = self._settings.integer(usual, option, default=default)
        return self._settings.integer(own, option, default=default)

    def endpoints(self, region: str) -> Iterator[Endpoint]:
        for name in self._names("endpoints"):
            url = self._text("endpoints", name, "endpoint_url") or name
            if fault := hosts.url_fault(url):
                section = f"{_COMPUTE}.endpoints"
                named = self._settings.where(f"{section}.{name}", "endpoint_url")
                entry = named or self._tree.children.get(section, {}).get(name)
                words = f"{fault}; write https://HOST"
                self._settings.error(section, name, words, entry=entry)
            version = self._text("endpoints", name, "api_version")
            terms = self._endpoint_terms(f"{_COMPUTE}.endpoints.{name}")
            yield Endpoint(url.rstrip("/"), version, version, region, "", terms)

    def _endpoint_terms(self, section: str) -> EndpointTerms:
        usual, settings = self._site.endpoint, self._settings
        for each in (compute_options.ENDPOINTS, section):
            version = settings.text(each, "middleware_version")
            usual = compute_options.endpoint_terms(
                settings, each, usual, version=version, software=True
            )
        return usual

    def flavors(self) -> Iterator[Flavor]:
        usual = self._site.flavors
        for name in self._names("templates"):
            section = f"{_COMPUTE}.templates.{name}"
            terms = compute_options.flavor_terms(self._settings, section, usual)
            cpu, memory, disk, ephemeral = (
                self._number("templates", name, option, default)
                for option, default in (("cpu", 1), ("memory", 0), ("disk", 0), ("ephemeral", 0))
            )
            yield Flavor(name, name, cpu, memory, disk, ephemeral, {}, terms=terms)

    def images(self) -> Iterator[OfferedImage]:
        seen: dict[str, str] = {}
        for name in self._names("images"):
            texts = {
                option: self._text("images", name, option)
                for option in (
                    *("id", "name", "version", "marketplace_id", "platform", "architecture"),
                    *("description", "os_family", "os_name", "os_version", "os_type"),
                )
            }
            more = {option: self._text("images", name, option) for option in _IMAGE_TEXTS}
            identifier = texts["id"] or name
            if (first := seen.setdefault(identifier, name)) != name:
                self._warn_of_repeated(name, identifier, first)
                continue
            yield OfferedImage(
                id=identifier,
                name=texts["name"] or name,
                marketplace=texts["marketplace_id"],
                base="",
                description=texts["description"],
                version=texts["version"],
                architecture=texts["architecture"] or texts["platform"],
                os_type=texts["os_family"] or texts["os_type"],
                os_distribution=texts["os_name"],
                os_version=texts["os_version"],
                information={option: text for option, text in more.items() if text},
                access=self._access(name),
            )

    def _access(self, name: str) -> str:
        usual = "none"
        for section in (f"{_COMPUTE}.images.{_DEFAULTS}", f"{_COMPUTE}.images.{name}"):
            usual = decoration.term(
                self._settings, section, "access_info", default=usual, allowed=_ACCESS
            )
        return usual

    def _warn_of_repeated(self, name: str, identifier: str, first: str) -> None:
        above = f"{_COMPUTE}.images"
        entry = self._settings.where(f"{above}.{name}", "id")
        entry = entry or self._tree.children.get(above, {}).get(name)
        words = f"is left out, because {first!r} has the id {identifier!r} too; write another id"
        self._settings.warn(above, name, words, entry=entry)
