"""Options of the section ``compute`` about what OpenStack does not say of itself.

Names of attributes are those of GLUE 2.1, which the releases 0.11 to 0.13 of cloud-info-provider
printed them under.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import Tree
from appliance.core.glue import vocabulary as terms
from cloud_info_provider import decoration
from cloud_info_provider.facts import EndpointTerms, FlavorTerms
from cloud_info_provider.site_settings import Fact

COMPUTE = "compute"
ENDPOINTS, TEMPLATES = "compute.endpoints.defaults", "compute.templates.defaults"
QUOTAS = "compute.quotas.defaults"
_INTERFACE = "OpenStack"
# Words of upstream's samples that are no quality level of GLUE, and what they mean.
_LEVELS = {"candidate": "pre-production", "unknown": "production"}
_NUMBERS = {
    "max_dedicated_ram": "InstanceMaxDedicatedRAM",
    "min_dedicated_ram": "InstanceMinDedicatedRAM",
    "total_accelerators": "TotalAccelerators",
    "max_accelerators": "InstanceMaxAccelerators",
    "min_accelerators": "InstanceMinAccelerators",
}
_TEXTS = {
    "network_virt_type": "NetworkVirtualizationType",
    "cpu_virt_type": "CPUVirtualizationType",
    "accelerators_virt_type": "AcceleratorVirtualizationType",
}
_TRUTHS = {
    "failover": "ManagerFailover",
    "live_migration": "ManagerLiveMigration",
    "vm_backup_restore": "ManagerVMBackupRestore",
}
QUOTA_NAMES = (
    *("instances", "cores", "ram", "floating_ips", "fixed_ips", "metadata_items"),
    *("injected_files", "injected_file_content_bytes", "injected_file_path_bytes", "key_pairs"),
    *("security_groups", "security_group_rules", "server_groups", "server_group_members"),
)
"""What ``compute.quotas.defaults`` may have: Nova's quotas."""


def manager(settings: Settings) -> Mapping[str, Fact]:
    """Return what the file says of the hypervisors; zeros and unknown values say nothing."""
    found: dict[str, Fact] = {}
    for option, name in _TEXTS.items():
        if given := decoration.text(settings, COMPUTE, option):
            found[name] = given
    if formats := settings.words(COMPUTE, "virtual_disk_formats"):
        found["ManagerVirtualdiskFormat"] = formats
    for option, name in _TRUTHS.items():
        if (is_true := decoration.truth(settings, COMPUTE, option)) is not None:
            found[name] = is_true
    for option, name in _NUMBERS.items():
        if figure := decoration.number(settings, COMPUTE, option):
            found[name] = figure
    return found


def quotas(settings: Settings) -> Mapping[str, int]:
    """Return the quotas of a VO for which Nova shows none; -1 is unlimited."""
    found = {name: decoration.number(settings, QUOTAS, name, least=-1) for name in QUOTA_NAMES}
    return {name: quota for name, quota in found.items() if quota is not None}


def schema(settings: Settings, section: str, default: str) -> str:
    """Return the part of identifiers before ``#``, as cloud-info-provider lets sites choose it."""
    return decoration.text(settings, section, "schema") or default


def flavor_terms(settings: Settings, section: str, usual: FlavorTerms) -> FlavorTerms:
    """Return what a section says of flavors; ``usual`` counts for the rest."""
    return FlavorTerms(
        platform=settings.text(section, "platform", default=usual.platform),
        has_way_in=decoration.truth(settings, section, "network_in", default=usual.has_way_in),
        has_way_out=decoration.truth(settings, section, "network_out", default=usual.has_way_out),
    )


def endpoint_terms(
    settings: Settings, section: str, usual: EndpointTerms, *, version: str, software: bool
) -> EndpointTerms:
    """Return what a section says of endpoints; ``usual`` counts for the rest.

    ``software`` lets it name the software too, of which ``version`` is the version.
    """
    names = ("middleware_developer", "middleware") if software else ()
    named = [decoration.text(settings, section, name) for name in names] or ["", ""]
    return EndpointTerms(
        interface=_interface(settings, section, usual.interface),
        authentication=settings.text(section, "api_authn_method", default=usual.authentication),
        level=level(settings, section, "production_level", usual.level, is_needed=not software),
        technology=technology(settings, section, usual.technology),
        implementor=named[0] or usual.implementor,
        implementation=named[1] or usual.implementation,
        implementation_version=version or usual.implementation_version,
    )


def technology(settings: Settings, section: str, default: str) -> str:
    """Return a technology of endpoints; ``REST``, which samples have, is a web service."""
    name = "api_endpoint_technology"
    if decoration.text(settings, section, name).upper() == "REST":
        return "webservice"
    return decoration.term(settings, section, name, default=default, allowed=terms.TECHNOLOGIES)


def level(
    settings: Settings,
    section: str,
    option: str,
    default: str = "production",
    *,
    is_needed: bool = True,
) -> str:
    """Return a quality level of GLUE; another text is an error if the level ``is_needed``."""
    entry = settings.where(section, option)
    if entry is not None and entry.text in _LEVELS:
        meant = _LEVELS[entry.text]
        allowed = " or ".join(terms.QUALITY_LEVELS)
        words = f"{entry.text!r} is no quality level of GLUE: {meant} is published; write"
        settings.warn(section, option, f"{words} {allowed}")
        return meant
    read = settings.choice if is_needed else partial(decoration.term, settings)
    return read(section, option, default=default, allowed=terms.QUALITY_LEVELS)


def _interface(settings: Settings, section: str, default: str) -> str:
    given = settings.text(section, "api_type", default=default)
    # files for the OCCI interface that clouds once had beside their own
    if given.upper() != "OCCI":
        return given
    words = f"{given}: clouds have no OCCI any more; {_INTERFACE} is published"
    settings.warn(section, "api_type", words)
    return _INTERFACE


def names_below(settings: Settings, tree: Tree, section: str) -> list[str]:
    """Return the names of a list, but ``defaults``; those without options are empty settings."""
    names = (*tree.children.get(section, {}), *tree.sections.get(section, {}))
    settings.accept(section, names)
    return [name for name in dict.fromkeys(names) if name != "defaults"]
