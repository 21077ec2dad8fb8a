"""`scripts/install` in a root file system of Debian 13, with its packages and Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.version import __version__
from deploy import bundle as deployed
from deploy import contents, images
from tests.e2e.host_root import DOCKER, DOWN, TOP
from tests.testbed import bundle as bundles

pytestmark = [pytest.mark.matrix, pytest.mark.container, pytest.mark.timeout(900)]

_SYSTEMCTL = '#!/bin/sh\ncase "$*" in *enable*) exec /usr/bin/systemctl.real "$@";; esac\n'


def _archive() -> str:
    """Return the Debian archive that this machine is set up for."""
    text = Path("/etc/apt/sources.list.d/debian.sources").read_text()
    return str(re.findall(r"^URIs: (\S+)", text, re.MULTILINE)[0])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the root file system of a fresh Debian 13, with this bundle in it."""
    root = tmp_path_factory.mktemp("trixie") / "root"
    source = (
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_archive()} trixie main"
    )
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--dpkgopt=force-unsafe-io",
        "--include=ca-certificates,openssl",
    ]
    subprocess.run(
        [*command, "trixie", str(root), source], check=True, capture_output=True, timeout=600
    )
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    (root / "media").mkdir(exist_ok=True)
    private, _ = bundles.make_key(root / "media")
    made = bundles.make(root / "media", key=private)
    everything = contents.everything([images.LOCKS / f"{name}.txt" for name in images.EXTRAS])
    shutil.copy(images.LOCKS / f"{deployed.HOST_EXTRA}.txt", made / "requirements.txt")
    (made / "requirements-all.txt").write_text(everything)
    for wheel in images.fetch_host_wheels(deployed.CACHE, made / "requirements-all.txt").glob(
        "*.whl"
    ):
        shutil.copy(wheel, made / "wheels")
    bundles.seal(made, key=private)
    shutil.copy(TOP / "scripts/install", root / "media/install")
    for name in ("proc", "dev"):
        subprocess.run(["mount", "--rbind", f"/{name}", str(root / name)], check=True)
        subprocess.run(["mount", "--make-rslave", str(root / name)], check=True)
    try:
        yield root
    finally:
        for name in ("proc", "dev"):
            subprocess.run(["umount", "--recursive", "--lazy", str(root / name)], check=False)


def inside(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    environment |= {
        name: text for name, text in os.environ.items() if name.lower().endswith("_proxy")
    }
    command = ["chroot", str(root), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=environment
    )


def install(root: Path) -> subprocess.CompletedProcess[str]:
    return inside(
        root,
        "/media/install",
        f"/media/fedcloud-appliance-{__version__}",
        "--key",
        "/media/key.pub",
    )


def test_packages_and_programs_of_debian_13(root: Path) -> None:
    """F-H3, F-H17: real packages; docker-compose is v2, Docker's client has a package."""
    shown = install(root)
    assert (shown.returncode, shown.stderr) == (
        3,
        f"install: docker: version: {DOWN}; see systemctl status docker\n",
    )
    assert {"docker.io", "docker-cli", "docker-compose", "fetch-crl"} <= set(shown.stdout.split())
    assert inside(root, "docker-compose", "version", "--short").stdout.startswith("2.")
    # There is no engine and no systemd here.
    for name, text in (("docker", DOCKER), ("systemctl", _SYSTEMCTL)):
        program = root / "usr/bin" / name
        program.rename(program.with_name(f"{name}.real"))
        program.write_text(text)
        program.chmod(0o755)
    (root / "stand-ins/engine").mkdir(parents=True)
    shown = install(root)
    assert shown.returncode == 0, shown.stderr
    assert f"Installed {__version__}." in shown.stdout
    assert (root / f"opt/fedcloud/{__version__}/lib/python3.13").is_dir()
    shown = inside(root, "appliance", "schedule", "cron")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    shown = inside(root, "appliance", "status", "--long")
    assert re.search(r"^Compose: /usr\S*/docker-compose 2\.", shown.stdout, re.MULTILINE), (
        shown.stdout
    )
    assert (
        install(root).stdout.splitlines()[-1] == f"Nothing to change: {__version__} is installed."
    )
