"""The whole image flow: signed lists on an HTTPS server, `cloudkeeper`, `cloudkeeper-os`, Glance.

The outcome is read from Glance's database and by downloads through its public API, hashed by
sha512sum.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import session

from tests import golden_properties
from tests.e2e.images_backend import Backend, started
from tests.e2e.images_cloud import Cloud, Row
from tests.e2e.images_frontend import BOOT_SECTOR, PROGRAM, Done, make_disks, qemu_img, run, sha512
from tests.polling import repeated
from tests.simulators import harbor, image_server
from tests.simulators.image_lists import image, image_id, image_list, sign
from tests.simulators.image_server import ImageServer
from tests.testbed import oci_registry
from tests.testbed.api import GLANCE
from tests.testbed.configuration import REGION
from tests.testbed.oci_registry import TokenLogin, described_as
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

pytestmark = [pytest.mark.glance, pytest.mark.usefixtures("few_system_authorities")]
PROJECTS = {"ops": "img-ops", "biomed": "img-biomed"}


@dataclass
class Site:
    """Everything between an endorser and Glance."""

    cloud: Cloud
    backend: Backend
    web: ImageServer
    signer: Credential
    files: dict[str, bytes]

    def image(self, number: int, name: str, **changes: Any) -> dict[str, Any]:
        uri = self.web.put(f"/images/{name}", self.files[name])
        return image(
            number,
            uri=uri,
            content=self.files[name],
            **{"hv__format": name.rpartition(".")[2].upper()} | changes,
        )

    def publish(self, vo: str, images: list[dict[str, Any]], **changes: Any) -> bytes:
        dn = f"{HOST_DN}/CN=lists.example.org"
        message = sign(
            image_list(images, dn=dn, ca=AUTHORITY_DN, vo=vo, identifier=f"list-{vo}", **changes),
            self.signer,
        )
        self.web.put(f"/{vo}/image.list", message)
        return message

    @property
    def command(self) -> list[str]:
        root = self.backend.root
        return ["sync", "--root", str(root), "--backend-endpoint", self.backend.endpoint]

    def sync(self, *flags: str) -> Done:
        return run(*self.command, *flags)

    def offered(self, vo: str) -> dict[str, Row]:
        """Return the images of a VO's project that users see, by the identifier of the list."""
        rows = [row for row in self.cloud.rows(PROJECTS[vo]) if row.state == "ACTIVE"]
        found = {row.properties["APPLIANCE_ID"]: row for row in rows}
        assert len(found) == len(rows)
        return found

    def download(self, vo: str, row: Row) -> bytes:
        """Return the data of an image as a user of the VO downloads them."""
        made: session.Session = self.cloud.door(PROJECTS[vo]).session
        where = {"service_type": GLANCE, "interface": "public", "region_name": REGION}
        content: bytes = made.get(f"/v2/images/{row.id}/file", endpoint_filter=where).content
        return content


@pytest.fixture
def site(cloud: Cloud, tmp_path: Path) -> Iterator[Site]:
    authority = Authority.create(tmp_path / "ca", key="ec")
    root = tmp_path / "root"
    authority.publish(root / "etc/grid-security/certificates")
    (tmp_path / "disks").mkdir()
    cloud.empty()
    backend = Backend.create(root, cloud)
    with (
        image_server.serve(authority.issue("localhost", key="ec")) as web,
        started(backend),
    ):
        signer = authority.issue("lists.example.org", key="ec")
        site = Site(cloud, backend, web, signer, make_disks(tmp_path / "disks"))
        lists = root / "etc/cloudkeeper/image-lists.conf"
        lists.parent.mkdir(parents=True)
        lists.write_text("".join(web.url(f"/{vo}/image.list") + "\n" for vo in PROJECTS))
        (root / "etc/cloudkeeper/cloudkeeper.yml").write_text(
            "cloudkeeper:\n  formats: [qcow2, raw]\n"
        )
        yield site


