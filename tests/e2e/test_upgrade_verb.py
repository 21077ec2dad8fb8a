"""`appliance upgrade` with the real installer: forward, back, and back by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.admin import account
from appliance.admin.command import main
from appliance.core.version import __version__
from deploy import bundle_artefact
from tests import documents
from tests.testbed import bundle as bundles
from tests.testbed import oci_registry
from tests.testbed.pki import Authority
from tests.unit import backup_site

pytestmark = [pytest.mark.root, pytest.mark.programs("openssl")]

NEWER = "99.0"
STATE = ("var/spool", "var/lib/fedcloud/caso", "var/lib/fedcloud/ssm", "etc/caso")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two signed bundles, the keys, and a host with the older one."""
    directory = tmp_path_factory.mktemp("upgrade")
    private, _ = bundles.make_key(directory)
    for version in (__version__, NEWER):
        bundle = bundles.make(directory, version=version, key=private, packages=bundles.HOST)
        shutil.copy(bundles.TOP / "scripts/install", bundle / "install")
        bundles.seal(bundle, key=private)
    root = directory / "host"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    shutil.copy("/etc/login.defs", root / "etc/login.defs")
    bundle = directory / f"fedcloud-appliance-{__version__}"
    words = ["--key", str(directory / "key.pub"), "--root", str(root)]
    subprocess.run(["bash", bundle / "install", bundle, *words], check=True, capture_output=True)
    backup_site.ledger(root / "var/lib/fedcloud/caso/ledger.sqlite", {"vm-1": 3600})
    backup_site.journal(root / "var/lib/fedcloud/ssm/sent.sqlite", {"vm-1": 3600})
    backup_site.put(root / backup_site.ELEMENT, "APEL-cloud-message: v0.4\n")
    for top in ("var/spool/apel", "var/lib/fedcloud/caso", "var/lib/fedcloud/ssm"):
        for path in (root / top).rglob("*"):
            os.chown(path, account.ID, account.ID)
    return directory


