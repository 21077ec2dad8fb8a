"""The name of the site, and the files that its configuration names and no backup holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from appliance.admin.backup import places
from appliance.core.config import document
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

_CASO = "/etc/caso/caso.conf"
_SITE = re.compile(r"^site_name\s*[=:]\s*(.*?)\s*$", re.MULTILINE)
_PLACEHOLDER = "SITE-NAME"
_NAMED = re.compile(
    r"^\s*([\w.-]*(?:_file|key|cert|certificate)|FEDCLOUD_(?!ROOT\b)\w+)"
    r"\s*[=:]\s*[\"']?(/[^\s\"']+)"
)
_OF_EVERY_HOST = ("/etc/grid-security/", "/run/", "/etc/ssl/", "/usr/")


def site_name(layout: Layout) -> str:
    """Return the site's name as accounting has it; empty without one."""
    text = _text(layout.path(_CASO))
    found = _SITE.findall(text)
    return found[-1] if found and found[-1] != _PLACEHOLDER else ""


def notes(layout: Layout) -> Iterator[str]:
    """Yield a line for each file of a secret or key that the configuration names elsewhere."""
    for _, path in places.configuration(layout):
        for number, line in enumerate(document.lines(_text(path)), start=1):
            found = _NAMED.match(line)
            if found and not places.is_known(found[2]) and not found[2].startswith(_OF_EVERY_HOST):
                words = f"{found[2]} is not in the backup; keep a copy of it"
                yield str(Problem(path, number, found[1], words))


def naming(layout: Layout, host: str) -> Iterator[str]:
    """Yield a line for each line of the configuration that has a host's name."""
    if not host:
        return
    pattern = re.compile(rf"(?<![\w.-]){re.escape(host)}(?![\w-])")
    for _, path in places.configuration(layout):
        for number, line in enumerate(document.lines(_text(path)), start=1):
            if pattern.search(line) and not line.lstrip().startswith("#"):
                yield str(Problem(path, number, "", f"has the name of the earlier host, {host}"))


def _text(path: Path) -> str:
    try:
        return document.read_text(path)
    except (ConfigurationError, OSError):  # programs report it
        return ""
