"""An appliance without containers on a machine that boots, with the programs of a bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.core.version import __version__
from deploy import bundle as deployed
from deploy import contents, images
from deploy.dockerd import DockerDaemon
from tests.e2e.vm_site import CA_BUNDLE, GRID, TOP, Appliance
from tests.testbed import Testbed
from tests.testbed import bundle as bundles
from tests.testbed.vm import Machine

_AUTHORITIES = "/media/ca-certificates.crt"
_TRUST = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_ENGINE = ("docker.service", "docker.socket", "containerd.service")
_WITHIN_PYTHON = ("none-any.whl", "abi3")


def make_bundle(media: Path, extras: Sequence[str]) -> Path:
    """Make a signed bundle without images, with the wheels of extras for Debian 12."""
    private, _ = bundles.make_key(media)
    made = bundles.make(media, key=private)
    lock = made / "requirements-all.txt"
    lock.write_text(contents.everything([images.LOCKS / f"{name}.txt" for name in images.EXTRAS]))
    for wheel in (made / "wheels").iterdir():
        wheel.unlink()
    for wheel in images.fetch_host_wheels(deployed.CACHE, lock).glob("*.whl"):
        if "-cp311-" in wheel.name or any(word in wheel.name for word in _WITHIN_PYTHON):
            shutil.copy(wheel, made / "wheels")
    images.build_wheel(images.fetch_wheels(deployed.CACHE), made / "wheels")
    lock.write_text(contents.everything([images.LOCKS / f"{name}.txt" for name in extras]))
    bundles.seal(made, key=private)
    shutil.copy(TOP / "scripts/install", media / "install")
    return made


@contextmanager
def bare(engine: DockerDaemon) -> Iterator[Machine]:
    """Have a machine run that has nothing but Debian, and a network to fetch packages from."""
    network = f"native-{os.getpid()}"
    engine.docker("network", "create", network)
    try:
        with _booted(engine, images.EXTRAS, is_bare=True, network=network) as machine:
            yield machine
    finally:
        engine.docker("network", "rm", network, check=False)


@contextmanager
def small(engine: DockerDaemon) -> Iterator[Machine]:
    """Run a machine with all packages and without network, whose engine nobody can start."""
    extras = ("admin", "bdii", "cloudkeeper-os", "caso")
    masked = [word for unit in _ENGINE for word in ("-v", f"/dev/null:/etc/systemd/system/{unit}")]
    with _booted(engine, extras, more=masked) as machine:
        yield machine


@contextmanager
def _booted(engine: DockerDaemon, extras: Sequence[str], **options: Any) -> Iterator[Machine]:
    directory = TOP / f".cache/vm/native-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "media").mkdir(parents=True)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", directory / "media")
    make_bundle(directory / "media", extras)
    machine = Machine.create(engine, directory, cache=TOP / ".cache/deploy", **options)
    try:
        yield machine
    finally:
        machine.destroy()


def install(machine: Machine, testbed: Testbed) -> Appliance:
    """Install without containers, twice, and configure for the test bed; nothing is started."""
    place = f"/media/fedcloud-appliance-{__version__}"
    proxies = [
        f"{name}={text}" for name, text in os.environ.items() if name.lower().endswith("_proxy")
    ]
    words = [
        "env",
        *proxies,
        *(f"{name}={_AUTHORITIES}" for name in _TRUST),
        "/media/install",
        place,
    ]
    words += ["--key", "/media/key.pub"]
    first = machine.run(*words, "--without-containers").stdout
    second = machine.run(*words).stdout
    appliance = Appliance(machine, testbed, place, first, second, changed="")
    appliance.configure()
    # nobody is there
    appliance.write("/etc/cloudkeeper/image-lists.conf", "https://127.0.0.1:9/vo/image.list\n")
    # The jobs trust what appliance.env names, and the services must too: it is nobody else's
    # authority.
    assert CA_BUNDLE in appliance.path("/etc/fedcloud/appliance.env").read_text()
    assert appliance.path(GRID).joinpath("hostkey.pem").exists()
    for name in ("resource", "site"):
        assert (machine.root / f"var/lib/fedcloud/bdii/{name}").is_dir()
    return appliance
