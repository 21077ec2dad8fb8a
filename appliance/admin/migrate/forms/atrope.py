"""atrope: ``hepix.yaml`` becomes ``sources.yaml``, the account of ``atrope.conf`` the backend's.

``sources.yaml`` has atrope's own keys, so that subset, endorser and token of each list come along;
``prefix`` is accepted and without effect, because the backend names the images.
"""

from __future__ import annotations

import re

from appliance.admin.configure import edit
from appliance.admin.migrate import lines, oslo_lines
from appliance.admin.migrate.forms import cloudkeeper
from appliance.admin.migrate.workspace import Workspace
from appliance.core.config import yaml_file
from appliance.core.config.document import Document

CONFIG = "/etc/atrope/atrope.conf"
_LISTS = "/etc/atrope/hepix.yaml"
_SECTION = "keystone_authtoken"
_ACCOUNT = ("username", "password", "auth_url")
_OPTIONS = (("sources", "hepix_sources"), ("sources", "image_sources"))
_IMPORT = (
    "atrope's images stay in Glance; before the first sync, look which of them can be taken over"
    " without an upload: appliance run cloudkeeper -- import NAME --dry-run"
)


def convert(work: Workspace) -> None:
    """Plan sources and account of the images."""
    config = work.parse(CONFIG, oslo_lines.parse)
    name = _lists_of(config) if config else _LISTS
    tree = work.parse(name, yaml_file.parse)
    if tree is not None:
        _carry_lists(work, name, tree)
    if config is not None:
        _carry_account(work, config)
    for gone, read in ((CONFIG, config), (name, tree)):
        # A file with faults stays, so that a later run can carry it.
        if work.planned.pop(gone, None) is not None and read is not None and work.is_in_place:
            work.dropped[gone] = "atrope is replaced by cloudkeeper"


def _lists_of(config: Document) -> str:
    found = [entry for place in _OPTIONS if (entry := config.get(*place))]
    return found[0].text if found else _LISTS


def _carry_lists(work: Workspace, name: str, tree: yaml_file.Tree) -> None:
    for source, entry in tree.children.get("", {}).items():
        enabled = tree.get(source, "enabled")
        if enabled and enabled.text.lower() in ("false", "no", "off"):
            work.note(name, entry.line, f"the list {source} is not enabled: left out")
    present = work.base(cloudkeeper.SOURCES)
    missing = _missing(present, work.planned[name])
    if missing:
        head = f"{present.rstrip(chr(10))}\n" if present.strip() else ""
        work.planned[cloudkeeper.SOURCES] = f"{head}{missing.lstrip('-').lstrip(chr(10))}"
    cloudkeeper.keep_images(work)
    work.notes.append(_IMPORT)


def _missing(present: str, text: str) -> str:
    """Return the sources of a text that another one does not have, each with its own lines."""
    blocks = re.split(r"(?m)^(?=[^\s#-])", text)
    names = set(re.findall(r"(?m)^([^\s#:][^:\n]*):", present))
    return "".join(block for block in blocks if block.partition(":")[0] not in names)


def _carry_account(work: Workspace, config: Document) -> None:
    place = next((name for name in cloudkeeper.BACKENDS if work.has(name)), "")
    place = place or cloudkeeper.BACKENDS[-1]
    text = work.base(place)
    url = config.get("glance", "auth_url")
    for option in _ACCOUNT:
        entry = config.get("glance", option)
        if entry and entry.text:
            # As it stands in the file, because the backend's has the same quotes and variables.
            raw = re.split("[=:]", work.planned[CONFIG].split("\n")[entry.line - 1], maxsplit=1)
            value = raw[1].strip() if option == "password" else entry.text
            if option == "auth_url" and lines.is_version_2(value):
                value = f"{value.rstrip('/').removesuffix('/v2.0')}/v3"
            text = lines.with_option(text, _SECTION, option, value)
    for option in ("user_domain_name", "project_domain_name"):
        if not re.search(rf"(?m)^{option}\s*=", text):
            text = lines.with_option(text, _SECTION, option, "default")
    if url and lines.is_version_2(url.text):
        words = "Keystone v2.0 became v3: domains were guessed as default"
        work.note(CONFIG, url.line, words)
    work.planned[place] = edit.set_ini(text, _SECTION, "auth_type", "v3password")