def test_two_lists_over_several_runs(site: Site, tmp_path: Path) -> None:
    """R34, R35."""
    site.publish("ops", [site.image(1, "one.qcow2"), site.image(2, "one.raw")])
    site.publish("biomed", [site.image(3, "one.ova")])
    done = site.sync()
    assert done.returncode == 0, done.stderr
    first = {vo: site.offered(vo) for vo in PROJECTS}
    assert {vo: sorted(rows) for vo, rows in first.items()} == {
        "ops": [image_id(1), image_id(2)],
        "biomed": [image_id(3)],
    }
    for number, name in ((1, "one.qcow2"), (2, "one.raw")):
        assert sha512(site.download("ops", first["ops"][image_id(number)])) == sha512(
            site.files[name]
        )
    converted = tmp_path / "converted.qcow2"
    converted.write_bytes(site.download("biomed", first["biomed"][image_id(3)]))
    (tmp_path / "expected.raw").write_bytes(site.files["one.raw"])
    qemu_img("compare", "-f", "raw", "-F", "qcow2", tmp_path / "expected.raw", converted)
    assert list(site.backend.images.iterdir()) == []

    # Without a change, nothing happens.
    assert site.sync().returncode == 0
    assert {vo: site.offered(vo) for vo in PROJECTS} == first
    assert site.web.asked("/images/one.qcow2") == 1

    # One byte of a list is altered; the other list goes on: a new version, a new title, and one
    # image less.
    altered = site.publish("biomed", []).replace(b'"biomed list"', b'"biomed Iist"', 1)
    site.web.put("/biomed/image.list", altered)
    site.publish("ops", [site.image(1, "two.qcow2", hv__version="2026.12.01")])
    with watched(site) as seen:
        done = site.sync()
    assert done.returncode == 1
    assert "the text is not the one that was signed; its images stay as they are" in done.stderr
    assert site.offered("biomed") == first["biomed"]
    ops = site.offered("ops")
    assert list(ops) == [image_id(1)]
    versions = {first["ops"][image_id(1)].id, ops[image_id(1)].id}
    assert len(versions) == 2
    assert all(found & versions for found in seen)
    assert sha512(site.download("ops", ops[image_id(1)])) == sha512(site.files["two.qcow2"])

    # Only the metadata of an image change: its record in Glance stays.
    site.publish(
        "ops", [site.image(1, "two.qcow2", hv__version="2026.12.01", dc__title="Another title")]
    )
    assert site.sync().returncode == 1
    renamed = site.offered("ops")[image_id(1)]
    assert (renamed.id, renamed.name) == (ops[image_id(1)].id, "Another title")
    assert renamed.properties["APPLIANCE_TITLE"] == "Another title"
    assert site.web.asked("/images/two.qcow2") == 1


def test_direct_mode(site: Site, tmp_path: Path) -> None:
    """The backend's own file, account and state, without its service."""
    site.backend.stop()
    site.publish("ops", [site.image(1, "one.qcow2"), site.image(2, "one.ova")])
    site.publish("biomed", [])
    direct = ["sync", "--root", str(site.backend.root), "--backend-endpoint", "direct"]
    done = run(*direct)
    assert done.returncode == 0, done.stderr
    first = site.offered("ops")
    assert sorted(first) == [image_id(1), image_id(2)]
    assert sha512(site.download("ops", first[image_id(1)])) == sha512(site.files["one.qcow2"])
    converted, expected = tmp_path / "converted.qcow2", tmp_path / "expected.raw"
    converted.write_bytes(site.download("ops", first[image_id(2)]))
    expected.write_bytes(site.files["one.raw"])
    qemu_img("compare", "-f", "raw", "-F", "qcow2", expected, converted)
    assert site.backend.record()["counts"]["added"] == 2

    # The service finds the images as its own, and changes none of them.
    with started(site.backend):
        assert site.sync().returncode == 0
    assert site.offered("ops") == first
    assert site.web.asked("/images/one.qcow2") == 1


@contextlib.contextmanager
def watched(site: Site) -> Iterator[set[frozenset[str]]]:
    """Read every 50 ms which images of the project ops users see; yield what was seen."""
    seen: set[frozenset[str]] = set()

    def watch() -> None:
        rows = site.cloud.rows("img-ops")
        seen.add(frozenset(row.id for row in rows if row.status == "active" and not row.os_hidden))

    with repeated(watch):
        yield seen


def test_a_wrong_checksum_leaves_the_old_version(site: Site) -> None:
    site.publish("ops", [site.image(1, "one.qcow2")])
    site.publish("biomed", [])
    assert site.sync().returncode == 0
    before = site.offered("ops")
    site.publish(
        "ops", [site.image(1, "two.qcow2", hv__version="2", sl__checksum__sha512="0" * 128)]
    )
    with watched(site) as seen:
        done = site.sync()
    assert seen == {frozenset(row.id for row in before.values())}
    assert done.returncode == 1
    assert "the source says sha512:0000000000000000…" in done.stderr
    assert site.offered("ops") == before
    assert sha512(site.download("ops", before[image_id(1)])) == sha512(site.files["one.qcow2"])


def test_a_vo_without_a_project_stops_no_other(site: Site) -> None:
    site.publish("ops", [site.image(1, "one.qcow2")])
    site.publish("biomed", [site.image(2, "one.qcow2")], ad__vo="unknown")
    done = site.sync()
    assert done.returncode == 1
    assert "unknown" in done.stderr
    assert list(site.offered("ops")) == [image_id(1)]


