"""What a restore writes, and why it may not: computed before anything is changed."""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.admin import account, changing, settings
from appliance.admin.backup import archive, outside, places
from appliance.admin.backup.der import DamagedBackup
from appliance.admin.backup.envelope import Unlock
from appliance.admin.backup.manifest import Manifest
from appliance.admin.install.ownership import PLACES
from appliance.admin.install.plan import ACTIVE_TABLES, IDLE_TABLES
from appliance.admin.install.record import InstallRecord
from appliance.admin.restore import older
from appliance.admin.state import mark
from appliance.admin.versions import ordered
from appliance.core import files
from appliance.core.run import log
from appliance.core.run.errors import LocalFailure, Unavailable, UsageError
from appliance.core.run.layout import Layout
from appliance.core.version import __version__

_PIECE = 2**16
_SHOWN = 5
"""Names of a list in one message."""
_OF_THE_HOST = (places.RECORDS, "/var/lib/fedcloud/since")
"""State that a host has before its first run; what is there stays."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line allows."""

    as_another_site: bool = False
    replace_configuration: bool = False
    replace_older_state: bool = False


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """A file or directory of a backup, with its access on this host."""

    name: str
    target: str
    """The path on an appliance; a table of cron goes to those that are idle."""
    mode: int
    group: int
    is_directory: bool

    @property
    def is_of_account(self) -> bool:
        """Return whether the account owns it, and writes it."""
        return any(self.name == place or self.name.startswith(f"{place}/") for place in PLACES)


@dataclass(slots=True)
class RestorePlan:
    """What a restore does."""

    manifest: Manifest
    directories: list[RestoredFile] = field(default_factory=list)
    writes: list[RestoredFile] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    """Names of ``writes`` whose target exists; it is moved aside."""
    same: int = 0
    stays: int = 0
    """Files of the host's own state that stay as they are."""

    @property
    def digest(self) -> str:
        """Return what identifies the backup."""
        return hashlib.sha256(self.manifest.as_bytes()).hexdigest()


