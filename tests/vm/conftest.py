"""The disk that all machines of these tests boot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import documents
from tests.documents import TOP

GIVEN = "FEDCLOUD_VM_DISK"
"""A disk to boot in place of one that is built, for work on these tests."""


@pytest.fixture(scope="session")
def image() -> Path:
    """Return the disk of this commit, as the two commands of the manual make it of the OVA."""
    if given := os.environ.get(GIVEN):
        return Path(given)
    asked = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(asked, cwd=TOP, check=True, capture_output=True, text=True).stdout
    directory = TOP / ".cache/vm-image" / commit.strip()
    disk = directory / "fedcloud.qcow2"
    if not disk.exists():
        _build(directory)
        _convert(directory)
    return disk


def _build(directory: Path) -> None:
    """Build the bundle and all forms of the image."""
    if not list(directory.glob("*.ova")):
        bundle = directory / "bundle"
        subprocess.run([TOP / "scripts/build", "--unsigned", "--into", bundle], check=True)
        (unpacked,) = (path for path in bundle.iterdir() if path.is_dir())
        program = str(TOP / "scripts/build-image")
        subprocess.run([program, "--unsigned", str(unpacked), "--into", str(directory)], check=True)


def _convert(directory: Path) -> None:
    """Type the commands of the page, with a file in place of the address of the release."""
    (ova,) = directory.glob("*.ova")
    typed = documents.block("machine-image.md", "disk").text
    for word, value in {"URL": f"file://{directory}", "DATE": ova.stem.rpartition("-")[2]}.items():
        typed = typed.replace(word, value)
    subprocess.run(["bash", "-euo", "pipefail", "-c", typed], cwd=directory, check=True)
