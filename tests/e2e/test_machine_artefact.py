"""The machine's artefact in a registry: `cloudkeeper` verifies it and brings it into Glance.

Glance and the registry are real. Rows come from Glance's database, bytes from its store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from deploy import image_artefact
from deploy.ova.virtual_machine import VirtualMachine
from tests.cosign import KeyPair
from tests.e2e.egi_registry import PROJECT, EGIRegistry, disks, lay_out, served  # noqa: F401
from tests.e2e.images_backend import Backend, started
from tests.e2e.images_cloud import Cloud
from tests.e2e.images_frontend import Done, run
from tests.testbed.pki import Authority

# ruff: noqa: F811  the fixtures are those of the registry

pytestmark = pytest.mark.glance
REPOSITORY = f"{PROJECT}/fedcloud-appliance"
REFERENCE = f"{REPOSITORY}:13"
MACHINE = VirtualMachine("13", "1.4.0", date(2026, 12, 1))
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class PublishedMachine:
    """A publisher's layouts and registry, and a site that trusts the publisher's key."""

    cloud: Cloud
    backend: Backend
    egi: EGIRegistry
    disk: Path

    def publish(self, key: KeyPair | None) -> str:
        """Push the artefact in place of an earlier one; return the digest of its manifest."""
        layout, digest = image_artefact.write(
            self.disk,
            MACHINE,
            revision=REVISION,
            source="https://git.example.org/fedcloud",
            bill='{"bomFormat": "CycloneDX"}',
            key=key.private if key else None,
        )
        self.egi.registry.headers = self.egi.front.push_headers(REPOSITORY)
        self.egi.registry.push_layout(REPOSITORY, layout)
        return digest

    def trust(self, key: KeyPair) -> None:
        text = f"{self.egi.source('ops')}  signing_key: {key.public}\n"
        (self.backend.root / "etc/cloudkeeper/sources.yaml").write_text(text)

    def call(self, verb: str) -> Done:
        root = ["--root", str(self.backend.root), "--backend-endpoint", self.backend.endpoint]
        return run(verb, *root)


@pytest.fixture
def published(
    cloud: Cloud, served: tuple[EGIRegistry, Authority], disks: dict[str, bytes], tmp_path: Path
) -> Iterator[PublishedMachine]:
    cloud.empty()
    backend = lay_out(tmp_path / "root", cloud, served)
    disk = tmp_path / f"{MACHINE.name}.qcow2"
    disk.write_bytes(disks["one.qcow2"])
    with started(backend):
        yield PublishedMachine(cloud, backend, served[0], disk)


def test_a_site_brings_the_signed_machine_into_its_glance(
    published: PublishedMachine, tmp_path: Path
) -> None:
    """Before, it refuses the artefact without a signature, and with another publisher's."""
    ours, foreign = (KeyPair.create(tmp_path / name, name) for name in ("ours", "foreign"))
    published.trust(ours)
    for key, words in (
        (None, f"is not signed with the key in {ours.public}"),
        (foreign, "made with another key, or over another content"),
    ):
        published.publish(key)
        done = published.call("sync")
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        assert published.cloud.rows() == []

    digest = published.publish(ours)
    listed = published.call("list").stdout
    assert "1 image, all signed\n" in listed
    assert "  1 SBOM\n" in listed
    done = published.call("sync")
    assert done.returncode == 0, done.stderr
    (row,) = published.cloud.rows()
    host = published.egi.host
    assert row.columns["name"] == f"{host} {REFERENCE}"
    assert published.cloud.file(row.id).read_bytes() == published.disk.read_bytes()
    found = row.properties
    assert found["vmcatcher_event_ad_mpuri"] == f"{host}/{REFERENCE}-{digest}"
    assert (found["os_distro"], found["os_version"]) == ("debian", "13")
    about = "FedCloud Appliance 1.4.0 on Debian 13, 2026-12-01"
    assert found["vmcatcher_event_dc_description"] == about
    attributes = json.loads(found["APPLIANCE_ATTRIBUTES"])
    assert attributes["org.opencontainers.image.revision"] == REVISION
    assert attributes["org.openstack.glance.os_admin_user"] == "debian"
    assert attributes["eu.egi.cloud.image_ref"] == REFERENCE
    assert found["cloudkeeper_source_version"] == digest
    index = json.loads((published.disk.with_suffix(".oci") / "index.json").read_text())
    (bill,) = [each for each in index["manifests"] if "cyclonedx" in each.get("artifactType", "")]
    assert found["APPLIANCE_SBOM"] == f"{host}/{REPOSITORY}@{bill['digest']}"
