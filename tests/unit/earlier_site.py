"""Hosts of earlier releases, on which the appliance has been installed as `scripts/install` does.

The trees have keys and values of the releases, and an imaginary site. ``expected.json`` was derived
from them by a program that shares no code with the appliance.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.admin import account
from appliance.admin.install.plan import Action, decide, files
from appliance.admin.mounts import site_files

TOP = Path(__file__).parents[2]
TREES = Path(__file__).with_name("earlier_releases")
EXPECTED: Mapping[str, Any] = json.loads((TREES / "expected.json").read_text())
RELEASES = sorted(EXPECTED)


def bundle(directory: Path) -> Path:
    """Return a bundle of this checkout, as far as the installer's list of files needs one."""
    made = directory / "bundle"
    (made / "files").mkdir(parents=True)
    for name in ("etc", "cron.d", "systemd", "bin"):
        (made / "files" / name).symlink_to(TOP / name)
    (made / "files/native").mkdir()
    shutil.copyfile(TOP / "docker-compose.yml", made / "files/docker-compose.yml")
    (made / "images.lock").write_text("")
    return made


def copy(release: str, root: Path) -> Path:
    """Copy the tree of a release to a root."""
    shutil.copytree(TREES / release, root)
    return root


def install(root: Path, made: Path) -> None:
    """Write the files that an installation writes on this host, and no others."""
    new = "etc/cloudkeeper-os/cloudkeeper-os.conf"
    for one in files(made, is_active=lambda name: (root / "etc/cron.d" / name).exists()):
        target = root / one.target.lstrip("/")
        if one.target == "/etc/cloudkeeper/cloudkeeper-os.conf" and (root / new).exists():
            continue
        found = target.read_bytes() if target.is_file() else None
        action = decide(one.content, present=found, shipped=(), kind=one.kind)
        if action in (Action.WRITE, Action.REPLACE):
            if found is not None:
                kept = root / "var/lib/fedcloud/replaced" / one.target.lstrip("/")
                kept.parent.mkdir(parents=True, exist_ok=True)
                target.rename(kept)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(one.content)
        target.chmod(one.mode)
        os.chown(target, 0, one.group)
    for place in (name for places in site_files.PLACES.values() for name in places):
        path = root / place.lstrip("/")
        if path.is_file():
            path.chmod(0o640)
            os.chown(path, 0, account.ID)
    link = root / "etc/sitebdii/docker-compose.yml"
    if link.is_file():
        kept = root / "var/lib/fedcloud/replaced/etc/sitebdii/docker-compose.yml"
        kept.parent.mkdir(parents=True, exist_ok=True)
        link.rename(kept)
        link.symlink_to("/etc/fedcloud/docker-compose.yml")
