"""The files of cloudkeeper and cloudkeeper-os, which are read as they are but for a few lines.

The marks of images are properties in Glance, which the backend reads. With the same projects and
the same lists it recognises each image of an earlier release, so nothing is uploaded again.
"""

from __future__ import annotations

import re

from appliance.admin.configure import edit
from appliance.admin.inventory import Flow
from appliance.admin.migrate import lines, oslo_lines
from appliance.admin.migrate.workspace import Workspace
from appliance.admin.mounts import site_files
from appliance.core.config import yaml_file

FRONTEND = "/etc/cloudkeeper/cloudkeeper.yml"
LISTS = "/etc/cloudkeeper/image-lists.conf"
SOURCES = "/etc/cloudkeeper/sources.yaml"
SETTINGS = "/etc/fedcloud/appliance.yaml"
_CARRIED = (LISTS, SOURCES, "/etc/cloudkeeper/registry.auth")
BACKENDS = site_files.PLACES[site_files.BACKEND_CONFIG]
_LOCAL = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\]):50051")
_SOCKET = "unix:///run/cloudkeeper/backend.sock"
_EMPTY_LISTS = re.compile(
    r"^(\s+)image-lists:[ \t]*(?:\[\s*\])?[ \t\r]*$(?!\n\1[ \t]*-)", re.MULTILINE
)


def convert(work: Workspace) -> None:
    """Plan the files of frontend and backend."""
    for name in _CARRIED:
        work.read(name)
    _frontend(work)
    for name in BACKENDS:
        _backend(work, name)
    _one_backend(work)
    if any(_is_used(work, name) for name in (LISTS, SOURCES)) or _lists_inside(work):
        keep_images(work)


def keep_images(work: Workspace) -> None:
    """Switch the flow of images on, which is off on a new host."""
    path = work.layout.path(SETTINGS)
    if path.is_file() and SETTINGS not in work.planned:
        text = path.read_text(errors="surrogateescape")
        if not re.search(
            r"^[^#\n]*\bimages[\"']?[ \t]*:[ \t]*[\"']?(on|yes|true)", text, re.MULTILINE
        ):
            work.planned[SETTINGS] = edit.set_yaml(text, "flows", Flow.IMAGES, "on")


def _is_used(work: Workspace, name: str) -> bool:
    text = work.planned.get(name, "")
    return any(line.strip() and line.strip()[0] not in "#-" for line in text.split("\n"))


def _lists_inside(work: Workspace) -> bool:
    found = work.parse(FRONTEND, yaml_file.parse)
    entry = found.get("cloudkeeper", "image-lists") if found else None
    return entry is not None and bool(entry.text)


def _frontend(work: Workspace) -> None:
    found = work.parse(FRONTEND, yaml_file.parse)
    if found is None:
        return
    text = work.planned[FRONTEND]
    options = found.sections.get("cloudkeeper", {})
    lists = options.get("image-lists")
    if lists and not lists.text:
        name = r"" if "image-lists-file" in options else rf"\1image-lists-file: {LISTS}"
        text = _EMPTY_LISTS.sub(name, text, count=1)
    endpoint = found.get("cloudkeeper.backend", "endpoint")
    if endpoint and _LOCAL.fullmatch(endpoint.text):
        # The backend of this host answers on a socket, which no other user reaches.
        text = _with_socket(text, endpoint.line)
    work.planned[FRONTEND] = text


def _with_socket(text: str, line: int) -> str:
    """Return a text whose line has the socket as endpoint, also within braces."""
    found = text.split("\n")
    value = r"(?<=\bendpoint:)(\s*)[\"']?[^\s,\"'}]+[\"']?"
    found[line - 1] = re.sub(value, rf"\1{_SOCKET}", found[line - 1], count=1)
    return "\n".join(found)


def _backend(work: Workspace, name: str) -> None:
    found = work.parse(name, oslo_lines.parse)
    entry = found.get("keystone_authtoken", "auth_url") if found else None
    if entry and lines.is_version_2(entry.text):
        work.planned[name] = lines.with_version_3(work.planned[name], entry.line)
        work.note(name, entry.line, "Keystone v2.0 became v3: domains were guessed as default")


def _one_backend(work: Workspace) -> None:
    """Have one configuration of the backend on this host: that of the earlier set-up."""
    carried = [name for name in BACKENDS if name in work.planned]
    others = [name for name in BACKENDS if name not in carried and _is_here(work, name)]
    for name in others if carried else ():
        text = work.layout.path(name).read_text(errors="replace")
        if re.search(r"^\s*password\s*=\s*\S", text, re.MULTILINE):
            words = f"there is {work.layout.path(name)} too, with an account; remove one of them"
            work.find(carried[0], 0, words)
        else:
            work.dropped[name] = f"is the shipped example; the account is in {carried[0]}"


def _is_here(work: Workspace, name: str) -> bool:
    return not work.is_in_place and work.layout.path(name).is_file()
