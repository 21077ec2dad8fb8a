"""The how-to pages, typed as they stand: install, upgrade, go back, remove."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from appliance.core.version import __version__
from tests import documents
from tests.e2e.host_root import Host
from tests.testbed import bundle as bundles
from tests.unit import earlier_site
from tests.unit.test_migrate import conforms

NEWER = "99.0"
_SYSTEMCTL = """#!/bin/sh
echo "$@" >>/stand-ins/calls
case "$*" in *able*) SYSTEMD_OFFLINE=1 exec /stand-ins/real-systemctl "$@";; esac
"""
"""Enables and disables units as the real one does, and notes everything else."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two bundles as publishers send them, and the publisher's key."""
    directory = tmp_path_factory.mktemp("bundles")
    private, public = bundles.make_key(directory)
    public.rename(directory / "publisher.pem")
    for version in (__version__, NEWER):
        bundle = bundles.make(directory, version=version, key=private)
        shutil.copy(documents.TOP / "scripts/install", bundle / "install")
        bundles.seal(bundle, key=private)
        with tarfile.open(directory / f"{version}.tar", "w") as archive:
            archive.add(bundle, bundle.name)
        shutil.rmtree(bundle)
    return directory


@pytest.fixture
def host(tmp_path: Path, made: Path) -> Host:
    """Return a host without an appliance."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    shutil.copy("/etc/login.defs", root / "etc/login.defs")  # a user's own group goes with it
    host = Host(root, made)
    host.stand_in("systemctl", _SYSTEMCTL)
    return host


def type_block(host: Host, page: str, name: str, **values: str) -> str:
    """Type the commands of a block with values for the words in capitals; all must succeed."""
    block = documents.block(page, name)
    typed = "\n".join(block.filled({key.replace("_", "-"): text for key, text in values.items()}))
    done = subprocess.run(
        host.command("/bin/bash", "-euc", typed),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{typed}\n{done.stdout}{done.stderr}"
    return done.stdout


def names(root: Path) -> set[str]:
    """Return all that is on a host, without its stand-ins."""
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {name for name in found if not name.startswith("stand-ins")}


def test_install_upgrade_go_back_remove(host: Host) -> None:
    """In this order on one host, since each installation takes seconds."""
    before = names(host.root)
    install(host)
    caso = host.root / "etc/caso/caso.conf"
    caso.write_text(caso.read_text().replace("SITE-NAME", "SITE"))
    upgrade(host)
    assert "site_name = SITE\n" in caso.read_text()
    go_back(host)
    remove(host, before)


def test_migrate_a_release_of_2019(host: Host) -> None:
    """R40: with the programs and files of a real installation, whose hosts have no oslo.config."""
    shutil.copytree(earlier_site.TREES / "2019x", host.root, dirs_exist_ok=True)
    install(host)
    # A bundle of this test has no packages of others; a host has this one.
    packages = next(host.root.glob(f"opt/fedcloud/{__version__}/lib/python3*/site-packages"))
    shutil.copytree(Path(yaml.__file__).parent, packages / "yaml")
    # Nor the engine's client, which a host without containers does not use.
    (host.root / "var/lib/fedcloud/runtime").write_text("native\n")
    shown = type_block(host, "migrate.md", "apply")
    assert "found: the appliance 2019" in shown
    conforms(host.root, "2019x")
    assert (host.root / "etc/cron.d/caso").exists()
    assert (host.root / "var/spool/cron/crontabs/root").read_text() == ""
    assert "Nothing is left to change." in type_block(host, "migrate.md", "plan")


def install(host: Host) -> None:
    values = {"BUNDLE": f"/bundles/{__version__}", "VERSION": __version__}
    shown = type_block(host, "install.md", "bundle", **values, KEY="/bundles/publisher")
    assert f"Installed {__version__}." in shown


def upgrade(host: Host) -> None:
    """No key is named: it must be that of the first installation."""
    shown = type_block(host, "upgrade.md", "upgrade", BUNDLE=f"/bundles/{NEWER}", VERSION=NEWER)
    assert f"Installed {NEWER}." in shown
    assert (host.root / "var/lib/fedcloud/version").read_text() == f"{NEWER}\n"


def go_back(host: Host) -> None:
    type_block(host, "earlier-version.md", "back", OLD_VERSION=__version__)
    assert (host.root / "var/lib/fedcloud/version").read_text() == f"{__version__}\n"
    link = host.root / "own-local/bin/appliance"
    assert link.readlink() == Path(f"/opt/fedcloud/{__version__}/bin/appliance")
    assert (host.root / str(link.readlink()).lstrip("/")).exists()
    assert host.called()[-1] == "restart bdii cloudkeeper-os"


def remove(host: Host, before: set[str]) -> None:
    """Only what the page names is left of the installation: anchors, and shared files."""
    tables = host.root / "etc/cron.d"
    tables.mkdir()
    for table in ("caso", "ssmsend"):
        (host.root / "etc/fedcloud/cron.d" / table).rename(tables / table)
    for name in ("stop", "images", "programs", "state"):
        type_block(host, "remove.md", name)
    left = names(host.root) - before
    unpacked = {name for name in left if name.startswith("fedcloud-appliance-")}
    usual = {
        *("etc/cron.d", "etc/grid-security", "etc/grid-security/certificates", "etc/logrotate.d"),
        *("etc/systemd", "etc/systemd/system", "etc/tmpfiles.d", "run/lock", "var/lib"),
        *("var/spool", "etc/.pwd.lock", "etc/group-", "etc/passwd-"),
    }
    assert left - unpacked - usual == set()
    assert "fedcloud" not in (host.root / "etc/passwd").read_text()
    assert "fedcloud" not in (host.root / "etc/group").read_text()
