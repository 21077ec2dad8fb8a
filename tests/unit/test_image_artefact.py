"""The disk of the machine as an artefact: its layout, what refers to it, its signature, checksums.

Digests are those of sha256sum and sha512sum, signatures are verified by openssl and, as a source of
images would, by `cloudkeeper`.
"""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.trust.errors import Tampered, Untrusted
from cloudkeeper.frontend.registry import artefact, signatures, signing_key
from cloudkeeper.frontend.registry.signatures import ArtefactSignature, SignatureForm
from deploy import checksums, image_artefact, sbom
from deploy.bundle import BundleError
from deploy.ova import verify
from deploy.ova.virtual_machine import VirtualMachine
from deploy.vm import published
from deploy.vm.published import ImagePublisher
from tests import documents
from tests.cosign import KeyPair, openssl

pytestmark = pytest.mark.programs("openssl")

MACHINE = VirtualMachine("13", "1.4.0", date(2026, 12, 1))
REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = "https://git.example.org/fedcloud"
BILL = '{"bomFormat": "CycloneDX"}'
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SBOM = "application/vnd.cyclonedx+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return KeyPair.create(tmp_path / "keys", "publisher")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "dist" / f"{MACHINE.name}.qcow2"
    path.parent.mkdir()
    path.write_bytes(b"QFI\xfb, and what follows")
    return path


def write(disk: Path, key: KeyPair | None = None) -> tuple[Path, str]:
    private = key.private if key else None
    return image_artefact.write(
        disk, MACHINE, revision=REVISION, source=SOURCE, bill=BILL, key=private
    )


def sum_of(path: Path, algorithm: str = "sha256") -> str:
    done = subprocess.run([f"{algorithm}sum", path], capture_output=True, check=True, text=True)
    return done.stdout.split()[0]


def blob(layout: Path, digest: str) -> bytes:
    path = layout / "blobs" / digest.replace(":", "/")
    assert sum_of(path) == path.name
    return path.read_bytes()


def document(layout: Path, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blob(layout, digest))
    return found


def referrers(layout: Path) -> dict[str, dict[str, Any]]:
    """Return the manifests that refer to another one, by their type."""
    index = json.loads((layout / "index.json").read_text())["manifests"]
    found = [document(layout, entry["digest"]) for entry in index]
    return {each["artifactType"]: each for each in found if "subject" in each}


def test_the_layout(disk: Path, key: KeyPair) -> None:
    """As the specification of OCI image layouts has it: each blob under its digest."""
    layout, digest = write(disk, key)
    assert layout == disk.with_suffix(".oci")
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_text())
    assert index["schemaVersion"] == 2
    first, *others = index["manifests"]
    assert first == {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": len(blob(layout, digest)),
        "annotations": {"org.opencontainers.image.ref.name": "13"},
    }
    assert [each["artifactType"] for each in others] == [SBOM, BUNDLE]
    for each in others:
        assert each["size"] == len(blob(layout, each["digest"]))
    for path in (layout / "blobs/sha256").iterdir():
        assert sum_of(path) == path.name


def test_the_shape_of_egi_s_images(disk: Path) -> None:
    layout, digest = write(disk)
    manifest = document(layout, digest)
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/x-qemu-disk"
    assert blob(layout, layer["digest"]) == disk.read_bytes()
    assert layer["size"] == disk.stat().st_size
    assert manifest["annotations"] == {
        "org.opencontainers.image.revision": REVISION,
        "org.opencontainers.image.source": SOURCE,
        "org.opencontainers.image.version": "1.4.0",
    }
    assert layer["annotations"] == {
        "org.openstack.glance.os_distro": "debian",
        "org.openstack.glance.os_version": "13",
        "org.openstack.glance.os_type": "linux",
        "org.openstack.glance.os_admin_user": "debian",
        "org.openstack.glance.architecture": "x86_64",
        "org.openstack.glance.disk_format": "qcow2",
        "org.openstack.glance.container_format": "bare",
        "eu.egi.cloud.tag": "13",
        "eu.egi.cloud.description": "FedCloud Appliance 1.4.0 on Debian 13, 2026-12-01",
    }
    found = artefact.read(blob(layout, digest), subject="image")
    assert found is not None
    assert (found.tag, found.layer, found.size) == ("13", layer["digest"], layer["size"])


def test_what_refers_to_it(disk: Path, key: KeyPair) -> None:
    layout, digest = write(disk, key)
    found = referrers(layout)
    assert set(found) == {SBOM, BUNDLE}
    for kind, manifest in found.items():
        subject = {"mediaType": MANIFEST, "digest": digest, "size": len(blob(layout, digest))}
        assert manifest["subject"] == subject
        assert [layer["mediaType"] for layer in manifest["layers"]] == [kind]
    assert blob(layout, found[SBOM]["layers"][0]["digest"]) == BILL.encode()


