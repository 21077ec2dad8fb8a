"""The texts of this host's files after an import; everything else in them stays as it is.

VOs and projects that are here and not in the imported file stay: it says what EGI knows of the
site, and the site may serve others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.admin.configure import edit, shares
from appliance.admin.configure.site import CASO, CLOUD, RC, SETTINGS
from appliance.admin.inventory import Flow
from appliance.admin.migrate import lines
from appliance.admin.mounts import site_files
from appliance.admin.site_yaml.schema import SiteYaml
from appliance.core.config import yaml_file
from appliance.core.config.yaml_file import OUTERMOST, Tree
from appliance.core.run.errors import ConfigurationError, Problem

CLOUDKEEPER = "/etc/cloudkeeper/cloudkeeper.yml"
_MAPPINGS = ("FEDCLOUD_CASO_MAPPING", "FEDCLOUD_BACKEND_MAPPING")
_EXAMPLE = {"tenant": "mytenant"}
_PLACEHOLDER = "PROJECT-NAMES"

Texts = Mapping[str, str]
"""The text of each file by its path as on the appliance; a missing file has none."""


def names(mounts: Mapping[str, str]) -> list[str]:
    """Return the files that an import may change."""
    places = [mounts[variable] for variable in _MAPPINGS]
    backend = mounts[site_files.BACKEND_CONFIG]
    return list(dict.fromkeys((SETTINGS, CASO, RC, CLOUD, backend, CLOUDKEEPER, *places)))


def changed(site: SiteYaml, texts: Texts, mounts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield path and new text of each file, also of one that stays as it is.

    Raises:
        ConfigurationError: A file of this host has a form into which nothing can be written.

    """
    yield SETTINGS, _flows(site, texts.get(SETTINGS, ""))
    yield CASO, _caso(site, texts.get(CASO, ""))
    yield RC, _rc(site, texts.get(RC, ""))
    yield CLOUD, _cloud(site, texts.get(CLOUD, ""))
    backend = mounts[site_files.BACKEND_CONFIG]
    yield backend, _backend(site, texts.get(backend, ""))
    if site.formats:
        yield CLOUDKEEPER, _formats(site, texts.get(CLOUDKEEPER, ""))
    for place in dict.fromkeys(mounts[variable] for variable in _MAPPINGS):
        yield place, _mapping(site, place, texts.get(place, ""))


def _flows(site: SiteYaml, text: str) -> str:
    """Return the settings with a flow off that the catch-all serves, and on that it does not."""
    for flow, is_theirs in ((Flow.IMAGES, site.sync), (Flow.ACCOUNTING, site.accounts)):
        if is_theirs is not None:
            text = edit.set_yaml(text, "flows", flow.value, "off" if is_theirs else "on")
    return text


def _caso(site: SiteYaml, text: str) -> str:
    present = re.findall(r"(?m)^projects\s*=[ \t]*(.*(?:\n[ \t]+\S.*)*)$", text)
    words = re.split(r"[,\s]+", present[-1]) if present else []
    kept = [word for word in words if word and word != _PLACEHOLDER]
    projects = list(dict.fromkeys([*kept, *site.projects.values()]))
    for section, option, value in (
        ("DEFAULT", "site_name", site.accounting_name or site.gocdb),
        ("DEFAULT", "projects", ", ".join(projects) if projects != kept else ""),
        ("DEFAULT", "region_name", site.region),
        ("keystone_auth", "auth_url", site.endpoint),
    ):
        if value and not _has(text, section, option, value):
            text = lines.with_option(text, section, option, value)
    return text


def _has(text: str, section: str, option: str, value: str) -> bool:
    """Check whether an option has a value already, whatever the blanks around it."""
    _, _, below = text.partition(f"[{section}]")
    inside = re.split(r"(?m)^\[", below)[0]
    found = re.findall(rf"(?m)^{re.escape(option)}\s*=[ \t]*(.*?)[ \t]*$", inside)
    return bool(found) and str(found[-1]) == value


def _rc(site: SiteYaml, text: str) -> str:
    for name, value in (("OS_AUTH_URL", site.endpoint), ("OS_REGION_NAME", site.region)):
        if value:
            text = edit.set_variable(text, name, value, prefix="export ").lstrip("\n")
    return text


def _backend(site: SiteYaml, text: str) -> str:
    for section, option, value in (
        ("keystone_authtoken", "auth_url", site.endpoint),
        ("DEFAULT", "region_name", site.region),
    ):
        if value and not _has(text, section, option, value):
            text = lines.with_option(text, section, option, value)
    return text


