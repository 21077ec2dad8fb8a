"""An upgrade of a machine by the installer of a newer bundle, while clients ask (F-I4)."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from deploy import bundle as bundles
from deploy import contents, images
from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud
from tests.e2e.bdii_service import cloud, image, parse
from tests.e2e.container_site import ContainerSite
from tests.e2e.shipped import Shipped
from tests.testbed.bundle import PACKAGES, wheel
from tests.testbed.pki import Authority
from tests.testbed.vm import HOST, TOP, Machine

pytestmark = [
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.matrix,
    pytest.mark.timed,
    pytest.mark.timeout(1200),
]

NEWER = "99.0"
IMAGES = 10_000
LDIF = "var/lib/fedcloud/bdii/resource/gip/ldif"


def make_newer(
    engine: DockerDaemon,
    shipped: Shipped,
    place: Path,
    *,
    version: str = NEWER,
    steps: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Make a bundle of the same sources as another version, with images of its own.

    ``steps`` are lines of a Dockerfile that change an image, by its name.
    """
    made = place / f"fedcloud-appliance-{version}"
    shutil.copytree(shipped.bundle, made)
    lines = []
    for name in contents.IMAGES:
        tag = f"{images.REPOSITORY}/{name}:{version}"
        text = f"FROM {images.tag(name)}\nLABEL about={version}\n{steps.get(name, '')}\n"
        engine.docker("build", "--quiet", "--tag", tag, "-", stdin=text)
        shown = engine.docker("image", "inspect", "--format", "{{.Id}}", tag)
        lines.append(f"{name} {tag} {shown.stdout.strip()}\n")
    tags = [line.split()[1] for line in lines]
    engine.docker("save", "--output", made / "images/images.tar", *tags)
    engine.docker("rmi", *tags)
    lock = made / "images.lock"
    head = "".join(lock.read_text().splitlines(keepends=True)[:2])
    lock.write_text(head + "".join(lines))
    (own,) = (made / "wheels").glob("egi_fedcloud_appliance-*.whl")
    own.unlink()
    wheel(made / f"wheels/egi_fedcloud_appliance-{version}-py3-none-any.whl", version, PACKAGES)
    for name in ("SHA256SUMS", "SHA256SUMS.sig"):
        (made / name).unlink()
    bundles._put_sums(made)
    bundles.sign(made, shipped.key)
    return made


def serve(machine: Machine, authority: Authority) -> None:
    """Configure the BDIIs for a cloud that does not answer, beside a file of many images."""
    site = ContainerSite(machine.engine, machine.root, Path(), "fedcloud", 2170, authority)
    container_cloud.name_site(site)
    container_cloud.offer(
        site, url="https://127.0.0.1:9/v3", user="a", password="b", projects={"ops": "ops"}
    )
    directory = machine.root / LDIF
    directory.mkdir(parents=True)
    (directory / "cloud.ldif").write_text(cloud(*(image(n, "ops") for n in range(IMAGES))))
    machine.run("systemctl", "start", "bdii")


def published(machine: Machine) -> int:
    """Return how many images a client of the machine finds."""
    command = ("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", f"ldap://{HOST}:2170")
    done = machine.run(*command, "-b", "o=glue", "1.1", expect=None)
    return sum(dn.startswith("GLUE2ApplicationEnvironmentID=") for dn in parse(done.stdout))


@contextlib.contextmanager
def asking(machine: Machine) -> Iterator[dict[str, Any]]:
    """Ask on the machine's network during the block; what the clients met is known after it."""
    met: dict[str, Any] = {}
    command = ["nsenter", f"--net=/proc/{machine.pid}/ns/net", sys.executable, "-m"]
    process = subprocess.Popen(
        [*command, "tests.e2e.ldap_clients", "2170"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asks\n"
    try:
        yield met
    finally:
        met |= json.loads(process.communicate()[0])


def versions(machine: Machine) -> Mapping[str, str]:
    """Return the images of the containers that run."""
    shown = machine.run("docker", "ps", "--format", "{{.Image}}").stdout
    return dict(line.removeprefix("egifedcloud/").split(":") for line in shown.split())


def test_an_upgrade_refuses_clients_for_five_seconds_at_most(
    new_machine: Machine, engine: DockerDaemon, tmp_path: Path
) -> None:
    """10 000 entries; a tree in part, or an empty one, is seen by nobody."""
    machine = new_machine
    shipped = Shipped.of_checkout(engine)
    with engine.alone():
        newer = make_newer(engine, shipped, machine.directory / "media")
    older = f"/media/{shipped.bundle.name}"
    machine.run(f"{older}/install", "--key", f"{older}/signing-key.pem")
    serve(machine, Authority.create(tmp_path / "authority", key="ec"))
    machine.wait(
        lambda: published(machine) == IMAGES, seconds=120, what=lambda: machine.journal("bdii")
    )
    with asking(machine) as met:
        said = machine.run(f"/media/{newer.name}/install").stdout
        machine.wait(
            lambda: published(machine) == IMAGES, seconds=60, what=lambda: machine.journal("bdii")
        )
    assert f"Installed {NEWER}." in said
    assert versions(machine) == {"cloudbdii": NEWER, "sitebdii": NEWER}
    assert machine.run("systemctl", "is-active", "bdii").stdout == "active\n"
    refused = f"{met['silent']:.1f} s without an answer, {len(met['refused'])} polls refused"
    print(f"{refused} of {met['answered']}; {len(met['sizes'])} whole trees")
    assert met["silent"] <= 5, f"{refused}\n{machine.journal('bdii')}"
    assert min(met["sizes"]) > IMAGES
