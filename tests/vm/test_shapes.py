"""The forms in which the built disk is published: OVA, artefact, checksums. Nothing is booted.

The other tests boot what the manual's two commands make of the OVA: here, that is compared with the
qcow2 that is published.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cloudkeeper import formats
from cloudkeeper.frontend.registry import artefact
from cloudkeeper.model import Format
from deploy.ova import verify

pytestmark = [pytest.mark.matrix, pytest.mark.root]

GB = 10**9


@pytest.fixture(scope="module")
def ova(image: Path) -> Path:
    """Return the OVA that was built with the disk."""
    return max(image.parent.glob("FedCloud-Appliance.Debian.*.ova"))


def test_the_manual_s_two_commands_give_the_published_disk(image: Path, ova: Path) -> None:
    published = ova.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "compare", "-q", published, image], check=True)


def test_the_ova_is_whole_and_small(ova: Path) -> None:
    verify.check(ova)
    assert formats.inspect(ova, Format.OVA).format is Format.VMDK
    assert ova.stat().st_size <= GB
    assert ova.with_suffix(".qcow2").stat().st_size <= 0.9 * GB


def test_the_checksums_are_those_of_the_files(ova: Path) -> None:
    for algorithm in ("sha256", "sha512"):
        command = [f"{algorithm}sum", "--check", "--ignore-missing", f"{algorithm.upper()}SUMS"]
        done = subprocess.run(
            command, cwd=ova.parent, capture_output=True, text=True, check=True
        ).stdout
        assert f"{ova.name}: OK\n" in done


def test_the_artefact_has_the_disk_and_its_bill(ova: Path) -> None:
    layout = ova.with_suffix(".oci")
    first, bill, *_ = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = layout / "blobs" / first["digest"].replace(":", "/")
    found = artefact.read(manifest.read_bytes(), subject=ova.stem)
    assert found is not None
    disk = layout / "blobs" / found.layer.replace(":", "/")
    subprocess.run(["cmp", disk, ova.with_suffix(".qcow2")], check=True)
    about = json.loads((layout / "blobs" / bill["digest"].replace(":", "/")).read_text())
    text = (layout / "blobs" / about["layers"][0]["digest"].replace(":", "/")).read_text()
    names = {component["name"] for component in json.loads(text)["components"]}
    assert {"docker.io", "cryptography", "egifedcloud/caso"} <= names
