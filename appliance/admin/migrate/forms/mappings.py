"""The maps of VOs to projects: Keystone-VOMS, cASO and cloudkeeper-os, in all their forms.

Accounting and images keep the map that each of them had. Where the two differ, the plan shows both.
"""

from __future__ import annotations

import re

from appliance.admin.configure import edit
from appliance.admin.migrate import oslo_lines
from appliance.admin.migrate.forms import caso, cloudkeeper
from appliance.admin.migrate.workspace import Workspace
from appliance.admin.mounts import site_files
from appliance.core.cloud import vo
from appliance.core.config import yaml_file
from appliance.core.run.errors import ConfigurationError

_KINDS = {
    "accounting": ("FEDCLOUD_CASO_MAPPING", (caso.NAME,)),
    "images": ("FEDCLOUD_BACKEND_MAPPING", cloudkeeper.BACKENDS),
}
"""By flow, the variable of the compose file, and the files that may name another map."""
_CLOUD = "/etc/cloud-info-provider/openstack.yaml"
_ID = re.compile(r"[0-9a-f]{32}")


def convert(work: Workspace) -> None:
    """Plan the maps, and compare them."""
    for name in dict.fromkeys(name for places in site_files.PLACES.values() for name in places):
        if name.endswith(".json"):
            work.read(name)
    maps = {flow: _map(work, *kind) for flow, kind in _KINDS.items()}
    vos = dict.fromkeys(name for found in maps.values() for name in found)
    shares = _shares(work)
    for name in vos:
        accounting, images = (maps[flow].get(name, []) for flow in _KINDS)
        if accounting and images and accounting != images:
            words = f"accounting has {', '.join(accounting)}, images have {', '.join(images)}"
            work.notes.append(f"VO {name}: {words}; check that they are the same project")
        project = (accounting or images)[0]
        if name in shares and project != shares[name] and not _ID.fullmatch(project):
            words = f"the map names {project}, openstack.yaml has {shares[name]}"
            work.notes.append(f"VO {name}: {words}; check that they are the same project")


def _map(work: Workspace, variable: str, configs: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the projects of each VO in the map of a flow."""
    named = next(filter(None, (_named(work, config) for config in configs)), "")
    usual = [name for name in site_files.PLACES[variable] if name in work.planned]
    name = named or next(iter(usual), "")
    if not name or work.read(name) is None:
        return {}
    if named and named != next(iter(usual), named):
        _choose(work, variable, named)
    try:
        mapping = vo.parse_mapping(work.path(name), work.planned[name])
    except ConfigurationError as error:
        work.findings += error.problems
        return {}
    found: dict[str, list[str]] = {}
    for entry in mapping.entries:
        found.setdefault(entry.vo, []).append(entry.project)
    return found


def _named(work: Workspace, config: str) -> str:
    """Return the map that a configuration names."""
    found = work.parse(config, oslo_lines.parse) if config in work.planned else None
    entry = found.get("DEFAULT", "mapping_file") if found else None
    return entry.text if entry and entry.text.startswith("/") else ""


def _choose(work: Workspace, variable: str, name: str) -> None:
    """Have the containers mount a map that is not the first of the usual ones."""
    path = work.layout.path(site_files.ENVIRONMENT)
    if path.is_file():
        text = work.planned.get(site_files.ENVIRONMENT) or path.read_text(errors="surrogateescape")
        work.planned[site_files.ENVIRONMENT] = edit.set_variable(text, variable, name)


def _shares(work: Workspace) -> dict[str, str]:
    """Return the project of each VO in the description of the cloud."""
    tree = work.parse(_CLOUD, yaml_file.parse) if _CLOUD in work.planned else None
    names = tree.children.get("compute.shares", {}) if tree else {}
    found = {name: tree.get(f"compute.shares.{name}.auth", "project_id") for name in names if tree}
    return {name: entry.text for name, entry in found.items() if entry}
