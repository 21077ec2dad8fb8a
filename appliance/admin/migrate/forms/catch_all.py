"""A site's file of EGI's catch-all: ``gocdb``, ``endpoint``, ``vos``.

Its values go into the files that this host has already, for all three flows. It holds no account of
the site, so the accounts are asked for by ``appliance configure`` afterwards.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from appliance.admin.configure import edit
from appliance.admin.migrate import lines
from appliance.admin.migrate.forms import caso, cloud_info, cloudkeeper
from appliance.admin.migrate.workspace import Workspace
from appliance.admin.mounts import site_files
from appliance.core.config import yaml_file
from appliance.core.config.document import Setting
from appliance.core.config.yaml_file import OUTERMOST, Tree
from appliance.core.run.errors import Problem

_FOLDERS = ("", "sites")
_KNOWN = {"gocdb", "endpoint", "region", "protocol", "auth", "auth_type", "vos"}
_OF_A_VO = {"name", "auth"}
_MAPS = ("FEDCLOUD_CASO_MAPPING", "FEDCLOUD_BACKEND_MAPPING")
_EXAMPLE = {"tenant": "mytenant"}
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_VO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def convert(work: Workspace) -> None:
    """Plan what the site's file says; more than one file is a finding."""
    names = [f"{path}" for path in _files(work.source) if _is_of_catch_all(path)]
    if len(names) > 1:
        words = f"{len(names)} sites: copy the file of yours into a directory of its own"
        work.findings.append(Problem(Path(names[0]), 0, "", words))
    elif names:
        _carry(work, Path(names[0]))


def _files(source: Path) -> list[Path]:
    folders = [source / name for name in _FOLDERS]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*"))]
    return [path for path in found if path.suffix in (".yaml", ".yml") and path.is_file()]


def _is_of_catch_all(path: Path) -> bool:
    with path.open("rb") as file:
        text = file.read(1 << 20).decode(errors="replace")
    return all(re.search(rf"^{key}:", text, re.MULTILINE) for key in ("endpoint", "vos"))


def _carry(work: Workspace, path: Path) -> None:
    name = f"/{path.relative_to(work.source)}"
    tree = work.parse(name, yaml_file.parse)
    work.planned.pop(name, None)  # it is read, and not carried itself
    if tree is None:
        return
    top = tree.sections.get(OUTERMOST, {})
    projects = _projects(work, name, tree)
    site = tree.get("accounting", "site_name") or top.get("gocdb")
    if site is None or not _NAME.fullmatch(site.text):
        work.find(
            name,
            site.line if site else 0,
            "the name of the site is missing, or none that GOCDB has",
        )
        return
    _note_rest(work, name, tree)
    url, region = (_plain(work, name, top.get(option)) for option in ("endpoint", "region"))
    _accounting(work, site.text, url, region, [*projects.values()])
    _information(work, site.text, url, region, projects)
    _images(work, url, region)
    _map(work, projects)
    missing = "accounts and passwords: this file has none; run appliance configure afterwards"
    work.find(name, 0, missing)


def _map(work: Workspace, projects: dict[str, str]) -> None:
    """Plan the maps that this host uses, with the VOs of others that are in them."""
    chosen = site_files.choose(site_files.variables(work.layout), work.layout)
    wanted = {vo: {"projects": [project]} for vo, project in projects.items()}
    for name in dict.fromkeys(chosen[variable] for variable in _MAPS) if projects else ():
        try:
            present = json.loads(work.base(name) or "{}")
            kept = {vo: one for vo, one in present.items() if one != _EXAMPLE}
        except (ValueError, AttributeError):
            work.findings.append(Problem(work.layout.path(name), 0, "", "is not a map of VOs"))
            continue
        work.planned[name] = json.dumps({**kept, **wanted}, indent=2) + "\n"


def _plain(work: Workspace, name: str, entry: Setting | None) -> str:
    """Return a value that goes into other files as it is; empty if it could not be one."""
    if entry is None or not entry.text:
        return ""
    if not re.fullmatch(r"[!#%&()*+,./:;=?@\[\]~\w-]+", entry.text, re.ASCII):
        work.find(name, entry.line, "has characters that this value cannot have; correct it")
        return ""
    return entry.text


