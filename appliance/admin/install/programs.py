"""The programs of the host: a Python environment in ``/opt/fedcloud`` with the bundle's wheels.

It is made under a temporary name and renamed when it is complete. Its name contains the bundle's
hash. The name with only the version, and ``/usr/local/bin/appliance``, are links that are replaced
atomically.
"""

from __future__ import annotations

import ensurepip
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from appliance.admin.install import progress
from appliance.core.run.errors import Unavailable

_TOP = "/opt/fedcloud"
_COMMAND = "/usr/local/bin/appliance"


def make(bundle: Path, *, root: Path, version: str, digest: str, requirements: str) -> bool:
    """Make the environment of a version if it is missing; return whether it was."""
    name = f"{version}-{digest[:12]}"
    top = root / _TOP.lstrip("/")
    if (top / name).is_dir():
        return False
    unfinished = top / f".{name}.new"
    top.mkdir(parents=True, exist_ok=True)
    try:
        with progress.step("programs of the host", is_terse=True):
            _fill(unfinished, bundle, bundle / requirements)
        _relocate(unfinished, f"{_TOP}/{name}")
    except BaseException:  # also after an interrupt: the half-made environment fills the disk
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    os.sync()  # before the rename, so that the name never stands for files that are not on disk
    unfinished.rename(top / name)
    return True


def _fill(unfinished: Path, bundle: Path, requirements: Path) -> None:
    """Make an environment and install the bundle's wheels into it."""
    _run(sys.executable, "-m", "venv", "--without-pip", unfinished)
    pip = [str(unfinished / "bin/python"), f"{_pip()}/pip", "--quiet", "--no-cache-dir", "install"]
    wheels = bundle / "wheels"
    # requirements.txt lists only libraries; our wheel is installed with its own hash.
    own = sorted(wheels.glob("egi_fedcloud_appliance-*.whl"))
    if len(own) != 1:
        raise Unavailable(
            wheels, f"holds {len(own)} wheels of the appliance, not one", "build the bundle again"
        )
    digest = hashlib.sha256(own[0].read_bytes()).hexdigest()
    options = ("--no-index", "--find-links", wheels, "--no-deps", "--require-hashes")
    _run(*pip, *options, "-r", requirements, f"{own[0].absolute().as_uri()}#sha256={digest}")


def _pip() -> Path:
    """Return the wheel of the system's pip, which runs without being installed."""
    # Fedora's family sets WHEEL_PKG_DIR; Debian's has the wheels without it.
    own = sysconfig.get_config_var("WHEEL_PKG_DIR")
    places = [Path(own)] if own else []
    places += [Path("/usr/share/python-wheels"), Path(ensurepip.__file__).parent / "_bundled"]
    found = [path for place in places for path in sorted(place.glob("pip-*.whl"))[-1:]]
    if not found:
        raise Unavailable("python3-venv", "is not installed", "apt-get install python3-venv")
    return found[0]


def _relocate(environment: Path, place: str) -> None:
    """Replace the temporary path by the final one; scripts begin with that of Python."""
    made_in = str(environment).encode()
    # These are the only files of an environment that contain its path.
    for path in [environment / "pyvenv.cfg", *(environment / "bin").iterdir()]:
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        if made_in in data:
            path.write_bytes(data.replace(made_in, place.encode()))


def link(*, root: Path, version: str, digest: str) -> int:
    """Point the links to a version; return how many changed."""
    top = root / _TOP.lstrip("/")
    changed = point(top / version, f"{version}-{digest[:12]}")
    return changed + point(root / _COMMAND.lstrip("/"), f"{_TOP}/{version}/bin/appliance")


def link_current(*, root: Path, version: str) -> int:
    """Point ``/opt/fedcloud/current``, which units use, to a version; return 1 if it changed."""
    return point(root / _TOP.lstrip("/") / "current", version)


def has_current(*, root: Path) -> bool:
    """Return whether there is the link that only a host without containers has."""
    return (root / _TOP.lstrip("/") / "current").is_symlink()


def point(link_path: Path, target: str) -> int:
    """Make or replace a link atomically; return 1 if it changed."""
    if link_path.is_symlink() and str(link_path.readlink()) == target:
        return 0
    link_path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = link_path.with_name(f".{link_path.name}.new")
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(target)
    os.replace(unfinished, link_path)
    return 1


def remove_leftovers(*, root: Path) -> None:
    """Remove half-made environments of killed runs."""
    for path in (root / _TOP.lstrip("/")).glob(".*.new"):
        shutil.rmtree(path)


def _run(*command: str | Path) -> None:
    # No settings of the caller: pip reads PIP_* variables and configuration in HOME.
    environment = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "PIP_CONFIG_FILE": os.devnull,
    }
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(
            Path(command[0]).name,
            f"{' '.join(map(str, command[1:4]))} failed: {' '.join(words[-2:])}",
        )
