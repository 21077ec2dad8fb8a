"""A registry like EGI's for tests of whole flows: docker-registry behind Harbor's API, with TLS.

A module whose tests share one imports the fixtures `served` and `disks`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.images_backend import Backend
from tests.e2e.images_cloud import Cloud
from tests.e2e.images_frontend import make_disks
from tests.simulators import harbor
from tests.simulators.harbor import Harbor
from tests.testbed import oci_registry
from tests.testbed.oci_registry import OCIRegistry, TokenLogin, described_as
from tests.testbed.pki import Authority, Credential

PROJECT = "egi_vm_images"


@dataclass(frozen=True, slots=True)
class EGIRegistry:
    """The project `PROJECT`, which may be read anonymously, with a token."""

    front: Harbor

    @property
    def registry(self) -> OCIRegistry:
        assert self.front.registry is not None
        return self.front.registry

    @property
    def host(self) -> str:
        return self.front.host

    def push(self, reference: str, content: bytes, **changes: str) -> str:
        """Push an image as PROJECT/REPOSITORY:TAG; return the digest of its manifest."""
        repository, _, tag = reference.rpartition(":")
        self.registry.headers = self.front.push_headers(repository)
        return self.registry.push(
            repository, tag, content, annotations=described_as(tag, **changes)
        )

    def delete(self, reference: str, digest: str) -> None:
        repository = reference.rpartition(":")[0]
        self.registry.headers = self.front.push_headers(repository)
        self.registry.delete(repository, digest)

    def source(self, *vos: str) -> str:
        """Return a sources.yaml that offers all images of the project to some VOs."""
        return (
            f"egi:\n  type: harbor\n  registry_host: {self.host}\n  project: {PROJECT}\n"
            f"  vos: [{', '.join(vos)}]\n"
        )


@contextlib.contextmanager
def egi_registry(
    directory: Path, *, authority: Authority, host: Credential, signer: Credential
) -> Iterator[EGIRegistry]:
    """Serve an empty registry until the end of the block; ``signer``, with RSA, signs tokens."""
    with harbor.serve(host, signer=signer) as front:
        front.public.add(PROJECT)
        login = TokenLogin(front.realm, authority.certificate)
        with oci_registry.serve(
            directory, credential=host, authority=authority.certificate, login=login
        ) as registry:
            front.registry = registry
            yield EGIRegistry(front)


@contextlib.contextmanager
def with_authority(directory: Path) -> Iterator[tuple[EGIRegistry, Authority]]:
    """Serve an empty registry with an authority of its own."""
    authority = Authority.create(directory / "ca", key="ec")
    host, signer = authority.issue("localhost", key="ec"), authority.issue("tokens", key="rsa")
    with egi_registry(
        directory / "registry", authority=authority, host=host, signer=signer
    ) as made:
        yield made, authority


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EGIRegistry, Authority]]:
    """Yield a registry for the tests of a module, and its authority."""
    with with_authority(tmp_path_factory.mktemp("egi")) as made:
        yield made


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return disks for the registry, by name."""
    return make_disks(tmp_path_factory.mktemp("disks"))


def lay_out(
    root: Path, cloud: Cloud, served: tuple[EGIRegistry, Authority], **settings: Any
) -> Backend:
    """Make a site that trusts the registry, which is emptied; return its backend, not started.

    ``settings`` are those of `Backend.create`.
    """
    egi, authority = served
    authority.publish(root / "etc/grid-security/certificates")
    egi.registry.clear()
    egi.front.paths.clear()
    egi.front.blob_bytes = 0
    backend = Backend.create(root, cloud, **settings)
    (root / "etc/cloudkeeper").mkdir(parents=True)
    (root / "etc/cloudkeeper/cloudkeeper.yml").write_text("cloudkeeper:\n  formats: [qcow2, raw]\n")
    return backend
