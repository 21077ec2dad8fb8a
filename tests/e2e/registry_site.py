"""A site that reads docker-registry behind Harbor's API, and the backend that keeps its images.

The backend of the real protocol keeps what it is given; sha512sum and the pushed digests judge it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.images_frontend import Done, run
from tests.simulators import harbor, image_backend
from tests.simulators.harbor import Harbor
from tests.simulators.image_backend import Cloud
from tests.testbed import oci_registry
from tests.testbed.oci_registry import (
    DISK,
    INDEX,
    MANIFEST,
    OCIRegistry,
    TokenLogin,
    described_as,
)
from tests.testbed.pki import Authority

PROJECT = "egi_vm_images"
STATE = "var/lib/fedcloud/cloudkeeper"


@dataclass
class World:
    """One site, the registry that it reads, and its cloud."""

    root: Path
    harbor: Harbor
    cloud: Cloud
    disks: dict[str, bytes]

    def registry(self, repository: str) -> OCIRegistry:
        """Return the registry, logged in to push to a repository."""
        found = self.harbor.registry
        assert found is not None
        found.headers = self.harbor.push_headers(repository)
        return found

    def push(
        self,
        reference: str,
        disk: str = "one.qcow2",
        *,
        content: bytes | None = None,
        media_type: str = DISK,
        more_tags: tuple[str, ...] = (),
        **changes: str,
    ) -> str:
        """Push an image under ``REPOSITORY:TAG``; return the digest of its manifest."""
        repository, _, tag = reference.rpartition(":")
        registry = self.registry(repository)
        for name in (tag, *more_tags):
            digest = registry.push(
                repository,
                name,
                self.disks[disk] if content is None else content,
                annotations=described_as(tag, **changes),
                media_type=media_type,
            )
        return digest

    def wrap(self, reference: str, *images: str) -> str:
        """Have a tag name an index of manifests and one attestation, as buildx makes it."""
        repository, _, tag = reference.rpartition(":")
        registry = self.registry(repository)
        attested = {"layers": [], "config": {**registry.push_blob(repository, b"{}")}}
        made = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **attested}).encode()
        attestation = f"sha256:{hashlib.sha256(made).hexdigest()}"
        registry.push_manifest(repository, attestation, made)
        platforms = [(each, "linux", "amd64") for each in images]
        manifests = [
            {
                "mediaType": MANIFEST,
                "digest": digest,
                "size": 7,
                "platform": {"os": system, "architecture": architecture},
            }
            for digest, system, architecture in (*platforms, (attestation, "unknown", "unknown"))
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        return registry.push_manifest(repository, tag, index, media_type=INDEX)

    def delete(self, reference: str, digest: str) -> None:
        repository = reference.rpartition(":")[0]
        self.registry(repository).delete(repository, digest)

    def configure(self, *lines: str, accounts: str = "") -> None:
        text = "\n".join(line.format(host=self.harbor.host) for line in lines)
        (self.root / "etc/cloudkeeper/sources.yaml").write_text(f"{text}\n")
        (self.root / "etc/cloudkeeper/registry.auth").write_text(
            accounts.format(host=self.harbor.host)
        )

    def sync(self, *flags: str) -> Done:
        return self.call("sync", *flags)

    def call(self, verb: str, *flags: str) -> Done:
        config = ["--root", str(self.root), "--config", str(self.root / "cloudkeeper.yml")]
        return run(verb, *config, "--backend-endpoint", self.cloud.endpoint, *flags)

    def list_id(self, vo: str, project: str = PROJECT) -> str:
        return f"{self.harbor.host}/{project}/{vo}"

    def key(self, reference: str, vo: str = "ops") -> tuple[str, str]:
        return (self.list_id(vo, reference.partition("/")[0]), reference)

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.root / "var/lib/fedcloud/runs/cloudkeeper.json").read_text()
        )
        return found


SOURCE = (
    "harbor:",
    "  registry_host: {host}",
    "egi:",
    "  type: harbor",
    f"  project: {PROJECT}",
    "  vos: [ops, vo.example.org]",
)


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[tuple[Authority, Harbor]]:
    """Serve a registry behind Harbor during the block; yield the authority of both, and Harbor."""
    authority = Authority.create(directory / "ca", key="ec")
    host = authority.issue("localhost", key="ec")
    signer = authority.issue("tokens.example.org", key="rsa")
    with harbor.serve(host, signer=signer) as front:
        login = TokenLogin(front.realm, authority.certificate)
        with oci_registry.serve(
            directory / "registry",
            credential=host,
            authority=authority.certificate,
            login=login,
        ) as registry:
            front.registry = registry
            yield authority, front


@contextlib.contextmanager
def site(
    directory: Path, authority: Authority, front: Harbor, disks: dict[str, bytes]
) -> Iterator[World]:
    """Yield a site with an empty registry and an empty cloud."""
    authority.publish(directory / "certificates")
    assert front.registry is not None
    front.registry.clear()
    front.faults.clear()
    front.paths.clear()
    front.public = {PROJECT}
    front.referrers = None
    root = directory / "site"
    (root / "etc/cloudkeeper").mkdir(parents=True)
    (root / "cloudkeeper.yml").write_text(
        "cloudkeeper:\n"
        f"  ca-dir: {directory}/certificates\n"
        f"  image-dir: {root}/images\n"
        "  formats: [qcow2, raw]\n"
        "  logging: {level: INFO}\n"
    )
    with image_backend.serve() as cloud:
        made = World(root, front, cloud, disks)
        made.configure(*SOURCE)
        yield made
