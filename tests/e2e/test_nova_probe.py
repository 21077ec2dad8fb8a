"""The steps of EGI's probe of Nova, which decides whether a site is up, on images of a registry.

Keystone, Glance, Nova and Neutron are real; Nova's hypervisor is its fake driver, so that a server
becomes ACTIVE without running. The probe's steps are those of argo-probe-fedcloud, written again
here on the services' APIs.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.egi_registry import PROJECT, EGIRegistry, lay_out, served  # noqa: F401
from tests.e2e.images_backend import Backend, started
from tests.e2e.images_cloud import ACCOUNT, PASSWORD, Cloud
from tests.e2e.images_frontend import Done, make_disks, run
from tests.testbed import Seed, Testbed
from tests.testbed.api import GLANCE, NEUTRON, NOVA, Api, ApiError, password_auth
from tests.testbed.patience import until
from tests.testbed.pki import Authority

# ruff: noqa: F811  the fixtures are those of the registry

pytestmark = pytest.mark.cloud
REFERENCE = f"{PROJECT}/ubuntu:24.04"
VOS = {
    "ops": {"project": "vo-ops", "domain": "Default"},
    "biomed": {"project": "vo-biomed", "domain": "egi"},
}
_HOST = "argo-mon.example.org"
_SECONDS = 60
_NOT_FOUND = 404


@dataclass
class Probe:
    """The probe of one monitoring host, with a user of the VO ops."""

    door: Api
    image_ref: str

    def image(self) -> dict[str, Any]:
        """Return the first active image with the wanted reference."""
        path: str | None = "/v2/images?limit=100"
        while path:
            page = self.door.get(GLANCE, path)
            for image in page["images"]:
                if image["status"] == "active" and reference(image) == self.image_ref:
                    return dict(image)
            path = page.get("next")
        raise LookupError(self.image_ref)

    def flavor(self) -> str:
        """Return the smallest flavor with a disk of 8 GB: by vCPUs, then by memory."""
        found = self.door.get(NOVA, "/flavors/detail")["flavors"]
        fit = [flavor for flavor in found if flavor["disk"] >= 8]
        return str(min(fit, key=lambda flavor: (flavor["vcpus"], flavor["ram"]))["id"])

    def network(self) -> str:
        found = self.door.get(NEUTRON, "/v2.0/networks")["networks"]
        return str(next(net["id"] for net in found if net["project_id"] == self.door.project_id))

    def clean(self) -> None:
        """Delete the servers that an earlier probe of this host has left."""
        for server in self.door.get(NOVA, "/servers/detail")["servers"]:
            if server["metadata"].get("argo-mon-host") == _HOST:
                self.delete(server["id"])

    def boot(self, image_id: str) -> str:
        """Start a server, and return its id when it is ACTIVE."""
        wanted = {
            "name": "argo-probe",
            "imageRef": image_id,
            "flavorRef": self.flavor(),
            "networks": [{"uuid": self.network()}],
            "metadata": {"argo-mon-host": _HOST},
        }
        server = str(self.door.post(NOVA, "/servers", {"server": wanted})["server"]["id"])
        assert until(lambda: self._status(server) != "BUILD", seconds=_SECONDS)
        assert self._status(server) == "ACTIVE"
        return server

    def delete(self, server: str) -> None:
        self.door.call("DELETE", NOVA, f"/servers/{server}")
        assert until(lambda: self._status(server) == "gone", seconds=_SECONDS)

    def _status(self, server: str) -> str:
        try:
            return str(self.door.get(NOVA, f"/servers/{server}")["server"]["status"])
        except ApiError as error:
            if error.status_code != _NOT_FOUND:
                raise
            return "gone"


def reference(image: dict[str, Any]) -> str | None:
    """Return the reference of an image; Nova cuts the JSON of a snapshot after 255 characters."""
    try:
        attributes = json.loads(image.get("APPLIANCE_ATTRIBUTES") or "{}")
    except ValueError:
        return None
    found = attributes.get("eu.egi.cloud.image_ref")
    return found if isinstance(found, str) else None


@dataclass
class Site:
    """Both programs of a site, a registry, and the projects of two VOs."""

    bed: Testbed
    seed: Seed
    backend: Backend
    egi: EGIRegistry

    def user(self, vo: str) -> Api:
        """Return the cloud as a user of the VO sees it, without any role of the tools."""
        project = self.seed.projects[VOS[vo]["project"]]
        user = self.seed.users[f"{project.name}-user1"]
        auth = password_auth(
            self.bed.keystone_url,
            user.name,
            user.password,
            domain=user.domain,
            project_id=project.id,
        )
        return Api(auth, ca_file=self.bed.ca_file)

    def sync(self, *flags: str) -> Done:
        root = ["--root", str(self.backend.root), "--backend-endpoint", self.backend.endpoint]
        return run("sync", *root, *flags)

    def images(self, vo: str) -> list[str]:
        """Return the ids of the images that a user of the VO finds under the reference's name."""
        found = self.user(vo).get(GLANCE, "/v2/images?limit=200")["images"]
        return [image["id"] for image in found if image["name"].endswith(f" {REFERENCE}")]

    def clear(self) -> None:
        for vo in VOS:
            for image_id in self.images(vo):
                self.bed.admin().call("DELETE", GLANCE, f"/v2/images/{image_id}")