def _projects(work: Workspace, name: str, tree: Tree) -> dict[str, str]:
    found: dict[str, str] = {}
    for section, entry in tree.children.get("", {}).items():
        if not section.startswith("vos["):
            continue
        vo, project = tree.get(section, "name"), tree.get(f"{section}.auth", "project_id")
        if vo is None or project is None or not project.text or not _VO.fullmatch(vo.text):
            work.find(name, entry.line, "this VO has no name, or no auth: project_id; it is left")
        elif not _NAME.fullmatch(project.text):
            work.find(name, project.line, "is not the id of a project; this VO is left")
        elif vo.text in found:
            work.find(name, entry.line, f"{vo.text} is named a second time; this one is left")
        else:
            found[vo.text] = project.text
        for option in tree.children.get(section, {}).keys() | tree.sections.get(section, {}).keys():
            if option not in _OF_A_VO:
                work.note(name, entry.line, f"{option} of a VO is not carried over")
    return found


def _note_rest(work: Workspace, name: str, tree: Tree) -> None:
    sync = tree.get("images", "sync")
    if sync and sync.text.lower() in ("true", "yes", "on"):
        words = "the catch-all manages the images: the flow of images stays as it is here"
        work.note(name, sync.line, words)
    enabled = tree.get("accounting", "enabled")
    if enabled and enabled.text.lower() in ("true", "yes", "on"):
        words = "the catch-all accounts this site: have it switched off before appliance start"
        work.find(name, enabled.line, words)
    for option, entry in tree.sections.get(OUTERMOST, {}).items():
        if option not in _KNOWN:
            work.note(name, entry.line, f"{option} is not known here, and not carried over")


def _accounting(work: Workspace, site: str, url: str, region: str, projects: list[str]) -> None:
    text = work.base(caso.NAME)
    for section, option, value in (
        ("DEFAULT", "site_name", site),
        ("DEFAULT", "projects", ", ".join(projects)),
        ("DEFAULT", "messengers", "" if _is_set(text, "messengers") else "ssm"),
        ("DEFAULT", "region_name", region),
        ("keystone_auth", "auth_type", "" if _is_set(text, "auth_type") else "v3password"),
        ("keystone_auth", "auth_url", url),
    ):
        if value:
            text = lines.with_option(text, section, option, value)
    work.planned[caso.NAME] = text


def _information(
    work: Workspace, site: str, url: str, region: str, projects: dict[str, str]
) -> None:
    text = edit.set_yaml(work.base(cloud_info.YAML), "site", "name", site)
    if "shares:" not in text:
        head = "" if re.search(r"^compute:", text, re.MULTILINE) else "\ncompute:\n"
        text = f"{text.rstrip(chr(10))}\n{head}    shares:\n        PROJECT-ID:\n"
    text = edit.set_shares(text, projects).lstrip("\n")
    work.planned[cloud_info.YAML] = text
    if missing := [vo for vo in projects if not re.search(rf"(?m)^\s+{re.escape(vo)}:", text)]:
        words = f"has shares of its own; add {', '.join(missing)}"
        work.findings.append(Problem(work.layout.path(cloud_info.YAML), 0, "", words))
    text = work.base(cloud_info.RC)
    for name, value in (("OS_AUTH_URL", url), ("OS_REGION_NAME", region)):
        if value:
            text = edit.set_variable(text, name, value, prefix="export ").lstrip("\n")
    work.planned[cloud_info.RC] = text


def _images(work: Workspace, url: str, region: str) -> None:
    here = [name for name in cloudkeeper.BACKENDS if work.layout.path(name).is_file()]
    name = (here or [cloudkeeper.BACKENDS[-1]])[0]
    text = work.base(name)
    if url:
        text = lines.with_option(text, "keystone_authtoken", "auth_url", url)
    if region:
        text = lines.with_option(text, "DEFAULT", "region_name", region)
    work.planned[name] = text


def _is_set(text: str, option: str) -> bool:
    return re.search(rf"(?m)^{option}\s*=\s*\S", text) is not None
