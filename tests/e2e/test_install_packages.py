"""The packages that `scripts/install` installs, with real apt and dpkg on a host of tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.core.version import __version__
from tests.e2e.host_root import DOCKER, DOWN, Host
from tests.e2e.packages import BOOKWORM, DOCKER_CE, NOBLE, OTHERS, TRIXIE, Package, Packages
from tests.testbed import bundle as bundles

NAMES = {package.name for package in OTHERS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a signed bundle."""
    directory = tmp_path_factory.mktemp("bundles")
    private, _ = bundles.make_key(directory)
    bundles.make(directory, key=private, packages=bundles.HOST)
    return directory


@pytest.fixture
def host(tmp_path: Path, made: Path) -> Host:
    """Return a host without any package of ours, and without engine and Compose."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    host = Host(root, made)
    host.remove("dpkg-query", "docker", "docker-compose")
    host.keep("dpkg-query")
    return host


def install(host: Host, made: Path, *flags: str) -> tuple[int, str, str]:
    shown = host.install(made / f"fedcloud-appliance-{__version__}", *flags)
    return shown.returncode, shown.stdout, shown.stderr


def install_packages(host: Host, made: Path, *flags: str) -> str:
    """Install up to the engine, which does not answer; packages are installed by then."""
    host.stop_engine()
    status, out, err = install(host, made, *flags)
    assert (status, err) == (3, f"install: docker: version: {DOWN}; see systemctl status docker\n")
    return out


def release(host: Host, name: str, version: str) -> None:
    text = f'PRETTY_NAME="{name} {version}"\nID={name}\nVERSION_ID="{version}"\n'
    (host.root / "etc/os-release").write_text(text)


def refused(host: Host, made: Path, *flags: str) -> str:
    """Return the one line with which an installation fails, and check that nothing was changed."""
    database = host.root / "var/lib/dpkg/status"
    before = database.read_bytes() if database.exists() else b""
    status, _, err = install(host, made, *flags)
    assert (status, err.count("\n")) == (3, 1), err
    assert (database.read_bytes() if database.exists() else b"") == before
    assert not (host.root / "etc/fedcloud").exists()
    assert not list((host.root / "opt").iterdir())
    return err


def test_a_bare_host_gets_what_is_missing(host: Host, made: Path) -> None:
    packages = Packages(host.root)
    packages.offer(BOOKWORM)
    install_packages(host, made)
    assert packages.installed() == NAMES | {"docker.io", "containerd", "runc", "docker-compose"}


def test_an_engine_that_is_there_is_used(host: Host, made: Path) -> None:
    """F-H3: docker-ce, whose place docker.io would take, stays, and so does all that runs in it."""
    packages = Packages(host.root)
    packages.offer(BOOKWORM)
    packages.install(*DOCKER_CE)
    host.stand_in("docker", DOCKER)
    out = install_packages(host, made)
    assert {package.name for package in DOCKER_CE} <= packages.installed()
    assert not {"docker.io", "containerd", "runc"} & packages.installed()
    assert "docker-compose" in packages.installed()  # Debian 12's goes beside docker-ce
    (line,) = [line for line in out.splitlines() if line.startswith("Packages: ")]
    assert "docker.io" not in line.split()


def test_a_plugin_of_compose_is_used(host: Host, made: Path) -> None:
    """F-H3, F-H17: docker-compose-plugin of Docker's own packages."""
    packages = Packages(host.root)
    packages.offer(BOOKWORM)
    packages.install(*DOCKER_CE, Package("docker-compose-plugin", "5.0.1"))
    host.stand_in("docker", DOCKER)
    plugin = host.root / "own-local/lib/docker/cli-plugins/docker-compose"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("#!/bin/sh\necho 5.0.1\n")
    plugin.chmod(0o755)
    install_packages(host, made)
    assert not {"docker.io", "docker-compose"} & packages.installed()


def test_a_step_that_would_remove_a_package_refuses_and_says_which(host: Host, made: Path) -> None:
    """F-H3: simulated by apt before any change; Docker's client has been moved out of /usr/bin."""
    packages = Packages(host.root)
    packages.offer(BOOKWORM)
    packages.install(*DOCKER_CE)
    line = refused(host, made)
    removed = re.findall("would replace ([^;]*);", line)[0].split()
    assert sorted(removed) == ["containerd.io", "docker-ce", "docker-ce-cli"]
    assert line.endswith(
        "install packages that do not conflict, or use --no-packages; nothing was changed\n"
    )
    for name in ("docker", "docker-compose"):  # as the administrator puts them back
        host.stand_in(name, DOCKER)
    before = packages.installed()
    install_packages(host, made, "--no-packages")
    assert packages.installed() == before


def test_a_compose_that_would_remove_the_engine_s_client(host: Host, made: Path) -> None:
    """F-H3: the engine is used, and still a package for Compose could take another one's place."""
    packages = Packages(host.root)
    packages.offer([*TRIXIE[:-1], Package("docker-compose", "3", {"Depends": "docker-cli"})])
    packages.install(*DOCKER_CE)
    host.stand_in("docker", DOCKER)
    release(host, "debian", "13")
    line = refused(host, made)
    assert {"docker-ce-cli"} <= set(re.findall("would replace ([^;]*);", line)[0].split())


