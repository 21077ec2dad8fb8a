"""The configuration of each service that passed its check last, and came up: a copy in the state directory.

A service whose configuration no longer passes starts with the copy. ``/var/lib/fedcloud/services``
is root's alone; below it, per service:

    SERVICE/DIGEST/0 …     what the container has mounted, in the order of `PLACES`;
                           root:fedcloud, 0640
    SERVICE/DIGEST/about   JSON: when it passed, with which settings and image
    SERVICE/good           a link to the DIGEST that counts, replaced in one step

Links are copied as links, as the container sees them; what is not a file, a directory or a link is
left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.admin import account
from appliance.admin.settings import Host
from appliance.core import files
from appliance.core.run.layout import Layout

_BACKEND = "/etc/cloudkeeper-os"
PLACES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "cloudbdii": (
        ("/etc/bdii", "/etc/bdii"),
        ("/etc/cloud-info-provider", "/etc/cloud-info-provider"),
    ),
    "sitebdii": (("/etc/sitebdii", "/etc/sitebdii"),),
    "cloudkeeper-os": (
        ("FEDCLOUD_BACKEND_CONFIG", f"{_BACKEND}/cloudkeeper-os.conf"),
        ("FEDCLOUD_BACKEND_MAPPING", f"{_BACKEND}/voms.json"),
    ),
}
"""By service, each mount that holds its configuration: the path on the host, or the variable that names it, and the
path in the container."""
_LARGEST = 1 << 20
"""Bytes of one file; no configuration is larger."""
_MOST = 1000
"""Files of one service."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a service would start with now: its files by place and name, and all else that a check depends on."""

    entries: Mapping[str, bytes]
    """By ``PLACE/NAME``; a directory's name ends in a slash, a link's content begins with ``->``."""
    surroundings: str
    """Digest of the settings, the compose files and the image."""

    @property
    def digest(self) -> str:
        """Return what two snapshots have in common only when nothing differs."""
        found = hashlib.sha256(self.surroundings.encode())
        for name, content in sorted(self.entries.items()):
            for part in (os.fsencode(name), content):
                found.update(len(part).to_bytes(8, "big") + part)
        return found.hexdigest()[:32]


def directory(layout: Layout) -> Path:
    """Return the directory of everything that is kept of services; root's alone."""
    return layout.path("/var/lib/fedcloud/services")


def sources(service: str, host: Host, layout: Layout) -> list[tuple[Path, str]]:
    """Return the path on the host and the path in the container of each mount of a service's configuration."""
    return [
        (layout.path(host.mounts.get(place, place)), target) for place, target in PLACES[service]
    ]


def take(service: str, host: Host, layout: Layout, *, image: str) -> Snapshot | None:
    """Read what a service would start with; None when a file cannot be read or is no configuration."""
    entries: dict[str, bytes] = {}
    try:
        for number, (source, _) in enumerate(sources(service, host, layout)):
            for name, content in _walk(source, str(number)):
                entries[name] = content
                if len(entries) > _MOST:
                    return None
        around = hashlib.sha256(image.encode())
        for path in (host.environment_file, host.compose_file, host.network):
            around.update(path.read_bytes())
    except (OSError, ValueError):
        return None
    return Snapshot(entries, around.hexdigest())


def _walk(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    # the mount itself may be a link
    mode = path.lstat().st_mode if "/" in name else path.stat().st_mode
    if stat.S_ISLNK(mode):
        yield name, b"->" + os.fsencode(path.readlink())
    elif stat.S_ISDIR(mode):
        yield f"{name}/", b""
        for child in sorted(path.iterdir()):
            yield from _walk(child, f"{name}/{child.name}")
    elif stat.S_ISREG(mode):
        if path.stat().st_size > _LARGEST:
            raise ValueError(path)
        yield name, path.read_bytes()


def current(service: str, layout: Layout) -> Path | None:
    """Return the directory of the copy that counts; None when there is none."""
    link = directory(layout) / service / "good"
    with contextlib.suppress(OSError):
        found = link.parent / link.readlink()
        return found if (found / "about").is_file() else None
    return None


def is_kept(snapshot: Snapshot, service: str, layout: Layout) -> bool:
    """Say whether the copy that counts is exactly this."""
    copy = current(service, layout)
    return copy is not None and copy.name == snapshot.digest


def passed_at(copy: Path) -> str:
    """Return when a copy passed, for people."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return str(json.loads((copy / "about").read_bytes()).get("passed", ""))
    return ""


def keep(snapshot: Snapshot, service: str, layout: Layout, *, at: datetime) -> None:
    """Make a snapshot the copy that counts; what a killed run has left, and the one before, are removed."""
    above = directory(layout) / service
    files.make_directory(above, mode=0o700)
    copy = above / snapshot.digest
    if current(service, layout) != copy:
        if copy.exists():
            shutil.rmtree(copy)
        _write(snapshot, copy, at=at)
        link = above / ".good.new"
        link.unlink(missing_ok=True)
        link.symlink_to(snapshot.digest)
        os.replace(link, above / "good")
        files.sync_directory(above)
    for other in above.iterdir():
        if other != copy and other.is_dir() and not other.is_symlink():
            shutil.rmtree(other)


def _write(snapshot: Snapshot, copy: Path, *, at: datetime) -> None:
    copy.mkdir(mode=0o750)
    for name, content in sorted(snapshot.entries.items()):
        path = copy / name.rstrip("/")
        if name.endswith("/"):
            path.mkdir(mode=0o750)
        elif content.startswith(b"->"):
            path.symlink_to(os.fsdecode(content[2:]))
        else:
            files.write_new(path, content, mode=0o640)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o750 if path.is_dir() else 0o640)  # whatever the umask
            os.chown(path, 0, account.ID)
    about = {"passed": at.isoformat(timespec="seconds")}
    files.write_new(copy / "about", json.dumps(about).encode(), mode=0o600)
    for path in (*copy.rglob("*"), copy):
        if path.is_dir() and not path.is_symlink():
            files.sync_directory(path)


def mounts(service: str, copy: Path) -> list[dict[str, object]]:
    """Return the volumes of the compose file that lay a copy over the mounts of a service's configuration."""
    return [
        {"type": "bind", "source": str(copy / str(number)), "target": target, "read_only": True}
        for number, (_, target) in enumerate(PLACES[service])
    ]
