"""The machine's root file system: packages, the bundle, our files, the data of the engine.

Programs of the tree run in it by chroot(8), with the kernel's /proc, in a mount namespace of their
own: nothing stays mounted, however the build ends.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.admin.install import progress
from deploy import debian, images
from deploy.vm import engine_data, recipe
from deploy.vm.identity import BuildIdentity

FILES = recipe.HERE / "files"
_ENTER = """
set -e
mount --rbind /proc "$0/proc"
[ -z "$1" ] || mount --bind "$1" "$0/media"
shift
exec chroot "$0" "$@"
"""
_CLEAN = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "PYTHONHASHSEED": "0",
}
_ENABLED = (
    "systemd-networkd.service",
    "serial-getty@ttyS0.service",
    "apparmor.service",
    "fstrim.timer",
)
_MARKS = ("var/lib/fedcloud/state-id", "opt/fedcloud/state-id")
_LEFT = ("run/*", "tmp/*", "var/tmp/*", "var/cache/ldconfig/*", "etc/*-", "etc/.pwd.lock")
"""What programs leave in a tree, and a machine does not need."""
_COMPILED = ("usr/lib/python3", "usr/lib/python3.13", "opt/fedcloud")


def make(
    tree: Path,
    base: debian.Base,
    bundle: Path,
    identity: BuildIdentity,
    *,
    key: Path | None,
    step: progress.Step,
) -> None:
    """Make the tree from packages and a verified bundle.

    Raises:
        DaemonError: A program fails; the message has the end of its output.

    """
    tree.mkdir()
    with step("root file system") as detail:
        detail("packages")
        images.quietly(["tar", "-C", tree, "--numeric-owner", "-xf", base.directory / recipe.ROOT])
        detail("bundle")
        install(tree, bundle, key)
        detail("files of the machine")
        shutil.copytree(FILES, tree, symlinks=True, dirs_exist_ok=True, copy_function=_copy)
        _configure(tree, identity)
        detail("images")
        engine_data.fill(bundle, tree.with_name("engine"), tree / "var/lib/docker")
        detail("times and caches")
        finish(tree, identity.epoch)


def install(tree: Path, bundle: Path, key: Path | None) -> None:
    """Install a verified bundle in the tree, by its own installer, which keeps the key there."""
    proof = ["--unsigned"]
    if key is not None:
        shutil.copyfile(key, tree / "tmp/key.pem")
        proof = ["--key", "/tmp/key.pem"]  # noqa: S108  of the tree
    # Another name of /: the installer then leaves packages, engine and services alone.
    enter(tree, "/media/install", "--root", "//", *proof, media=bundle)


def enter(tree: Path, *command: str, media: Path | None = None) -> None:
    """Run a program of the tree in it, with a directory at /media."""
    clean = [f"{name}={text}" for name, text in _CLEAN.items()]
    words: list[str | Path] = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        _ENTER,
        tree,
        media or "",
        "/usr/bin/env",
        "-i",
    ]
    images.quietly([*words, *clean, *command])


def _copy(source: str, target: str) -> None:
    """Copy a file with the mode that git keeps, independent of the checkout's umask."""
    shutil.copyfile(source, target)
    Path(target).chmod(0o755 if Path(source).stat().st_mode & stat.S_IXUSR else 0o644)


def _configure(tree: Path, identity: BuildIdentity) -> None:
    root, boot = identity.uuid("root file system"), identity.serial
    (tree / "boot/efi").mkdir(mode=0o700)
    (tree / "etc/fstab").write_text(
        f"UUID={root} / ext4 errors=remount-ro 0 1\n"
        f"UUID={boot[:4]}-{boot[4:]} /boot/efi vfat umask=0077,flush 0 2\n"
    )
    # A kernel that stops starts the machine again, so that systemd-boot can count that.
    (tree / "etc/kernel/cmdline").write_text(
        f"root=UUID={root} ro panic=30 console=tty0 console=ttyS0,115200\n"
    )
    (tree / "etc/hostname").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    enter(tree, "passwd", "--quiet", "--lock", "root")
    enter(tree, "systemctl", "--quiet", "enable", *_ENABLED)
    # A mark says that this is a site's state: the machine makes its own.
    for name in _MARKS:
        (tree / name).unlink()


def finish(tree: Path, epoch: int) -> None:
    """Remove what a build leaves, compile Python's files, and give no file a time after ``epoch``.

    A compiled file holds the time of its source. Those that are stale then are made again, in one
    process, because the bytes depend on what it has compiled before.
    """
    for pattern in _LEFT:
        for path in tree.glob(pattern):
            _remove(path)
    for path in (tree / "opt/fedcloud").rglob("*.pyc"):
        path.unlink()
    settle_passwords(tree / "etc/shadow", epoch)
    _clamp(tree, epoch)
    enter(tree, "python3", "-m", "compileall", "-q", "-j", "1", *(f"/{one}" for one in _COMPILED))
    _clamp(tree, epoch)


def settle_passwords(shadow: Path, epoch: int) -> None:
    """Give no account a day of its last change of password, shadow(5), after ``epoch``."""
    last = epoch // 86400
    lines = [line.split(":") for line in shadow.read_text().splitlines()]
    for fields in lines:
        fields[2] = str(min(int(fields[2]), last)) if fields[2] else ""
    shadow.write_text("".join(":".join(fields) + "\n" for fields in lines))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _clamp(tree: Path, epoch: int) -> None:
    for entry in _walk(tree):
        if entry.stat(follow_symlinks=False).st_mtime > epoch:
            os.utime(entry, (epoch, epoch), follow_symlinks=False)
    os.utime(tree, (epoch, epoch))


def _walk(directory: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            yield entry
