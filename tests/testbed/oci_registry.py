"""Debian's docker-registry over TLS: anonymous, with Basic or with token authentication.

    with serve(directory, credential=host, login=TokenLogin(issuer_url, certificate)) as registry:
        digest = registry.push("egi_vm_images/ubuntu", "24.04", disk, annotations={…})

Images are pushed through the registry's own API, with an account if it has one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.testbed.pki import Credential

PROGRAM = Path("/usr/bin/docker-registry")
USER, PASSWORD = "robot$site", "swordfish"
DISK = "application/x-qemu-disk"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
_CONFIG = "application/vnd.oci.empty.v1+json"
_SECONDS = 30


@dataclass(frozen=True, slots=True)
class BasicLogin:
    """Ask every client for `USER` and `PASSWORD`."""


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """Ask every client for a token of the service at ``realm``, signed by ``certificate``'s key."""

    realm: str
    certificate: Path


@dataclass(slots=True)
class OCIRegistry:
    """A registry that runs. ``host`` is HOST:PORT, as references name it."""

    host: str
    authority: Path
    data: Path
    process: subprocess.Popen[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    account: tuple[str, str] | None = None
    session: requests.Session = field(default_factory=requests.Session)

    def url(self, path: str) -> str:
        return f"https://{self.host}{path}"

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send a request as an independent client, and check that it succeeds."""
        headers = {**self.headers, **options.pop("headers", {})}
        answer = self.session.request(
            method,
            url if url.startswith("https:") else self.url(url),
            headers=headers,
            auth=self.account,
            verify=str(self.authority),
            timeout=_SECONDS,
            **options,
        )
        answer.raise_for_status()
        return answer

    def push_blob(self, repository: str, content: bytes) -> dict[str, Any]:
        """Store a blob; return its descriptor without a media type."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = self.request("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
        join = "&" if "?" in place else "?"
        self.request("PUT", f"{place}{join}digest={digest}", data=content)
        return {"digest": digest, "size": len(content)}

    def push_manifest(
        self, repository: str, tag: str, manifest: object, *, media_type: str = MANIFEST
    ) -> str:
        """Store a manifest under a tag; return its digest."""
        content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        headers = {"Content-Type": media_type}
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", data=content, headers=headers)
        return f"sha256:{hashlib.sha256(content).hexdigest()}"

    def attach(
        self, repository: str, subject: str, content: bytes, *, artefact_type: str
    ) -> dict[str, Any]:
        """Store an artefact that refers to another one by digest, as oras does it.

        Return its descriptor, which a registry without an API for referrers knows nothing of.
        """
        layer = {"mediaType": artefact_type, **self.push_blob(repository, content)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artefact_type,
            "config": {"mediaType": _CONFIG, **self.push_blob(repository, b"{}")},
            "layers": [layer],
            "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1},
        }
        text = json.dumps(manifest).encode()
        digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        self.push_manifest(repository, digest, text)
        return {
            "mediaType": MANIFEST,
            "digest": digest,
            "size": len(text),
            "artifactType": artefact_type,
        }

    def push_referrers(self, repository: str, subject: str, found: list[dict[str, Any]]) -> None:
        """Store an index of referrers under the tag for registries without an API for them."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found}
        tag = subject.replace(":", "-")
        self.push_manifest(repository, tag, index, media_type=INDEX)

    def push_signature(
        self,
        repository: str,
        subject: str,
        signatures: list[tuple[bytes, str]],
        *,
        media_type: str = SIMPLE_SIGNING,
    ) -> None:
        """Store payloads with their signatures under the tag of cosign 2."""
        layers = [
            {
                "mediaType": media_type,
                **self.push_blob(repository, payload),
                "annotations": {"dev.cosignproject.cosign/signature": value},
            }
            for payload, value in signatures
        ]
        config = {"mediaType": "application/vnd.oci.image.config.v1+json"}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {**config, **self.push_blob(repository, b'{"rootfs": {}}')},
            "layers": layers,
        }
        self.push_manifest(repository, f"{subject.replace(':', '-')}.sig", manifest)

    def push(
        self,
        repository: str,
        tag: str,
        content: bytes,
        *,
        annotations: Mapping[str, str],
        media_type: str = DISK,
        more_layers: int = 0,
    ) -> str:
        """Store an artefact of one layer (and ``more_layers``) as oras does; return its digest."""
        config = self.push_blob(repository, b"{}")
        layer = self.push_blob(repository, content)
        described = {"mediaType": media_type, **layer, "annotations": dict(annotations)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.egi.image",
            "config": {"mediaType": _CONFIG, **config},
            "layers": [described] * (1 + more_layers),
            "annotations": {"org.opencontainers.image.source": "https://git.example.org/images"},
        }
        return self.push_manifest(repository, tag, manifest)

    def push_layout(self, repository: str, layout: Path) -> None:
        """Store all of an OCI layout as ``oras cp --recursive`` does."""
        blobs, referrers = layout / "blobs", []
        for entry in json.loads((layout / "index.json").read_text())["manifests"]:
            text = (blobs / entry["digest"].replace(":", "/")).read_bytes()
            manifest = json.loads(text)
            for part in (manifest["config"], *manifest["layers"]):
                self.push_blob(repository, (blobs / part["digest"].replace(":", "/")).read_bytes())
            notes = entry.get("annotations", {})
            name = notes.get("org.opencontainers.image.ref.name", entry["digest"])
            self.push_manifest(repository, name, text)
            if "subject" in manifest:
                referrers.append((manifest["subject"]["digest"], entry))
        for subject in {digest for digest, _ in referrers}:
            found = [entry for digest, entry in referrers if digest == subject]
            self.push_referrers(repository, subject, found)

    def clear(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.data, ignore_errors=True)

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest, and with it the tags that name it."""
        self.request("DELETE", f"/v2/{repository}/manifests/{digest}")


def push_layout(registry: OCIRegistry, layout: Path, repository: str, *, tag: str) -> str:
    """Push an OCI layout as oras does: each blob, then the manifest; return its digest."""
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    blobs = layout / "blobs/sha256"
    manifest = (blobs / entry["digest"].removeprefix("sha256:")).read_bytes()
    for blob in blobs.iterdir():
        if blob.read_bytes() != manifest:
            registry.push_blob(repository, blob.read_bytes())
    return registry.push_manifest(repository, tag, manifest)


def described_as(tag: str, **changes: str) -> dict[str, str]:
    """Return annotations of one of EGI's images; ``changes`` by the ends of names, or others."""
    found = {
        "org.openstack.glance.os_distro": "ubuntu",
        "org.openstack.glance.os_version": "24.04",
        "org.openstack.glance.os_type": "linux",
        "org.openstack.glance.os_admin_user": "ubuntu",
        "org.openstack.glance.architecture": "x86_64",
        "org.openstack.glance.disk_format": "qcow2",
        "org.openstack.glance.container_format": "bare",
        "eu.egi.cloud.tag": tag,
        "eu.egi.cloud.description": f"Example image {tag}",
    }
    by_name = {name.rpartition(".")[2]: name for name in found}
    return found | {by_name.get(name, name): value for name, value in changes.items()}


@contextlib.contextmanager
def serve(
    directory: Path,
    *,
    credential: Credential,
    authority: Path,
    login: BasicLogin | TokenLogin | None = None,
    host: str = "localhost",
) -> Iterator[OCIRegistry]:
    """Run a registry with its data in a directory until the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")},
            "delete": {"enabled": True},
        },
        "http": {
            "addr": f"127.0.0.1:{port}",
            "tls": {"certificate": str(credential.certificate), "key": str(credential.key)},
        },
    } | _login_settings(login, directory)
    configuration = directory / "config.yml"
    configuration.write_text(json.dumps(settings))  # JSON is YAML
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "serve", str(configuration)], stdout=log, stderr=log, cwd=directory
        )
    try:
        registry = OCIRegistry(f"{host}:{port}", authority, directory / "data", process)
        if isinstance(login, BasicLogin):
            registry.account = (USER, PASSWORD)
        _wait(port, process, directory / "log")
        yield registry
        registry.session.close()
    finally:
        process.kill()
        process.wait()


def _login_settings(login: BasicLogin | TokenLogin | None, directory: Path) -> dict[str, Any]:
    match login:
        case BasicLogin():
            words = 'print crypt($ARGV[0], "\\$2b\\$05\\$abcdefghijklmnopqrstuu")'
            command = ["perl", "-e", words, PASSWORD]
            hashed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
            (directory / "htpasswd").write_text(f"{USER}:{hashed}\n")
            place = {"realm": "images", "path": str(directory / "htpasswd")}
            return {"auth": {"htpasswd": place}}
        case TokenLogin(realm, certificate):
            bundle = str(certificate)
            token = {"realm": realm, "service": "registry", "issuer": "tests"}
            return {"auth": {"token": token | {"rootcertbundle": bundle}}}
        case None:
            return {}


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"docker-registry does not listen: {log.read_text()[-2000:]}")
