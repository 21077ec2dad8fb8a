"""The programs of the host: an environment of Python's in ``/opt/fedcloud``, made of the bundle's wheels alone.

It is made under another name and renamed when it is whole. Its own name carries the bundle's hash;
the name with the version alone, and ``/usr/local/bin/appliance``, are links that change in one
step.
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
    """Make the environment of a version, of the bundle's list ``requirements``; says whether there was any to make."""
    name = f"{version}-{digest[:12]}"
    top = root / _TOP.lstrip("/")
    if (top / name).is_dir():
        return False
    unfinished = top / f".{name}.new"
    top.mkdir(parents=True, exist_ok=True)
    try:
        with progress.step("programs of the host", is_terse=True):
            _fill(unfinished, bundle, bundle / requirements)
        _name_anew(unfinished, f"{_TOP}/{name}")
    except BaseException:  # a full disk, too, is better without it
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    os.sync()  # whole on the disk before it has its name
    unfinished.rename(top / name)
    return True


def _fill(unfinished: Path, bundle: Path, requirements: Path) -> None:
    """Make an environment and install the bundle's wheels into it."""
    _run(sys.executable, "-m", "venv", "--without-pip", unfinished)
    pip = [str(unfinished / "bin/python"), f"{_pip()}/pip", "--quiet", "--no-cache-dir", "install"]
    wheels = bundle / "wheels"
    own = sorted(wheels.glob("egi_fedcloud_appliance-*.whl"))
    if len(own) != 1:
        raise Unavailable(
            wheels, f"holds {len(own)} wheels of the appliance, not one", "build the bundle again"
        )
    digest = hashlib.sha256(own[0].read_bytes()).hexdigest()
    options = ("--no-index", "--find-links", wheels, "--no-deps", "--require-hashes")
    _run(*pip, *options, "-r", requirements, f"{own[0].absolute().as_uri()}#sha256={digest}")


def _pip() -> Path:
    """Return the system's own pip, as the wheel that venv installs: none is left behind in the environment."""
    # of Fedora's family; Debian has it without saying so
    own = sysconfig.get_config_var("WHEEL_PKG_DIR")
    places = [Path(own)] if own else []
    places += [Path("/usr/share/python-wheels"), Path(ensurepip.__file__).parent / "_bundled"]
    found = [path for place in places for path in sorted(place.glob("pip-*.whl"))[-1:]]
    if not found:
        raise Unavailable("python3-venv", "is not installed", "apt-get install python3-venv")
    return found[0]


def _name_anew(environment: Path, place: str) -> None:
    """Make an environment believe that it was made in its final place: its scripts begin with their interpreter's."""
    made_in = str(environment).encode()
    for path in [environment / "pyvenv.cfg", *(environment / "bin").iterdir()]:
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        if made_in in data:
            path.write_bytes(data.replace(made_in, place.encode()))


def link(*, root: Path, version: str, digest: str) -> int:
    """Let the links lead to a version; returns how many changed."""
    top = root / _TOP.lstrip("/")
    changed = point(top / version, f"{version}-{digest[:12]}")
    return changed + point(root / _COMMAND.lstrip("/"), f"{_TOP}/{version}/bin/appliance")


def link_current(*, root: Path, version: str) -> int:
    """Let ``/opt/fedcloud/current`` lead to a version: units run its programs; returns 1 when it changed."""
    return point(root / _TOP.lstrip("/") / "current", version)


def point(link_path: Path, target: str) -> int:
    """Make a link, or change where it leads, in one step; returns 1 when there was something to do."""
    if link_path.is_symlink() and str(link_path.readlink()) == target:
        return 0
    link_path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = link_path.with_name(f".{link_path.name}.new")
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(target)
    os.replace(unfinished, link_path)
    return 1


def remove_leftovers(*, root: Path) -> None:
    """Remove what killed runs have left half-made."""
    for path in (root / _TOP.lstrip("/")).glob(".*.new"):
        shutil.rmtree(path)


def _run(*command: str | Path) -> None:
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
