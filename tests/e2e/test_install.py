"""`scripts/install` into a directory: once, twice, upgraded, killed, and refused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.core.version import __version__
from tests.e2e.host_root import Programs
from tests.testbed import bundle as bundles

TOP = Path(__file__).parents[2]
INSTALL = TOP / "scripts/install"
NEWER = "99.0"
SERVICES = ["bdii.service", "cloudkeeper-os.service"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a key and two signed bundles; tests copy them before a change."""
    directory = tmp_path_factory.mktemp("bundles")
    private, _ = bundles.make_key(directory)
    bundles.make(directory, key=private, packages=bundles.HOST)
    newer = bundles.make(directory, version=NEWER, key=private, packages=bundles.HOST)
    for name in ("etc/caso/caso.conf", "cron.d/caso"):
        path = newer / "files" / name
        path.write_text(path.read_text() + "# newer\n")
    unit = newer / "files/systemd/bdii.service"
    unit.write_text(unit.read_text() + "# newer\n")
    bundles.seal(newer, key=private)
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return bare(tmp_path / "root")


def bare(root: Path) -> Path:
    """Make the root of a host on which nothing is installed."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    anchors = root / "usr/share/igtf-policy/classic"
    anchors.mkdir(parents=True)
    for name in ("0123abcd.0", "0123abcd.signing_policy", "0123abcd.crl_url"):
        (anchors / name).write_text(name)
    return root


@pytest.fixture(scope="module")
def template(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with the older version: an installation takes two seconds, a copy a tenth."""
    root = bare(tmp_path_factory.mktemp("template") / "root")
    assert install(older(made), root).returncode == 0
    return root


@pytest.fixture
def installed(template: Path, root: Path) -> None:
    """Let the older version be installed below ``root``."""
    subprocess.run(["cp", "-a", f"{template}/.", root], check=True)