def signed(layout: Path) -> bytes:
    return blob(layout, referrers(layout)[BUNDLE]["layers"][0]["digest"])


def test_openssl_verifies_the_signature(disk: Path, key: KeyPair, tmp_path: Path) -> None:
    layout, digest = write(disk, key)
    envelope = json.loads(signed(layout))["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = "application/vnd.in-toto+json"
    content = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    openssl(
        "dgst",
        "-sha256",
        "-verify",
        key.public,
        "-signature",
        tmp_path / "signature",
        content=content,
    )
    (subject,) = json.loads(payload)["subject"]
    assert f"sha256:{subject['digest']['sha256']}" == digest


def test_cloudkeeper_verifies_the_signature_of_this_artefact(disk: Path, key: KeyPair) -> None:
    """It is valid for the artefact, with the key, and for nothing else."""
    layout, digest = write(disk, key)
    stranger = KeyPair.create(key.private.parent, "stranger")
    made = ArtefactSignature(SignatureForm.BUNDLE, signed(layout))
    ours, theirs = [signing_key.read(key.public)], [signing_key.read(stranger.public)]
    tagged = TaggedArtefact("egi_vm_images/fedcloud", "13", Digest(digest))
    image = signatures.SignedArtefact("registry.example.org", tagged, blob(layout, digest))
    assert signatures.verify(made, image, ours).key == ours[0]
    with pytest.raises(Tampered):
        signatures.verify(made, image, theirs)
    other = TaggedArtefact("egi_vm_images/fedcloud", "13", Digest(f"sha256:{'0' * 64}"))
    another = signatures.SignedArtefact("registry.example.org", other, b"{}")
    with pytest.raises(Untrusted):
        signatures.verify(made, another, ours)


def test_the_same_disk_makes_the_same_artefact(disk: Path, key: KeyPair) -> None:
    """Only the signature differs, which has a random number."""
    layout, digest = write(disk)
    before = {path.name: path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    assert write(disk)[1] == digest
    again = {path.name: path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    assert again == before
    assert write(disk, key)[1] == digest


def test_without_a_source_there_is_no_empty_annotation(disk: Path) -> None:
    layout, digest = image_artefact.write(disk, MACHINE, revision=REVISION, bill=BILL, key=None)
    assert "org.opencontainers.image.source" not in document(layout, digest)["annotations"]


@pytest.mark.parametrize("name", ["ed25519", "p384", "public", "missing", "open"])
def test_other_keys_are_refused(disk: Path, key: KeyPair, name: str) -> None:
    at = key.private.parent
    KeyPair.create(at, "ed25519", "-quiet", algorithm="ED25519")
    KeyPair.create(at, "p384", "-pkeyopt", "ec_paramgen_curve:P-384")
    (at / "public.key").write_bytes(key.public.read_bytes())
    (at / "open.key").write_bytes(key.private.read_bytes())
    for path in at.glob("*.key"):
        path.chmod(0o644 if path.stem == "open" else 0o600)
    curve = (
        "is not an ECDSA key of the curve P-256; "
        "make one by openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    )
    words = {
        "ed25519": curve,
        "p384": curve,
        "public": "is not a private key in PEM form",
        "missing": "No such file or directory; name the publisher's private key, or use --unsigned",
        "open": f"others can read this key; chmod 600 {at / 'open.key'}",
    }
    with pytest.raises(BundleError) as caught:
        write(disk, KeyPair(at / f"{name}.key", key.public))
    assert str(caught.value) == f"{at / name}.key: {words[name]}"
    assert not disk.with_suffix(".oci").exists()


# Checksums.


def check_sums(directory: Path, algorithm: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [f"{algorithm}sum", "--check", *flags, f"{algorithm.upper()}SUMS"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_checksums(disk: Path, key: KeyPair, algorithm: str) -> None:
    """The files as such are listed; a damaged or missing one is named."""
    directory = disk.parent
    other = directory / "machine.ova"
    other.write_bytes(b"other" * 400_000)
    checksums.write(directory, [other, disk], key=key.private)
    done = check_sums(directory, algorithm, "--strict")
    assert done.stdout == f"{disk.name}: OK\nmachine.ova: OK\n"
    sums = directory / f"{algorithm.upper()}SUMS"
    openssl("dgst", "-sha256", "-verify", key.public, "-signature", f"{sums}.sig", sums)
    other.write_bytes(other.read_bytes()[:-1])
    done = check_sums(directory, algorithm)
    assert (done.returncode, "machine.ova: FAILED" in done.stdout) == (1, True)
    other.unlink()
    done = check_sums(directory, algorithm, "--ignore-missing")
    assert (done.returncode, done.stdout) == (0, f"{disk.name}: OK\n")


def test_unsigned_checksums_have_no_signature_of_an_earlier_build(disk: Path, key: KeyPair) -> None:
    checksums.write(disk.parent, [disk], key=key.private)
    checksums.write(disk.parent, [disk], key=None)
    assert not list(disk.parent.glob("*.sig"))


def test_all_forms_are_published_beside_the_disk(disk: Path, key: KeyPair) -> None:
    """Signed with one key; the qcow2 comes last, for programs that read the last line."""
    raw = disk.parent.parent / "disk.raw"
    raw.write_bytes(b"disk" * 100_000)
    publisher = ImagePublisher(key.private, SOURCE)
    publisher.check()
    made = published.write(raw, disk, MACHINE, publisher, bill=BILL)
    names = [f"{MACHINE.name}{end}" for end in (".ova", ".oci", ".qcow2")]
    assert made == [disk.parent / name for name in names]
    verify.check(made[0])
    done = check_sums(disk.parent, "sha512", "--strict")
    assert done.stdout == f"{names[0]}: OK\n{names[2]}: OK\n"
    assert {path.name for path in disk.parent.glob("*.sig")} == {"SHA256SUMS.sig", "SHA512SUMS.sig"}
    assert BUNDLE in referrers(made[1])
    digest = json.loads((made[1] / "index.json").read_text())["manifests"][0]["digest"]
    source = document(made[1], digest)["annotations"]["org.opencontainers.image.source"]
    assert source == SOURCE


def test_the_page_s_commands_verify_a_download(disk: Path, key: KeyPair) -> None:
    """They stop at a download that was altered, and at another publisher's key."""
    raw, directory = disk.parent.parent / "disk.raw", disk.parent
    raw.write_bytes(b"disk" * 100_000)
    ova, _, _ = published.write(raw, disk, MACHINE, ImagePublisher(key.private), bill=BILL)
    (directory / "KEY.pem").write_bytes(key.public.read_bytes())
    typed = documents.block("machine-image.md", "verify").text.replace("DATE", "2026.12.01")

    def verify_it() -> subprocess.CompletedProcess[str]:
        command = ["bash", "-e", "-c", typed]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)

    done = verify_it()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Verified OK\n{ova.name}: OK\n{disk.name}: OK\n"
    assert (directory / MACHINE.disk).stat().st_size > 64 * 1024
    content = ova.read_bytes()
    ova.write_bytes(content[:-1] + b"x")
    assert (verify_it().returncode, f"{ova.name}: FAILED\n" in verify_it().stdout) == (1, True)
    ova.write_bytes(content)
    stranger = KeyPair.create(key.private.parent, "stranger")
    (directory / "KEY.pem").write_bytes(stranger.public.read_bytes())
    assert verify_it().stdout == "Verification failure\n"


def test_a_publisher_s_key_is_checked_before_anything_is_built(key: KeyPair) -> None:
    with pytest.raises(BundleError, match="others can read this key"):
        ImagePublisher(key.public).check()
    ImagePublisher().check()


# The bill of materials.

STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.37-2
Description: shell
 Version: of a line that goes on

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2026a+dfsg~1
"""


def test_the_bill_of_the_machine(tmp_path: Path) -> None:
    """Its packages, the host's programs, and its container images with what is in them."""
    root, bundle = tmp_path / "root", tmp_path / "bundle"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(STATUS)
    packages = root / "opt/fedcloud/1.4.0/lib/python3.13/site-packages"
    (packages / "PyYAML-6.0.3.dist-info").mkdir(parents=True)
    (packages / "PyYAML-6.0.3.dist-info/METADATA").write_text("Name: PyYAML\nVersion: 6.0.3\n\nx")
    (root / "opt/fedcloud/current").symlink_to("1.4.0")
    (bundle / "sbom").mkdir(parents=True)
    inner = [{"type": "library", "name": "slapd", "version": "2.5", "purl": "pkg:deb/debian/slapd"}]
    about = {"type": "container", "name": "egifedcloud/sitebdii", "version": "1.4.0"}
    text = json.dumps({"metadata": {"component": about}, "components": inner})
    (bundle / "sbom/sitebdii.cdx.json").write_text(text)
    made = sbom.of_machine(root, bundle, MACHINE)
    found = json.loads(made)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    assert found["metadata"] == {
        "timestamp": "2026-12-01T00:00:00+00:00",
        "component": {
            "type": "operating-system",
            "name": "fedcloud-appliance",
            "version": "1.4.0",
        },
    }
    container, *libraries = found["components"]
    assert container == {**about, "components": inner}
    assert [each["purl"] for each in libraries] == [
        "pkg:deb/debian/bash@5.2.37-2?arch=amd64&distro=debian-13",
        "pkg:deb/debian/tzdata@2026a%2Bdfsg~1?arch=all&distro=debian-13",
        "pkg:pypi/pyyaml@6.0.3",
    ]
    assert sbom.of_machine(root, bundle, MACHINE) == made
