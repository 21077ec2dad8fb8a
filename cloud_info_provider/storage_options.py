"""The section ``storage``: a storage service that the description alone knows.

    storage:
      service_name: NAME        names the service; default: the cloud's name
      total_storage: 100        GB
      middleware: …             with middleware_version and middleware_developer
      endpoints: {defaults: {api_type: …}, URL: {api_version: …}}

Without an endpoint there is no service, as in cloud-info-provider. Nothing here is an error: what
cannot be used is left out with a warning, because the cloud is published all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from appliance.core import hosts
from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import OUTERMOST, Tree
from appliance.core.glue import vocabulary as terms
from cloud_info_provider import compute_options, decoration
from cloud_info_provider.facts import EndpointTerms
from cloud_info_provider.site_settings import StorageEndpoint, StorageSettings

_STORAGE, _ENDPOINTS = "storage", "storage.endpoints"
_DEFAULTS = "storage.endpoints.defaults"
_UNKNOWN = "UNKNOWN"


def read(settings: Settings, tree: Tree, cloud: str) -> StorageSettings | None:
    """Return the service; None without any. ``cloud`` is the cloud's name."""
    total = decoration.number(settings, _STORAGE, "total_storage")
    used = decoration.number(settings, _STORAGE, "used_storage")
    if total is not None and used is not None and used > total:
        words = f"{used} is more than total_storage and is left out; write GB"
        settings.warn(_STORAGE, "used_storage", words)
        used = None
    product = decoration.text(settings, _STORAGE, "middleware") or _UNKNOWN
    version = decoration.text(settings, _STORAGE, "middleware_version") or _UNKNOWN
    developer = decoration.text(settings, _STORAGE, "middleware_developer") or _UNKNOWN
    usual = EndpointTerms(
        interface="",
        implementor=developer,
        implementation=product,
        implementation_version=version,
    )
    found = StorageSettings(
        name=settings.text(_STORAGE, "service_name") or cloud,
        level=compute_options.level(
            settings, _STORAGE, "service_production_level", is_needed=False
        ),
        capabilities=_capabilities(settings),
        product=product,
        product_version=version,
        total=total,
        used=used,
        endpoints=tuple(_endpoints(settings, tree, usual)),
    )
    settings.accept(OUTERMOST, (_STORAGE,))  # without any option
    section = tree.children.get("", {}).get(_STORAGE)
    if section and not found.endpoints:
        words = "has no endpoints, so no storage is published; write their URLs below endpoints"
        settings.warn("", _STORAGE, words, entry=section)
    return found if found.endpoints else None


def _endpoints(settings: Settings, tree: Tree, usual: EndpointTerms) -> Iterator[StorageEndpoint]:
    if "endpoints" in tree.sections.get(_STORAGE, {}):
        settings.accept(_STORAGE, ("endpoints",))  # without any option
    names = compute_options.names_below(settings, tree, _ENDPOINTS)
    usual = _terms(settings, _DEFAULTS, usual)
    version = settings.text(_DEFAULTS, "api_version")
    for url in names:
        section = f"{_ENDPOINTS}.{url}"
        entry = tree.children.get(_ENDPOINTS, {}).get(url)
        found = _terms(settings, section, usual)
        own = settings.text(section, "api_version", default=version) or _UNKNOWN
        if fault := hosts.url_fault(url):
            words = f"left out, because it {fault}; write https://HOST"
            settings.warn(_ENDPOINTS, url, words, entry=entry)
        elif not found.interface:
            words = "left out, because it has no api_type; write the interface, such as CDMI"
            settings.warn(_ENDPOINTS, url, words, entry=entry)
        else:
            yield StorageEndpoint(url, own, found)


def _terms(settings: Settings, section: str, usual: EndpointTerms) -> EndpointTerms:
    return EndpointTerms(
        interface=settings.text(section, "api_type", default=usual.interface),
        authentication=settings.text(section, "api_authn_method", default=usual.authentication),
        level=compute_options.level(
            settings, section, "production_level", usual.level, is_needed=False
        ),
        technology=compute_options.technology(settings, section, usual.technology),
        implementor=usual.implementor,
        implementation=usual.implementation,
        implementation_version=usual.implementation_version,
    )


def _capabilities(settings: Settings) -> tuple[str, ...]:
    given = settings.words(_STORAGE, "capabilities")
    if foreign := [name for name in given if name not in terms.CAPABILITIES]:
        words = f"{', '.join(foreign)}: no capability of GLUE 2.0, left out"
        settings.warn(_STORAGE, "capabilities", words)
    return tuple(name for name in given if name in terms.CAPABILITIES)