@pytest.fixture(scope="module")
def programs(made: Path, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Return the programs of both versions, as installations have made them."""
    programs = Programs(tmp_path_factory.mktemp("programs"))
    root = bare(tmp_path_factory.mktemp("newer") / "root")
    assert install(newer(made), root).returncode == 0
    for place in (template, root):
        programs.keep(place)
    return programs


@pytest.fixture
def ready(programs: Programs, root: Path) -> None:
    """Let the installer find the programs below ``root``, for tests of everything else."""
    programs.put(root)


def older(made: Path) -> Path:
    return made / f"fedcloud-appliance-{__version__}"


def newer(made: Path) -> Path:
    return made / f"fedcloud-appliance-{NEWER}"


def install(
    bundle: Path,
    root: Path,
    *flags: str,
    key: Path | None = None,
    env: Mapping[str, str] | None = None,
    umask: int = -1,
) -> subprocess.CompletedProcess[str]:
    words = ["--key", key or bundle.parent / "key.pub", "--root", root, *flags]
    command = [str(word) for word in (INSTALL, bundle, *words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=env, umask=umask
    )


def state(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that is below a directory: kind, owner, mode, time and content of each name."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(set(root.rglob("*")) - {root / "run/fedcloud/install.lock"}):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else b""
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).digest()
        access = (status.st_uid, status.st_gid, oct(status.st_mode))
        if path.is_dir():
            found[str(path.relative_to(root))] = access
        else:
            found[str(path.relative_to(root))] = (*access, status.st_mtime_ns, content)
    return found


def access(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def enabled(root: Path) -> dict[str, list[str]]:
    """Return which services start with what, as systemd's links tell it."""
    found = {
        path.name.removesuffix(".wants"): sorted(link.name for link in path.iterdir())
        for path in (root / "etc/systemd/system").glob("*.wants")
    }
    return {name: links for name, links in found.items() if links}


def systemctl(root: Path, *words: str) -> None:
    subprocess.run(
        ["systemctl", "--quiet", f"--root={root}", *words], check=True, capture_output=True
    )


def test_a_first_and_a_second_run(made: Path, root: Path) -> None:
    """R13, R20, R22, R23, R31, D12: paths and access are right; a second run does nothing."""
    shown = install(older(made), root)
    assert (shown.returncode, shown.stderr) == (0, ""), shown.stderr
    steps = "appliance check --offline, appliance start"
    assert shown.stdout.endswith(f"Installed {__version__}. Next: appliance configure, {steps}.\n")
    assert re.search("^fedcloud:[x!]:1999:1999:", (root / "etc/passwd").read_text(), re.MULTILINE)
    assert access(root / "etc/caso/caso.conf") == (0, 1999, 0o640)
    assert access(root / "etc/apel/sender.cfg") == (0, 1999, 0o640)
    assert access(root / "etc/apel/sender.d/storage.cfg.example") == (0, 1999, 0o640)
    assert list((root / "etc/apel/sender.d").glob("*.cfg")) == []
    assert (root / "etc/apel/sender.d").stat().st_mode & 0o005 == 0o005
    assert access(root / "etc/sitebdii/site.cfg") == (0, 0, 0o644)
    assert access(root / "etc/fedcloud/cron.d/caso") == (0, 0, 0o644)
    assert access(root / "etc/fedcloud/cron.d/ssmsend") == (0, 0, 0o644)
    assert not list((root / "etc").glob("cron.d/*"))  # F-H14: `appliance schedule` starts the jobs
    assert "timers.target" not in enabled(root)
    assert access(root / "usr/local/bin/caso-extract.sh") == (0, 0, 0o755)
    assert access(root / "var/spool/apel/outgoing/openstack") == (1999, 1999, 0o750)
    assert access(root / "image_data") == (1999, 1999, 0o750)
    assert (root / "etc/sitebdii/docker-compose.yml").readlink() == Path(
        "/etc/fedcloud/docker-compose.yml"
    )
    assert enabled(root) == {"multi-user.target": SERVICES, "docker.service": SERVICES}
    assert (root / "var/lib/fedcloud/version").read_text() == f"{__version__}\n"
    assert "FEDCLOUD_VERSION" not in (root / "etc/fedcloud/appliance.env").read_text()
    anchor = root / "etc/grid-security/certificates/0123abcd.0"
    assert anchor.readlink() == Path("/usr/share/igtf-policy/classic/0123abcd.0")
    assert not list(root.rglob("*.fedcloud-new"))
    before = state(root)
    again = install(older(made), root)
    assert (again.returncode, again.stdout) == (
        0,
        f"Nothing to change: {__version__} is installed.\n",
    ), again.stderr
    assert state(root) == before


@pytest.mark.usefixtures("installed")
def test_the_command_works_from_where_it_is_installed(made: Path, root: Path) -> None:
    link = root / "usr/local/bin/appliance"
    assert link.readlink() == Path(f"/opt/fedcloud/{__version__}/bin/appliance")
    script = root / str(link.readlink()).lstrip("/")
    first = script.read_text().splitlines()[0]
    assert first.startswith(f"#!/opt/fedcloud/{__version__}-")
    assert str(root) not in (script.parents[1] / "pyvenv.cfg").read_text()
    python = root / first.removeprefix("#!/")
    shown = subprocess.run(
        [python, "-I", script, "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == f"appliance {__version__}\n"


@pytest.mark.usefixtures("installed")
def test_an_upgrade_keeps_what_the_administrator_changed(made: Path, root: Path) -> None:
    caso, env, sender = (
        root / f"etc/{name}"
        for name in ("caso/caso.conf", "fedcloud/appliance.env", "apel/sender.cfg")
    )
    caso.write_text(caso.read_text().replace("SITE-NAME", "MY-SITE"))
    env.write_text(env.read_text().replace("NETWORK=bridge", "NETWORK=host"))
    sender.unlink()
    shown = install(newer(made), root)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert (
        lines[0] == "/etc/caso/caso.conf: keeps your changes; the new version is "
        "/etc/caso/caso.conf.fedcloud-new"
    )
    assert lines[1].startswith(f"Installed {NEWER}.")
    assert "MY-SITE" in caso.read_text()
    beside = root / "etc/caso/caso.conf.fedcloud-new"
    assert beside.read_text().endswith("# newer\n")
    assert not beside.stat().st_mode & 0o007
    assert (root / "etc/systemd/system/bdii.service").read_text().endswith("# newer\n")
    assert "FEDCLOUD_NETWORK=host" in env.read_text().splitlines()
    assert (root / "var/lib/fedcloud/version").read_text() == f"{NEWER}\n"
    assert sender.exists()
    assert (root / "opt/fedcloud" / __version__).exists()
    again = install(newer(made), root)
    assert again.stdout == f"Nothing to change: {NEWER} is installed.\n"


@pytest.mark.usefixtures("installed", "ready")
@pytest.mark.parametrize("is_changed", [pytest.param(False, marks=pytest.mark.matrix), True])
def test_the_version_of_an_earlier_release_is_taken_over(
    made: Path, root: Path, is_changed: bool
) -> None:
    """It lay in appliance.env, which is the site's: from now on in the state directory."""
    env, version = root / "etc/fedcloud/appliance.env", root / "var/lib/fedcloud/version"
    # As the release before had both: the file with an empty line, which the installer filled.
    shipped = env.read_text().replace(
        "# How the cont", "# Set by the installer.\nFEDCLOUD_VERSION=\n\n# How the cont"
    )
    record = root / "var/lib/fedcloud/install.json"
    reported = json.loads(record.read_text())
    reported["files"]["/etc/fedcloud/appliance.env"] = [
        hashlib.sha256(shipped.encode()).hexdigest()
    ]
    record.write_text(json.dumps(reported))
    text = shipped.replace("FEDCLOUD_VERSION=", f"FEDCLOUD_VERSION={__version__}")
    env.write_text(text.replace("=bridge", "=host") if is_changed else text)
    version.unlink()
    shown = install(newer(made), root)
    assert shown.returncode == 0, shown.stderr
    assert version.read_text() == f"{NEWER}\n"
    assert "FEDCLOUD_VERSION=" not in env.read_text()
    assert ("FEDCLOUD_NETWORK=host" in env.read_text()) == is_changed
    assert ("Set by the installer" in env.read_text()) == is_changed
    assert install(newer(made), root).stdout == f"Nothing to change: {NEWER} is installed.\n"


@pytest.mark.usefixtures("ready")
def test_a_service_that_was_masked_before(made: Path, root: Path) -> None:
    masked = root / "etc/systemd/system/cloudkeeper-os.service"
    masked.parent.mkdir(parents=True)
    masked.symlink_to("/dev/null")
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    assert masked.readlink() == Path("/dev/null")
    assert enabled(root) == {
        "multi-user.target": ["bdii.service"],
        "docker.service": ["bdii.service"],
    }


@pytest.mark.usefixtures("installed", "ready")
def test_a_service_that_was_enabled_without_the_engine_comes_up_with_it(
    made: Path, root: Path
) -> None:
    # what earlier versions wanted with the machine alone stayed down after a stop and a start of
    # docker
    links = root / "etc/systemd/system/docker.service.wants"
    shutil.rmtree(links)
    systemctl(root, "disable", "cloudkeeper-os.service")
    assert install(newer(made), root).returncode == 0
    assert enabled(root) == {
        "multi-user.target": ["bdii.service"],
        "docker.service": ["bdii.service"],
    }
    unit = root / "etc/systemd/system/bdii.service"
    # as the administrator wants it
    unit.write_text(unit.read_text().replace(" docker.service\n", "\n"))
    systemctl(root, "reenable", "bdii.service")
    assert enabled(root) == {"multi-user.target": ["bdii.service"]}
    assert install(newer(made), root).stdout == f"Nothing to change: {NEWER} is installed.\n"
    assert enabled(root) == {"multi-user.target": ["bdii.service"]}


@pytest.mark.usefixtures("installed", "ready")
def test_a_unit_that_was_changed_or_disabled_is_kept_and_a_masked_one_stays_masked(
    made: Path, root: Path
) -> None:
    unit = root / "etc/systemd/system/bdii.service"
    unit.write_text(unit.read_text() + "# mine\n")
    masked = root / "etc/systemd/system/cloudkeeper-os.service"
    masked.unlink()
    masked.symlink_to("/dev/null")
    systemctl(root, "disable", "bdii.service")
    before = enabled(root)
    shown = install(newer(made), root)
    assert enabled(root) == before
    assert "bdii.service" not in str(before)
    assert "/etc/systemd/system/bdii.service: keeps your changes" in shown.stdout
    assert unit.read_text().endswith("# mine\n")
    assert masked.readlink() == Path("/dev/null")


@pytest.mark.usefixtures("ready")
def test_what_a_release_of_2017_left_is_taken_over(made: Path, root: Path) -> None:
    """R19, R31: its spools are root's, its programs and units make way, its configuration stays;
    links are not followed.
    """
    spool = root / "var/spool/apel/outgoing/openstack/5a1b2c3d"
    spool.mkdir(parents=True)
    (spool / "5a1b2c3d4e5f60").write_text("record")
    (root / "var/spool/caso").mkdir()
    (root / "var/spool/caso/lastrun").write_text("2017-08-09T00:00:00")
    outside = root / "etc/secret"
    outside.write_text("root:*\n")
    (root / "var/spool/caso/link").symlink_to(outside)
    (root / "var/spool/apel/twice").hardlink_to(outside)
    wrapper = root / "usr/local/bin/caso-extract.sh"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text("#!/bin/sh\ndocker run egifedcloud/caso\n")
    compose = root / "etc/sitebdii/docker-compose.yml"
    compose.parent.mkdir()
    compose.write_text("version: '2'\n")
    caso = root / "etc/caso/caso.conf"
    caso.parent.mkdir()
    caso.write_text("[DEFAULT]\nsite_name = MY-SITE\n")
    caso.chmod(0o644)
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    for path in (
        spool,
        spool / "5a1b2c3d4e5f60",
        root / "var/spool/caso/lastrun",
        root / "var/spool/apel",
    ):
        assert access(path)[:2] == (1999, 1999), path
    assert access(outside)[:2] == (0, 0)
    assert (root / "var/spool/caso/link").lstat().st_uid == 1999
    assert (
        f"{root}/var/spool/apel/twice: has several hard links; its owner was not changed"
        in shown.stdout
    )
    assert "appliance run caso" in wrapper.read_text()
    replaced = root / "var/lib/fedcloud/replaced"
    assert "docker run" in (replaced / "usr/local/bin/caso-extract.sh").read_text()
    assert "version" in (replaced / "etc/sitebdii/docker-compose.yml").read_text()
    assert compose.is_symlink()
    assert caso.read_text() == "[DEFAULT]\nsite_name = MY-SITE\n"
    assert access(caso) == (0, 1999, 0o640)


@pytest.mark.usefixtures("ready")
def test_what_a_release_since_2018_left_counts(made: Path, root: Path) -> None:
    """R05, R36: mappings and the backend's configuration stay, and no second one is installed."""
    names = ("caso/voms.json", "cloudkeeper-os/mapping.json", "cloudkeeper-os/cloudkeeper-os.conf")
    for name in names:
        (root / "etc" / name).parent.mkdir(exist_ok=True)
        (root / "etc" / name).write_text("theirs")
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    assert [access(root / "etc" / name) for name in names] == [(0, 1999, 0o640)] * 3
    assert not (root / "etc/cloudkeeper/cloudkeeper-os.conf").exists()
    assert (root / "etc/cloudkeeper/cloudkeeper.yml").exists()
    assert install(older(made), root).stdout.startswith("Nothing to change")
    second = root / "etc/cloudkeeper/cloudkeeper-os.conf"
    second.write_text("mine")
    reported = refused(older(made), root)
    assert f"{root}/etc/{names[2]}: there is {second} too; remove one" in reported
    with (root / "etc/fedcloud/appliance.env").open("a") as env:
        env.write("FEDCLOUD_BACKEND_CONFIG=/etc/cloudkeeper/cloudkeeper-os.conf\n")
    assert install(older(made), root).returncode == 0


def test_whoever_calls_it_however(made: Path, root: Path) -> None:
    # a shell that closes everything to others, knows few places, speaks no UTF-8; and names in
    # another encoding
    with (root / "etc/passwd").open("ab") as file:
        file.write(b"jos\xe9:x:1000:1000:Jos\xe9:/home/jose:/bin/sh\n")
    shown = install(
        older(made),
        root,
        env={"PATH": "/bin", "LC_ALL": "POSIX", "PYTHONHOME": "/none"},
        umask=0o077,
    )
    assert shown.returncode == 0, shown.stderr
    for name in (
        "etc/apel",
        "etc/sitebdii",
        "etc/cloud-info-provider",
        "etc/grid-security/certificates",
        "opt/fedcloud",
    ):
        assert access(root / name) == (0, 0, 0o755), name
    link = root / "usr/local/bin/appliance"
    script = root / str(link.readlink()).lstrip("/")
    python = root / script.read_text().splitlines()[0].removeprefix("#!/")
    for path in (script, python.parent, *(python.parents[1] / "lib").rglob("command.py")):
        assert path.stat().st_mode & 0o044 == 0o044, path
    assert b"jos\xe9" in (root / "etc/passwd").read_bytes()


@pytest.mark.usefixtures("ready")
def test_images_on_a_volume_that_a_link_leads_to(made: Path, root: Path) -> None:
    """R10."""
    volume = root / "srv/images"
    volume.mkdir(parents=True)
    (root / "image_data").symlink_to("/srv/images")
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    assert (root / "image_data").is_symlink()
    assert access(volume)[:2] == (1999, 1999)
    assert install(older(made), root).stdout.startswith("Nothing to change")


@pytest.mark.usefixtures("ready")
def test_jobs_in_root_s_own_table_are_reported(made: Path, root: Path) -> None:
    """D08: releases of 2019 to 2022 had such lines, which would start jobs twice."""
    crontab = root / "var/spool/cron/crontabs/root"
    crontab.parent.mkdir(parents=True)
    crontab.write_text("# m h\n14 */4 * * * /usr/local/bin/caso-extract.sh\n")
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    assert (
        f"{crontab}:2: starts the job caso beside the appliance; keep one starter: switch the flow"
        " off, or remove this line" in shown.stdout.splitlines()
    )


@pytest.mark.usefixtures("installed")
def test_what_does_not_start_the_jobs_is_reported(made: Path, root: Path) -> None:
    # D01: an installation does not put right what the administrator did to a table, nor choose for
    # him
    activate(root)
    table = root / "etc/cron.d/caso"
    table.write_text(table.read_text().rstrip("\n"))
    wants = root / "etc/systemd/system/timers.target.wants"
    wants.mkdir()
    (wants / "fedcloud-job@fetch-crl.timer").symlink_to(
        "/etc/systemd/system/fedcloud-job@fetch-crl.timer"
    )
    shown = install(older(made), root)
    last = len(table.read_text().splitlines())
    assert shown.stdout.splitlines()[-3:] == [
        "both cron and systemd start fetch-crl: choose one with appliance schedule cron|systemd",
        (
            f"{table}:{last}: cron ignores the whole file, because its last line has no newline; "
            "add one"
        ),
        (
            f"Installed {__version__}. Next: appliance configure, appliance check --offline, "
            "appliance start."
        ),
    ]


@pytest.mark.usefixtures("installed", "ready")
def test_images_are_off_until_asked_and_an_upgrade_keeps_them_on(made: Path, root: Path) -> None:
    """A file that nobody edited stays unedited, whichever way the flow is switched."""
    file = root / "etc/fedcloud/appliance.yaml"
    shipped = file.read_text()
    assert "\n  images: off\n" in shipped
    file.write_text(shipped.replace("images: off", "images: on"))  # as 1.0.0 shipped it
    with_edits = newer(made)
    for bundle in (with_edits, older(made), with_edits):
        shown = install(bundle, root)
        assert (shown.returncode, "keeps your changes" in shown.stdout) == (0, False), shown
        assert file.read_text() == shipped.replace("images: off", "images: on")
    assert install(with_edits, root).stdout.startswith("Nothing to change")
    file.write_text(shipped)
    assert install(older(made), root).returncode == 0
    assert file.read_text() == shipped
    # The administrator's file of a release that had no such line.
    file.write_text("# mine\nprofile: private\n")
    shown = install(with_edits, root)
    assert "/etc/fedcloud/appliance.yaml: flows: images: on was added" in shown.stdout
    assert file.read_text() == "# mine\nprofile: private\nflows:\n  images: on\n"
    assert install(with_edits, root).stdout.startswith("Nothing to change")


def activate(root: Path) -> None:
    """Have cron start the jobs, as `appliance schedule cron` does."""
    (root / "etc/cron.d").mkdir(exist_ok=True)
    for name in ("caso", "cloudkeeper", "fedcloud-crl", "ssmsend"):
        (root / "etc/fedcloud/cron.d" / name).rename(root / "etc/cron.d" / name)


@pytest.mark.usefixtures("ready")
def test_an_upgrade_keeps_what_runs(made: Path, root: Path) -> None:
    """F-H14: idle tables stay idle, active ones active, and the start date of accounting stays."""
    install(newer(made), root)
    assert not (root / "var/lib/fedcloud/since").exists()
    activate(root)
    # a table that is new in the next version comes to the others
    (root / "etc/cron.d/ssmsend").unlink()
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    assert sorted(path.name for path in (root / "etc/cron.d").iterdir()) == [
        *("caso", "cloudkeeper", "fedcloud-crl", "ssmsend"),
    ]
    # Jobs that ran before there was a date read such a project's usage from the beginning, and go
    # on so.
    assert (root / "var/lib/fedcloud/since").read_text() == "1970-01-01T00:00:00+00:00\n"
    # Nobody has changed a table: a new one takes its place, and none comes to lie beside it.
    assert not list(root.rglob("cron.d/*.fedcloud-new"))
    assert "keeps your changes" not in shown.stdout
    assert install(older(made), root).stdout.startswith("Nothing to change")


@pytest.mark.usefixtures("ready")
def test_an_upgrade_keeps_a_table_that_not_every_host_has(made: Path, root: Path) -> None:
    """R12: the active table keeps the site's minutes, and no second, idle one comes beside it."""
    install(newer(made), root)
    activate(root)
    idle, active = (
        root / place / "cloud-info-json" for place in ("etc/fedcloud/cron.d", "etc/cron.d")
    )
    active.write_text(idle.read_text().replace("4,34 *", "9,39 *"))
    idle.unlink()
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    assert "\n9,39 * * * * root " in active.read_text()
    assert not idle.exists()
    assert (root / "etc/fedcloud/cron.d/cloud-info").exists()
    assert not (root / "etc/cron.d/cloud-info").exists()
    assert install(older(made), root).stdout.startswith("Nothing to change")


@pytest.mark.usefixtures("ready")
def test_an_upgrade_starts_no_job_beside_an_upstream_program(made: Path, root: Path) -> None:
    """R12: docs/how-to/upstream-tools.md moves the table of a job that is replaced aside."""
    install(newer(made), root)
    activate(root)
    active, idle = (root / place / "ssmsend" for place in ("etc/cron.d", "etc/fedcloud/cron.d"))
    active.rename(idle)
    shown = install(older(made), root)
    assert shown.returncode == 0, shown.stderr
    assert idle.exists()
    assert not active.exists()
    assert (root / "etc/cron.d/caso").exists()


@pytest.mark.usefixtures("ready")
def test_a_table_of_an_earlier_release_goes_on_to_count(made: Path, root: Path) -> None:
    """F-H14: what ran before the first installation runs after it, and no other job with it."""
    table = root / "etc/cron.d/caso"
    table.parent.mkdir(parents=True)
    table.write_text("14 */4 * * * root /usr/local/bin/caso-extract.sh\n")
    assert install(older(made), root).returncode == 0
    assert table.read_text().startswith("14 */4")
    assert not (root / "etc/cron.d/ssmsend").exists()
    assert (root / "etc/fedcloud/cron.d/ssmsend").exists()


def test_what_cannot_be_made_whole_is_not_left_half(own: Path, root: Path) -> None:
    (own / "requirements.txt").write_text(f"missing==1 --hash=sha256:{'0' * 64}\n")
    bundles.seal(own, key=own.parent / "key.pem")
    shown = install(own, root)
    assert shown.returncode == 3
    assert shown.stderr.count("\n") == 1
    assert "missing" in shown.stderr
    assert list((root / "opt/fedcloud").iterdir()) == []
    assert not (root / "usr/local/bin/appliance").is_symlink()


@pytest.mark.usefixtures("installed", "ready")
def test_with_timers_the_tables_stay_aside(made: Path, root: Path) -> None:
    """R12: an upgrade does not bring cron's tables back."""
    activate(root)
    # This checkout's interpreter: the bundle of the tests holds none of the libraries.
    command = [
        sys.executable,
        "-m",
        "appliance.admin.command",
        "schedule",
        "systemd",
        "--root",
        str(root),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert not list((root / "etc/cron.d").iterdir())
    assert install(newer(made), root).returncode == 0
    assert not list((root / "etc/cron.d").iterdir())
    assert (root / "etc/fedcloud/cron.d/caso").exists()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("shares", [(4, 8), pytest.param((2, 6, 9), marks=pytest.mark.matrix)])
def test_killed_anywhere_it_leaves_a_version_that_works_and_a_second_run_finishes(
    made: Path, root: Path, shares: tuple[int, ...]
) -> None:
    clean = root.with_name("clean")
    shutil.copytree(root, clean, symlinks=True)
    began = time.monotonic()
    install(newer(made), clean)
    whole = time.monotonic() - began
    expected = {name: seen[0:3] + seen[4:] for name, seen in state(clean).items()}
    for share in shares:
        killed = root.with_name(f"killed{share}")
        shutil.copytree(root, killed, symlinks=True)
        words = [
            str(word)
            for word in (INSTALL, newer(made), "--key", made / "key.pub", "--root", killed)
        ]
        process = subprocess.Popen(
            words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(whole * share / 10)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert_works(killed)
        shown = install(newer(made), killed)
        assert shown.returncode == 0, shown.stderr
        assert "keeps your changes" not in shown.stdout
        now = {name: seen[0:3] + seen[4:] for name, seen in state(killed).items()}
        ignored = {name for name in expected.keys() ^ now.keys() if "__pycache__" in name}
        assert now.keys() - ignored == expected.keys() - ignored
        differing = {name for name in now.keys() & expected.keys() if now[name] != expected[name]}
        assert not {name for name in differing if not name.endswith((".pyc", "RECORD"))}
        shutil.rmtree(killed)


def assert_works(root: Path) -> None:
    """Check that the command runs, the version is one of the two, and files are complete."""
    link = root / "usr/local/bin/appliance"
    script = root / str(link.readlink()).lstrip("/")
    python = root / script.read_text().splitlines()[0].removeprefix("#!/")
    shown = subprocess.run(
        [python, "-I", script, "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[1] in (__version__, NEWER)
    assert (root / "var/lib/fedcloud/version").read_text() in (f"{__version__}\n", f"{NEWER}\n")
    unit = (root / "etc/systemd/system/bdii.service").read_text()
    assert "\nWantedBy=multi-user.target " in unit
    assert "/var/log/caso.log 2>&1\n" in (root / "etc/fedcloud/cron.d/caso").read_text()


# --------------------------------------------------------------------------------------------------
# refused


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """Return a bundle that a test may change, beside its keys."""
    shutil.copytree(older(made), tmp_path / "own" / older(made).name)
    for name in ("key.pem", "key.pub"):
        shutil.copy(made / name, tmp_path / "own")
    return tmp_path / "own" / older(made).name


def refused(bundle: Path, root: Path, *flags: str, key: Path | None = None) -> str:
    """Install what must not be installed; returns the line that says so."""
    before = state(root)
    shown = install(bundle, root, *flags, key=key)
    assert shown.returncode in (2, 3), shown.stdout
    assert shown.stderr.count("\n") == 1, shown.stderr
    assert state(root) == before
    return shown.stderr


def test_an_altered_file_is_refused(own: Path, root: Path) -> None:
    """R01: nothing is touched before the bundle is proven."""
    path = own / "files/bin/caso-extract.sh"
    path.write_text(path.read_text() + "# \n")
    assert refused(own, root) == (
        f"install: {own}: altered or incomplete: files/bin/caso-extract.sh: FAILED; get it "
        "again; nothing was changed\n"
    )


def test_a_missing_and_an_added_file_are_refused(own: Path, root: Path) -> None:
    (own / "files/etc/evil").write_text("x")
    assert "files that SHA256SUMS does not list: files/etc/evil" in refused(own, root)
    (own / "files/etc/evil").unlink()
    (own / "files/etc/voms.json").unlink()
    assert "altered or incomplete: files/etc/voms.json" in refused(own, root)


def test_a_link_is_refused(own: Path, root: Path) -> None:
    path = own / "files/etc/voms.json"
    path.rename(own.parent / "voms.json")
    path.symlink_to(own.parent / "voms.json")
    assert "contains links" in refused(own, root)


@pytest.mark.usefixtures("ready")
def test_another_s_signature_is_refused(own: Path, root: Path) -> None:
    _, public = bundles.make_key(own.parent, "other")
    assert f"its signature does not match {public}; nothing was changed" in refused(
        own, root, key=public
    )
    bundles.seal(own, key=None)
    assert "not signed; use --unsigned if you have built it; nothing was changed" in refused(
        own, root
    )
    assert "no such key" in refused(own, root, key=own / "none")
    assert install(own, root, "--unsigned").returncode == 0


@pytest.fixture
def with_key(own: Path) -> Path:
    """Return a bundle with the installer and the key in it, as a publisher makes it."""
    shutil.copy(INSTALL, own / "install")
    shutil.copy(own.parent / "key.pub", own / "signing-key.pem")
    bundles.seal(own, key=own.parent / "key.pem")
    return own


def fingerprint_of(bundle: Path) -> str:
    return hashlib.sha256((bundle / "signing-key.pem").read_bytes()).hexdigest()


def install_itself(bundle: Path, root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [str(bundle / "install"), "--root", str(root), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )


def test_a_key_that_came_with_the_bundle_is_shown_and_not_trusted_unasked(
    with_key: Path, root: Path
) -> None:
    """F-H16: nobody is there to ask."""
    before, found = state(root), fingerprint_of(with_key)
    shown = install_itself(with_key, root)
    assert (shown.returncode, state(root)) == (3, before)
    assert (
        shown.stdout
        == f"The key came with the bundle. SHA-256 of {with_key}/signing-key.pem: {found}\n"
    )
    assert f"repeat with --fingerprint {found} or --key FILE; nothing was changed" in shown.stderr
    wrong = install_itself(with_key, root, "--fingerprint", "0" * 64)
    assert (wrong.returncode, state(root)) == (3, before)
    assert f"its SHA-256 is {found}, not {'0' * 64}; get the bundle again" in wrong.stderr


@pytest.mark.parametrize(("answer", "status"), [("yes\n", 0), ("no\n", 3), ("\n", 3)])
def test_a_person_is_asked_for_the_key_before_it_is_trusted(
    with_key: Path, root: Path, answer: str, status: int
) -> None:
    """F-H16: on a terminal."""
    before = state(root)
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [str(with_key / "install"), "--root", str(root)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(controller, answer.encode())
        out, err = process.communicate(timeout=120)
    os.close(controller)
    os.close(terminal)
    assert process.returncode == status, err
    assert out.startswith(f"The key came with the bundle. SHA-256 of {with_key}/signing-key.pem: ")
    if status:
        assert err.endswith("install: the key is not trusted; nothing was changed\n")
        assert state(root) == before


def test_the_key_of_the_first_installation_is_asked_for_ever_after(
    with_key: Path, root: Path
) -> None:
    found = fingerprint_of(with_key)
    colons = ":".join(found[at : at + 2] for at in range(0, 64, 2)).upper()  # as openssl prints one
    assert install_itself(with_key, root, "--fingerprint", colons).returncode == 0
    assert install_itself(with_key, root).returncode == 0  # by now it is known
    private, public = bundles.make_key(with_key.parent, "other")
    shutil.copy(public, with_key / "signing-key.pem")
    bundles.seal(with_key, key=private)
    again = install_itself(with_key, root, "--fingerprint", fingerprint_of(with_key))
    assert again.returncode == 3
    assert (
        f"its signature does not match {root}/etc/fedcloud/signing-key.pem; nothing was changed"
        in again.stderr
    )


@pytest.mark.usefixtures("ready")
def test_two_installers_at_once(made: Path, root: Path) -> None:
    """The second says so, and changes nothing."""
    directory = os.open(root, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    reported = refused(older(made), root)
    os.close(directory)
    assert reported == (
        f"install: another installation into {root} is running; wait for its end; nothing was "
        "changed\n"
    )
    assert install(older(made), root).returncode == 0


@pytest.mark.usefixtures("ready")
def test_an_rsa_signature_by_openssl_dgst_is_taken(own: Path, root: Path) -> None:
    private, public = own.parent / "rsa.pem", own.parent / "rsa.pub"
    subprocess.run(["openssl", "genrsa", "-out", private, "2048"], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "rsa", "-in", private, "-pubout", "-out", public],
        check=True,
        capture_output=True,
    )
    place = own / "SHA256SUMS"
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", private, "-out", f"{place}.sig", str(place)],
        check=True,
    )
    assert install(own, root, key=public).returncode == 0


def test_a_missing_and_an_altered_image_are_refused(own: Path, root: Path) -> None:
    """R01: against images.lock."""
    bundles.image(own / "images/caso.tar", "egifedcloud/other:1")
    bundles.seal(own, key=own.parent / "key.pem")
    assert (
        f"egifedcloud/caso:{__version__}: this image is missing from the bundle"
        in refused_by_python(own, root)
    )
    bundles.image(own / "images/caso.tar", f"egifedcloud/caso:{__version__}")
    lock = own / "images.lock"
    lock.write_text(lock.read_text().rsplit(":", 1)[0] + f":{'0' * 64}\n")
    bundles.seal(own, key=own.parent / "key.pem")
    assert f"egifedcloud/caso:{__version__}: the bundle's image is sha256:" in refused_by_python(
        own, root
    )


def test_the_number_1999_taken_is_refused(own: Path, root: Path) -> None:
    with (root / "etc/passwd").open("a") as file:
        file.write("alice:x:1999:1999::/home/alice:/bin/sh\n")
    reported = refused_by_python(own, root)
    assert (
        "the user alice has the number 1999; the appliance needs fedcloud with 1999; give that "
        "account" in reported
    )


def refused_by_python(bundle: Path, root: Path) -> str:
    """Install a bundle that is refused after the signature; only lock and record are made."""

    def outside_of_var() -> dict[str, tuple[object, ...]]:
        return {
            name: seen for name, seen in state(root).items() if not name.startswith(("var", "run"))
        }

    before = outside_of_var()
    shown = install(bundle, root)
    assert shown.returncode in (2, 3), shown.stdout
    assert shown.stderr.count("\n") == 1, shown.stderr
    assert outside_of_var() == before
    return shown.stderr


def test_a_broken_record_is_reported(own: Path, root: Path) -> None:
    (root / "var/lib/fedcloud").mkdir(parents=True)
    (root / "var/lib/fedcloud/install.json").write_text("{")
    assert (
        "var/lib/fedcloud/install.json: is not a record of an installation; move it away"
        in install(own, root).stderr
    )


@pytest.mark.usefixtures("ready")
def test_a_tar_is_as_good_as_a_directory(own: Path, root: Path) -> None:
    archive = own.parent / "bundle.tar"
    subprocess.run(["tar", "-C", own.parent, "-cf", archive, own.name], check=True)
    shutil.rmtree(own)
    assert install(archive, root).returncode == 0
    archive.write_bytes(b"no tar")
    assert "is not a readable tar" in install(archive, root).stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "members", [[], ["a", "b"], ["link"], ["SHA256SUMS"]], ids=["none", "two", "link", "file"]
)
def test_a_tar_of_something_else_is_refused(own: Path, root: Path, members: list[str]) -> None:
    place = own.parent / "something"
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
    (place / "SHA256SUMS").touch()
    (place / "link").symlink_to(own)
    packed = own.parent / "something.tar"
    subprocess.run(["tar", "-cf", packed, "-C", place, *members, "-T", os.devnull], check=True)
    shown = install(packed, root)
    assert (shown.returncode, shown.stderr) == (
        3,
        f"install: {packed}: does not contain a bundle of the appliance; get it again\n",
    )
    assert not (root / "etc/fedcloud").exists()