def until_it_uploads(site: Site) -> None:
    """Wait until Glance receives an image."""
    deadline = time.monotonic() + 60
    while not any(row.status in {"queued", "saving"} for row in site.cloud.rows("img-ops")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("victim", ["frontend", pytest.param("backend", marks=pytest.mark.matrix)])
def test_killed_in_mid_upload_and_run_again(site: Site, tmp_path: Path, victim: str) -> None:
    large = tmp_path / "large.raw"
    with large.open("wb") as file:
        file.write(BOOT_SECTOR)
        for number in range(48):
            file.write(f"block {number:03}".encode().ljust(64, b".") * 16384)
    uri = site.web.put("/images/large.raw", large)
    content = large.read_bytes()
    site.publish(
        "ops", [image(1, uri=uri, content=content, hv__format="RAW"), site.image(2, "one.qcow2")]
    )
    site.publish("biomed", [])
    with subprocess.Popen(
        [str(PROGRAM), *site.command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        until_it_uploads(site)
        assert {path.suffix for path in site.backend.images.iterdir()} == {".sock"}
        if victim == "frontend":
            running.kill()
        else:
            site.backend.stop(signal.SIGKILL)
        output, _ = running.communicate(timeout=180)
    if victim == "backend":
        assert running.returncode == 1, output
        assert "cannot be reached" in output
        site.backend.start()
    assert image_id(1) not in site.offered("ops")
    done = site.sync()
    assert done.returncode == 0, done.stderr
    assert sorted(site.offered("ops")) == [image_id(1), image_id(2)]
    assert sha512(site.download("ops", site.offered("ops")[image_id(1)])) == sha512(content)
    assert len(site.cloud.rows("img-ops")) == 2
    assert list(site.backend.images.iterdir()) == []


def test_a_registry_beside_a_signed_list(site: Site, tmp_path: Path) -> None:
    """Four images of a project for two VOs and three of a list: names, properties, bytes."""
    authority = Authority.open(tmp_path / "ca")
    host, signer = authority.find("localhost"), authority.issue("tokens.example.org", key="rsa")
    assert host is not None
    names = ("ubuntu:24.04", "ubuntu:22.04", "linux/alma:9", "debian:12")
    site.publish("ops", [site.image(number, "one.raw") for number in (1, 2, 3)])
    site.publish("biomed", [])
    with harbor.serve(host, signer=signer) as front:
        login = TokenLogin(front.realm, authority.certificate)
        with oci_registry.serve(
            tmp_path / "registry", credential=host, authority=authority.certificate, login=login
        ) as registry:
            front.registry = registry
            front.public.add("egi_vm_images")
            digests = {}
            for name in names:
                repository, _, tag = f"egi_vm_images/{name}".rpartition(":")
                registry.headers = front.push_headers(repository)
                digests[name] = registry.push(
                    repository, tag, site.files["one.qcow2"], annotations=described_as(tag)
                )
            (site.backend.root / "etc/cloudkeeper/sources.yaml").write_text(
                f"egi:\n  type: harbor\n  registry_host: {front.host}\n"
                "  project: egi_vm_images\n  vos: [ops, biomed]\n"
                f"  properties: {json.dumps(golden_properties.OWN)}\n"
            )
            repository, subject = "egi_vm_images/ubuntu", digests["ubuntu:24.04"]
            registry.headers = front.push_headers(repository)
            sbom = registry.attach(
                repository, subject, b"{}", artefact_type="application/vnd.cyclonedx+json"
            )
            registry.push_referrers(repository, subject, [sbom])
            done = site.sync()
            assert done.returncode == 0, done.stderr
            for vo, listed in (
                ("ops", {image_id(number) for number in (1, 2, 3)}),
                ("biomed", set()),
            ):
                rows = site.offered(vo)
                references = {f"egi_vm_images/{name}" for name in names}
                assert rows.keys() == references | listed
            reference = "egi_vm_images/ubuntu:24.04"
            row = site.offered("biomed")[reference]
            assert sha512(site.download("biomed", row)) == sha512(site.files["one.qcow2"])
            layer = subprocess.run(
                ["sha256sum"], input=site.files["one.qcow2"], capture_output=True, check=True
            ).stdout.split()[0]
            row = site.offered("ops")[reference]
            backend_id, _, marked = row.properties["APPLIANCE_BACKEND"].partition(" ")
            assert (bool(backend_id), marked) == (True, row.id)
            name, wanted, annotations = golden_properties.expected(
                host=front.host,
                manifest=subject,
                layer=f"sha256:{layer.decode()}",
                sbom=sbom["digest"],
                backend=row.properties["APPLIANCE_BACKEND"],
                synced=row.properties["cloudkeeper_synced_at"],
            )
            assert row.name == name
            held = dict(row.properties)
            assert json.loads(held.pop("APPLIANCE_ATTRIBUTES")) == annotations
            assert held == wanted

            registry.headers = front.push_headers("egi_vm_images/ubuntu")
            registry.push(
                "egi_vm_images/ubuntu",
                "24.04",
                site.files["two.qcow2"],
                annotations=described_as("24.04"),
            )
            before = site.offered("ops")
            assert site.sync().returncode == 0
            after = site.offered("ops")
            assert sha512(site.download("ops", after[reference])) == sha512(site.files["two.qcow2"])
            assert {key for key in after if after[key].id != before[key].id} == {reference}
            check_own_properties(site, reference)


def check_own_properties(site: Site, reference: str) -> None:
    """Change the file: each image is patched, none is moved; what a person has set stays."""
    before = site.offered("ops")
    by_hand: dict[str, object] = {"op": "add", "path": "/hw_rng_model", "value": "virtio"}
    site.cloud.patch(before[reference].id, [by_hand])
    sources = site.backend.root / "etc/cloudkeeper/sources.yaml"
    sources.write_text(
        sources.read_text().replace(
            json.dumps(golden_properties.OWN), "{hw_disk_bus: virtio, hw_vif_model: virtio}"
        )
    )
    assert site.sync().returncode == 0
    after = site.offered("ops")
    assert {row.id for row in after.values()} == {row.id for row in before.values()}
    found = after[reference].properties
    assert {name: value for name, value in found.items() if name.startswith("hw_")} == {
        "hw_disk_bus": "virtio",
        "hw_vif_model": "virtio",
        "hw_rng_model": "virtio",
    }
    assert found["appdb_id"] == before[reference].properties["appdb_id"]


def test_an_image_of_the_catch_all_counts_as_present(site: Site, tmp_path: Path) -> None:
    """It is in another project and shared, as atrope does it; later the catch-all gives it up."""
    authority = Authority.open(tmp_path / "ca")
    host, signer = authority.find("localhost"), authority.issue("tokens.example.org", key="rsa")
    assert host is not None
    for vo in PROJECTS:
        site.publish(vo, [])
    reference, content = "egi_vm_images/ubuntu:24.04", site.files["one.qcow2"]
    with harbor.serve(host, signer=signer) as front:
        login = TokenLogin(front.realm, authority.certificate)
        with oci_registry.serve(
            tmp_path / "registry", credential=host, authority=authority.certificate, login=login
        ) as registry:
            front.registry = registry
            front.public.add("egi_vm_images")
            repository, _, tag = reference.rpartition(":")
            registry.headers = front.push_headers(repository)
            digest = registry.push(repository, tag, content, annotations=described_as(tag))
            (site.backend.root / "etc/cloudkeeper/sources.yaml").write_text(
                f"egi:\n  type: harbor\n  registry_host: {front.host}\n"
                "  project: egi_vm_images\n  vos: [ops, biomed]\n"
            )
            owner, member = (site.cloud.door(PROJECTS[vo]).session for vo in ("ops", "biomed"))
            where = {"service_type": GLANCE, "interface": "public", "region_name": REGION}
            theirs = owner.post(
                "/v2/images",
                endpoint_filter=where,
                json={
                    "name": f"{front.host} {reference}",
                    "tags": ["atrope-catchall"],
                    "visibility": "shared",
                    "disk_format": "qcow2",
                    "container_format": "bare",
                    "appdb_id": f"{front.host}/{reference}-{digest}",
                },
            ).json()["id"]
            owner.put(
                f"/v2/images/{theirs}/file",
                endpoint_filter=where,
                data=content,
                headers={"Content-Type": "application/octet-stream"},
            )
            biomed = site.cloud.projects[PROJECTS["biomed"]]
            members = f"/v2/images/{theirs}/members"
            owner.post(members, endpoint_filter=where, json={"member": biomed})
            accepted = {"status": "accepted"}
            member.put(f"{members}/{biomed}", endpoint_filter=where, json=accepted)

            done = site.sync()
            assert done.returncode == 0, done.stderr
            assert site.offered("ops") == site.offered("biomed") == {}
            assert front.asked("/blobs/") == 0
            registry.push(repository, tag, site.files["two.qcow2"], annotations=described_as(tag))
            assert site.sync().returncode == 0
            assert site.offered("ops") == site.offered("biomed") == {}

            owner.delete(f"/v2/images/{theirs}", endpoint_filter=where)
            assert site.sync().returncode == 0
            assert set(site.offered("ops")) == set(site.offered("biomed")) == {reference}