class _Seen:
    """The files of a backup, and the contents that are compared."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.kept: list[RestoredFile] = []
        self.compared: dict[str, bytes] = {}

    def take(self, name: str, member: tarfile.TarInfo, content: BinaryIO) -> None:
        """Take a file; its content counts only when the backup has been read to its end."""
        if not places.is_known(name):
            raise DamagedBackup(f"it has {name}, which no backup has")
        # Only the numbers 0 and 1999 mean the same on every host.
        group = account.ID if member.gid == account.ID else 0
        target = name
        if name.startswith(ACTIVE_TABLES) and not self._layout.path(name).exists():
            target = name.replace(ACTIVE_TABLES, IDLE_TABLES, 1)
        mode = stat.S_IMODE(member.mode) & 0o755
        self.kept.append(RestoredFile(name, target, mode, group, member.isdir()))
        is_compared = name in (older.LEDGER, older.JOURNAL) or name.startswith(older.CHECKPOINTS)
        if is_compared and member.isreg() and self._layout.path(name).exists():
            self.compared[name] = content.read()


def make(path: Path, unlock: Unlock | None, layout: Layout, choices: Choices) -> RestorePlan:
    """Read a backup to its end and return what a restore of it does.

    Raises:
        UsageError: It is of another site, or this host's files would be lost.
        Unavailable: It is damaged, of a newer version, or older than what this host delivered.
        ConfigurationError: The state directory is the one of another host.

    """
    seen = _Seen(layout)
    manifest = archive.read(path, unlock, seen.take)
    _check_version(path, manifest, layout)
    _check_site(path, manifest, layout, choices)
    plan = RestorePlan(manifest, [one for one in seen.kept if one.is_directory])
    changed: list[str] = []
    occupied: list[str] = []
    shipped = InstallRecord.read(layout.path("/var/lib/fedcloud/install.json")).shipped
    for one in seen.kept:
        if one.is_directory:
            continue
        here = _digest(layout.path(one.target))
        if here == manifest.digests[one.name]:
            plan.same += 1
        elif here and one.name.startswith(_OF_THE_HOST):
            plan.stays += 1
        else:
            plan.writes.append(one)
            if here:
                plan.replaced.add(one.name)
                if places.is_state(one.name):
                    occupied.append(one.target)
                elif here not in shipped.get(one.target.replace(IDLE_TABLES, ACTIVE_TABLES), ()):
                    changed.append(one.target)
    if is_begun(layout, plan):
        return plan
    if changed and not choices.replace_configuration:
        cause = f"{len(changed)} files have texts of this host: {_named(changed)}"
        raise UsageError(
            "configuration", cause, "keep them aside by --replace-configuration, or move them away"
        )
    _check_state(layout, plan, occupied, seen.compared, choices)
    return plan


def is_begun(layout: Layout, plan: RestorePlan) -> bool:
    """Return whether a killed restore of this backup is to be finished.

    Raises:
        UsageError: One of another backup is.

    """
    begun = changing.restore_mark(layout)
    try:
        found = files.read_regular(begun, limit=2**16).decode(errors="replace").strip()
    except FileNotFoundError:
        return False
    if found != plan.digest:
        cause = "a restore of another backup is not complete"
        raise UsageError(begun, cause, "finish that one first")
    return True


def _check_version(path: Path, manifest: Manifest, layout: Layout) -> None:
    mark.require(layout, may_be_lost=True)
    if not (settings.in_use(layout) or mark.is_lost(layout)):
        raise Unavailable(
            layout.path(settings.VERSION_FILE),
            "does not exist: no appliance is installed here",
            "run the bundle's install first",
        )
    if ordered(manifest.version) > ordered(__version__):
        cause = f"is of version {manifest.version}, this appliance of {__version__}"
        raise Unavailable(path, cause, "install the newer bundle first")


def _check_site(path: Path, manifest: Manifest, layout: Layout, choices: Choices) -> None:
    here = outside.site_name(layout)
    if here and manifest.site and here != manifest.site and not choices.as_another_site:
        cause = f"is of the site {manifest.site}, this host serves {here}"
        remedy = f"take a backup of {here}, or make this host {manifest.site}: --as-another-site"
        raise UsageError(path, cause, remedy)


def _check_state(
    layout: Layout,
    plan: RestorePlan,
    occupied: list[str],
    compared: Mapping[str, bytes],
    choices: Choices,
) -> None:
    lines = [*older.newer(layout, compared, plan.manifest.digests.__contains__)]
    if lines:
        more = f" (and {len(lines) - 1} more)" if lines[1:] else ""
        raise Unavailable(
            "state",
            f"this host has delivered what the backup does not have: {lines[0]}{more}",
            "nothing of it may be taken back, so keep this host as it is",
        )
    if occupied and not choices.replace_older_state:
        cause = f"this host has state of its own: {_named(occupied)}"
        raise UsageError("state", cause, "it is older than the backup: --replace-older-state")


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file of this host; empty without one."""
    try:
        with files.open_regular(path, follow=True) as file:
            hashed = hashlib.sha256()
            while piece := file.read(_PIECE):
                hashed.update(piece)
            return hashed.hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error


def lines(plan: RestorePlan, layout: Layout) -> Iterator[str]:
    """Yield what a restore would write, for a person."""
    manifest = plan.manifest
    site = manifest.site or "without a name"
    words = f"backup of {manifest.taken}, site {site}, host {manifest.host}, {manifest.version}"
    yield log.one_line(words)
    for one in plan.writes:
        if places.is_state(one.name) and one.name.startswith(older.SPOOLS):
            continue
        sign = "~" if one.name in plan.replaced else "+"
        yield f"{sign} {layout.path(one.target)}"
    waiting = sum(one.name.startswith(older.SPOOLS) for one in plan.writes)
    if waiting:
        yield f"+ {layout.path(older.SPOOLS)}: {waiting} files of spools"
    if plan.same or plan.stays:
        yield f"= {plan.same + plan.stays} files stay as they are"
