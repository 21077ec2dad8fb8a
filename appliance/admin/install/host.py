"""What the host itself must have: the account, the trust anchors' directory, places, enabled units."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from appliance.admin import account
from appliance.admin.install.programs import point
from appliance.admin.inventory import SERVICES
from appliance.core.run.errors import Unavailable

ANCHORS = "/usr/share/igtf-policy"
_UNITS = sorted({f"{unit}.service" for unit in SERVICES.values()})
_WANTED_BY = ("multi-user.target", "docker.service")
_ACCREDITED = ("classic", "mics", "slcs", "iota")


def check_account(root: Path) -> None:
    """Raise `Unavailable` when somebody else has the number or the name."""
    for name in ("passwd", "group"):
        for line in _lines(root / "etc" / name):
            found, number = line.split(":")[0], line.split(":")[2]
            if (found == account.NAME) != (number == str(account.ID)):
                kind = "user" if name == "passwd" else "group"
                cause = f"the {kind} {found} has the number {number}; ours is {account.NAME} with {account.ID}"
                raise Unavailable(
                    root / "etc" / name,
                    cause,
                    "give that account another number and its files with it",
                )


def make_account(root: Path) -> int:
    """Make the group and the user that are missing; returns how many."""
    made = 0
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
    # names may be in any encoding
    text = path.read_text(errors="surrogateescape") if path.exists() else ""
    return [line for line in text.splitlines() if line.count(":") > 2]  # noqa: PLR2004


def link_anchors(root: Path) -> int:
    """Link Debian's IGTF anchors into the directory that grid programs read; returns how many links changed.

    What lies there already, such as EGI's own distribution, stays. A link to an anchor that has
    been withdrawn goes.
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
            if not os.path.lexists(directory / path.name):
                changed += point(directory / path.name, f"{ANCHORS}/{profile}/{path.name}")
    return changed


def make_places(root: Path, *, is_native: bool = False) -> None:
    """Make the directories and log files of etc/tmpfiles.d/fedcloud.conf, and those of a host without containers."""
    where = [] if root == Path("/") else [f"--root={root}"]
    # The containers get Debian's directory of anchors, also on a host that has none of these
    # packages.
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
    """Enable the services on a ``first`` installation; returns how many links were made.

    Ever after, an administrator who has disabled one has had reason to. What an earlier version has
    enabled with the machine alone becomes so with the engine too.
    """
    due = []
    for name in _UNITS:
        if not (root / "etc/systemd/system" / name).is_symlink():  # else it is masked
            with_machine, with_engine = (link.is_symlink() for link in _links(root, name))
            if (with_machine and not with_engine) or (is_first and not with_machine):
                due.append(name)
    before = _count(root, due)
    if due:
        run("/usr/bin/systemctl", "--quiet", f"--root={root}", "enable", *due)
    return _count(root, due) - before  # a unit that the administrator has changed may want less


def _links(root: Path, unit: str) -> list[Path]:
    return [root / f"etc/systemd/system/{by}.wants" / unit for by in _WANTED_BY]


def _count(root: Path, units: Sequence[str]) -> int:
    return sum(link.is_symlink() for unit in units for link in _links(root, unit))


def is_booted(root: Path) -> bool:
    """Say whether this is the running host, with systemd as its first process."""
    return root == Path("/") and Path("/run/systemd/system").exists()


def reload_units() -> None:
    """Let systemd read its units again."""
    run("/usr/bin/systemctl", "daemon-reload")


def restart_services() -> None:
    """Restart what runs, with the new version."""
    run("/usr/bin/systemctl", "try-restart", *_UNITS)


def run(*command: str) -> None:
    """Run a program of the system; raises `Unavailable` with what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise Unavailable(
            Path(command[0]).name, words or f"ended with exit status {done.returncode}"
        )