@pytest.fixture
def site(
    testbed: Testbed,
    served: tuple[EGIRegistry, Authority],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    """Return a site; the parameter, if there is one, is an option of the backend."""
    options = getattr(request, "param", "")
    root, seed = tmp_path / "root", testbed.seed()
    egi, cloud = served[0], Cloud(testbed, testbed.admin(), {})
    backend = lay_out(root, cloud, served, mapping=VOS, options=options)
    account = seed.accounts["images"]
    text = backend.config.read_text().replace(f"username = {ACCOUNT}", f"username = {account.name}")
    backend.config.write_text(text.replace(f"= {PASSWORD}", f"= {account.password}"))
    (root / "etc/cloudkeeper/sources.yaml").write_text(egi.source(*VOS))
    with started(backend):
        made = Site(testbed, seed, backend, egi)
        made.clear()
        yield made
        made.clear()


def test_the_probe_finds_and_boots_what_sync_has_uploaded(site: Site, tmp_path: Path) -> None:
    """A second VO sees an image of its own; snapshots of the server are never taken for ours."""
    probe = Probe(site.user("ops"), REFERENCE)
    with pytest.raises(LookupError):
        probe.image()
    (tmp_path / "disks").mkdir()
    disks = make_disks(tmp_path / "disks")
    digest = site.egi.push(REFERENCE, disks["one.qcow2"])
    done = site.sync()
    assert done.returncode == 0, done.stderr
    name = f"{site.egi.host} {REFERENCE}"
    ours = {vo: site.images(vo)[0] for vo in VOS}
    assert {vo: site.images(vo) for vo in VOS} == {vo: [image] for vo, image in ours.items()}
    assert ours["ops"] != ours["biomed"]

    image = probe.image()
    assert image["id"] == ours["ops"]
    layer = subprocess.run(["sha256sum"], input=disks["one.qcow2"], capture_output=True, check=True)
    assert image["image_hash"] == f"sha256:{layer.stdout.split()[0].decode()}"
    assert site.seed.flavors["m1.small"].id == probe.flavor()
    left_behind = probe.boot(image["id"])
    probe.clean()
    with pytest.raises(ApiError):
        probe.door.get(NOVA, f"/servers/{left_behind}")
    server = probe.boot(image["id"])

    # A user makes a snapshot of the server: Nova copies the properties, the fake driver no data.
    snapshot = {"createImage": {"name": name, "metadata": {}}}
    probe.door.call("POST", NOVA, f"/servers/{server}/action", snapshot)
    found = [image_id for image_id in site.images("ops") if image_id != ours["ops"]]
    (copy,) = found
    formats = {"disk_format": "qcow2", "container_format": "bare"}
    probe.door.call(
        "PATCH",
        GLANCE,
        f"/v2/images/{copy}",
        json.dumps(
            [{"op": "add", "path": f"/{key}", "value": value} for key, value in formats.items()]
        ).encode(),
        headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
    )
    probe.door.put(GLANCE, f"/v2/images/{copy}/file", disks["one.qcow2"])
    shown = probe.door.get(GLANCE, f"/v2/images/{copy}")
    assert (shown["status"], shown["APPLIANCE_ID"]) == ("active", REFERENCE)
    probe.delete(server)

    digest = site.egi.push(REFERENCE, disks["two.qcow2"])
    done = site.sync()
    assert done.returncode == 0, done.stderr
    remaining = site.images("ops")
    assert (copy in remaining, ours["ops"] in remaining, len(remaining)) == (True, False, 2)
    site.egi.delete(REFERENCE, digest)
    done = site.sync()
    assert done.returncode == 0, done.stderr
    assert (site.images("ops"), site.images("biomed")) == ([copy], [])
    with pytest.raises(LookupError):
        Probe(site.user("biomed"), REFERENCE).image()


@pytest.mark.matrix
@pytest.mark.parametrize("site", ["image_sharing = share"], indirect=True)
def test_the_probe_boots_one_image_in_the_project_of_each_vo(site: Site, tmp_path: Path) -> None:
    """F-M13: the image that all VOs share is found and boots, before and after an update."""
    (tmp_path / "disks").mkdir()
    disks = make_disks(tmp_path / "disks")
    seen = set()
    for disk in ("one.qcow2", "two.qcow2"):
        site.egi.push(REFERENCE, disks[disk])
        done = site.sync()
        assert done.returncode == 0, done.stderr
        found = {vo: site.images(vo) for vo in VOS}
        assert found["ops"] == found["biomed"]
        assert len(found["ops"]) == 1
        layer = subprocess.run(["sha256sum"], input=disks[disk], capture_output=True, check=True)
        for vo in VOS:
            probe = Probe(site.user(vo), REFERENCE)
            image = probe.image()
            assert image["image_hash"] == f"sha256:{layer.stdout.split()[0].decode()}"
            seen.add(image["id"])
            probe.delete(probe.boot(image["id"]))
    assert len(seen) == 2
