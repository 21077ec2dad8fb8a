"""Options and flags of cloud-info-provider's releases that are accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import Tree

# Options of openstack.yaml, by section.
IGNORED: Mapping[str, tuple[str, ...]] = {
    "site": (
        "url",
        "production_level",
        "country",
        "longitude",
        "latitude",
        "ngi",
        "general_contact",
        "user_support_contact",
        "sysadmin_contact",
        "security_contact",
        "bdii_host",
        "bdii_port",
        "is_public",
    ),
    "compute": (
        "service_name",
        "region",
        "max_dedicated_ram",
        "min_dedicated_ram",
        "accelerators_virt_type",
        "total_accelerators",
        "max_accelerators",
        "min_accelerators",
        "network_virt_type",
        "cpu_virt_type",
        "virtual_disk_formats",
        "failover",
        "live_migration",
        "vm_backup_restore",
        "public_ip_assignable",
        "oidc_auth_enabled",
        "supported_idps",
        "is_public_service",
    ),
    "compute.endpoints.defaults": (
        "openstack_api_version",
        "compute_api_version",
        "occi_api_version",
        "occi_middleware_version",
        "api_endpoint_technology",
        "middleware",
        "middleware_developer",
    ),
    "compute.templates.defaults": (
        "network",
        "network_in",
        "network_out",
        "memory",
        "ephemeral",
        "disk",
        "cpu",
        "schema",
    ),
    "compute.images.defaults": (
        "platform",
        "image_schema",
        "schema",
    ),
    "compute.quotas.defaults": (
        "instances",
        "cores",
        "ram",
        "floating_ips",
        "fixed_ips",
        "metadata_items",
        "injected_files",
        "injected_file_content_bytes",
        "injected_file_path_bytes",
        "key_pairs",
        "security_groups",
        "security_group_rules",
        "server_groups",
        "server_group_members",
    ),
}

# Flags: this program always does what they ask for.
IGNORED_FLAGS = ("ignore-share-errors", "legacy-occi-os", "collect-timing")
# Flags of OpenStack's clients for one service; cloud-info-provider reads several.
IGNORED_FLAGS_WITH_VALUE = ("os-service-type", "os-service-name", "os-api-version")

# Sections that are ignored with all their options, and a warning.
_NOT_PUBLISHED = {
    "storage": "storage is not published by this version",
    "compute.instances": "single servers are not published",
}
# Below these, providers for other clouds list what they offer, one name each.
_LISTS = ("compute.endpoints.", "compute.templates.", "compute.images.", "compute.quotas.")


def accept(settings: Settings, tree: Tree) -> None:
    """Accept the ignored options of all releases, and warn of those with a visible effect there."""
    for section, names in IGNORED.items():
        settings.accept(section, names)
    for section, options in tree.sections.items():
        parents = (name for name in _NOT_PUBLISHED if f"{section}.".startswith(f"{name}."))
        parent = next(parents, "")
        if parent == section:
            above, _, name = section.rpartition(".")
            settings.warn(above, name, _NOT_PUBLISHED[parent], entry=tree.children[above][name])
        if parent or (f"{section}.".startswith(_LISTS) and not section.endswith(".defaults")):
            settings.accept(section, options)
        if section.startswith("compute.shares.") and not section.endswith(".auth"):
            settings.accept(section, ("project",))
        if not options:
            settings.accept(section, ())
