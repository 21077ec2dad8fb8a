"""Options and flags of cloud-info-provider's releases that are accepted without any effect."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.config.settings import Settings
from appliance.core.config.yaml_file import Tree

_CMDB = "the format cmdb had it, which this program does not print"
_NO_OCCI = "clouds have no OCCI any more"
_NO_SERVERS = "single servers are not published"
_NO_NETWORK = "default_network_type of a VO is published"
_NO_RULES = "GLUE 2.0 has no rules of networks"
_OF_DEFAULTS = "it belongs to defaults"

# By section, each option with the reason.
_Options = Mapping[str, Mapping[str, str]]

_WITHOUT_EFFECT: _Options = {
    "site": dict.fromkeys(
        (
            *("id", "country_code", "roc", "subgrid", "giis_url", "is_public"),
            *("owner_contacts", "owner_contacts_iam"),
        ),
        _CMDB,
    ),
    "compute": dict.fromkeys(
        ("public_ip_assignable", "oidc_auth_enabled", "supported_idps", "is_public_service"), _CMDB
    ),
    "compute.endpoints.defaults": {
        "occi_api_version": _NO_OCCI,
        "occi_middleware_version": _NO_OCCI,
    },
    "compute.templates.defaults": {"network": _NO_NETWORK},
    "compute.images.defaults": {"image_schema": "write schema"},
}
"""Options without effect in cloud-info-provider too, but for forms of output that have gone."""

_MISSED: _Options = {
    "compute": {"region": "write OS_REGION_NAME, or auth.region_name of a VO"},
}
"""Options whose effect an administrator may miss."""

_OF_CLOUD: _Options = {
    "compute": {"service_name": "Keystone's URL names the cloud"},
    "compute.endpoints.defaults": {
        **dict.fromkeys(("openstack_api_version", "compute_api_version"), "Nova's URL has it"),
        **dict.fromkeys(("middleware", "middleware_developer"), "the catalog has OpenStack Nova"),
    },
    "compute.templates.defaults": dict.fromkeys(
        ("memory", "ephemeral", "disk", "cpu"), "each flavor of Nova has its own"
    ),
}
"""Options that ``--middleware static`` reads; a cloud answers for itself."""
_LISTS_OF_CLOUD = {
    "endpoints": "Keystone's catalog has the endpoints; --middleware static reads the file's",
    "templates": "Nova has the flavors; --middleware static reads the file's",
    "images": "Glance has the images; --middleware static reads the file's",
}
_IN_LISTS: _Options = {
    "endpoints": {
        "occi_api_version": _NO_OCCI,
        "occi_middleware_version": _NO_OCCI,
        "compute_api_version": "write api_version",
    },
    "templates": {"network": _NO_NETWORK, "schema": _OF_DEFAULTS},
    "images": {
        "native_id": "id is published",
        "traffic_in": _NO_RULES,
        "traffic_out": _NO_RULES,
        "schema": _OF_DEFAULTS,
    },
}
"""Options of the single entries of a static cloud."""

# Flags: this program always does what they ask for.
GRANTED_FLAGS = ("ignore-share-errors",)
IGNORED_FLAGS = {
    "legacy-occi-os": "clouds have no OCCI any more; flavors have the ids that Nova knows",
    "collect-timing": "times of single requests are not collected",
}
_NO_DOMAIN = "projects are read, not a domain"
_ONE_SERVICE = "Keystone, Nova and Glance are read, not one service"
IGNORED_FLAGS_WITH_VALUE = {
    "os-service-type": _ONE_SERVICE,
    "os-service-name": _ONE_SERVICE,
    "os-api-version": "the version of each service is negotiated",
    "os-domain-id": _NO_DOMAIN,
    "os-domain-name": _NO_DOMAIN,
}
"""Flags of OpenStack's clients for one service, and for a scope that is not read."""


def accept(settings: Settings, tree: Tree, *, is_static: bool) -> None:
    """Accept the options of all releases; `Settings.finish` reports those without effect."""
    for section, options in _WITHOUT_EFFECT.items():
        settings.ignore(section, options, is_missed=False)
    for section, options in _MISSED.items():
        settings.ignore(section, options)
    for section, options in _OF_CLOUD.items():
        if is_static:
            settings.accept(section, options)
        else:
            settings.ignore(section, options, is_missed=False)
    for kind in _LISTS_OF_CLOUD:
        _accept_list(settings, tree, kind, is_static=is_static)
    if "defaults" in tree.sections.get("compute.quotas", {}):
        settings.accept("compute.quotas", ("defaults",))  # without any option
    _accept_all_below(settings, tree, "compute.instances", _NO_SERVERS)
    for section, found in tree.sections.items():
        if not found:
            settings.accept(section, ())


def _accept_list(settings: Settings, tree: Tree, kind: str, *, is_static: bool) -> None:
    above = f"compute.{kind}"
    listed = {**tree.children.get(above, {}), **tree.sections.get(above, {})}
    listed.pop("defaults", None)
    if not is_static and listed:
        name, entry = next(iter(listed.items()))
        # the endpoints of the cloud replaced the file's in cloud-info-provider, too
        is_missed = kind != "endpoints"
        reason = _LISTS_OF_CLOUD[kind]
        settings.ignore(above, {name: reason}, is_missed=is_missed, entry=entry)
        settings.accept(above, listed)
    for name in listed:
        section = f"{above}.{name}"
        if is_static:
            settings.ignore(section, _IN_LISTS[kind], is_missed=False)
        else:
            settings.accept(section, tree.sections.get(section, {}))


def _accept_all_below(settings: Settings, tree: Tree, section: str, reason: str) -> None:
    above, _, name = section.rpartition(".")
    if entry := tree.children.get(above, {}).get(name):
        settings.ignore(above, {name: reason}, entry=entry)
    for below, options in tree.sections.items():
        if f"{below}.".startswith(f"{section}."):
            settings.accept(below, options)
