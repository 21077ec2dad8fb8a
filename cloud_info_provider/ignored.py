"""Options and flags of cloud-info-provider that are accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import Tree

IGNORED: Mapping[str, tuple[str, ...]] = {
    "site": (
        *("url", "production_level", "country", "longitude", "latitude", "ngi", "general_contact"),
        *("user_support_contact", "sysadmin_contact", "security_contact", "bdii_host", "bdii_port"),
    ),
    "compute": (
        *(
            "service_name",
            "region",
            "max_dedicated_ram",
            "min_dedicated_ram",
            "accelerators_virt_type",
        ),
        *(
            "total_accelerators",
            "max_accelerators",
            "min_accelerators",
            "network_virt_type",
            "cpu_virt_type",
        ),
        *(
            "virtual_disk_formats",
            "failover",
            "live_migration",
            "vm_backup_restore",
            "public_ip_assignable",
        ),
        *("oidc_auth_enabled", "supported_idps"),
    ),
    "compute.endpoints.defaults": (
        *(
            "openstack_api_version",
            "occi_api_version",
            "occi_middleware_version",
            "api_endpoint_technology",
        ),
        *("api_type", "middleware", "middleware_developer"),
    ),
    "compute.templates.defaults": (
        *("network", "network_in", "network_out", "memory", "ephemeral", "disk", "cpu", "schema"),
    ),
    "compute.images.defaults": ("platform", "image_schema", "schema"),
    "compute.quotas.defaults": (
        *(
            "instances",
            "cores",
            "ram",
            "floating_ips",
            "fixed_ips",
            "metadata_items",
            "injected_files",
        ),
        *(
            "injected_file_content_bytes",
            "injected_file_path_bytes",
            "key_pairs",
            "security_groups",
        ),
        *("security_group_rules", "server_groups", "server_group_members"),
    ),
}
_PUBLISHED_ELSEWHERE = {
    "storage": "storage is not published by this version",
    "compute.instances": "single servers are not published",
}


def accept(settings: Settings, tree: Tree) -> None:
    """Take the options of all releases of cloud-info-provider as known, and say which of them do nothing here."""
    for section, names in IGNORED.items():
        settings.accept(section, names)
    for section, options in tree.sections.items():
        parent = next(
            (
                name
                for name in _PUBLISHED_ELSEWHERE
                if section == name or section.startswith(f"{name}.")
            ),
            "",
        )
        if parent == section:
            above, _, name = section.rpartition(".")
            settings.warn(
                above, name, _PUBLISHED_ELSEWHERE[parent], entry=tree.children[above][name]
            )
        # Below these, a site that is no OpenStack lists what it has, one name each.
        lists = ("compute.endpoints.", "compute.templates.", "compute.images.")
        if parent or (section.startswith(lists) and not section.endswith(".defaults")):
            settings.accept(section, options)
        if section.startswith("compute.shares.") and not section.endswith(".auth"):
            settings.accept(section, ("project",))
        if not options:
            settings.accept(section, ())
