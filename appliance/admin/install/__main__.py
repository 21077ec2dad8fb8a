"""Installation of a verified bundle: ``python3 -m appliance.admin.install BUNDLE [--root DIR]``.

``scripts/install`` calls it. Each step changes only what differs from the bundle, so a second run
changes nothing, and a run after a killed one does the rest. The step that makes a version current
comes last; until then the host works with the previous version. From the first change until the
services have been restarted the record names no bundle. A later run thus knows that systemd and the
services may still use the previous bundle, although all files are new.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.admin import account, settings
from appliance.admin.configure.rewrite import rewrite
from appliance.admin.images import locked
from appliance.admin.install import (
    engine_images,
    host,
    image_flow,
    ownership,
    programs,
    progress,
    units,
)
from appliance.admin.install.plan import (
    ACTIVE_TABLES,
    IDLE_TABLES,
    Action,
    File,
    decide,
    digest,
    files,
)
from appliance.admin.install.record import InstallRecord
from appliance.admin.inventory import JOBS
from appliance.admin.mounts import site_files
from appliance.admin.schedule import horizon
from appliance.admin.schedule.state import complaints, foreign, starts
from appliance.admin.state import mark
from appliance.core import files as durable
from appliance.core.run import cli, lock
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.run.layout import Layout
from appliance.core.version import __version__

_VERSION = re.compile(rb"^FEDCLOUD_VERSION=(.*)\n?", re.MULTILINE)
_PATIENCE = timedelta(seconds=30)
"""How long to wait for the lock of a run that was killed or is about to end."""


@dataclass(slots=True)
class Installation:
    """A run of the installer, with its count of changes and its notes for the administrator."""

    bundle: Path
    root: Path
    record_path: Path
    record: InstallRecord
    is_native: bool = False
    """Whether the programs run without containers."""
    changes: int = 0
    notes: list[str] = field(default_factory=list)
    is_unit_written: bool = False
    is_unit_changed: bool = False
    """Whether a service must be restarted for its unit."""
    is_pending: bool = False
    """Whether services and units may be those of another bundle."""

    def run(self) -> None:
        """Install images, programs, files and links, in this order."""
        # An installation must not make a new site of one whose volume is not mounted.
        mark.require(Layout(self.root))
        bundle_digest = self._digest()
        ids = locked.read(self.bundle / "images.lock")
        host.check_account(self.root)
        layout = Layout(self.root)
        site_files.check(site_files.variables(layout), layout)
        # An administrator can go back to another version by hand, which the record does not show.
        self.is_pending = (
            self.record.bundle != bundle_digest or settings.in_use(layout) != __version__
        )
        if not self.is_native:
            self._check_images(ids)
        # Cleared before the first change; take_into_use() writes it again after the last.
        if self.is_pending:
            self.record.bundle = ""
            self.record.write(self.record_path)
        self.changes += host.make_account(self.root)
        # Under the lock of the installation, so no other run is making them now.
        programs.remove_leftovers(root=self.root)
        self.changes += self._make_programs(bundle_digest)
        self._keep_runtime()
        if self.root == Path("/") and not self.is_native:
            # Before the files: units of a new version must never find the images of the old one.
            self.changes += engine_images.load(self.bundle, ids)
        self._keep_beginning()
        self._take_version_over()
        self._install_files()
        self.changes += 0 if self.is_native else self._link_compose()
        self.changes += host.link_anchors(self.root)
        host.make_places(self.root, is_native=self.is_native)
        self._give_places()
        # After the files: systemctl enable reads the units.
        self.changes += host.enable(self.root, is_first=not self.record.version)
        if host.is_booted(self.root) and (self.is_pending or self.is_unit_written):
            host.reload_units()
        self.changes += programs.link(
            root=self.root, version=__version__, digest=self._variant(bundle_digest)
        )
        if self.is_native:
            self.changes += programs.link_current(root=self.root, version=__version__)
        # Before the version, without which no job starts.
        self.changes += mark.establish(layout)
        self._set_version()

    def _variant(self, digest: str) -> str:
        """Return the hash that names the environment, which differs with all programs in it."""
        return f"all{digest}" if self.is_native else digest

    def _make_programs(self, digest: str) -> bool:
        requirements = "requirements-all.txt" if self.is_native else "requirements.txt"
        named = self._variant(digest)
        return programs.make(
            self.bundle,
            root=self.root,
            version=__version__,
            digest=named,
            requirements=requirements,
        )

    def _check_images(self, ids: Mapping[str, str]) -> None:
        if self.is_pending:
            engine_images.check_bundle(self.bundle, ids)
        if self.root == Path("/"):
            engine_images.check_engine(self.bundle, ids)

    def _keep_runtime(self) -> None:
        """Record that this host runs the programs without containers, for later runs."""
        path = self.root / settings.RUNTIME_FILE.lstrip("/")
        if self.is_native and not path.exists():
            durable.write_atomic(path, f"{settings.NATIVE}\n".encode(), mode=0o644)
            self.changes += 1

    def take_into_use(self) -> bool:
        """Restart the services if necessary, and record the bundle; return whether all started."""
        is_due = self.is_pending and host.is_booted(self.root)
        is_well = not is_due or _restart(is_unit_changed=self.is_unit_changed)
        if is_well:
            self._drop_version()
        self.record.version = __version__
        if is_well:
            self.record.bundle = self._digest()
        self.changes += self.record.write(self.record_path)
        return is_well

    def _digest(self) -> str:
        return hashlib.sha256((self.bundle / "SHA256SUMS").read_bytes()).hexdigest()

    def _install_files(self) -> None:
        layout = Layout(self.root)
        mounts = site_files.choose(site_files.variables(layout), layout)
        has_images = image_flow.is_kept_on(self.root, is_upgrade=bool(self.record.version))
        wanted = self._wanted(mounts, has_images=has_images)
        earlier = {one.key: self._shipped(one) for one in wanted}
        offered = {one.key: digest(one.content) for one in wanted}
        # Before the first file is written: a run after a killed one recognises all of them.
        for target, hashed in offered.items():
            self.record.shipped[target] = list(dict.fromkeys([*earlier[target], hashed]))
        self.record.write(self.record_path)
        for one in wanted:
            self._install_file(one, earlier[one.key])
        if has_images:
            self._keep_images_on()
        # Earlier releases installed these files with other access.
        for name, place in mounts.items():
            path = layout.path(place)
            if place in site_files.PLACES[name] and path.is_file() and not path.is_symlink():
                self._set_access(path, mode=0o640, group=account.ID)
        self.record.shipped = {target: [hashed] for target, hashed in offered.items()}

    def _wanted(self, mounts: Mapping[str, str], *, has_images: bool) -> list[File]:
        # Two configurations of the backend are an error (site_files.check), so install only one.
        idle = set(site_files.PLACES[site_files.BACKEND_CONFIG]) - {
            mounts[site_files.BACKEND_CONFIG]
        }
        return [
            one
            for one in files(
                self.bundle,
                is_active=self._is_table_active,
                is_native=self.is_native,
                has_images=has_images,
            )
            if one.target not in idle
        ]

    def preview(self) -> Iterator[tuple[File, Action]]:
        """Yield each file that a run would write, and how; nothing is changed."""
        layout = Layout(self.root)
        mounts = site_files.choose(site_files.variables(layout), layout)
        has_images = image_flow.is_kept_on(self.root, is_upgrade=bool(self.record.version))
        for one in self._wanted(mounts, has_images=has_images):
            action = self._decided(one, self._shipped(one))
            if action is not Action.KEEP:
                yield one, action

    def _shipped(self, one: File) -> tuple[str, ...]:
        """Return the recorded hashes of a file.

        Releases until 0.1 recorded a table of cron under the path that it then had.
        """
        names = dict.fromkeys((one.key, one.target, one.key.replace(ACTIVE_TABLES, IDLE_TABLES, 1)))
        return tuple(
            dict.fromkeys(hashed for name in names for hashed in self.record.shipped.get(name, ()))
        )

    def _is_table_active(self, name: str) -> bool:
        """Return whether to install a table of cron as active.

        Only `appliance schedule` activates tables, so an installation does not; an upgrade keeps
        the state of a table, and activates no table of a job that not every host starts. A table
        that is new goes to the active ones.
        """
        # Timers start the jobs, so no table may be active.
        if list((self.root / "etc/systemd/system/timers.target.wants").glob("fedcloud-job@*")):
            return False
        tables = [self.root / "etc/cron.d" / job.cron for job in JOBS.values()]
        if (self.root / "etc/cron.d" / name).exists():
            return True
        if (self.root / "etc/fedcloud/cron.d" / name).exists():
            return False
        is_for_all = any(job.cron == name and job.is_scheduled for job in JOBS.values())
        return bool(self.record.version) and is_for_all and any(path.exists() for path in tables)

    def _keep_beginning(self) -> None:
        """Keep 1970 as the start date of an appliance whose jobs ran before there was one."""
        layout = Layout(self.root)
        if (
            self.record.version
            and horizon.kept(layout) is None
            and any(one.lines or one.has_timer for one in starts(layout))
        ):
            horizon.keep(horizon.BEGINNING, layout)
            self.changes += 1

    def _install_file(self, one: File, shipped: tuple[str, ...]) -> None:
        target, new = self.root / one.target.lstrip("/"), one.content
        found = target.read_bytes() if target.is_file() else None
        action = self._decided(one, shipped)
        if action is Action.BESIDE:
            beside = self.root / one.beside.lstrip("/")
            # Never executable and never readable by all: it may be a copy of a file with passwords.
            durable.write_atomic(beside, new, mode=one.mode & 0o640)
            self.notes.append(f"{one.target}: keeps your changes; the new version is {one.beside}")
            self.changes += 1
        elif action is not Action.KEEP:
            if action is Action.REPLACE:
                self._put_aside(target)
            if (
                one.target == site_files.ENVIRONMENT
                and found is not None
                and (line := _VERSION.search(found))
            ):
                new += line[0]  # until the services have been restarted: they may read it
            durable.make_directory(target.parent, mode=0o755)
            durable.write_atomic(target, new, mode=one.mode)
            if "/systemd/" in one.target:
                self.is_unit_written = True
                self.is_unit_changed |= units.changes_service(found or b"", new)
            self.changes += 1
        if not target.is_symlink():
            self._set_access(target, mode=one.mode, group=one.group)

    def _decided(self, one: File, shipped: tuple[str, ...]) -> Action:
        """Return what to do with a file of the bundle."""
        target, new = self.root / one.target.lstrip("/"), one.content
        found = target.read_bytes() if target.is_file() else None
        present = (
            _as_shipped(found)
            if one.target == site_files.ENVIRONMENT and found is not None
            else found
        )
        action = decide(new, present=present, shipped=shipped, kind=one.kind)
        if target.is_symlink():  # the administrator has moved the file, or masked the unit
            return Action.KEEP if action is Action.KEEP or digest(new) in shipped else Action.BESIDE
        return action

    def _keep_images_on(self) -> None:
        """Add the line to a file of the administrator that lacks it: the default is off."""
        if text := image_flow.with_line(self.root):
            rewrite(self.root / image_flow.SETTINGS.lstrip("/"), text)
            self.notes.append(f"{image_flow.SETTINGS}: flows: images: on was added; off is default")
            self.changes += 1

    def _put_aside(self, target: Path) -> None:
        """Move a file of an earlier release to ``/var/lib/fedcloud/replaced``."""
        kept = self.root / "var/lib/fedcloud/replaced" / target.relative_to(self.root)
        durable.make_directory(kept.parent, mode=0o700)
        os.replace(target, kept)
        self.notes.append(
            f"/{target.relative_to(self.root)}: was of an earlier release;"
            f" moved to /{kept.relative_to(self.root)}"
        )

    def _set_access(self, target: Path, *, mode: int, group: int) -> None:
        status = target.stat()
        if (status.st_uid, status.st_gid) != (0, group):
            os.chown(target, 0, group)
            self.changes += 1
        if status.st_mode & 0o7777 != mode:
            target.chmod(mode)
            self.changes += 1

    def _link_compose(self) -> int:
        link = self.root / "etc/sitebdii/docker-compose.yml"
        if link.exists() and not link.is_symlink():
            self._put_aside(link)
        return programs.point(link, "/etc/fedcloud/docker-compose.yml")

    def _give_places(self) -> None:
        for place in ownership.places(self.root):
            changed, doubtful = ownership.give(place)
            self.changes += changed
            self.notes += [
                f"{path}: has several hard links; its owner was not changed" for path in doubtful
            ]

    def _take_version_over(self) -> None:
        """Copy the version from ``appliance.env``, where releases until 0.1 kept it."""
        path = self.root / site_files.ENVIRONMENT.lstrip("/")
        found = _VERSION.search(path.read_bytes()) if path.exists() else None
        if found and found[1] and not settings.in_use(Layout(self.root)):
            self._write_version(found[1].decode())

    def _set_version(self) -> None:
        if settings.in_use(Layout(self.root)) != __version__:
            self._write_version(__version__)

    def _write_version(self, version: str) -> None:
        durable.write_atomic(
            self.root / settings.VERSION_FILE.lstrip("/"), f"{version}\n".encode(), mode=0o644
        )
        self.changes += 1

    def _drop_version(self) -> None:
        """Remove the version from ``appliance.env``; only services until the restart read it."""
        path = self.root / site_files.ENVIRONMENT.lstrip("/")
        present = path.read_bytes()
        if (wanted := _VERSION.sub(b"", present)) == present:
            return
        status = path.stat()
        durable.write_atomic(path, wanted, mode=status.st_mode & 0o7777)
        os.chown(path, status.st_uid, status.st_gid)
        self.changes += 1


def _as_shipped(text: bytes) -> bytes:
    """Return ``appliance.env`` as shipped by a release that set the version in it."""
    return _VERSION.sub(b"FEDCLOUD_VERSION=\n", text)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "run the programs on this host itself; later runs remember this"
    parser.add_argument("--without-containers", action="store_true", help=words)
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="directory of a bundle that has been verified"
    )


def _install(arguments: argparse.Namespace) -> ExitStatus:
    root, bundle = cli.layout(arguments).root, arguments.bundle.absolute()
    # The caller's umask must not decide who can read programs and units.
    os.umask(0o022)
    if os.geteuid() != 0:
        raise UsageError("install", "only root can install", "run it with sudo")
    for name in ("SHA256SUMS", "images.lock", "requirements.txt", "files/docker-compose.yml"):
        if not (bundle / name).is_file():
            raise Unavailable(
                bundle / name, "is missing", "get the bundle again; nothing was changed"
            )
    # Made here, because the lock and the record need them before tmpfiles.d is installed.
    state = root / "var/lib/fedcloud"
    for directory in (state, root / "run/fedcloud"):
        durable.make_directory(directory, mode=0o755)
    with lock.hold(root / "run/fedcloud/install.lock", wait=_PATIENCE):
        record_path = state / "install.json"
        is_native = arguments.without_containers or _is_native(Layout(root))
        made = Installation(bundle, root, record_path, InstallRecord.read(record_path), is_native)
        try:
            made.run()
        finally:
            for note in made.notes:  # no later run prints them
                print(note, flush=True)
        is_restarted = made.take_into_use()
    is_scheduled = any(one.lines or one.has_timer for one in starts(Layout(root)))
    for line in complaints(Layout(root)) if is_scheduled else map(str, foreign(Layout(root))):
        print(line)
    if made.changes:
        print(
            f"Installed {__version__}."
            " Next: appliance configure, appliance check --offline, appliance start."
        )
    else:
        print(f"Nothing to change: {__version__} is installed.")
    return ExitStatus.DONE if is_restarted else ExitStatus.PARTLY


def _is_native(layout: Layout) -> bool:
    """Return whether this host runs the programs without containers.

    If the state directory was lost, its programs still show that.
    """
    is_lost = not settings.in_use(layout) and programs.has_current(root=layout.root)
    return is_lost or settings.is_native(layout)


def _restart(*, is_unit_changed: bool) -> bool:
    """Have the services that run use the new version; return whether all started."""
    try:
        with progress.step("restart of the services", is_terse=True):
            host.renew_services(is_unit_changed=is_unit_changed)
    except Unavailable as error:
        cli.report(PROGRAM.name, error)
        return False
    return True


PROGRAM = cli.Program("install", "Install a bundle of the appliance.", _add_arguments, _install)

if __name__ == "__main__":
    sys.exit(cli.main(PROGRAM))