def _formats(site: SiteYaml, text: str) -> str:
    """Return cloudkeeper.yml with the formats, in place of a list of one item a line, too."""
    written = f"[{', '.join(site.formats)}]"
    block = r"(?m)^(?P<head>[ \t]+formats:)[ \t]*\n(?:[ \t]+- .*\n?)+"
    if found := re.search(block, text):
        items = re.findall(r"(?m)^[ \t]+- *(\S+)[ \t]*$", found[0])
        if tuple(items) == site.formats:
            return text
        return f"{text[: found.start()]}{found['head']} {written}\n{text[found.end() :]}"
    return edit.set_yaml(text, "cloudkeeper", "formats", written)


def _mapping(site: SiteYaml, place: str, text: str) -> str:
    try:
        present = json.loads(text or "{}")
        kept = {vo: entry for vo, entry in present.items() if entry != _EXAMPLE}
    except (ValueError, AttributeError) as error:
        words = f"is not a mapping of VOs: {error}; correct it, or write {{}} into it"
        raise ConfigurationError([Problem(Path(place), 0, "", words)]) from error
    for vo, project in site.projects.items():
        if project not in _projects(kept.get(vo)):
            kept[vo] = {"projects": [project]}
    # An unchanged table keeps its form.
    return text if kept == present else json.dumps(kept, indent=2) + "\n"


def _projects(entry: object) -> list[object]:
    """Return the projects of an entry, of any form of the table."""
    options = entry if isinstance(entry, dict) else {}
    single = [options.get(key) for key in ("project", "tenant")]
    several = [options.get(key) for key in ("projects", "tenants")]
    return [*single, *(one for found in several if isinstance(found, list) for one in found)]


def _cloud(site: SiteYaml, text: str) -> str:
    path = Path(CLOUD)
    tree = yaml_file.parse(path, text)
    top = tree.sections.get(OUTERMOST, {})
    if "gocdb" in top or "endpoint" in top:
        entry = top.get("gocdb") or top["endpoint"]
        words = "this file is one of the catch-all itself; copy the file over it"
        raise ConfigurationError([Problem(path, entry.line, "", words)])
    if _text(tree, "site", "name") != site.gocdb:
        text = edit.set_yaml(text, "site", "name", site.gocdb)
    return _with_shares(site.projects, text)


def _text(tree: Tree, section: str, option: str) -> str:
    entry = tree.get(section, option)
    return entry.text if entry else ""


def _with_shares(projects: Mapping[str, str], text: str) -> str:
    """Return the description with the project of each VO; other shares stay."""
    path = Path(CLOUD)
    wanted = {**shares.projects(path, text), **projects}
    return shares.set_projects(path, text, wanted) if projects else text


def with_vos(
    projects: Mapping[str, str], texts: Texts, mounts: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield path and new text of each table of VOs, also of one that stays as it is.

    Raises:
        ConfigurationError: A file of this host has a form into which nothing can be written.

    """
    site = SiteYaml("", "", projects=projects)
    yield CASO, _caso(site, texts.get(CASO, ""))
    text = texts.get(CLOUD, "")
    tree = yaml_file.parse(Path(CLOUD), text)
    is_listed = "vos[0]" in tree.children.get("", {})
    yield CLOUD, _listed(projects, text, tree) if is_listed else _with_shares(projects, text)
    for place in dict.fromkeys(mounts[variable] for variable in _MAPPINGS):
        yield place, _mapping(site, place, texts.get(place, ""))


def _listed(projects: Mapping[str, str], text: str, tree: Tree) -> str:
    """Return a description of the catch-all's form with further VOs, above those that it has."""
    names = [_text(tree, section, "name") for section in tree.children[""]]
    new = {vo: project for vo, project in projects.items() if vo not in names}
    above = r"(?m)^vos:[ \t]*(?:#.*)?\n(?:[ \t]*(?:#.*)?\n)*"
    head = re.search(rf"{above}(?=(?P<indent>[ \t]*)- )", text)
    if head is None:
        words = "the VOs are in brackets; write one VO a line"
        raise ConfigurationError([Problem(Path(CLOUD), 0, "vos", words)])
    indent = head["indent"]
    block = "".join(
        f"{indent}- name: {vo}\n{indent}  auth:\n{indent}    project_id: '{project}'\n"
        for vo, project in new.items()
    )
    return f"{text[: head.end()]}{block}{text[head.end() :]}"