def test_the_packages_of_each_release(host: Host, made: Path) -> None:
    """F-H3: docker-cli is a package of Debian 13; Compose v2 has another name in Ubuntu."""
    packages = Packages(host.root)
    packages.offer(TRIXIE)
    release(host, "debian", "13")
    out = install_packages(host, made)
    assert packages.installed() == NAMES | {
        "docker.io",
        "containerd",
        "runc",
        "docker-cli",
        "docker-compose",
    }
    assert "docker-cli" in out.splitlines()[0].split()


def test_ubuntu_s_names(host: Host, made: Path) -> None:
    packages = Packages(host.root)
    noble = {
        package.name: package for package in (*NOBLE, *BOOKWORM) if package.name != "docker-compose"
    }
    packages.offer(noble.values())
    release(host, "ubuntu", "24.04")
    install_packages(host, made)
    assert "docker-compose-v2" in packages.installed()


def test_another_system_uses_what_is_there(host: Host, made: Path) -> None:
    """F-H3: packages are no matter of ours there."""
    release(host, "rocky", "9.4")
    line = refused(host, made)
    assert line.startswith(
        "install: this is rocky 9.4; packages are installed on Debian 12 and 13 and Ubuntu 24.04"
    )
    assert "there is no Docker engine; install docker-ce or docker.io" in refused(
        host, made, "--no-packages"
    )
    host.stand_in("docker", DOCKER)
    assert "there is no Compose; install docker-compose (1.29.2 or later)" in refused(
        host, made, "--no-packages"
    )
    host.stand_in("docker-compose", "#!/bin/sh\necho 2.26.1\n")
    install_packages(host, made, "--no-packages")


def test_without_packages_nothing_is_asked_of_apt(host: Host, made: Path) -> None:
    """F-H3: `--no-packages` on Debian, too."""
    packages = Packages(host.root)
    packages.offer(BOOKWORM)
    for name in ("docker", "docker-compose"):
        host.stand_in(name, DOCKER)
    host.stand_in("apt-get", "#!/bin/sh\ntouch /apt-was-called\n")
    install_packages(host, made, "--no-packages")
    assert packages.installed() == set()
    assert not (host.root / "apt-was-called").exists()


def test_podman_in_docker_s_place_is_named(host: Host, made: Path) -> None:
    """F-H3: of the package podman-docker."""
    Packages(host.root).offer(BOOKWORM)
    host.stand_in("docker", "#!/bin/sh\necho podman version 4.3.1\n")
    reported = (
        "the command docker of this host is podman's, which is not supported; install "
        "Docker's engine instead;"
    )
    assert reported in refused(host, made)
    assert reported in refused(host, made, "--no-packages")


def test_podman_on_docker_s_socket_is_named(host: Host, made: Path) -> None:
    """F-H3: Docker's own client, podman's service behind it."""
    host.stand_in(
        "docker",
        '#!/bin/sh\n[ "$1" != version ] || echo "Podman Engine Conmon OCI Runtime (crun)"\n',
    )
    host.stand_in("docker-compose", DOCKER)
    line = refused(host, made, "--no-packages")
    assert line.startswith(
        "install: docker: podman answers on the engine's socket, which is not supported; "
        "install docker"
    )


def test_an_engine_without_room_elsewhere(host: Host, made: Path) -> None:
    """F-H3: the engine's directory is asked for, wherever it is, before anything changes."""
    full = host.root / "srv/docker"
    full.mkdir(parents=True)
    for name in ("docker", "docker-compose"):
        host.stand_in(name, DOCKER)
    (host.root / "stand-ins/engine/place").write_text("/srv/docker\n")
    (host.root / "hook").write_text("mount -t tmpfs -o size=4k tmpfs srv/docker\n")
    line = refused(host, made, "--no-packages")
    assert line == (
        "install: /srv/docker: the engine's images need 0.0 GB, 0.0 GB are free; "
        "free space, or move it with data-root; nothing was changed\n"
    )


@pytest.mark.parametrize(
    ("total", "swap", "reported"),
    [(1009180, 0, "985 MB"), (1009180, 1048572, ""), (2030000, 0, "")],
)
def test_little_memory_is_reported_and_installed_all_the_same(
    host: Host, made: Path, total: int, swap: int, reported: str
) -> None:
    """F-H3: 1 GB without swap."""
    for name in ("docker", "docker-compose"):
        host.stand_in(name, DOCKER)
    (host.root / "meminfo").write_text(
        f"MemTotal:  {total} kB\nMemFree:  5 kB\nSwapTotal:  {swap} kB\n"
    )
    out = install_packages(host, made, "--no-packages")
    line = (
        f"This host has {reported} of memory and swap: the kernel may kill services under "
        "load; add memory"
    )
    assert (line in out) == bool(reported)
    assert ("of memory and swap" in out) == bool(reported)


def test_without_containers_no_engine_is_asked_for(host: Host, made: Path) -> None:
    """F-H3: the packages are those of the programs."""
    packages = Packages(host.root)
    names = ("glue-schema", "ldap-utils", "qemu-utils", "slapd")
    packages.offer([*BOOKWORM, *(Package(name) for name in names)])
    record = host.root / "var/lib/fedcloud/install.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")  # as far as this goes
    status, _, err = install(host, made, "--without-containers")
    assert (status, err.count("\n")) == (2, 1)
    assert f"{record.name}: is not a record of an installation" in err
    assert packages.installed() == NAMES | set(names)
    assert "mask slapd.service" in " ".join(host.called())