@pytest.fixture
def host(made: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", made / "host", tmp_path / "host"], check=True)
    return tmp_path / "host"


def newer(made: Path) -> Path:
    return made / f"fedcloud-appliance-{NEWER}"


def upgrade(host: Path, *words: object) -> int:
    return main(["upgrade", "--root", str(host), "--settle", "0", *map(str, words)])


def in_use(host: Path) -> set[str]:
    """Return the version of the state directory, and that of the command."""
    link = (host / "usr/local/bin/appliance").readlink()
    return {(host / "var/lib/fedcloud/version").read_text().strip(), link.parts[3]}


def state(host: Path) -> dict[str, object]:
    """Return all that accounting remembers."""
    found = backup_site.snapshot(host)
    return {name: one for name, one in found.items() if name.startswith(STATE)}


def configuration(host: Path) -> dict[str, object]:
    """Return all files that a version ships."""
    found = backup_site.snapshot(host)
    return {name: one for name, one in found.items() if name.startswith("etc/")}


def packed(bundle: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as archive:
        archive.add(bundle, bundle.name)
    return target


def test_back_by_itself_forward_and_back(
    made: Path, host: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On one host, since each installation takes seconds; the state is the same after each.

    The first bundle has settings that nothing can read, and another compose file.
    """
    bad = Path(shutil.copytree(newer(made), tmp_path / "bad"))
    for name in ("etc/fedcloud/appliance.yaml", "docker-compose.yml"):
        path = bad / "files" / name
        path.write_text(f"{path.read_text()}\nprofile: of-tomorrow\n")
    bundles.seal(bad, key=made / "key.pem")
    before, shipped = state(host), configuration(host)
    assert upgrade(host, "--from", bad) == 3
    shown = capfd.readouterr()
    assert f"the host went back to {__version__}" in shown.err
    assert in_use(host) == {__version__}
    assert state(host) == before
    assert configuration(host) == shipped

    values = {"BUNDLE": str(packed(newer(made), tmp_path / "bundle")).removesuffix(".tar")}
    (tmp_path / "bundle").rename(tmp_path / "bundle.tar")
    for page, version in (("upgrade.md", NEWER), ("earlier-version.md", __version__)):
        (command,) = documents.block(page, "verb").filled(values)
        assert upgrade(host, *command.split()[2:]) == 0
        assert in_use(host) == {version}
        assert state(host) == before
    folder = host / "var/lib/fedcloud/upgrade"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / f"before-{NEWER}.backup").stat().st_mode & 0o777 == 0o600
    assert configuration(host) == shipped


@pytest.mark.matrix
def test_an_installation_that_fails_leaves_the_files_of_the_version_before(
    made: Path, host: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It fails after it has written its files; a run with another bundle of this version works."""
    bad = Path(shutil.copytree(newer(made), tmp_path / "bad"))
    for name in ("etc/tmpfiles.d/fedcloud.conf", "systemd/bdii.service", "docker-compose.yml"):
        path = bad / "files" / name
        path.write_text(f"{path.read_text()}\n# of tomorrow\n")
    with (bad / "files/etc/tmpfiles.d/fedcloud.conf").open("a") as file:
        file.write("nonsense /run/nothing\n")
    bundles.seal(bad, key=made / "key.pem")
    shipped = configuration(host)
    assert upgrade(host, "--from", bad) == 3
    assert f"{__version__} stays in use, with its files" in capfd.readouterr().err
    assert configuration(host) == shipped
    assert in_use(host) == {__version__}
    assert upgrade(host, "--from", newer(made)) == 0
    assert in_use(host) == {NEWER}


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "backup": lambda host: _has(host, f"var/lib/fedcloud/upgrade/.before-{NEWER}.backup.tmp"),
    "record": lambda host: _has(host, "var/lib/fedcloud/upgrade.json"),
    "half an environment": lambda host: any((host / "opt/fedcloud").glob(f".{NEWER}*.new")),
    "environment": lambda host: any((host / "opt/fedcloud").glob(f"{NEWER}-*")),
    "link": lambda host: _has(host, f"opt/fedcloud/{NEWER}"),
    "version": lambda host: NEWER in (host / "var/lib/fedcloud/version").read_text(),
}
"""By name, what is there at the moment of a kill."""


def _has(host: Path, name: str) -> bool:
    return os.path.lexists(host / name)


@pytest.mark.matrix
@pytest.mark.parametrize("moment", [*MOMENTS])
def test_a_killed_upgrade_is_finished_by_the_next(moment: str, made: Path, host: Path) -> None:
    """All its processes are killed together, as by a power cut."""
    program = "from appliance.admin.command import main; import sys; sys.exit(main())"
    words = ["upgrade", "--root", str(host), "--settle", "0", "--from", str(newer(made))]
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as killed:
        while not MOMENTS[moment](host) and killed.poll() is None:
            time.sleep(0.001)
        assert killed.poll() is None, "it had ended before"
        os.killpg(killed.pid, signal.SIGKILL)
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert in_use(host) == {NEWER}
    found = json.loads((host / "var/lib/fedcloud/upgrade.json").read_text())
    assert (found["before"], found["after"], found["state"]) == (__version__, NEWER, "done")
    assert state(host) == state(made / "host")
    assert not [*(host / "opt/fedcloud").glob(".*.new")]
    assert upgrade(host, "--rollback") == 0
    assert in_use(host) == {__version__}


@pytest.mark.matrix
@pytest.mark.programs("docker-registry")
def test_an_upgrade_from_a_registry(made: Path, host: Path, tmp_path: Path) -> None:
    """As the page has it; the bundle is not kept once it is in use."""
    authority = Authority.create(tmp_path / "ca", key="ec")
    credential = authority.issue("localhost", key="ec")
    environment = host / "etc/fedcloud/appliance.env"
    text = re.sub(
        r"(?m)^FEDCLOUD_CA_BUNDLE=.*",
        f"FEDCLOUD_CA_BUNDLE={authority.certificate}",
        environment.read_text(),
    )
    environment.write_text(text)
    own = Path(shutil.copytree(newer(made), tmp_path / newer(made).name))
    layout, digest = bundle_artefact.write(bundle_artefact.pack(own, epoch=1), version=NEWER)
    with oci_registry.serve(
        tmp_path / "registry", credential=credential, authority=authority.certificate
    ) as registry:
        assert oci_registry.push_layout(registry, layout, "egi/appliance", tag=NEWER) == digest
        (command,) = documents.block("upgrade.md", "registry").filled(
            {"HOST": registry.host, "NAME": "egi/appliance", "DIGEST": digest.partition(":")[2]}
        )
        assert upgrade(host, *command.split()[2:]) == 0
    assert in_use(host) == {NEWER}
    assert not (host / "var/lib/fedcloud/upgrade/bundles").exists()
