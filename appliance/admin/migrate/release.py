"""Which earlier release of the appliance an earlier set-up is, by what only that release has."""

from __future__ import annotations

import re

from appliance.admin.migrate.workspace import Workspace

_REPLACED = "/var/lib/fedcloud/replaced"
"""Where the installer moves units and compose files of earlier releases."""
_PLACES = (
    "/etc/systemd/system/cloudkeeper-os.service",
    "/etc/sitebdii/docker-compose.yml",
)
_IMAGE = re.compile(r"egifedcloud/[a-z-]+(?::(v0\.\d+))?[\"']?\s*$", re.MULTILINE)
FIRST = "14.04-2016"
WITHOUT_SENDER = "16.04-2017.08.09 or 2018.01.24"
LAST = "18.04-2022.04.25"
_BY_TAG = {
    "": WITHOUT_SENDER,
    **dict.fromkeys(("v0.2", "v0.3"), "16.04-2018.05.07"),
    **dict.fromkeys([f"v0.{minor}" for minor in range(4, 12)], "2019"),
    **dict.fromkeys([f"v0.{minor}" for minor in range(12, 16)], "18.04-2020"),
    "v0.16": "18.04-2021",
}
DEFAULTS = "/etc/egi/defaults"


def name(work: Workspace) -> str:
    """Return the release; empty for plain upstream files."""
    if work.has("/etc/cron.d/atrope") or work.has("/etc/atrope/hepix.yaml"):
        return FIRST if _has_wrapper(work) else ""
    if work.has(DEFAULTS):
        return LAST
    for place in _PLACES:
        for path in (work.path(place), work.path(f"{_REPLACED}{place}")):
            if path.is_file() and (found := _IMAGE.search(path.read_text(errors="replace"))):
                return _BY_TAG.get(found[1] or "", "")
    return ""


def _has_wrapper(work: Workspace) -> bool:
    path = work.path("/etc/cron.d/atrope")
    return path.is_file() and "/usr/local/bin/atrope-dispatch.sh" in path.read_text(
        errors="replace"
    )


def has_old_records(work: Workspace) -> bool:
    """Return whether the messenger ``ssm`` wrote records of version 0.2: cASO 1.4.3 did."""
    return name(work) == "18.04-2020"


def notes(work: Workspace) -> None:
    """Add what is to be known about the release."""
    found = name(work)
    if found in (FIRST, "16.04-2018.05.07") and work.has("/etc/apel/sender.cfg"):
        work.notes.append("/etc/apel: edits had no effect before, and have from now on")
    if found == FIRST:
        work.notes.append("records under /var/spool/ssm, if any, were never sent")
    if work.has("/etc/apel/logging.cfg"):
        work.notes.append("/etc/apel/logging.cfg: is not carried over; sender.cfg sets the level")
        text = work.path("/etc/apel/logging.cfg").read_text(errors="replace")
        if re.search(r"^[ \t]+\[", text, re.MULTILINE):
            words = "/etc/apel/logging.cfg: section headers with a leading blank were read"
            work.notes.append(f"{words} as headers")
    if found and not work.has("/etc/sitebdii/site.cfg"):
        words = "/etc/sitebdii: no files of the site BDII, which stays off until they are filled"
        work.notes.append(f"{words}: systemctl disable --now bdii")
