"""The files of a bundle with their targets and access, and the action for each.

A file whose content no installation has written is the administrator's. It keeps its content; a new
version is written beside it as ``NAME.fedcloud-new``, and only if that version is new. A program or
unit without a record is of an earlier release; it is moved away and replaced. Configuration without
a record counts as the administrator's.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.admin import account
from appliance.admin.install import image_flow
from appliance.admin.runtime.native import authorities

ROOT = 0
ACTIVE_TABLES, IDLE_TABLES = "/etc/cron.d/", "/etc/fedcloud/cron.d/"


class Kind(enum.Enum):
    """The owner of a file that exists without a record."""

    CONFIGURATION = "the administrator's"
    PROGRAM = "an earlier release's"


class Action(enum.Enum):
    """What to do with a file."""

    KEEP = "keep"
    WRITE = "write"
    REPLACE = "put aside and write"
    BESIDE = "write beside"


@dataclass(frozen=True, slots=True)
class File:
    """A file of the bundle. ``target`` is an absolute path on the host."""

    source: Path
    target: str
    kind: Kind
    mode: int
    group: int = ROOT
    replaced: tuple[tuple[bytes, bytes], ...] = ()
    """Placeholders in the source, each with the text of this host."""

    @property
    def content(self) -> bytes:
        """Return the content to install."""
        data = self.source.read_bytes()
        for placeholder, text in self.replaced:
            data = data.replace(placeholder, text)
        return data

    @property
    def key(self) -> str:
        """Return the name in the record: the same for an active and an idle table of cron."""
        return self.target.replace(IDLE_TABLES, ACTIVE_TABLES, 1)

    @property
    def beside(self) -> str:
        """Return the path for a new version if the administrator has changed the file."""
        if "/logrotate.d/" in self.target:  # logrotate reads every file of its directory
            return f"/etc/fedcloud/logrotate-{Path(self.target).name}.fedcloud-new"
        return f"{self.target}.fedcloud-new"


def files(
    bundle: Path,
    *,
    is_active: Callable[[str], bool],
    is_native: bool = False,
    has_images: bool = False,
) -> Iterator[File]:
    """Yield all files that a bundle installs.

    ``is_active`` returns whether a table of cron, by its name, goes to the directory that cron
    reads. A host without containers (``is_native``) gets other units, and no files of Compose. With
    ``has_images`` the flow of images is on in the settings, which counts as shipped so.
    """
    own = {one.target: one for one in _native(bundle)} if is_native else {}
    for one in _with_containers(bundle, is_active):
        # Units with the same name replace those for containers.
        if one.target in own or (
            is_native and one.source.parent.name in ("networks", "logs", "files", bundle.name)
        ):
            continue
        replaced = _NATIVE_URLS if is_native and one.target == _URLS else ()
        if has_images and one.target == image_flow.SETTINGS:
            replaced = ((image_flow.SHIPPED, image_flow.KEPT),)
        yield replace(one, replaced=replaced)
    yield from own.values()


_OURS = ("etc/fedcloud/networks/", "etc/fedcloud/logs/", "etc/logrotate.d/", "etc/tmpfiles.d/")
"""Folders of ``etc`` whose files are programs: a site extends them by files of its own."""
_OPTIONAL_TABLES = "etc/fedcloud/cron.d/"
"""Tables of cron for jobs that not every host starts."""
_URLS = "/etc/sitebdii/site-urls.conf"
_NATIVE_URLS = ((b"ldap://cloudbdii:2170/", b"ldap://localhost:2171/"),)


def _native(bundle: Path) -> Iterator[File]:
    top = bundle / "files/native"
    replaced = ((b"@AUTHORITIES@", authorities().encode()),)
    for folder, target, mode in (
        ("systemd", "/etc/systemd/system", 0o644),
        ("tmpfiles.d", "/etc/tmpfiles.d", 0o644),
        ("logrotate.d", "/etc/logrotate.d", 0o644),
        ("provider", "/var/lib/bdii/gip/provider", 0o755),
        ("libexec", "/usr/local/lib/fedcloud", 0o755),
    ):
        for source in _below(top / folder):
            place = f"{target}/{source.relative_to(top / folder).as_posix()}"
            yield File(source, place, Kind.PROGRAM, mode, replaced=replaced)


def _with_containers(bundle: Path, is_active: Callable[[str], bool]) -> Iterator[File]:
    top = bundle / "files"
    for source in _below(top / "etc"):
        name = source.relative_to(top).as_posix()
        if name.startswith(_OPTIONAL_TABLES):
            continue
        if name.startswith(_OURS):
            yield File(source, f"/{name}", Kind.PROGRAM, 0o644)
            continue
        # The BDIIs' files hold no passwords, and administrators read them without root.
        is_public = (
            name.startswith(("etc/sitebdii/", "etc/bdii/", "etc/fedcloud/"))
            and name != "etc/fedcloud/appliance.env"
        )
        mode, group = (0o644, ROOT) if is_public else (0o640, account.ID)
        yield File(source, f"/{name}", Kind.CONFIGURATION, mode, group)
    for source in (*_below(top / "cron.d"), *_below(top / _OPTIONAL_TABLES)):
        place = ACTIVE_TABLES if is_active(source.name) else IDLE_TABLES
        yield File(source, f"{place}{source.name}", Kind.CONFIGURATION, 0o644)
    for folder, target, mode in (
        ("systemd", "/etc/systemd/system", 0o644),
        ("bin", "/usr/local/bin", 0o755),
    ):
        for source in _below(top / folder):
            place = f"{target}/{source.relative_to(top / folder).as_posix()}"
            yield File(source, place, Kind.PROGRAM, mode)
    yield File(top / "docker-compose.yml", "/etc/fedcloud/docker-compose.yml", Kind.PROGRAM, 0o644)
    yield File(bundle / "images.lock", "/etc/fedcloud/images.lock", Kind.PROGRAM, 0o644)


def _below(top: Path) -> Iterator[Path]:
    return (path for path in sorted(top.rglob("*")) if path.is_file())


def digest(data: bytes) -> str:
    """Return the SHA-256 for the record."""
    return hashlib.sha256(data).hexdigest()


def decide(new: bytes, *, present: bytes | None, shipped: Collection[str], kind: Kind) -> Action:
    """Return the action for a file.

    ``present`` is the content on the host, None without the file; ``shipped`` are the hashes that
    are recorded for it.
    """
    if present is None:
        return Action.WRITE
    if present == new:
        return Action.KEEP
    if digest(present) in shipped:
        return Action.WRITE
    # Without a record the file is from a release before there were records.
    if not shipped and kind is Kind.PROGRAM:
        return Action.REPLACE
    return Action.KEEP if digest(new) in shipped else Action.BESIDE
