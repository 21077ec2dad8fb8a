"""The account, the links to trust anchors, the directories and the enabled units of the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from appliance.admin import account
from appliance.admin.install.programs import point
from appliance.admin.inventory import SERVICES
from appliance.admin.machine import Machine
from appliance.core.run.errors import Unavailable

ANCHORS = "/usr/share/igtf-policy"
_UNITS = sorted({f"{unit}.service" for unit in SERVICES.values()})
_BDII = "bdii.service"
_ENDED = ("activating", "deactivating", "failed", "inactive")
"""States of a unit that ran before, in systemd's words."""
_WANTED_BY = ("multi-user.target", "docker.service")
_ACCREDITED = ("classic", "mics", "slcs", "iota")


def check_account(root: Path) -> None:
    """Check that no other account has the number or the name of the appliance's.

    Raises:
        Unavailable: Another account has one of them.

    """
    for name in ("passwd", "group"):
        for line in _lines(root / "etc" / name):
            found, number = line.split(":")[0], line.split(":")[2]
            # Either both match, which is our account, or neither.
            if (found == account.NAME) != (number == str(account.ID)):
                kind = "user" if name == "passwd" else "group"
                cause = (
                    f"the {kind} {found} has the number {number};"
                    f" the appliance needs {account.NAME} with {account.ID}"
                )
                raise Unavailable(
                    root / "etc" / name,
                    cause,
                    "give that account and its files another number",
                )


def make_account(root: Path) -> int:
    """Make the group and the user if they are missing; return how many were made."""
    made = 0
    # Not --root, which changes the root directory and needs libraries below it.
    where = [] if root == Path("/") else ["--prefix", str(root)]
    home = ["--home-dir", "/var/lib/fedcloud", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    number = str(account.ID)
    if not _has(root, "group"):
        run("/usr/sbin/groupadd", *where, "--gid", number, account.NAME)
        made += 1
    if not _has(root, "passwd"):
        words = [
            "--uid",
            number,
            "--gid",
            number,
            "--comment",
            "EGI fedcloud appliance",
            *home,
            account.NAME,
        ]
        run("/usr/sbin/useradd", *where, *words)
        made += 1
    return made


def _has(root: Path, name: str) -> bool:
    return any(line.split(":")[0] == account.NAME for line in _lines(root / "etc" / name))


def _lines(path: Path) -> list[str]:
    # Comments of accounts may be in any encoding.
    text = path.read_text(errors="surrogateescape") if path.exists() else ""
    return [line for line in text.splitlines() if line.count(":") > 2]  # noqa: PLR2004


def link_anchors(root: Path) -> int:
    """Link Debian's IGTF anchors into the directory that grid programs read.

    Files that are there already, such as EGI's own distribution, stay. A link to an anchor that
    Debian's package no longer has is removed. Returns how many links changed.
    """
    directory, changed = root / "etc/grid-security/certificates", 0
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        target = str(path.readlink()) if path.is_symlink() else ""
        if target.startswith(f"{ANCHORS}/") and not (root / target.lstrip("/")).exists():
            path.unlink()
            changed += 1
    for profile in _ACCREDITED:
        source = root / ANCHORS.lstrip("/") / profile
        for path in sorted(source.iterdir()) if source.is_dir() else []:
            # lexists: a dangling link of the administrator stays, too.
            if not os.path.lexists(directory / path.name):
                changed += point(directory / path.name, f"{ANCHORS}/{profile}/{path.name}")
    return changed


def make_places(root: Path, *, is_native: bool = False) -> None:
    """Make the directories and log files of ``fedcloud.conf`` in /etc/tmpfiles.d."""
    where = [] if root == Path("/") else [f"--root={root}"]
    # The compose file mounts Debian's directory of anchors, so it must exist without the packages.
    for directory in ("run", "run/lock", "var/log", "var/spool", ANCHORS.lstrip("/")):
        (root / directory).mkdir(parents=True, exist_ok=True)
    run(
        "/usr/bin/systemd-tmpfiles",
        *where,
        "--create",
        "fedcloud.conf",
        *(["fedcloud-native.conf"] if is_native else []),
    )


def enable(root: Path, *, is_first: bool) -> int:
    """Enable the services on a first installation; return how many links were made.

    Later runs leave a disabled unit disabled. A unit that an earlier version enabled for
    multi-user.target only is also enabled for docker.service.
    """
    due = []
    for name in _UNITS:
        if not (
            root / "etc/systemd/system" / name
        ).is_symlink():  # a link here means that the unit is masked
            with_machine, with_engine = (link.is_symlink() for link in _links(root, name))
            if (with_machine and not with_engine) or (is_first and not with_machine):
                due.append(name)
    before = _count(root, due)
    if due:
        run("/usr/bin/systemctl", "--quiet", f"--root={root}", "enable", *due)
    return _count(root, due) - before  # fewer links if the administrator has changed the unit


def _links(root: Path, unit: str) -> list[Path]:
    return [root / f"etc/systemd/system/{by}.wants" / unit for by in _WANTED_BY]


def _count(root: Path, units: Sequence[str]) -> int:
    return sum(link.is_symlink() for unit in units for link in _links(root, unit))


def is_booted(root: Path) -> bool:
    """Return whether this is the running host, booted with systemd."""
    return root == Path("/") and Path("/run/systemd/system").exists()


def reload_units() -> None:
    """Make systemd read its units again."""
    run("/usr/bin/systemctl", "daemon-reload")


def renew_services(*, is_unit_changed: bool, broken: Collection[str] = ()) -> None:
    """Have the services that run use the new version; ``broken`` units are started in any case.

    A reload of the BDIIs checks their configuration and replaces one container after the other: the
    site's BDII is away for some seconds. A restart stops both before the check. It is needed for
    changes of a unit itself, or if the reload fails.

    Raises:
        Unavailable: A service does not start.

    """
    due = [*broken]
    left = [unit for unit in _UNITS if unit not in due]
    if _BDII in left and not is_unit_changed:
        left.remove(_BDII)
        if not _reload():
            due.append(_BDII)
    try:
        if due:
            run("/usr/bin/systemctl", "restart", *due)
    finally:
        # Both verbs with "try" leave stopped and disabled services stopped.
        run("/usr/bin/systemctl", "try-restart", *left)


def _reload() -> bool:
    """Reload the BDIIs if they run; return whether they are as before.

    If the unit ends during its reload, systemd counts that as done and starts it again later:
    try-restart would then leave it alone.
    """
    machine = Machine()
    before = machine.state(_BDII)
    try:
        run("/usr/bin/systemctl", "try-reload-or-restart", _BDII)
    except Unavailable:
        return False
    return before != "active" or machine.state(_BDII) not in _ENDED


def run(*command: str) -> None:
    """Run a program of the system.

    Raises:
        Unavailable: It failed; the cause is its output.

    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise Unavailable(
            Path(command[0]).name, words or f"ended with exit status {done.returncode}"
        )
