"""A registry and a signed list as images of a real Glance, by the shipped containers.

The backend runs as the service of the shipped compose file, the frontend as cron starts it. What
they made is read from Glance's database, and compared by sha256sum in Glance's store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud
from tests.e2e.container_site import ContainerSite, host_site, wait
from tests.e2e.egi_registry import PROJECT, EGIRegistry, egi_registry
from tests.e2e.images_cloud import ACCOUNT, PASSWORD, VOS, Cloud, Row, qcow2
from tests.polling import repeated
from tests.simulators import image_server
from tests.simulators.image_lists import image, image_id, image_list, sign
from tests.simulators.image_server import ImageServer
from tests.testbed.pki import AUTHORITY_DN, HOST_DN

# Images are built first.
pytestmark = [pytest.mark.container, pytest.mark.cloud, pytest.mark.timeout(900)]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 980
REFERENCES = [
    f"{PROJECT}/{name}" for name in ("ubuntu:24.04", "ubuntu:22.04", "linux/alma:9", "debian:12")
]
START = 60  # seconds, on a machine that does other things, too


@dataclass
class Flow:
    """A site in containers, what it reads, and the disks that it is offered, by identifier."""

    site: ContainerSite
    cloud: Cloud
    egi: EGIRegistry
    web: ImageServer
    disks: dict[str, Path] = field(default_factory=dict)

    def make(self, identifier: str, name: str) -> Path:
        path = self.site.root.with_name(f"{name}.qcow2")
        qcow2(path, payload=os.urandom(2**20))
        self.disks[identifier] = path
        return path

    def push(self, reference: str, name: str) -> None:
        self.egi.push(reference, self.make(reference, name).read_bytes())

    def publish(self, numbers: Sequence[int]) -> None:
        """Serve a list of images for the VO ops, signed by an endorser."""
        images = []
        for number in numbers:
            path = self.make(image_id(number), f"list{number}")
            uri = self.web.put(f"/{path.name}", path)
            images.append(image(number, uri=uri, content=path.read_bytes()))
        dn = f"{HOST_DN}/CN=endorser.example.org"
        document = image_list(images, dn=dn, ca=AUTHORITY_DN, vo="ops")
        signed = sign(document, self.cloud.bed.host_credential("endorser"))
        self.web.put("/ops/image.list", signed)

    def sync(self) -> str:
        """Run the frontend as cron does it; return what it printed."""
        command = [sys.executable, "-m", "appliance.admin.command", "run", "cloudkeeper"]
        words = [*command, "--root", str(self.site.root)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode == 0, f"{said}\n{self.site.log('cloudkeeper-os')}"
        return said

    def offered(self, vo: str) -> dict[str, Row]:
        """Return the images that users of a VO find in its project, by Glance's database."""
        found = [
            row
            for row in self.cloud.rows(VOS[vo])
            if row.status == "active" and not row.os_hidden and row.properties.get("APPLIANCE_ID")
        ]
        names = [row.properties["APPLIANCE_ID"] for row in found]
        assert len(names) == len(set(names)), names
        return dict(zip(names, found, strict=True))

    def check(self, vo: str, identifiers: Sequence[str]) -> dict[str, Row]:
        """Check that a VO has these images and no others, each with its own bytes."""
        found = self.offered(vo)
        assert sorted(found) == sorted(identifiers)
        for name, row in found.items():
            assert row.properties["APPLIANCE_VO"] == vo
            assert sha256sum(self.cloud.file(row.id)) == sha256sum(self.disks[name]), name
        return found

    @contextlib.contextmanager
    def watched(self, reference: str) -> Iterator[list[int]]:
        """Count an image in the projects of both VOs every 50 ms during the block."""
        seen: list[int] = []

        def look() -> None:
            seen.extend(self._count(reference, vo) for vo in VOS)

        with repeated(look):
            yield seen

    def _count(self, reference: str, vo: str) -> int:
        rows = [row for row in self.cloud.rows(VOS[vo]) if not row.os_hidden]
        names = [row.properties.get("APPLIANCE_ID") for row in rows if row.status == "active"]
        return names.count(reference)


def sha256sum(path: Path) -> str:
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    return done.stdout.split()[0]


@pytest.fixture
def flow(cloud: Cloud, engine: DockerDaemon, tmp_path: Path) -> Iterator[Flow]:
    bed = cloud.bed
    cloud.empty()
    with (
        host_site(engine, tmp_path / "root", port=PORT) as site,
        image_server.serve(bed.host_credential("lists")) as web,
        egi_registry(
            tmp_path / "registry",
            authority=bed.trust.grid,
            host=bed.host_credential("registry"),
            signer=bed.host_credential("tokens"),
        ) as egi,
    ):
        # The cloud, the registry and the server of the list listen on this machine only.
        site.set(FEDCLOUD_NETWORK="host", FEDCLOUD_CA_BUNDLE=bed.ca_file)
        anchors = site.root / "etc/grid-security/certificates"
        shutil.copytree(bed.ca_directory, anchors, dirs_exist_ok=True)
        projects = {vo: cloud.projects[project] for vo, project in VOS.items()}
        account = {"user": ACCOUNT, "password": PASSWORD}
        container_cloud.offer(site, url=bed.keystone_url, projects=projects, **account)
        site.edit("etc/cloudkeeper/image-lists.conf", text=f"{web.url('/ops/image.list')}\n")
        site.edit("etc/cloudkeeper/sources.yaml", text=egi.source(*VOS))
        site.compose("up", "-d", "cloudkeeper-os")
        wait(
            lambda: site.health("cloudkeeper-os") == "healthy",
            seconds=START,
            what=lambda: site.log("cloudkeeper-os"),
        )
        yield Flow(site, cloud, egi, web)
        cloud.empty()


def test_a_registry_and_a_list_side_by_side_and_an_update_without_a_gap(flow: Flow) -> None:
    """Four images for two VOs, three for one of them; users find each image at all times."""
    listed = [image_id(number) for number in (1, 2, 3)]
    for number, reference in enumerate(REFERENCES):
        flow.push(reference, f"registry{number}")
    flow.publish([1, 2, 3])
    flow.sync()
    before = {
        "ops": flow.check("ops", [*REFERENCES, *listed]),
        "biomed": flow.check("biomed", REFERENCES),
    }
    replaced = REFERENCES[0]
    flow.push(replaced, "newer")
    with flow.watched(replaced) as seen:
        flow.sync()
    # The new version is shown before the old one is hidden.
    assert seen
    assert 0 not in seen, f"{seen.count(0)} of {len(seen)} looks found none"
    for vo, earlier in before.items():
        after = flow.check(vo, list(earlier))
        changed = {name for name in after if after[name].id != earlier[name].id}
        assert changed == {replaced}
        assert not flow.cloud.file(earlier[replaced].id).exists()
    assert list((flow.site.root / "image_data").iterdir()) == []
