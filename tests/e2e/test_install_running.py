"""`scripts/install` on a running host: when units are reloaded, and services restarted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from appliance.core.version import __version__
from tests.e2e.host_root import DOWN, Host, Programs
from tests.testbed import bundle as bundles

NEWER = "99.0"
RELOAD, RESTART = "daemon-reload", "try-restart bdii.service cloudkeeper-os.service"
RENEW = ("try-reload-or-restart bdii.service", "try-restart cloudkeeper-os.service")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with signed bundles: this version, a rebuild of it, and a newer one."""
    directory = tmp_path_factory.mktemp("bundles")
    private, _ = bundles.make_key(directory)
    first = bundles.make(directory, key=private, packages=bundles.HOST)
    bundles.make(directory, version=NEWER, key=private, packages=bundles.HOST)
    anew = directory / "anew"
    shutil.copytree(first, anew)
    tag = f"egifedcloud/caso:{__version__}"
    identifier = bundles.image(anew / "images/caso.tar", tag, about="built anew")
    (anew / "images.lock").write_text(f"caso {tag} {identifier}\n")
    bundles.seal(anew, key=private)
    return directory


@pytest.fixture(scope="module")
def template(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Return a host that this version is installed on, to be copied."""
    root = tmp_path_factory.mktemp("template") / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    host = Host(root, made)
    shown = host.install(first(made))
    assert shown.returncode == 0, shown.stderr
    assert host.called() == [RELOAD, RESTART]
    programs = Programs(tmp_path_factory.mktemp("programs"))
    for bundle in (newer(made), made / "anew"):
        other = host.copy(tmp_path_factory.mktemp("other") / "root")
        assert other.install(bundle).returncode == 0
        programs.keep(other.root)
    programs.put(root)  # the host has been to all of these versions
    return host


@pytest.fixture
def host(template: Host, tmp_path: Path) -> Host:
    """Return a host that this version is installed on."""
    return template.copy(tmp_path / "root")


def first(made: Path) -> Path:
    return made / f"fedcloud-appliance-{__version__}"


def newer(made: Path) -> Path:
    return made / f"fedcloud-appliance-{NEWER}"


def assert_done(host: Host, bundle: Path) -> None:
    """Check that one more run has nothing to do, for files and for what runs."""
    shown = host.install(bundle)
    assert shown.stdout.startswith("Nothing to change: "), shown.stdout + shown.stderr
    assert host.called() == []


def test_a_second_run_restarts_nothing(host: Host, made: Path) -> None:
    assert_done(host, first(made))


@pytest.mark.parametrize("verb", ["daemon-reload", "try-reload-or-restart", "try-restart"])
def test_killed_before_what_runs_is_of_the_new_version(host: Host, made: Path, verb: str) -> None:
    """All files are there by then, and the next run finds none to write."""
    host.tell_systemctl("kill", verb)
    assert host.install(newer(made)).returncode == 137
    host.called()
    shown = host.install(newer(made))
    assert (shown.returncode, host.called()) == (0, [RELOAD, *RENEW]), shown.stderr
    assert shown.stdout.startswith(f"Installed {NEWER}.")
    assert_done(host, newer(made))


def test_killed_and_gone_back(host: Host, made: Path) -> None:
    """The bundle that was whole once is not, after another one has begun."""
    host.tell_systemctl("kill", "daemon-reload")
    assert host.install(made / "anew").returncode == 137
    host.called()
    assert host.install(first(made)).returncode == 0
    assert host.called() == [RELOAD, *RENEW]
    assert_done(host, first(made))


def test_a_bundle_built_anew_restarts_what_runs(host: Host, made: Path) -> None:
    """Its images have the tags of those that run."""
    shown = host.install(made / "anew")
    assert (shown.returncode, host.called()) == (0, [RELOAD, *RENEW]), shown.stderr
    assert_done(host, made / "anew")


def test_a_reload_that_fails_becomes_a_restart(host: Host, made: Path) -> None:
    """F-I4: a reload is preferred, because clients of the BDII miss less of it."""
    host.tell_systemctl("fail", "try-reload-or-restart")
    shown = host.install(newer(made))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert host.called() == [RELOAD, RENEW[0], "restart bdii.service", RENEW[1]]
    assert_done(host, newer(made))


def test_a_unit_that_has_changed_is_restarted(host: Host, made: Path) -> None:
    """A reload would leave it the rights of the earlier version."""
    unit = host.root / "etc/systemd/system/bdii.service"
    unit.unlink()
    assert host.install(made / "anew").returncode == 0
    assert host.called() == [RELOAD, RESTART]


def test_a_restart_that_fails_is_tried_again(host: Host, made: Path) -> None:
    host.tell_systemctl("fail", "try-restart")
    shown = host.install(newer(made))
    assert (shown.returncode, shown.stderr) == (
        1,
        "install: systemctl: Job for bdii.service failed.\n",
    )
    host.heal_systemctl("try-restart")
    host.called()
    assert host.install(newer(made)).returncode == 0
    assert host.called() == [RELOAD, *RENEW]
    assert_done(host, newer(made))


def test_another_version_in_use_is_put_right(host: Host, made: Path) -> None:
    """A site has gone back by hand to images that it still had."""
    version = host.root / "var/lib/fedcloud/version"
    version.write_text("0.1\n")
    host.tell_systemctl("kill", "try-restart")
    assert host.install(first(made)).returncode == 137
    host.called()
    assert host.install(first(made)).returncode == 0
    assert host.called() == [RELOAD, *RENEW]
    assert version.read_text() == f"{__version__}\n"
    assert_done(host, first(made))


def test_without_an_engine_nothing_is_changed(host: Host, made: Path) -> None:
    """R01: neither the files nor what the next run knows."""
    host.stop_engine()
    (host.root / "etc/systemd/system/bdii.service").unlink()
    before = seen(host.root)
    shown = host.install(newer(made))
    assert (shown.returncode, shown.stdout) == (3, "")
    assert shown.stderr == f"install: docker: version: {DOWN}; see systemctl status docker\n"
    assert (seen(host.root), host.called()) == (before, [])


def seen(root: Path) -> dict[Path, tuple[int, int]]:
    """Return inode and time of all files of the host that the installer has to do with."""
    places = [
        path for name in ("etc", "opt", "own-local", "var") for path in (root / name).rglob("*")
    ]
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in places}
