"""Copies of the configuration with which each service last passed its check and started.

A service whose configuration no longer passes starts with the copy. Only root can enter
``/var/lib/fedcloud/services``, which holds for each service:

    SERVICE/DIGEST/0 …      the mounts of the container, as in `PLACES`; root:fedcloud, 0640
    SERVICE/DIGEST/about    JSON: the time at which it passed
    SERVICE/good            a link to the current DIGEST, replaced atomically
    SERVICE/checked         the DIGEST that `appliance check` found without errors last

Links are copied as links, as the container sees them. Anything but files, directories and links is
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
"""By service, the mounts with its configuration.

Each is the path on the host, or the variable that names it, and the path in the container.
"""
_LARGEST = 1 << 20
"""Limit for a file, in bytes; no configuration is larger."""
_CHECKED, _LONGEST = "checked", 100
_MOST = 1000
"""Limit for the number of files of a service."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present configuration of a service, and a digest of all else that a check depends on."""

    entries: Mapping[str, bytes]
    """Content by ``NUMBER/NAME``; directories end in a slash, links have ``->`` and the target."""
    surroundings: str
    """Digest of the settings, the compose files and the image."""

    @property
    def digest(self) -> str:
        """Return a digest that is the same for equal snapshots only."""
        found = hashlib.sha256(self.surroundings.encode())
        for name, content in sorted(self.entries.items()):
            for part in (os.fsencode(name), content):
                found.update(len(part).to_bytes(8, "big") + part)
        return found.hexdigest()[:32]


def directory(layout: Layout) -> Path:
    """Return the directory of all copies and decisions, which only root can enter."""
    return layout.path("/var/lib/fedcloud/services")


def sources(service: str, host: Host, layout: Layout) -> list[tuple[Path, str]]:
    """Return the path on the host and in the container of each mount of a service."""
    return [
        (layout.path(host.mounts.get(place, place)), target) for place, target in PLACES[service]
    ]


def take(service: str, host: Host, layout: Layout, *, image: str) -> Snapshot | None:
    """Read the configuration of a service; None if a file cannot be read or is too large."""
    entries: dict[str, bytes] = {}
    try:
        for number, (source, _) in enumerate(sources(service, host, layout)):
            for name, content in _walk(source, str(number)):
                entries[name] = content
                # More files than any configuration has: something else is there, and is not copied.
                if len(entries) > _MOST:
                    return None
        around = hashlib.sha256(image.encode())
        for path in (host.environment_file, host.compose_file, host.network):
            around.update(path.read_bytes())
    except (OSError, ValueError):
        return None
    return Snapshot(entries, around.hexdigest())


def _walk(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    # Docker resolves a link that is the source of a mount, but not links below it.
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
    """Return the directory of the current copy; None without one."""
    link = directory(layout) / service / "good"
    with contextlib.suppress(OSError):
        found = link.parent / link.readlink()
        return found if (found / "about").is_file() else None
    return None


def is_same(service: str, copy: Path, host: Host, layout: Layout) -> bool:
    """Return whether a copy has the present configuration, whatever the image and the settings."""
    try:
        found = dict(
            one
            for number in range(len(PLACES[service]))
            for one in _walk(copy / str(number), str(number))
        )
        present = dict(
            one
            for number, (source, _) in enumerate(sources(service, host, layout))
            for one in _walk(source, str(number))
        )
    except (OSError, ValueError):
        return False
    return found == present


def is_kept(snapshot: Snapshot, service: str, layout: Layout) -> bool:
    """Return whether the current copy equals the snapshot."""
    copy = current(service, layout)
    return copy is not None and copy.name == snapshot.digest


def is_checked(snapshot: Snapshot, service: str, layout: Layout) -> bool:
    """Return whether `appliance check` has found no error in the snapshot."""
    try:
        found = files.read_regular(directory(layout) / service / _CHECKED, limit=_LONGEST)
    except (OSError, ValueError):
        return False
    return found.decode(errors="replace").strip() == snapshot.digest


def note_check(snapshot: Snapshot, service: str, layout: Layout) -> None:
    """Remember that a check found no error, so that a start need not repeat it."""
    above = directory(layout) / service
    for path in (directory(layout), above):
        files.make_directory(path, mode=0o700)
    files.write_atomic(above / _CHECKED, f"{snapshot.digest}\n".encode(), mode=0o600)


def passed_at(copy: Path) -> str:
    """Return the time at which a copy passed its check; empty if unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return str(json.loads((copy / "about").read_bytes()).get("passed", ""))
    return ""


def keep(snapshot: Snapshot, service: str, layout: Layout, *, at: datetime) -> None:
    """Make a snapshot the current copy; remove the previous one and half-made ones."""
    above = directory(layout) / service
    files.make_directory(above, mode=0o700)
    copy = above / snapshot.digest
    if current(service, layout) != copy:
        if copy.exists():
            shutil.rmtree(copy)
        # The link is written last, so a half-made copy is never current.
        _write(snapshot, copy, at=at)
        # A link can be replaced atomically, a directory cannot.
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
            path.chmod(0o750 if path.is_dir() else 0o640)  # independent of the umask
            os.chown(path, 0, account.ID)
    about = {"passed": at.isoformat(timespec="seconds")}
    files.write_new(copy / "about", json.dumps(about).encode(), mode=0o600)
    for path in (*copy.rglob("*"), copy):
        if path.is_dir() and not path.is_symlink():
            files.sync_directory(path)


def mounts(service: str, copy: Path) -> list[dict[str, object]]:
    """Return the volumes of a compose file that mount a copy in place of the configuration."""
    return [
        {"type": "bind", "source": str(copy / str(number)), "target": target, "read_only": True}
        for number, (_, target) in enumerate(PLACES[service])
    ]
